#include "data/text_source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include "data/dict_prose.h"
#include "data/tokenizer_kinds.h"

enum { line_bytes = 1 << 14 };

struct rb_text_source {
    gzFile file;
    char *path;
    bool dictionary, ended;
    rb_dict_prose prose;
    rb_buf ready; /* cleaned text from `used` on is still to be given out */
    size_t used;
};

resbm_status rb_text_open(const char *path, bool raw, rb_text_source **out, rb_err *err) {
    rb_text_source *s = *out = calloc(1, sizeof *s);
    if (s) s->path = strdup(path);
    if (!s || !s->path) {
        rb_text_close(s);
        *out = NULL;
        return rb_fail(err, RESBM_E_MEMORY, "no memory to read text %s", path);
    }
    s->dictionary = !raw && (rb_spec_ends(path, ".dict") || rb_spec_ends(path, ".dict.dz"));
    errno = 0;
    s->file = gzopen(path, "rbe");
    if (!s->file) {
        resbm_status st = rb_fail_errno(err, errno ? errno : ENOMEM, "cannot open text %s", path);
        rb_text_close(s);
        *out = NULL;
        return st;
    }
    gzbuffer(s->file, 1 << 17);
    return RESBM_OK;
}

void rb_text_close(rb_text_source *s) {
    if (!s) return;
    if (s->file) gzclose_r(s->file);
    rb_buf_free(&s->ready);
    free(s->path);
    free(s);
}

/* zlib reports a file that ends too early only as an error number beside a short read. */
static resbm_status check(const rb_text_source *s, rb_err *err) {
    int code = Z_OK;
    const char *text = gzerror(s->file, &code);
    if (code == Z_OK || code == Z_STREAM_END) return RESBM_OK;
    if (code == Z_ERRNO) return rb_fail_errno(err, errno, "cannot read text %s", s->path);
    return rb_fail(err, RESBM_E_CORRUPT, "text %s is damaged or cut off (%s); unpack or copy it again",
                   s->path, code == Z_BUF_ERROR ? "it ends inside the compressed data" : text);
}

static resbm_status read_plain(rb_text_source *s, char *buf, size_t n, size_t *got, rb_err *err) {
    for (*got = 0; *got < n && !s->ended;) {
        size_t room = n - *got < 1 << 30 ? n - *got : 1 << 30;
        int k = gzread(s->file, buf + *got, (unsigned)room);
        if (k > 0) *got += (size_t)k;
        s->ended = k <= 0;
    }
    return s->ended ? check(s, err) : RESBM_OK;
}

/* One line more of the dictionary into s->ready. A line longer than line_bytes comes in pieces. */
static resbm_status clean_line(rb_text_source *s, rb_err *err) {
    char line[line_bytes];
    if (!gzgets(s->file, line, sizeof line)) {
        s->ended = true;
        return check(s, err);
    }
    size_t n = strlen(line);
    if (n && line[n - 1] == '\n') n--;
    rb_dict_line(&s->prose, line, n, &s->ready);
    return rb_buf_status(&s->ready, err);
}

resbm_status rb_text_read(rb_text_source *s, char *buf, size_t n, size_t *got, rb_err *err) {
    if (!s->dictionary) return read_plain(s, buf, n, got, err);
    for (*got = 0; *got < n;) {
        size_t have = s->ready.len - s->used, k = have < n - *got ? have : n - *got;
        if (k) memcpy(buf + *got, s->ready.data + s->used, k);
        *got += k;
        s->used += k;
        if (s->used < s->ready.len) continue;
        s->ready.len = s->used = 0;
        if (s->ended) break;
        RB_TRY(clean_line(s, err));
    }
    return RESBM_OK;
}

/* A visible ASCII character: next to one, no rule about white space or Unicode reaches across a cut. */
static bool visible(char c) {
    return c > ' ' && c < 0x7f;
}

size_t rb_text_cut(const char *text, size_t n) {
    for (size_t i = n - 2; i > n / 2; i--) {
        bool line_end = text[i - 1] == '\n' && visible(text[i - 2]) && visible(text[i]);
        if (line_end || (text[i] == ' ' && visible(text[i - 1]) && visible(text[i + 1]))) return i;
    }
    for (size_t i = n; i > n - 4; i--)
        if (((unsigned char)text[i - 1] & 0xc0) != 0x80) return (unsigned char)text[i - 1] < 0x80 ? i : i - 1;
    return n;
}
