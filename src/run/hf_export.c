/* export: a checkpoint as a folder that transformers loads. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "checkpoint/checkpoint.h"
#include "core/bytes.h"
#include "run/hf.h"
#include "run/train.h"

typedef struct export {
    rb_config *c;
    rb_tensor_table table;
    rb_checkpoint *k;
    char folder[PATH_MAX];
    bool plain, bf16;
}
export;

/* Learned steps and the like keep all their bits. */
static bool rounds(const export *x, const rb_tensor *t) {
    return x->bf16 && rb_role_trained(t->role);
}

static resbm_status read_bf16(void *ctx, int64_t offset, void *dst, size_t n, rb_err *err) {
    const float *from = (const float *)ctx + offset / 2;
    (void)err;
    for (size_t i = 0; i < n / 2; i++) rb_put16((uint8_t *)dst + 2 * i, rb_bf16_from_f32(from[i]));
    return RESBM_OK;
}

static resbm_status add(const export *x, const rb_tensor *t, rb_tensor_out *out, rb_err *err) {
    const char *from = NULL;
    RB_TRY(rb_checkpoint_bytes(x->k, t->name, RB_F32, t->rank, t->shape, &from, err));
    *out = (rb_tensor_out){.name = t->name, .dtype = RB_F32, .rank = t->rank, .data = from};
    memcpy(out->shape, t->shape, sizeof t->shape);
    if (!rounds(x, t)) return RESBM_OK;
    out->dtype = RB_BF16;
    out->data = NULL;
    out->read = read_bf16;
    out->ctx = (void *)(uintptr_t)from;
    return RESBM_OK;
}

/* Error feedback belongs to training; what follows from the seed is made again. */
static bool left_out(const export *x, const rb_tensor *t) {
    return t->like || t->role == RB_ROLE_STATE || (x->plain && t->part != RB_PART_SEGMENT) ||
           strstr(t->name, ".aux.");
}

static resbm_status write_weights(const export *x, const char *out, rb_err *err) {
    char path[PATH_MAX];
    int n = 0;
    rb_tensor_out *t = calloc((size_t)x->table.count + 1, sizeof *t);
    if (!t) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d tensors", x->table.count);
    resbm_status st = snprintf(path, sizeof path, "%s/model.safetensors", out) < PATH_MAX
                          ? RESBM_OK
                          : rb_fail(err, RESBM_E_ARG, "path too long: %.200s", out);
    for (int i = 0; i < x->table.count && !st; i++)
        if (!left_out(x, &x->table.rows[i])) st = add(x, &x->table.rows[i], &t[n++], err);
    if (!st) st = rb_safetensors_write(path, t, n, NULL, err);
    free(t);
    return st;
}

static resbm_status write_text(const char *out, const char *name, const char *text, rb_err *err) {
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", out, name) >= PATH_MAX)
        return rb_fail(err, RESBM_E_ARG, "path too long: %.200s", out);
    return rb_write_file_atomic(path, text, strlen(text), err);
}

static resbm_status write_config(const export *x, const char *out, rb_err *err) {
    rb_buf yaml = {0};
    rb_config_print(x->c, &yaml);
    resbm_status st = rb_buf_status(&yaml, err);
    json_t *j = st ? NULL : rb_hf_write_config(x->c, rb_checkpoint_manifest(x->k)->step, yaml.data);
    if (j) json_object_set_new(j, "dtype", json_string(x->bf16 ? "bfloat16" : "float32"));
    char *text = j ? json_dumps(j, JSON_INDENT(2)) : NULL;
    json_decref(j);
    if (!st && !text) st = rb_fail(err, RESBM_E_MEMORY, "no memory for config.json");
    if (!st) st = write_text(out, "config.json", text, err);
    if (!st && !x->plain)
        st = write_text(out, "modeling_resbm.py",
                        "\"\"\"For trust_remote_code; `import resbm.hf` does the same without.\"\"\"\n"
                        "from resbm.hf import ResbmConfig, ResbmForCausalLM  # noqa: F401\n",
                        err);
    free(text);
    rb_buf_free(&yaml);
    return st;
}

/* From the run's folder, else from where its tokenizer lies. */
static resbm_status carry_tokenizer(const export *x, const char *out, void (*note)(void *, const char *),
                                    void *ctx, rb_err *err) {
    char dir[PATH_MAX];
    int n = 0;
    if (!strcmp(x->c->data.tokenizer, "bytes")) return rb_hf_write_bytes_tokenizer(out, err);
    for (int i = 0; i < 2 && !n; i++) {
        snprintf(dir, sizeof dir, "%s", i ? x->c->data.tokenizer : x->folder);
        char *slash = strrchr(dir, '/');
        if (slash)
            *slash = 0;
        else
            snprintf(dir, sizeof dir, ".");
        RB_TRY(rb_hf_copy_files(dir, out, &n, err));
    }
    RB_TRY(rb_hf_put_tokenizer(x->c->data.tokenizer, out, &n, err));
    if (!n)
        note(ctx, "no files of a tokenizer were found beside the run, and no data.tokenizer: put them there "
                  "yourself");
    return RESBM_OK;
}

static resbm_status run(export *x, const char *out, void (*note)(void *, const char *), void *ctx,
                        rb_err *err) {
    char text[PATH_MAX + 200];
    RB_TRY(rb_config_validate(x->c, err));
    RB_TRY(rb_tensor_table_build(&x->c->model, &x->c->boundary, &x->table, err));
    RB_TRY(rb_checkpoint_open(x->folder, &x->k, err));
    RB_TRY(rb_make_dirs(out, err));
    x->plain = rb_hf_is_plain(x->c);
    RB_TRY(carry_tokenizer(x, out, note, ctx, err));
    RB_TRY(write_weights(x, out, err));
    RB_TRY(write_config(x, out, err));
    snprintf(text, sizeof text, "%s: step %lld as %s", out, (long long)rb_checkpoint_manifest(x->k)->step,
             x->plain ? "a model of transformers' own classes"
                      : "model_type resbm: `import resbm.hf`, then AutoModelForCausalLM loads it");
    note(ctx, text);
    return RESBM_OK;
}

resbm_status rb_hf_export_run(const char *from, const char *out, bool bf16,
                              void (*note)(void *ctx, const char *line), void *ctx, rb_err *err) {
    export x = {.c = calloc(1, sizeof *x.c), .bf16 = bf16};
    rb_buf notes = {0};
    resbm_status st = x.c ? rb_checkpoint_config(from, x.c, x.folder, &notes, err)
                          : rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration");
    if (notes.len) note(ctx, notes.data);
    rb_buf_free(&notes);
    if (!st) st = run(&x, out, note, ctx, err);
    rb_checkpoint_close(x.k);
    rb_tensor_table_free(&x.table);
    free(x.c);
    return st;
}
