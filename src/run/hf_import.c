/* import: a Hugging Face checkpoint becomes step 0 of a run.
 *
 * Warm start: with a ratio annealed from 1 the boundaries do nothing at first, up to the codec's rounding. The maps of
 * encoder and decoder end in zeros (kind linear: begin as the identity), token path and offset add nothing, and the first
 * k = d coordinates are all of them. The codec's learned steps find their sizes in a few steps without learning. */
#include <ftw.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "checkpoint/checkpoint.h"
#include "core/hash.h"
#include "core/rng.h"
#include "run/hf.h"
#include "run/train.h"

enum { JSON_LIMIT = 16 << 20 };

typedef struct import {
    const rb_hf_import *o;
    rb_config *c;
    rb_tensor_table table;
    rb_hf_weights *w;
    bool warm, untied;
    float **steps; /* (rows) of learned steps that were measured; NULL: the run's own start */
} import;

static void note(const import *im, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void note(const import *im, const char *fmt, ...) {
    char text[1024];
    va_list a;
    va_start(a, fmt);
    vsnprintf(text, sizeof text, fmt, a);
    va_end(a);
    im->o->note(im->o->ctx, text);
}

/* ---- the configuration */

static resbm_status read_json(const char *dir, json_t **out, char path[PATH_MAX], rb_err *err) {
    rb_buf text = {0};
    json_error_t why;
    if (snprintf(path, PATH_MAX, "%s/config.json", dir) >= PATH_MAX)
        return rb_fail(err, RESBM_E_ARG, "path too long: %.200s", dir);
    RB_TRY(rb_read_file(path, JSON_LIMIT, &text, err));
    *out = json_loadb(text.data, text.len, 0, &why);
    rb_buf_free(&text);
    if (json_is_object(*out)) return RESBM_OK;
    json_decref(*out);
    *out = NULL;
    return rb_fail(err, RESBM_E_FORMAT, "%s: no JSON object (line %d: %s)", path, why.line, why.text);
}

/* What suits fine-tuning; all of it may be set otherwise. */
static const char defaults[] = "boundary: {anneal_from: 1}\n"
                               "optim: {kind: adamw, lr: 1e-4, schedule: cosine, min_lr: 0.1, warmup: 20}\n"
                               "train: {steps: 1000, batch: 8, microbatches: 8}\n";

static resbm_status tokenizer_of(import *im, rb_err *err) {
    static const char *const names[] = {"tokenizer.json", "tokenizer.model"};
    char path[PATH_MAX], real[PATH_MAX], text[PATH_MAX + 20];
    struct stat sb;
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%.4000s/%s", im->o->out, names[i]);
        if (stat(path, &sb) || !realpath(path, real)) continue;
        snprintf(text, sizeof text, "data.tokenizer=%s", real);
        return rb_config_override(im->c, text, err);
    }
    note(im, "no tokenizer.json and no tokenizer.model: data.tokenizer stays %s", im->c->data.tokenizer);
    return RESBM_OK;
}

/* A tied head lies with the embedding on the first stage: with boundaries it becomes a matrix of its own. */
static resbm_status untie(import *im, rb_err *err) {
    rb_config *c = im->c;
    im->untied = c->model.tied && c->model.segments > 1;
    if (!im->untied) return RESBM_OK;
    note(im,
         "the head was tied to the embedding: with %lld segments it is a copy of it, and trains apart (%.1f "
         "million "
         "parameters more)",
         (long long)c->model.segments, (double)(c->model.vocab * c->model.d) / 1e6);
    return rb_config_override(c, "model.tied=false", err);
}

/* The first k coordinates are what begins as the whole stream; auto means none beside a trunk. */
static void choose_identity(rb_config *c) {
    if (c->boundary.identity == RB_IDENTITY_AUTO) c->boundary.identity = RB_IDENTITY_TRUNCATE;
}

/* auto means 4k, and k is d while the ratio is 1. */
static resbm_status choose_hidden(rb_config *c, rb_err *err) {
    char text[64];
    int64_t k = c->boundary.ratio > 0 ? c->model.d / c->boundary.ratio : 0;
    if (c->boundary.hidden >= 0 || !c->boundary.anneal_from) return RESBM_OK;
    snprintf(text, sizeof text, "boundary.hidden=%lld", (long long)(4 * k > 64 ? 4 * k : 64));
    return rb_config_override(c, text, err);
}

