/* Weights of a Hugging Face checkpoint: one safetensors file, or the shards of an index. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "core/buf.h"
#include "core/bytes.h"
#include "run/hf.h"

enum { INDEX_LIMIT = 64 << 20, MAX_SHARDS = 4096 };

typedef struct entry {
    const rb_tensor_in *tensor;
} entry;

struct rb_hf_weights {
    char dir[PATH_MAX];
    char **name; /* of the files */
    rb_safetensors **file;
    int files, count;
    entry *index; /* by name */
};

static int by_name(const void *a, const void *b) {
    return strcmp(((const entry *)a)->tensor->name, ((const entry *)b)->tensor->name);
}

static resbm_status path_of(const char *dir, const char *name, char out[PATH_MAX], rb_err *err) {
    if (snprintf(out, PATH_MAX, "%s/%s", dir, name) < PATH_MAX) return RESBM_OK;
    return rb_fail(err, RESBM_E_ARG, "path too long: %.200s/%.100s", dir, name);
}

static bool is_there(const char *dir, const char *name) {
    char path[PATH_MAX];
    return snprintf(path, sizeof path, "%s/%s", dir, name) < PATH_MAX && access(path, R_OK) == 0;
}

static resbm_status add_file(rb_hf_weights *w, const char *name, rb_err *err) {
    for (int i = 0; i < w->files; i++)
        if (!strcmp(w->name[i], name)) return RESBM_OK;
    if (strchr(name, '/') || !*name || w->files == MAX_SHARDS)
        return rb_fail(err, RESBM_E_FORMAT, "%s: its index names the file \"%.100s\", number %d", w->dir,
                       name, w->files);
    char **names = realloc(w->name, ((size_t)w->files + 1) * sizeof *names);
    if (names) w->name = names;
    if (!names || !(names[w->files] = strdup(name)))
        return rb_fail(err, RESBM_E_MEMORY, "no memory to open %s", w->dir);
    w->files++;
    return RESBM_OK;
}

static resbm_status read_index(rb_hf_weights *w, rb_err *err) {
    char path[PATH_MAX];
    rb_buf text = {0};
    json_error_t why;
    const char *tensor;
    json_t *v;
    RB_TRY(path_of(w->dir, "model.safetensors.index.json", path, err));
    resbm_status st = rb_read_file(path, INDEX_LIMIT, &text, err);
    json_t *j = st ? NULL : json_loadb(text.data, text.len, 0, &why);
    rb_buf_free(&text);
    RB_TRY(st);
    if (!json_is_object(json_object_get(j, "weight_map")))
        st = rb_fail(err, RESBM_E_FORMAT, "%s: no JSON with a weight_map", path);
    json_object_foreach(json_object_get(j, "weight_map"), tensor, v) {
        if (!st)
            st = json_is_string(v) ? add_file(w, json_string_value(v), err)
                                   : rb_fail(err, RESBM_E_FORMAT, "%s: %.100s has no file", path, tensor);
    }
    json_decref(j);
    return st;
}

static resbm_status nothing_here(const char *dir, rb_err *err) {
    const char *why =
        is_there(dir, "pytorch_model.bin") || is_there(dir, "pytorch_model.bin.index.json")
            ? ": it has pytorch_model.bin, which this program does not read; save it again with transformers "
              "(model.save_pretrained), which writes safetensors"
        : is_there(dir, "adapter_config.json")
            ? ": it is an adapter; merge it into its model first (peft's merge_and_unload)"
            : ": give the folder of a Hugging Face checkpoint";
    return rb_fail(err, RESBM_E_IO, "%s holds no model.safetensors and no model.safetensors.index.json%s",
                   dir, why);
}

static resbm_status open_files(rb_hf_weights *w, rb_err *err) {
    char path[PATH_MAX];
    w->file = calloc((size_t)w->files, sizeof(rb_safetensors *));
    if (!w->file) return rb_fail(err, RESBM_E_MEMORY, "no memory to open %s", w->dir);
    for (int i = 0; i < w->files; i++) {
        RB_TRY(path_of(w->dir, w->name[i], path, err));
        RB_TRY(rb_safetensors_open(path, &w->file[i], err));
        w->count += rb_safetensors_count(w->file[i]);
    }
    w->index = calloc((size_t)w->count + 1, sizeof *w->index);
    if (!w->index) return rb_fail(err, RESBM_E_MEMORY, "no memory to open %s", w->dir);
    int n = 0;
    for (int i = 0; i < w->files; i++)
        for (int j = 0; j < rb_safetensors_count(w->file[i]); j++)
            w->index[n++].tensor = rb_safetensors_at(w->file[i], j);
    qsort(w->index, (size_t)n, sizeof *w->index, by_name);
    for (int i = 1; i < n; i++)
        if (!by_name(&w->index[i - 1], &w->index[i]))
            return rb_fail(err, RESBM_E_FORMAT, "%s: tensor %s stands in two of its files", w->dir,
                           w->index[i].tensor->name);
    return RESBM_OK;
}

