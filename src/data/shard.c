#include "data/shard.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/bytes.h"

typedef struct shard {
    char *path;
    const uint8_t *map;
    size_t bytes;
    rb_shard_header head;
    int64_t first; /* position of its first token among all */
} shard;

struct rb_shards {
    char *name;
    shard *item;
    int count;
    int64_t tokens, vocab;
};

/* What a file that is no shard may be, and what to do about it. */
static const char *foreign(const uint8_t *head) {
    if (head[0] == 0x1f && head[1] == 0x8b)
        return "it is gzip data; make shards of its text with `resbm data`";
    if (rb_get32(head) == 20240522) return "it is an llm.c multiple-choice file, not tokens to train on";
    if (rb_get32(head) == __builtin_bswap32(RB_SHARD_MAGIC16) ||
        rb_get32(head) == __builtin_bswap32(RB_SHARD_MAGIC32))
        return "it was written in big-endian order";
    return "make shards of text with `resbm data`";
}

resbm_status rb_shard_parse_header(const uint8_t *head, uint64_t bytes, rb_shard_header *out, rb_err *err) {
    if (bytes < RB_SHARD_HEADER_BYTES)
        return rb_fail(err, RESBM_E_CORRUPT,
                       "it has %llu bytes, a shard's header alone has %d; make it again",
                       (unsigned long long)bytes, RB_SHARD_HEADER_BYTES);
    uint32_t magic = rb_get32(head), version = rb_get32(head + 4);
    out->tokens = rb_get32(head + 8);
    out->width = magic == RB_SHARD_MAGIC16 ? 2 : 4;
    if (magic != RB_SHARD_MAGIC16 && magic != RB_SHARD_MAGIC32)
        return rb_fail(err, RESBM_E_FORMAT, "it is no token shard (magic %u, not %d or %d); %s", magic,
                       RB_SHARD_MAGIC16, RB_SHARD_MAGIC32, foreign(head));
    if (version != (out->width == 2 ? 1 : 7))
        return rb_fail(err, RESBM_E_FORMAT, "it has version %u; of magic %u only version %d is read", version,
                       magic, out->width == 2 ? 1 : 7);
    uint64_t want = RB_SHARD_HEADER_BYTES + (uint64_t)out->tokens * (uint64_t)out->width;
    if (bytes != want)
        return rb_fail(err, RESBM_E_CORRUPT,
                       "it is %s: %lld tokens take %llu bytes, it has %llu; copy or make it again",
                       bytes < want ? "truncated" : "too long", (long long)out->tokens,
                       (unsigned long long)want, (unsigned long long)bytes);
    return RESBM_OK;
}

static resbm_status map_file(int fd, const char *path, shard *s, rb_err *err) {
    struct stat sb;
    if (fstat(fd, &sb)) return rb_fail_errno(err, errno, "cannot stat shard %s", path);
    if (S_ISDIR(sb.st_mode))
        return rb_fail(err, RESBM_E_FORMAT, "shard %s: it is a folder: name its shards, %s/train-*.bin", path,
                       path);
    if (!S_ISREG(sb.st_mode)) return rb_fail(err, RESBM_E_FORMAT, "shard %s: it is no regular file", path);
    s->bytes = (size_t)sb.st_size;
    void *map = s->bytes ? mmap(NULL, s->bytes, PROT_READ, MAP_SHARED, fd, 0) : NULL;
    if (map == MAP_FAILED)
        return rb_fail_errno(err, errno, "cannot map shard %s (%zu bytes)", path, s->bytes);
    s->map = map;
    resbm_status st = rb_shard_parse_header(s->map, s->bytes, &s->head, err);
    return st ? rb_err_context(err, st, "shard %s: ", path) : RESBM_OK;
}