/* "4,8" of 12 layers: model.segments=[4,4,4] */
static resbm_status cut(rb_config *c, const char *at, rb_err *err) {
    rb_buf text = {0};
    int64_t last = 0;
    char *end;
    rb_buf_puts(&text, "model.segments=[");
    for (const char *p = at; *p; p = *end ? end + 1 : end) {
        int64_t layer = strtoll(p, &end, 10);
        if (end == p || (*end && *end != ',') || layer <= last || layer >= c->model.layers) {
            rb_buf_free(&text);
            return rb_fail(err, RESBM_E_CONFIG, "--at %s: ascending layers from 1 to %lld, as 4,8", at,
                           (long long)c->model.layers - 1);
        }
        rb_buf_printf(&text, "%lld, ", (long long)(layer - last));
        last = layer;
    }
    rb_buf_printf(&text, "%lld]", (long long)(c->model.layers - last));
    resbm_status st = rb_buf_status(&text, err);
    if (!st) st = rb_config_override(c, text.data, err);
    rb_buf_free(&text);
    c->pipeline.stages = c->model.segments;
    return st;
}

static bool anneals(const rb_config *c) {
    const char *kind = c->boundary.kind;
    return !strcmp(kind, "linear") ||
           (!strcmp(kind, "residual") && c->boundary.identity != RB_IDENTITY_SPLIT);
}

static resbm_status configure(import *im, rb_err *err) {
    json_t *j = NULL;
    char path[PATH_MAX];
    rb_config *c = im->c;
    RB_TRY(rb_config_defaults(c, err));
    RB_TRY(rb_config_load_text(c, "import", defaults, sizeof defaults - 1, err));
    RB_TRY(read_json(im->o->from, &j, path, err));
    if (im->o->config) RB_TRY(rb_config_load_file(c, im->o->config, err));
    resbm_status st = rb_hf_read_config(j, path, c, err);
    json_decref(j);
    RB_TRY(st);
    if (!im->o->config)
        c->model.segments = c->model.layers < 4 ? c->model.layers : 4, c->pipeline.stages = c->model.segments;
    if (im->o->at) RB_TRY(cut(c, im->o->at, err));
    RB_TRY(tokenizer_of(im, err));
    for (int i = 0; i < im->o->sets; i++) RB_TRY(rb_config_override(c, im->o->set[i], err));
    if (c->pipeline.stages > c->model.segments) c->pipeline.stages = c->model.segments;
    RB_TRY(untie(im, err));
    if (!anneals(c) || c->boundary.ratio == 1) c->boundary.anneal_from = 0;
    choose_identity(c);
    RB_TRY(choose_hidden(c, err));
    return rb_config_validate(c, err);
}

/* Do the boundaries begin as if they were not there? */
static bool starts_warm(const rb_config *c) {
    const rb_boundary_config *b = &c->boundary;
    bool wide = b->k == c->model.d;
    if (c->model.segments == 1 || !strcmp(b->kind, "none")) return true;
    if (b->tokens == RB_TOKENS_TRUNK && b->trunk_width == c->model.d) return false;
    if (!strcmp(b->kind, "residual"))
        return b->identity == RB_IDENTITY_FULL ||
               (wide && (b->identity == RB_IDENTITY_TRUNCATE || b->identity == RB_IDENTITY_ROTATE));
    return wide && (!strcmp(b->kind, "linear") || !strcmp(b->kind, "topk"));
}

/* ---- tensors */

typedef struct source {
    const import *im;
    const rb_tensor *t;
    const rb_tensor_in *in; /* NULL: made here */
    const float *values;    /* made here; NULL: zeros */
} source;

static resbm_status read_values(void *ctx, int64_t offset, void *dst, size_t n, rb_err *err) {
    source *s = ctx;
    (void)err;
    int64_t from = offset / (int64_t)sizeof(float), count = (int64_t)(n / sizeof(float));
    if (s->in)
        rb_hf_values(s->in, from, count, dst);
    else if (s->values)
        memcpy(dst, s->values + from, n);
    else
        memset(dst, 0, n);
    return RESBM_OK;
}