resbm_status rb_hf_open(const char *dir, rb_hf_weights **out, rb_err *err) {
    *out = NULL;
    rb_hf_weights *w = calloc(1, sizeof *w);
    if (!w) return rb_fail(err, RESBM_E_MEMORY, "no memory to open %s", dir);
    snprintf(w->dir, sizeof w->dir, "%s", dir);
    resbm_status st = is_there(dir, "model.safetensors")              ? add_file(w, "model.safetensors", err)
                      : is_there(dir, "model.safetensors.index.json") ? read_index(w, err)
                                                                      : nothing_here(dir, err);
    if (!st) st = open_files(w, err);
    if (!st)
        *out = w;
    else
        rb_hf_close(w);
    return st;
}

void rb_hf_close(rb_hf_weights *w) {
    if (!w) return;
    for (int i = 0; i < w->files; i++) {
        if (w->file) rb_safetensors_close(w->file[i]);
        free(w->name[i]);
    }
    free(w->name);
    free(w->file);
    free(w->index);
    free(w);
}

static bool is_float(rb_dtype t) {
    return t == RB_F32 || t == RB_BF16 || t == RB_F64;
}

resbm_status rb_hf_find(const rb_hf_weights *w, const char *name, int rank, const int64_t *shape,
                        const rb_tensor_in **out, rb_err *err) {
    rb_tensor_in key = {.name = name};
    entry want = {&key};
    const entry *e = bsearch(&want, w->index, (size_t)w->count, sizeof *w->index, by_name);
    if (!e) return rb_fail(err, RESBM_E_FORMAT, "%s holds no tensor %s", w->dir, name);
    const rb_tensor_in *t = *out = e->tensor;
    bool same = t->rank == rank;
    for (int i = 0; same && i < rank; i++) same = t->shape[i] == shape[i];
    if (!same)
        return rb_fail(err, RESBM_E_FORMAT,
                       "%s: %s has %d dimensions [%lld, %lld], its config.json makes that %d [%lld, %lld]",
                       w->dir, name, t->rank, (long long)t->shape[0], (long long)t->shape[1], rank,
                       (long long)shape[0], (long long)(rank > 1 ? shape[1] : 1));
    if (is_float(t->dtype)) return RESBM_OK;
    return rb_fail(err, RESBM_E_FORMAT,
                   "%s: %s holds no floats: the weights are quantised; take the checkpoint in bf16 or f32",
                   w->dir, name);
}

static bool listed(const char *const *names, int n, const char *name) {
    int low = 0, high = n;
    while (low < high) {
        int mid = (low + high) / 2, c = strcmp(names[mid], name);
        if (!c) return true;
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return false;
}

const char *rb_hf_stranger(const rb_hf_weights *w, const char *const *names, int n) {
    for (int i = 0; i < w->count; i++) {
        const char *name = w->index[i].tensor->name;
        if (!listed(names, n, name) && !strstr(name, "rotary_emb.inv_freq")) return name;
    }
    return NULL;
}

/* IEEE 754 binary16. */
static float half(uint16_t h) {
    union {
        uint32_t bits;
        float f;
    } u;
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
    if (exponent == 0) {
        float f = (float)fraction * 0x1p-24f;
        return sign ? -f : f;
    }
    u.bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
    return u.f;
}

void rb_hf_values(const rb_tensor_in *t, int64_t from, int64_t n, float *out) {
    const uint8_t *p = (const uint8_t *)t->data + (size_t)from * rb_dtype_size(t->dtype);
    for (int64_t i = 0; i < n; i++) {
        double d;
        switch (t->dtype) {
        case RB_F32:
            memcpy(&out[i], p + 4 * i, 4);
            break;
        case RB_BF16:
            out[i] = t->f16 ? half(rb_get16(p + 2 * i)) : rb_bf16_to_f32(rb_get16(p + 2 * i));
            break;
        default:
            memcpy(&d, p + 8 * i, 8);
            out[i] = (float)d;
        }
    }
}
