/* Reading: which checkpoint is whole, and tensors by name. */
#include "checkpoint/checkpoint.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "checkpoint/folder.h"
#include "core/hash.h"

static resbm_status read_manifest(const char *path, rb_manifest *m, rb_err *err) {
    char file[PATH_MAX];
    rb_buf text = {0};
    memset(m, 0, sizeof *m);
    RB_TRY(rb_path_join(path, "manifest.json", file, err));
    resbm_status st = rb_read_file(file, RB_MANIFEST_LIMIT, &text, err);
    if (st == RESBM_OK) st = rb_manifest_parse(text.data, text.len, file, m, err);
    rb_buf_free(&text);
    return st;
}

static resbm_status check_length(const char *path, const rb_part_file *f, rb_err *err) {
    struct stat sb;
    if (stat(path, &sb))
        return rb_fail(err, RESBM_E_CORRUPT, "%s is missing (%s), the manifest lists it", path,
                       strerror(errno));
    if (!S_ISREG(sb.st_mode) || (uint64_t)sb.st_size != f->sum.bytes)
        return rb_fail(err, RESBM_E_CORRUPT, "%s has %lld bytes, the manifest says %llu", path,
                       (long long)sb.st_size, (unsigned long long)f->sum.bytes);
    return RESBM_OK;
}

static resbm_status check_file(const char *folder, const rb_part_file *f, rb_err *err) {
    char path[PATH_MAX], hash[33];
    RB_TRY(rb_path_join(folder, f->name, path, err));
    RB_TRY(check_length(path, f, err));
    RB_TRY(rb_hash_file(path, hash, NULL, err));
    if (strcmp(hash, f->sum.hash))
        return rb_fail(err, RESBM_E_CORRUPT,
                       "%s has the hash %s, the manifest says %s: its content was damaged", path, hash,
                       f->sum.hash);
    return RESBM_OK;
}

resbm_status rb_checkpoint_verify(const char *path, rb_err *err) {
    rb_manifest m;
    RB_TRY(read_manifest(path, &m, err));
    resbm_status st = RESBM_OK;
    const char *slash = strrchr(path, '/');
    int64_t step = rb_step_of(slash ? slash + 1 : path, "");
    if (step >= 0 && step != m.step)
        st = rb_fail(err, RESBM_E_CORRUPT, "%s: its manifest is that of step %lld", path, (long long)m.step);
    for (int i = 0; i < m.file_count && st == RESBM_OK; i++) st = check_file(path, &m.files[i], err);
    rb_manifest_free(&m);
    return st;
}

resbm_status rb_checkpoint_find_latest(const char *dir, int64_t *step, rb_buf *reasons, rb_err *err) {
    int64_t *steps;
    int count;
    char path[PATH_MAX];
    rb_err why = {0};
    *step = -1;
    resbm_status st = rb_list_steps(dir, &steps, &count, err);
    for (int i = 0; i < count && st == RESBM_OK && *step < 0; i++) {
        st = rb_checkpoint_path(dir, steps[i], path, err);
        if (st != RESBM_OK) break;
        resbm_status one = rb_checkpoint_verify(path, &why);
        if (one == RESBM_E_MEMORY) st = rb_fail(err, one, "%s", why.text);
        if (one == RESBM_OK)
            *step = steps[i];
        else if (reasons)
            rb_buf_printf(reasons, "step-%lld: %s\n", (long long)steps[i], why.text);
    }
    free(steps);
    if (st == RESBM_OK && count && *step < 0)
        st = rb_fail(err, RESBM_E_CORRUPT, "none of the %d checkpoints in %s is whole; the oldest: %s", count,
                     dir, why.text);
    return st;
}

/* ---- tensors */

typedef struct entry {
    const rb_tensor_in *tensor;
    int file;
} entry;

struct rb_checkpoint {
    char path[PATH_MAX];
    rb_manifest manifest;
    rb_safetensors **file; /* one per row of the manifest */
    entry *index;          /* by name */
    int count;
};

static int entry_by_name(const void *a, const void *b) {
    return strcmp(((const entry *)a)->tensor->name, ((const entry *)b)->tensor->name);
}

static resbm_status open_files(rb_checkpoint *c, rb_err *err) {
    char path[PATH_MAX];
    c->file = calloc((size_t)c->manifest.file_count + 1, sizeof *c->file);
    if (!c->file) return rb_fail(err, RESBM_E_MEMORY, "no memory to open %s", c->path);
    for (int i = 0; i < c->manifest.file_count; i++) {
        RB_TRY(rb_path_join(c->path, c->manifest.files[i].name, path, err));
        RB_TRY(check_length(path, &c->manifest.files[i], err));
        RB_TRY(rb_safetensors_open(path, &c->file[i], err));
        c->count += rb_safetensors_count(c->file[i]);
    }
    return RESBM_OK;
}