static bool ends_in(const char *name, const char *tail) {
    size_t n = strlen(name), m = strlen(tail);
    return n >= m && !strcmp(name + n - m, tail);
}

/* What must begin at zero so that a boundary begins as nothing: the last map of both halves, token path, offset. */
static bool begins_at_zero(const import *im, const rb_tensor *t) {
    bool residual = !strcmp(im->c->boundary.kind, "residual"), two = im->c->boundary.hidden > 0;
    if (!im->warm || t->part == RB_PART_SEGMENT || strstr(t->name, ".aux.")) return false;
    if (ends_in(t->name, ".offset") || ends_in(t->name, ".trunk.up.weight") ||
        ends_in(t->name, ".tokens.embed_tokens.weight"))
        return true;
    if (!residual || strstr(t->name, ".trunk.")) return false;
    return ends_in(t->name, two ? "coder.fc2.weight" : "coder.fc1.weight");
}

static bool begins_as_identity(const import *im, const rb_tensor *t) {
    return t->values == RB_VALUES_IDENTITY ||
           (im->warm && !strcmp(im->c->boundary.kind, "linear") && ends_in(t->name, "coder.fc1.weight"));
}

/* Values of a row that no checkpoint has, freed by the caller; NULL for zeros. */
static resbm_status make_values(const import *im, int row, float **out, rb_err *err) {
    const rb_tensor *t = &im->table.rows[row];
    int64_t n = rb_tensor_count(t);
    *out = NULL;
    if (begins_at_zero(im, t)) return RESBM_OK;
    float *v = *out = calloc((size_t)n, sizeof *v);
    if (!v) return rb_fail(err, RESBM_E_MEMORY, "no memory for %s", t->name);
    if (im->steps && im->steps[row]) {
        memcpy(v, im->steps[row], (size_t)n * sizeof *v);
    } else if (begins_as_identity(im, t)) {
        for (int64_t i = 0; i < t->shape[0] && i < t->shape[1]; i++) v[i * t->shape[1] + i] = 1;
    } else if (t->init_std > 0) {
        rb_normal_fill(rb_mix64(im->c->train.seed, rb_hash64(t->name, strlen(t->name))), v, n, t->init_mean,
                       t->init_std);
    } else {
        for (int64_t i = 0; i < n; i++) v[i] = t->init_mean;
    }
    return RESBM_OK;
}

static const char *name_of(const import *im, const rb_tensor *t) {
    return im->untied && !strcmp(t->name, "lm_head.weight") ? "model.embed_tokens.weight" : t->name;
}

static resbm_status find_source(const import *im, int row, source *s, float **made, rb_err *err) {
    const rb_tensor *t = s->t = &im->table.rows[row];
    s->im = im;
    if (t->part == RB_PART_SEGMENT) return rb_hf_find(im->w, name_of(im, t), t->rank, t->shape, &s->in, err);
    RB_TRY(make_values(im, row, made, err));
    s->values = *made;
    return RESBM_OK;
}

static bool same_part(const rb_tensor *a, const rb_tensor *b) {
    return a->part == b->part && a->part_index == b->part_index;
}

/* The rows from `first` on that belong to its part, as one file. */
static resbm_status write_part(const import *im, const char *tmp, int first, rb_manifest *m, rb_err *err) {
    static const char *const sides[] = {"", "encoder", "decoder"};
    const rb_tensor *of = &im->table.rows[first];
    int n = 0, most = im->table.count;
    char name[RB_PART_NAME];
    rb_tensor_out *out = calloc((size_t)most, sizeof *out);
    source *src = calloc((size_t)most, sizeof *src);
    float **made = calloc((size_t)most, sizeof *made);
    resbm_status st =
        out && src && made ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for a checkpoint");
    for (int i = first; i < most && !st; i++) {
        const rb_tensor *t = &im->table.rows[i];
        if (!same_part(t, of) || t->like) continue;
        st = find_source(im, i, &src[n], &made[n], err);
        out[n] = (rb_tensor_out){
            .name = t->name, .dtype = RB_F32, .rank = t->rank, .read = read_values, .ctx = &src[n]};
        memcpy(out[n++].shape, t->shape, sizeof t->shape);
    }
    rb_checkpoint_part_name(name, of->part == RB_PART_SEGMENT ? "segment" : "boundary", of->part_index,
                            sides[of->part], false);
    if (!st && n) st = rb_checkpoint_write_part(tmp, name, out, n, &m->files[m->file_count++], err);
    for (int i = 0; i < n && made; i++) free(made[i]);
    free(made);
    free(src);
    free(out);
    return st;
}

