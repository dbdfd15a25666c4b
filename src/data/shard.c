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
    shard *item;
    int count;
    int64_t tokens, vocab;
};

resbm_status rb_shard_parse_header(const uint8_t *head, uint64_t bytes, rb_shard_header *out, rb_err *err) {
    if (bytes < RB_SHARD_HEADER_BYTES)
        return rb_fail(err, RESBM_E_CORRUPT, "it has %llu bytes, a shard's header alone has %d",
                       (unsigned long long)bytes, RB_SHARD_HEADER_BYTES);
    int32_t magic = (int32_t)rb_get32(head), version = (int32_t)rb_get32(head + 4);
    out->tokens = rb_get32(head + 8);
    out->width = magic == RB_SHARD_MAGIC16 ? 2 : 4;
    if (magic != RB_SHARD_MAGIC16 && magic != RB_SHARD_MAGIC32)
        return rb_fail(err, RESBM_E_FORMAT,
                       "it is no token shard (magic %d, not %d or %d); make shards with `resbm data`", magic,
                       RB_SHARD_MAGIC16, RB_SHARD_MAGIC32);
    if (version != (out->width == 2 ? 1 : 7))
        return rb_fail(err, RESBM_E_FORMAT, "it has version %d, not %d", version, out->width == 2 ? 1 : 7);
    uint64_t want = RB_SHARD_HEADER_BYTES + (uint64_t)out->tokens * (uint64_t)out->width;
    if (bytes < want)
        return rb_fail(err, RESBM_E_CORRUPT, "it is truncated: %lld tokens take %llu bytes, it has %llu",
                       (long long)out->tokens, (unsigned long long)want, (unsigned long long)bytes);
    return RESBM_OK;
}

static resbm_status map_shard(const char *path, shard *s, rb_err *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat sb;
    if (fd < 0) return rb_fail_errno(err, errno, "cannot open shard %s", path);
    if (fstat(fd, &sb)) {
        int saved = errno;
        close(fd);
        return rb_fail_errno(err, saved, "cannot stat shard %s", path);
    }
    s->bytes = (size_t)sb.st_size;
    s->map = s->bytes ? mmap(NULL, s->bytes, PROT_READ, MAP_SHARED, fd, 0) : NULL;
    int saved = errno;
    close(fd);
    if (s->map == MAP_FAILED) {
        s->map = NULL;
        return rb_fail_errno(err, saved, "cannot map shard %s", path);
    }
    s->path = strdup(path);
    if (!s->path) return rb_fail(err, RESBM_E_MEMORY, "no memory for the name of shard %s", path);
    resbm_status st = rb_shard_parse_header(s->map, s->bytes, &s->head, err);
    return st ? rb_err_context(err, st, "shard %s: ", path) : RESBM_OK;
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
    resbm_status st = s && list ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for shards");
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
    free(s);
}

int64_t rb_shards_tokens(const rb_shards *s) {
    return s->tokens;
}

static resbm_status read_part(const rb_shards *s, const shard *f, int64_t at, int64_t n, int32_t *out,
                              rb_err *err) {
    const uint8_t *p = f->map + RB_SHARD_HEADER_BYTES + at * f->head.width;
    uint32_t top = 0;
    for (int64_t i = 0; i < n; i++, p += f->head.width) {
        uint32_t id = f->head.width == 2 ? rb_get16(p) : rb_get32(p);
        top = id > top ? id : top;
        out[i] = (int32_t)id;
    }
    if (top > INT32_MAX || (s->vocab && top >= (uint64_t)s->vocab))
        return rb_fail(err, RESBM_E_CONFIG,
                       "shard %s has token id %u at or behind token %lld, the model's vocabulary has %lld: "
                       "set model.vocab "
                       "to that of the tokenizer that made the shards",
                       f->path, top, (long long)at, (long long)s->vocab);
    return RESBM_OK;
}

resbm_status rb_shards_read(const rb_shards *s, int64_t pos, int64_t n, int32_t *out, rb_err *err) {
    if (pos < 0 || n < 0 || n > s->tokens || pos > s->tokens - n)
        return rb_fail(err, RESBM_E_ARG, "tokens %lld..%lld of %lld", (long long)pos, (long long)(pos + n),
                       (long long)s->tokens);
    for (int i = 0; i < s->count && n; i++) {
        const shard *f = &s->item[i];
        if (pos >= f->first + f->head.tokens) continue;
        int64_t at = pos - f->first, here = f->head.tokens - at < n ? f->head.tokens - at : n;
        RB_TRY(read_part(s, f, at, here, out, err));
        pos += here;
        out += here;
        n -= here;
    }
    return RESBM_OK;
}