static resbm_status build_index(rb_checkpoint *c, rb_err *err) {
    c->index = calloc((size_t)c->count + 1, sizeof *c->index);
    if (!c->index) return rb_fail(err, RESBM_E_MEMORY, "no memory to open %s", c->path);
    int n = 0;
    for (int i = 0; i < c->manifest.file_count; i++)
        for (int j = 0; j < rb_safetensors_count(c->file[i]); j++)
            c->index[n++] = (entry){rb_safetensors_at(c->file[i], j), i};
    qsort(c->index, (size_t)n, sizeof *c->index, entry_by_name);
    for (int i = 1; i < n; i++)
        if (!strcmp(c->index[i].tensor->name, c->index[i - 1].tensor->name))
            return rb_fail(err, RESBM_E_FORMAT, "%s: tensor %s stands in %s and in %s", c->path,
                           c->index[i].tensor->name, c->manifest.files[c->index[i - 1].file].name,
                           c->manifest.files[c->index[i].file].name);
    return RESBM_OK;
}

resbm_status rb_checkpoint_open(const char *path, rb_checkpoint **out, rb_err *err) {
    *out = NULL;
    rb_checkpoint *c = calloc(1, sizeof *c);
    if (!c) return rb_fail(err, RESBM_E_MEMORY, "no memory to open %s", path);
    snprintf(c->path, sizeof c->path, "%s", path);
    resbm_status st = read_manifest(path, &c->manifest, err);
    if (st == RESBM_OK) st = open_files(c, err);
    if (st == RESBM_OK) st = build_index(c, err);
    if (st == RESBM_OK)
        *out = c;
    else
        rb_checkpoint_close(c);
    return st;
}

void rb_checkpoint_close(rb_checkpoint *c) {
    if (!c) return;
    for (int i = 0; c->file && i < c->manifest.file_count; i++) rb_safetensors_close(c->file[i]);
    free(c->file);
    free(c->index);
    rb_manifest_free(&c->manifest);
    free(c);
}

const rb_manifest *rb_checkpoint_manifest(const rb_checkpoint *c) {
    return &c->manifest;
}

static const entry *entry_of(const rb_checkpoint *c, const char *name) {
    rb_tensor_in key = {.name = name};
    entry want = {&key, 0};
    return c->count ? bsearch(&want, c->index, (size_t)c->count, sizeof *c->index, entry_by_name) : NULL;
}

const rb_tensor_in *rb_checkpoint_find(const rb_checkpoint *c, const char *name) {
    const entry *e = entry_of(c, name);
    return e ? e->tensor : NULL;
}

void rb_checkpoint_forget(const rb_checkpoint *c, const char *name, const void *data, size_t n) {
    const entry *e = entry_of(c, name);
    if (e) rb_safetensors_forget(c->file[e->file], data, n);
}

/* "[4, 256]" */
static const char *shape_text(int rank, const int64_t *shape, char out[96]) {
    int n = snprintf(out, 96, "[");
    for (int i = 0; i < rank && n < 96; i++)
        n += snprintf(out + n, 96 - (size_t)n, "%s%lld", i ? ", " : "", (long long)shape[i]);
    if (n < 96) snprintf(out + n, 96 - (size_t)n, "]");
    return out;
}

resbm_status rb_checkpoint_bytes(const rb_checkpoint *c, const char *name, rb_dtype dtype, int rank,
                                 const int64_t *shape, const char **out, rb_err *err) {
    char has[96], wants[96];
    const rb_tensor_in *t = rb_checkpoint_find(c, name);
    if (!t) return rb_fail(err, RESBM_E_FORMAT, "%s holds no tensor %s", c->path, name);
    bool same = t->dtype == dtype && t->rank == rank;
    for (int i = 0; same && i < rank; i++) same = t->shape[i] == shape[i];
    if (!same)
        return rb_fail(err, RESBM_E_FORMAT,
                       "%s: tensor %s has type %d and shape %s, this model wants type %d and %s", c->path,
                       name, t->dtype, shape_text(t->rank, t->shape, has), dtype,
                       shape_text(rank, shape, wants));
    *out = t->data;
    return RESBM_OK;
}