static resbm_status write_parts(const import *im, const char *tmp, rb_manifest *m, rb_err *err) {
    for (int i = 0; i < im->table.count; i++) {
        bool seen = false;
        for (int j = 0; j < i && !seen; j++) seen = same_part(&im->table.rows[j], &im->table.rows[i]);
        if (!seen) RB_TRY(write_part(im, tmp, i, m, err));
    }
    return RESBM_OK;
}

/* DIR/step-0 of configuration c (whose tensors are im's). */
static resbm_status write_run(const import *im, const rb_config *c, const char *dir, rb_err *err) {
    char tmp[PATH_MAX];
    rb_buf yaml = {0};
    rb_config_print(c, &yaml);
    rb_manifest m = {.seed = (int64_t)c->train.seed,
                     .config = yaml.data,
                     .files = calloc((size_t)im->table.count + 1, sizeof *m.files)};
    resbm_status st =
        m.files ? rb_buf_status(&yaml, err) : rb_fail(err, RESBM_E_MEMORY, "no memory for a manifest");
    if (!st) st = rb_checkpoint_begin(dir, 0, tmp, err);
    if (!st) st = write_parts(im, tmp, &m, err);
    if (!st) st = rb_checkpoint_commit(dir, &m, 1, err);
    rb_err ignored;
    if (st) rb_checkpoint_clean(dir, &ignored);
    free(m.files);
    rb_buf_free(&yaml);
    return st;
}

/* ---- what the boundaries cost, and the sizes of the codec's steps */

static resbm_status measure(const import *im, const rb_config *c, const char *folder, double *loss,
                            rb_err *err) {
    rb_eval_result r;
    rb_config *e = malloc(sizeof *e);
    if (!e) return rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration");
    *e = *c;
    e->link = (rb_shape_options){0};
    snprintf(e->pipeline.schedule, sizeof e->pipeline.schedule, "%s", rb_schedule_forward.name);
    resbm_status st = rb_config_validate(e, err);
    if (!st) st = rb_eval(e, im->o->program, folder, e->train.eval_sequences, &r, err);
    if (!st) *loss = r.loss;
    free(e);
    return st;
}

/* The same model without boundaries. */
static resbm_status measure_whole(const import *im, const char *folder, double *loss, rb_err *err) {
    rb_config *e = malloc(sizeof *e);
    if (!e) return rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration");
    *e = *im->c;
    static const char *const set[] = {"kind=none",     "ratio=1",         "anneal_from=none", "codec_fwd=f32",
                                      "codec_bwd=f32", "scale_fwd=token", "tokens=none",      "offset=none",
                                      "aux=none",      "feedback=none"};
    char text[64];
    resbm_status st = RESBM_OK;
    for (size_t i = 0; i < sizeof set / sizeof *set && !st; i++) {
        snprintf(text, sizeof text, "boundary.%s", set[i]);
        st = rb_config_override(e, text, err);
    }
    if (!st) st = measure(im, e, folder, loss, err);
    free(e);
    return st;
}

static resbm_status ready(void *ctx, const char *rules, int64_t params, int64_t from, rb_err *err) {
    (void)ctx, (void)rules, (void)params, (void)from, (void)err;
    return RESBM_OK;
}
static resbm_status stepped(void *ctx, const rb_step_record *r, rb_err *err) {
    (void)ctx, (void)r, (void)err;
    return RESBM_OK;
}
static resbm_status no_spans(void *ctx, int stage, const rb_stage_span *span, int n, rb_err *err) {
    (void)ctx, (void)stage, (void)span, (void)n, (void)err;
    return RESBM_OK;
}

