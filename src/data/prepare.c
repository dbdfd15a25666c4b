#include "data/prepare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <jansson.h>
#include <zlib.h>
#include "core/buf.h"
#include "data/shard.h"
#include "data/tokenizer.h"

enum { piece_bytes = 1 << 16, least_piece = 64 };
static const char *const names[2] = {"train", "val"};

typedef struct preparation {
    const rb_prepare_options *o;
    rb_prepare_result *r;
    rb_tokenizer tok;
    rb_shard_writer *w[2];
    rb_ids ids;
    int64_t shard_tokens, every, pieces, read, piece; /* piece: bytes of text that go to one part at a time */
} preparation;

static resbm_status next_shard(preparation *p, int part, rb_err *err) {
    char path[4096];
    if (snprintf(path, sizeof path, "%s/%s-%03d.bin", p->o->out, names[part], p->r->shards[part]) >=
        (int)sizeof path)
        return rb_fail(err, RESBM_E_ARG, "path too long: %s", p->o->out);
    p->r->shards[part]++;
    return rb_shard_create(path, p->tok.vocab <= 65536 ? 2 : 4, &p->w[part], err);
}

static resbm_status finish_shard(preparation *p, int part, rb_err *err) {
    rb_shard_writer *w = p->w[part];
    p->w[part] = NULL;
    return w ? rb_shard_finish(w, err) : RESBM_OK;
}

static resbm_status add_piece(preparation *p, const char *text, size_t n, rb_err *err) {
    int part = p->pieces++ % p->every == p->every - 1;
    p->ids.len = 0;
    RB_TRY(rb_tokenizer_encode(&p->tok, text, n, &p->ids, err));
    if (p->w[part] && rb_shard_written(p->w[part]) + p->ids.len > p->shard_tokens)
        RB_TRY(finish_shard(p, part, err));
    if (!p->w[part]) RB_TRY(next_shard(p, part, err));
    p->r->bytes[part] += (int64_t)n;
    p->r->tokens[part] += p->ids.len;
    return rb_shard_write(p->w[part], p->ids.data, p->ids.len, err);
}

/* Where to cut text[0..n): behind the last line end, else the last blank, else before a started UTF-8
 * character. */
static size_t cut_at(const char *text, size_t n) {
    for (size_t i = n; i > n / 2; i--)
        if (text[i - 1] == '\n') return i;
    for (size_t i = n; i > n / 2; i--)
        if (text[i - 1] == ' ') return i - 1;
    size_t i = n;
    while (i > n - 4 && ((unsigned char)text[i - 1] & 0xc0) == 0x80) i--;
    return i > n - 4 && (unsigned char)text[i - 1] >= 0xc0 ? i - 1 : n;
}

static resbm_status add_file(preparation *p, const char *path, char *buf, rb_err *err) {
    gzFile f = gzopen(path, "rb");
    if (!f) return rb_fail(err, RESBM_E_IO, "cannot open text %s", path);
    resbm_status st = RESBM_OK;
    size_t have = 0;
    for (int got = 1; !st && got > 0;) {
        int64_t room = p->piece - (int64_t)have;
        if (p->o->max_bytes && room > p->o->max_bytes - p->read) room = p->o->max_bytes - p->read;
        got = room > 0 ? gzread(f, buf + have, (unsigned)room) : 0;
        if (got < 0) {
            int code;
            st = rb_fail(err, RESBM_E_CORRUPT, "cannot read text %s: %s", path, gzerror(f, &code));
            break;
        }
        p->read += got;
        have += (size_t)got;
        bool more = got > 0 && (int64_t)have == p->piece;
        if (!have || (got > 0 && !more)) continue;
        size_t cut = more ? cut_at(buf, have) : have;
        st = add_piece(p, buf, cut, err);
        memmove(buf, buf + cut, have - cut);
        have -= cut;
    }
    gzclose(f);
    return st;
}

static resbm_status write_meta(const preparation *p, rb_err *err) {
    char path[4096];
    json_t *j = json_pack("{s:i, s:s, s:I, s:{s:I, s:I}, s:{s:I, s:I}}", "version", 1, "tokenizer",
                          p->o->tokenizer, "vocab", (json_int_t)p->tok.vocab, "train", "tokens",
                          (json_int_t)p->r->tokens[0], "bytes", (json_int_t)p->r->bytes[0], "val", "tokens",
                          (json_int_t)p->r->tokens[1], "bytes", (json_int_t)p->r->bytes[1]);
    char *text = j ? json_dumps(j, JSON_INDENT(1)) : NULL;
    json_decref(j);
    if (!text) return rb_fail(err, RESBM_E_MEMORY, "no memory for meta.json");
    snprintf(path, sizeof path, "%s/meta.json", p->o->out);
    resbm_status st = rb_write_file_atomic(path, text, strlen(text), err);
    free(text);
    return st;
}

/* Short texts are cut into shorter pieces, so that they too have a validation part (of about four pieces). */
static int64_t piece_size(const preparation *p) {
    int64_t total = 0;
    for (int i = 0; i < p->o->count; i++) {
        struct stat s;
        if (stat(p->o->inputs[i], &s) == 0) total += s.st_size;
    }
    if (p->o->max_bytes && total > p->o->max_bytes) total = p->o->max_bytes;
    int64_t piece = total / (4 * p->every);
    return piece < least_piece ? least_piece : piece < piece_bytes ? piece : piece_bytes;
}

static resbm_status run(preparation *p, rb_err *err) {
    RB_TRY(rb_tokenizer_open(p->o->tokenizer, &p->tok, err));
    RB_TRY(rb_make_dirs(p->o->out, err));
    p->r->vocab = p->tok.vocab;
    p->piece = piece_size(p);
    char *buf = malloc(piece_bytes);
    if (!buf) return rb_fail(err, RESBM_E_MEMORY, "no memory to read texts");
    resbm_status st = RESBM_OK;
    for (int i = 0; i < p->o->count && !st; i++) st = add_file(p, p->o->inputs[i], buf, err);
    free(buf);
    RB_TRY(st);
    for (int part = 0; part < 2; part++) RB_TRY(finish_shard(p, part, err));
    if (!p->r->tokens[0] || !p->r->tokens[1])
        return rb_fail(err, RESBM_E_CONFIG,
                       "%lld bytes of text are too few to make a training and a validation part",
                       (long long)p->read);
    return write_meta(p, err);
}

resbm_status rb_data_prepare(const rb_prepare_options *o, rb_prepare_result *out, rb_err *err) {
    *out = (rb_prepare_result){0};
    preparation p = {.o = o, .r = out, .shard_tokens = o->shard_tokens ? o->shard_tokens : 100000000};
    double share = o->val_share ? o->val_share : 0.02;
    if (share <= 0 || share > 0.5)
        return rb_fail(err, RESBM_E_ARG, "validation share %g is not in (0, 0.5]", share);
    p.every = (int64_t)(1 / share + 0.5);
    resbm_status st = run(&p, err);
    for (int part = 0; part < 2; part++) rb_shard_abandon(p.w[part]);
    rb_ids_free(&p.ids);
    rb_tokenizer_close(&p.tok);
    return st;
}
