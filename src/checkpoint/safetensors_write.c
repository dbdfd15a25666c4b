/* The writer: the JSON, then the tensors in pieces, hashed as they go out. */
#include "checkpoint/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "core/bytes.h"
#include "core/hash.h"

enum { PIECE = 4 << 20, BEHIND = 16 << 20 };

typedef struct writer {
    const char *path;
    int fd;
    rb_hasher *hash;
    uint64_t bytes, settled; /* written; of these on disk, and out of the page cache */
    rb_err *err;
} writer;

static const char *const dtype_name[RB_DTYPE_COUNT] = {
    [RB_F32] = "F32", [RB_BF16] = "BF16", [RB_I32] = "I32",
    [RB_U8] = "U8",   [RB_F64] = "F64",   [RB_I64] = "I64",
};

static int64_t bytes_of(const rb_tensor_out *t) {
    int64_t n = (int64_t)rb_dtype_size(t->dtype);
    for (int i = 0; i < t->rank; i++) n *= t->shape[i];
    return n;
}

/* A snapshot of a model that barely fits may not fill the page cache: what is BEHIND bytes old is waited for and leaves
 * it, what came since is on its way. Only advice: a fault shows in fsync. */
static void settle(writer *w) {
    uint64_t ready = w->bytes / BEHIND * BEHIND;
    if (ready < w->settled + 2 * BEHIND) return;
    off_t at = (off_t)w->settled, n = (off_t)(ready - w->settled) - BEHIND;
    sync_file_range(w->fd, at, n + BEHIND, SYNC_FILE_RANGE_WRITE);
    sync_file_range(w->fd, at, n,
                    SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    posix_fadvise(w->fd, at, n, POSIX_FADV_DONTNEED);
    w->settled += (uint64_t)n;
}

static resbm_status put(writer *w, const void *p, size_t n) {
    for (size_t done = 0; done < n;) {
        ssize_t k = write(w->fd, (const char *)p + done, n - done);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0)
            return rb_fail_errno(w->err, k ? errno : ENOSPC, "cannot write %s at byte %llu", w->path,
                                 (unsigned long long)(w->bytes + done));
        done += (size_t)k;
    }
    rb_hasher_add(w->hash, p, n);
    w->bytes += n;
    return RESBM_OK;
}

static resbm_status put_tensor(writer *w, const rb_tensor_out *t, void *piece) {
    int64_t total = bytes_of(t);
    for (int64_t at = 0; at < total; at += PIECE) {
        size_t n = total - at < PIECE ? (size_t)(total - at) : PIECE;
        if (!t->data) RB_TRY(t->read(t->ctx, at, piece, n, w->err));
        RB_TRY(put(w, t->data ? (const char *)t->data + at : piece, n));
        settle(w);
    }
    return RESBM_OK;
}

/* One tensor's entry; 0 or -1 like jansson. */
static int describe(json_t *header, const rb_tensor_out *t, int64_t begin) {
    json_t *shape = json_array();
    for (int i = 0; shape && i < t->rank; i++) json_array_append_new(shape, json_integer(t->shape[i]));
    return json_object_set_new(header, t->name,
                               json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_name[t->dtype], "shape",
                                         shape, "data_offsets", (json_int_t)begin,
                                         (json_int_t)(begin + bytes_of(t))));
}

static resbm_status check_tensor(const rb_tensor_out *t, rb_err *err) {
    if (!t->name || !*t->name || strlen(t->name) >= RB_ST_NAME || !strcmp(t->name, "__metadata__"))
        return rb_fail(err, RESBM_E_ARG, "tensor name '%.80s' is empty, reserved or longer than %d bytes",
                       t->name ? t->name : "", RB_ST_NAME - 1);
    bool typed = t->rank >= 0 && t->rank <= 4 && (unsigned)t->dtype < RB_DTYPE_COUNT;
    if (!typed || (!t->data && !t->read && bytes_of(t)))
        return rb_fail(err, RESBM_E_ARG, "tensor %s: rank %d, dtype %d or a missing source", t->name, t->rank,
                       t->dtype);
    return RESBM_OK;
}

static const uint8_t sizes_down[] = {8, 4, 2, 1};

/* Entries in the order of the data: by element size, so that every tensor is aligned, then as given. */
static resbm_status build_header(const rb_tensor_out *t, int count, json_t *header, rb_err *err) {
    int64_t at = 0;
    for (int i = 0; i < count; i++) RB_TRY(check_tensor(&t[i], err));
    for (int s = 0; s < 4; s++)
        for (int i = 0; i < count; i++) {
            if (rb_dtype_size(t[i].dtype) != sizes_down[s]) continue;
            if (json_object_get(header, t[i].name))
                return rb_fail(err, RESBM_E_ARG, "tensor %s is given twice", t[i].name);
            if (describe(header, &t[i], at))
                return rb_fail(err, RESBM_E_ARG, "tensor %s: no memory, or its name is no UTF-8", t[i].name);
            at += bytes_of(&t[i]);
        }
    return RESBM_OK;
}

/* Length, JSON, spaces up to a multiple of 8. */
static resbm_status put_header(writer *w, const rb_tensor_out *t, int count) {
    json_t *header = json_object();
    resbm_status st = header ? build_header(t, count, header, w->err)
                             : rb_fail(w->err, RESBM_E_MEMORY, "no memory for a safetensors header");
    char *text = st == RESBM_OK ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    if (!text)
        return st != RESBM_OK ? st : rb_fail(w->err, RESBM_E_MEMORY, "no memory for a safetensors header");
    size_t len = strlen(text), padded = (len + 7) & ~(size_t)7;
    uint8_t length[8];
    rb_put64(length, padded);
    st = put(w, length, sizeof length);
    if (st == RESBM_OK) st = put(w, text, len);
    if (st == RESBM_OK) st = put(w, "        ", padded - len);
    free(text);
    return st;
}

static resbm_status put_all(writer *w, const rb_tensor_out *t, int count) {
    RB_TRY(put_header(w, t, count));
    void *piece = malloc(PIECE);
    if (!piece) return rb_fail(w->err, RESBM_E_MEMORY, "no memory to write %s", w->path);
    resbm_status st = RESBM_OK;
    for (int s = 0; s < 4; s++)
        for (int i = 0; i < count && st == RESBM_OK; i++)
            if (rb_dtype_size(t[i].dtype) == sizes_down[s]) st = put_tensor(w, &t[i], piece);
    free(piece);
    if (st == RESBM_OK && fsync(w->fd)) st = rb_fail_errno(w->err, errno, "cannot sync %s", w->path);
    posix_fadvise(w->fd, 0, 0, POSIX_FADV_DONTNEED);
    return st;
}

resbm_status rb_safetensors_write(const char *path, const rb_tensor_out *tensors, int count, rb_file_sum *out,
                                  rb_err *err) {
    writer w = {.path = path, .err = err, .hash = rb_hasher_new()};
    if (!w.hash) return rb_fail(err, RESBM_E_MEMORY, "no memory to write %s", path);
    w.fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    resbm_status st =
        w.fd < 0 ? rb_fail_errno(err, errno, "cannot create %s", path) : put_all(&w, tensors, count);
    if (w.fd >= 0 && close(w.fd) && st == RESBM_OK) st = rb_fail_errno(err, errno, "cannot close %s", path);
    if (w.fd >= 0 && st != RESBM_OK) unlink(path);
    rb_file_sum sum = {.bytes = w.bytes};
    rb_hasher_finish(w.hash, sum.hash);
    if (out && st == RESBM_OK) *out = sum;
    return st;
}