/* Rates of zero, and latents of the width of the start. */
static resbm_status still(rb_config *c, int steps, rb_err *err) {
    char text[64];
    static const char *const set[] = {
        "optim.kind=adamw",          "optim.lr=0",        "optim.adamw_lr=0",
        "optim.weight_decay=0",      "optim.warmup=0",    "optim.schedule=constant",
        "boundary.anneal_from=none", "boundary.aux=none", "train.eval_every=0",
        "train.checkpoint_every=0",  "data.val=",         "train.max_seconds=0"};
    if (c->boundary.anneal_from) {
        snprintf(text, sizeof text, "boundary.ratio=%lld", (long long)c->boundary.anneal_from);
        RB_TRY(rb_config_override(c, text, err));
    }
    for (size_t i = 0; i < sizeof set / sizeof *set; i++) RB_TRY(rb_config_override(c, set[i], err));
    snprintf(text, sizeof text, "train.steps=%d", steps);
    RB_TRY(rb_config_override(c, text, err));
    c->link = (rb_shape_options){0};
    return rb_config_validate(c, err);
}

static resbm_status take_steps(import *im, const char *folder, rb_err *err) {
    rb_checkpoint *k;
    RB_TRY(rb_checkpoint_open(folder, &k, err));
    im->steps = calloc((size_t)im->table.count, sizeof *im->steps);
    resbm_status st = im->steps ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for learned steps");
    for (int i = 0; i < im->table.count && !st; i++) {
        const rb_tensor *t = &im->table.rows[i];
        const char *from;
        if (t->role != RB_ROLE_STEP) continue;
        size_t bytes = (size_t)rb_tensor_count(t) * sizeof(float);
        st = rb_checkpoint_bytes(k, t->name, RB_F32, t->rank, t->shape, &from, err);
        if (!st && !(im->steps[i] = malloc(bytes)))
            st = rb_fail(err, RESBM_E_MEMORY, "no memory for learned steps");
        if (!st) memcpy(im->steps[i], from, bytes);
    }
    rb_checkpoint_close(k);
    return st;
}

static int remove_entry(const char *path, const struct stat *sb, int type, struct FTW *where) {
    (void)sb, (void)type, (void)where;
    return remove(path);
}

/* A throwaway run of a few steps at a rate of zero, whose learned steps are kept. */
static resbm_status calibrate(import *im, rb_err *err) {
    char dir[PATH_MAX], folder[PATH_MAX];
    rb_train_summary *sum = calloc(1, sizeof *sum);
    rb_config *c = malloc(sizeof *c);
    resbm_status st = c && sum ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration");
    if (!st && snprintf(dir, sizeof dir, "%s/calibration", im->o->out) >= (int)sizeof dir - 20)
        st = rb_fail(err, RESBM_E_ARG, "path too long: %.200s", im->o->out);
    if (!st) {
        *c = *im->c;
        st = still(c, im->o->calibrate, err);
    }
    if (!st) st = rb_make_dirs(dir, err);
    if (!st) st = write_run(im, c, dir, err);
    rb_train_options o = {.cfg = c,
                          .dir = dir,
                          .program = im->o->program,
                          .resume = true,
                          .throwaway = true,
                          .hooks = {.ready = ready, .step = stepped, .spans = no_spans}};
    if (!st) st = rb_train(&o, sum, err);
    if (!st) st = rb_checkpoint_path(dir, im->o->calibrate, folder, err);
    if (!st) st = take_steps(im, folder, err);
    if (c) nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    free(c);
    free(sum);
    return st;
}

static bool learns_steps(const import *im) {
    for (int i = 0; i < im->table.count; i++)
        if (im->table.rows[i].role == RB_ROLE_STEP) return true;
    return false;
}