static resbm_status map_shard(const char *path, shard *s, rb_err *err) {
    s->path = strdup(path);
    if (!s->path) return rb_fail(err, RESBM_E_MEMORY, "no memory for the name of shard %s", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a fifo must not hold us up */
    if (fd < 0) return rb_fail_errno(err, errno, "cannot open shard %s", path);
    resbm_status st = map_file(fd, path, s, err);
    close(fd);
    return st;
}

static resbm_status add_shards(rb_shards *s, char *const *paths, size_t n, rb_err *err) {
    shard *grown = realloc(s->item, (size_t)(s->count + (int)n) * sizeof *grown);
    if (!grown) return rb_fail(err, RESBM_E_MEMORY, "no memory for %zu shards", n);
    s->item = grown;
    for (size_t i = 0; i < n; i++) {
        shard *one = &s->item[s->count++];
        *one = (shard){.first = s->tokens};
        RB_TRY(map_shard(paths[i], one, err));
        s->tokens += one->head.tokens;
    }
    return RESBM_OK;
}

static resbm_status add_pattern(rb_shards *s, const char *pattern, rb_err *err) {
    glob_t g;
    int bad = glob(pattern, 0, NULL, &g);
    if (bad == GLOB_NOMATCH)
        return rb_fail(err, RESBM_E_IO, "no shard matches \"%s\"; make shards with `resbm data`", pattern);
    if (bad) return rb_fail(err, RESBM_E_IO, "cannot list the shards of \"%s\"", pattern);
    resbm_status st = add_shards(s, g.gl_pathv, g.gl_pathc, err);
    globfree(&g);
    return st;
}

resbm_status rb_shards_open(const char *patterns, int64_t vocab, rb_shards **out, rb_err *err) {
    *out = NULL;
    rb_shards *s = calloc(1, sizeof *s);
    char *list = strdup(patterns), *save = NULL;
    if (s) s->name = strdup(patterns);
    resbm_status st = s && s->name && list ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for shards");
    if (s) s->vocab = vocab;
    for (char *p = list ? strtok_r(list, ",", &save) : NULL; p && !st; p = strtok_r(NULL, ",", &save)) {
        while (*p == ' ') p++;
        st = add_pattern(s, p, err);
    }
    free(list);
    if (!st && !s->count) st = rb_fail(err, RESBM_E_CONFIG, "no shards are named");
    if (st)
        rb_shards_close(s);
    else
        *out = s;
    return st;
}

void rb_shards_close(rb_shards *s) {
    if (!s) return;
    for (int i = 0; i < s->count; i++) {
        if (s->item[i].map) munmap((void *)s->item[i].map, s->item[i].bytes);
        free(s->item[i].path);
    }
    free(s->item);
    free(s->name);
    free(s);
}

int64_t rb_shards_tokens(const rb_shards *s) {
    return s->tokens;
}
const char *rb_shards_name(const rb_shards *s) {
    return s->name;
}

static resbm_status outside(const rb_shards *s, const shard *f, int64_t at, uint32_t id, rb_err *err) {
    return rb_fail(err, RESBM_E_CONFIG,
                   "shard %s: token %lld has id %u, the model's vocabulary has %lld: set model.vocab to that "
                   "of the tokenizer "
                   "that made the shards",
                   f->path, (long long)at, id, (long long)(s->vocab > 0 ? s->vocab : INT32_MAX));
}

static resbm_status read_part(const rb_shards *s, const shard *f, int64_t at, int64_t n, int32_t *out,
                              rb_err *err) {
    const uint8_t *p = f->map + RB_SHARD_HEADER_BYTES + at * f->head.width;
    uint32_t top = 0, limit = s->vocab > 0 && s->vocab < INT32_MAX ? (uint32_t)s->vocab : INT32_MAX;
    for (int64_t i = 0; i < n; i++, p += f->head.width) {
        uint32_t id = f->head.width == 2 ? rb_get16(p) : rb_get32(p);
        top = id > top ? id : top;
        out[i] = (int32_t)id;
    }
    for (int64_t i = 0; top >= limit && i < n; i++)
        if ((uint32_t)out[i] >= limit) return outside(s, f, at + i, (uint32_t)out[i], err);
    return RESBM_OK;
}

/* The shard that holds token pos: the last one that begins at or before it. */
static const shard *shard_of(const rb_shards *s, int64_t pos) {
    int lo = 0, hi = s->count - 1;
    while (lo < hi) {
        int mid = hi - (hi - lo) / 2;
        if (s->item[mid].first <= pos)
            lo = mid;
        else
            hi = mid - 1;
    }
    return &s->item[lo];
}

resbm_status rb_shards_read(const rb_shards *s, int64_t pos, int64_t n, int32_t *out, rb_err *err) {
    if (pos < 0 || n < 0 || n > s->tokens || pos > s->tokens - n)
        return rb_fail(err, RESBM_E_ARG, "tokens %lld..%lld asked of %s, which has %lld", (long long)pos,
                       (long long)(pos + n), s->name, (long long)s->tokens);
    for (const shard *f = shard_of(s, pos); n > 0; f++) {
        int64_t at = pos - f->first, here = f->head.tokens - at < n ? f->head.tokens - at : n;
        RB_TRY(read_part(s, f, at, here, out, err));
        pos += here;
        out += here;
        n -= here;
    }
    return RESBM_OK;
}
