#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "core/buf.h"
#include "core/bytes.h"
#include "data/shard.h"

struct rb_shard_writer {
    FILE *file;
    char *path, *beside;
    int width;
    int64_t tokens;
};

static void free_writer(rb_shard_writer *w) {
    if (!w) return;
    if (w->file) fclose(w->file);
    free(w->path);
    free(w->beside);
    free(w);
}

void rb_shard_abandon(rb_shard_writer *w) {
    if (w && w->beside) unlink(w->beside);
    free_writer(w);
}

static bool put_header(rb_shard_writer *w) {
    uint8_t head[RB_SHARD_HEADER_BYTES] = {0};
    rb_put32(head, w->width == 2 ? RB_SHARD_MAGIC16 : RB_SHARD_MAGIC32);
    rb_put32(head + 4, w->width == 2 ? 1 : 7);
    rb_put32(head + 8, (uint32_t)w->tokens);
    return fwrite(head, sizeof head, 1, w->file) == 1;
}

resbm_status rb_shard_create(const char *path, int width, rb_shard_writer **out, rb_err *err) {
    rb_shard_writer *w = calloc(1, sizeof *w);
    size_t len = strlen(path) + 5;
    *out = NULL;
    if (w) {
        w->width = width;
        w->path = strdup(path);
        w->beside = malloc(len);
    }
    if (!w || !w->path || !w->beside) {
        free_writer(w);
        return rb_fail(err, RESBM_E_MEMORY, "no memory to write %s", path);
    }
    snprintf(w->beside, len, "%s.tmp", path);
    w->file = fopen(w->beside, "wb");
    if (!w->file || !put_header(w)) {
        resbm_status st = rb_fail_errno(err, errno, "cannot create %s", w->beside);
        rb_shard_abandon(w);
        return st;
    }
    *out = w;
    return RESBM_OK;
}

static resbm_status check_ids(const rb_shard_writer *w, const int32_t *ids, int64_t n, rb_err *err) {
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || (w->width == 2 && ids[i] > UINT16_MAX))
            return rb_fail(err, RESBM_E_ARG, "%s: token id %d does not fit %d bytes", w->path, ids[i],
                           w->width);
    return RESBM_OK;
}

resbm_status rb_shard_write(rb_shard_writer *w, const int32_t *ids, int64_t n, rb_err *err) {
    uint8_t piece[4096];
    if (w->tokens + n > INT32_MAX)
        return rb_fail(err, RESBM_E_ARG, "%s: a shard holds at most 2^31-1 tokens", w->path);
    RB_TRY(check_ids(w, ids, n, err));
    for (int64_t done = 0; done < n;) {
        int64_t here = n - done < 1024 ? n - done : 1024;
        for (int64_t i = 0; i < here; i++)
            if (w->width == 2)
                rb_put16(piece + 2 * i, (uint16_t)ids[done + i]);
            else
                rb_put32(piece + 4 * i, (uint32_t)ids[done + i]);
        if (fwrite(piece, (size_t)w->width, (size_t)here, w->file) != (size_t)here)
            return rb_fail_errno(err, errno, "cannot write %s", w->beside);
        done += here;
    }
    w->tokens += n;
    return RESBM_OK;
}

int64_t rb_shard_written(const rb_shard_writer *w) {
    return w->tokens;
}

resbm_status rb_shard_finish(rb_shard_writer *w, rb_err *err) {
    bool ok =
        fseek(w->file, 0, SEEK_SET) == 0 && put_header(w) && !fflush(w->file) && !fsync(fileno(w->file));
    if (ok) ok = !rename(w->beside, w->path);
    resbm_status st = ok ? RESBM_OK : rb_fail_errno(err, errno, "cannot finish %s", w->path);
    if (ok)
        free_writer(w);
    else
        rb_shard_abandon(w);
    return st;
}