static resbm_status report(const import *im, const char *folder, rb_err *err) {
    const rb_config *c = im->c;
    double whole, cut;
    if (!*c->data.val) {
        note(im, "no data.val: the change in loss was not measured");
        return RESBM_OK;
    }
    RB_TRY(measure_whole(im, folder, &whole, err));
    note(im, "loss without boundaries %.6f (perplexity %.4g)", whole, exp(whole));
    if (c->model.segments == 1) return RESBM_OK;
    RB_TRY(measure(im, c, folder, &cut, err));
    note(im, "loss with %lld boundaries (%s, ratio %lld, %s) %.6f (%+.6f)", (long long)c->model.segments - 1,
         c->boundary.kind, (long long)(c->model.d / c->boundary.k), c->boundary.codec_fwd, cut, cut - whole);
    if (c->boundary.anneal_from)
        note(im, "the ratio narrows to %lld over the first %g of %lld steps", (long long)c->boundary.ratio,
             c->train.anneal_until, (long long)c->train.steps);
    return RESBM_OK;
}

/* ---- all of it */

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static resbm_status check_names(const import *im, rb_err *err) {
    const char **names = calloc((size_t)im->table.count + 2, sizeof *names);
    if (!names) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d names", im->table.count);
    int n = 0;
    resbm_status st = RESBM_OK;
    const rb_tensor_in *found;
    for (int i = 0; i < im->table.count && !st; i++) {
        const rb_tensor *t = &im->table.rows[i];
        if (t->part != RB_PART_SEGMENT || t->like) continue;
        names[n++] = t->name;
        st = rb_hf_find(im->w, name_of(im, t), t->rank, t->shape, &found, err);
    }
    if (im->c->model.tied) names[n++] = "lm_head.weight"; /* some writers keep the copy */
    qsort(names, (size_t)n, sizeof *names, by_text);
    const char *stranger = st ? NULL : rb_hf_stranger(im->w, names, n);
    free(names);
    if (!stranger) return st;
    return rb_fail(err, RESBM_E_CONFIG,
                   "%s has a tensor %s, which this program's model has not: it would be left out, and the "
                   "model be another one",
                   im->o->from, stranger);
}

static resbm_status write_config_file(const import *im, rb_err *err) {
    char path[PATH_MAX];
    rb_buf yaml = {0};
    rb_config_print(im->c, &yaml);
    snprintf(path, sizeof path, "%.4000s/config.yaml", im->o->out);
    resbm_status st = rb_buf_status(&yaml, err);
    if (!st) st = rb_write_file_atomic(path, yaml.data, yaml.len, err);
    rb_buf_free(&yaml);
    return st;
}

static resbm_status run(import *im, rb_err *err) {
    char folder[PATH_MAX];
    RB_TRY(configure(im, err));
    RB_TRY(rb_tensor_table_build(&im->c->model, &im->c->boundary, &im->table, err));
    RB_TRY(rb_hf_open(im->o->from, &im->w, err));
    RB_TRY(check_names(im, err));
    im->warm = starts_warm(im->c);
    if (!im->warm)
        note(im, "these boundaries cannot begin as nothing: the model starts with their initial weights "
                 "between its layers");
    if (learns_steps(im) && im->o->calibrate > 0) {
        if (*im->c->data.train)
            RB_TRY(calibrate(im, err));
        else
            note(im, "no data.train: the codec's steps start at the size of fresh weights, and find theirs "
                     "in training");
    }
    RB_TRY(write_run(im, im->c, im->o->out, err));
    RB_TRY(write_config_file(im, err));
    RB_TRY(rb_checkpoint_path(im->o->out, 0, folder, err));
    return report(im, folder, err);
}

static resbm_status prepare_folder(const rb_hf_import *o, rb_err *err) {
    int64_t step;
    int files;
    RB_TRY(rb_make_dirs(o->out, err));
    RB_TRY(rb_checkpoint_find_latest(o->out, &step, NULL, err));
    if (step >= 0)
        return rb_fail(err, RESBM_E_STATE, "%s already holds a run (step %lld): choose another folder",
                       o->out, (long long)step);
    return rb_hf_copy_files(o->from, o->out, &files, err);
}

resbm_status rb_hf_import_run(const rb_hf_import *o, rb_err *err) {
import im = {.o = o, .c = calloc(1, sizeof * im.c) };
    resbm_status st =
        im.c ? prepare_folder(o, err) : rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration");
    if (!st) st = run(&im, err);
    for (int i = 0; im.steps && i < im.table.count; i++) free(im.steps[i]);
    free(im.steps);
    rb_hf_close(im.w);
    rb_tensor_table_free(&im.table);
    free(im.c);
    return st;
}
