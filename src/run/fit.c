#include "run/fit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "device/cuda/attention_room.h"
#include "device/cuda/sdpa_room.h"
#include "nn/head.h"
#include "pipeline/schedules.h"
#include "run/devices.h"

static int hosted_by(const rb_config *c, int stage, int *host) {
    int n = 0;
    for (int g = 0; g < c->model.segments; g++)
        if (rb_stage_of(c, g) == stage) host[n++] = g;
    return n;
}

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* The largest two factors of one product, in 16 bits, and the eighth more that working memory grows by. Weights and activations
 * that are kept in bf16 need none: then the stream is what is left. Attention's operands, if
 * they are more; with cuDNN's what it works in, too. */
static size_t rounded_bytes(const rb_config *c, int stage) {
    const rb_model_config *m = &c->model;
    char name[RB_DEVICE_NAME];
    if (!strstr(rb_device_of_stage(c, stage, name), "cuda") || c->pipeline.math == RB_MATH_F32 ||
        c->pipeline.math == RB_MATH_TF32)
        return 0;
    int64_t n = c->train.batch / c->train.microbatches * m->context,
            head = m->head ? m->head : m->d / m->heads;
    int64_t wide = larger(2 * m->ffn, larger(m->d, (m->heads + 2 * m->kv_heads) * head));
    bool f16 = c->pipeline.math == RB_MATH_F16, acts = !f16 && c->pipeline.activations != RB_ACTIVATIONS_F32;
    int64_t in = acts ? m->d : wide, between = acts ? m->d : m->ffn;
    int64_t chunk =
        rb_head_chunk_rows(rb_devices_logits(c, stage) / (int64_t)sizeof(float), m->vocab, n, RB_F32);
    int64_t first = acts ? n * in : larger(n * in, chunk * m->vocab), second = n * larger(m->d, between);
    if (f16 || !c->pipeline.weight_copies) second = larger(second, larger(wide, m->vocab) * m->d);
    size_t products = (size_t)(first + second) * 9 / 4, operands = 0;
    int64_t B = c->train.batch / c->train.microbatches;
    bool rounds = !acts || rb_sdpa_width(head) != head, own = c->pipeline.attention == RB_ATTENTION_OWN;
    if (rounds && own)
        operands = rb_attention_operands(B, m->context, m->heads, m->kv_heads, head) +
                   rb_attention_ends(B, m->context, m->heads);
    if (rounds && !own) operands = rb_sdpa_operands(B, m->context, m->heads, m->kv_heads, head);
    if (operands * 9 / 8 > products) products = operands * 9 / 8;
    return own ? products : products + rb_sdpa_room(B, m->context, m->heads, m->kv_heads, head) * 9 / 8;
}

/* What more the device has of token ids where steps flow into one another: inputs and targets of those in reach. */
static size_t more_ids(const rb_config *c, const rb_kept *k) {
    int64_t tokens = c->train.batch / c->train.microbatches * c->model.context;
    return (size_t)((k->ring - c->train.microbatches) * tokens * 2) * sizeof(int32_t);
}

resbm_status rb_fit_kept(const rb_config *cfg, int stage, const rb_kept *k, rb_fit_need *out, rb_err *err) {
    int host[RB_MAX_SEGMENTS] = {0}, hosted = hosted_by(cfg, stage, host), stash = 0;
    size_t slot[RB_MAX_SEGMENTS];
    *out = (rb_fit_need){0};
    RB_TRY(rb_measure_stage(cfg, host, hosted, k->halves[stage], &out->part, slot, err));
    for (int i = 0; i < hosted; i++) {
        int alive = k->slots[host[i]];
        out->activations += (size_t)alive * slot[i];
        if (alive > out->slots) out->slots = alive;
        if (k->stash[host[i]] > stash) stash = k->stash[host[i]]; /* alike, but in a text of actions */
    }
    out->part.working += more_ids(cfg, k);
    out->stashes = (size_t)stash * out->part.version;
    out->rounded = rounded_bytes(cfg, stage);
    out->total = out->rounded + out->part.weights + out->part.gradients + out->part.optimizer +
                 out->part.working + out->activations + out->stashes;
    return RESBM_OK;
}

resbm_status rb_fit_stage(const rb_config *cfg, int stage, int extra, rb_fit_need *out, rb_err *err) {
    rb_kept *k = malloc(sizeof *k);
    if (!k) return rb_fail(err, RESBM_E_MEMORY, "no memory to plan a stage");
    resbm_status st = rb_kept_of(cfg, extra, k, err);
    if (!st) st = rb_fit_kept(cfg, stage, k, out, err);
    free(k);
    return st;
}

/* --- settings that take less ------------------------------------------------------------------------------ */

typedef struct way {
    char setting[96];
    size_t total;
    bool fits;
} way;

enum { MOST_WAYS = 8, SLACK = 32 /* a share of what is free goes to what no plan counts */ };

typedef struct search {
    const rb_config *cfg;
    rb_config *all; /* every setting that takes less, together */
    int stage, extra;
    size_t room, now;
    way way[MOST_WAYS];
    int ways;
} search;

static bool fits(const search *s, size_t total) {
    return s->room && total + s->room / SLACK <= s->room;
}

/* A depth that is set is the one a run has; else it comes to what it has come to. */
static int depth_of(const search *s, const rb_config *c) {
    return c->pipeline.inflight != s->cfg->pipeline.inflight ? (int)c->pipeline.inflight : s->extra;
}

static bool try_settings(const search *s, const rb_config *from, const char *settings, rb_config *c,
                         size_t *total) {
    char text[96], *rest;
    rb_fit_need need;
    rb_err why;
    *c = *from;
    snprintf(text, sizeof text, "%s", settings);
    for (char *one = strtok_r(text, " ", &rest); one; one = strtok_r(NULL, " ", &rest))
        if (rb_config_override(c, one, &why)) return false;
    if (rb_config_validate(c, &why)) return false;
    if (rb_fit_stage(c, s->stage, depth_of(s, c), &need, &why)) return false;
    *total = need.total;
    return true;
}

/* Keeps settings (key=value, with blanks between) where they are possible and take less. */
static bool consider(search *s, const char *settings) {
    rb_config *c = malloc(sizeof *c);
    size_t total = 0, together;
    bool less = c && s->ways < MOST_WAYS && try_settings(s, s->cfg, settings, c, &total) && total < s->now;
    if (less) {
        way *w = &s->way[s->ways++];
        snprintf(w->setting, sizeof w->setting, "%s", settings);
        w->total = total;
        w->fits = fits(s, total);
        if (try_settings(s, s->all, settings, c, &together)) *s->all = *c;
    }
    free(c);
    return less && fits(s, total);
}

/* The fewest pieces of a step that fit; where none do, the smallest piece. */
static void consider_microbatches(search *s) {
    int64_t batch = s->cfg->train.batch, last = 0;
    char setting[48];
    for (int64_t m = s->cfg->train.microbatches + 1; m <= batch; m++) {
        if (batch % m) continue;
        rb_config *c = malloc(sizeof *c);
        size_t total = 0;
        snprintf(setting, sizeof setting, "train.microbatches=%lld", (long long)m);
        bool can = c && try_settings(s, s->cfg, setting, c, &total);
        free(c);
        if (can) last = m;
        if (can && fits(s, total)) break;
    }
    if (!last) return;
    snprintf(setting, sizeof setting, "train.microbatches=%lld", (long long)last);
    consider(s, setting);
}

static void consider_all(search *s) {
    char name[RB_DEVICE_NAME];
    const rb_config *c = s->cfg;
    const rb_schedule_kind *kind = rb_schedule_find(c->pipeline.schedule);
    bool gpu = strcmp(rb_device_of_stage(c, s->stage, name), "cpu") != 0,
         none = !strcmp(c->optim.offload, "none");
    bool adamw = !strcmp(c->optim.rule.kind, "adamw");
    if (!c->train.recompute) consider(s, "train.recompute=true");
    if (s->extra > 1) consider(s, "pipeline.inflight=1");
    if (kind && !kind->flows && strcmp(c->pipeline.schedule, "1f1b")) consider(s, "pipeline.schedule=1f1b");
    consider_microbatches(s);
    if (none && gpu) consider(s, "optim.offload=host");
    if (gpu && adamw && c->optim.offload_update == RB_OFFLOAD_UPDATE_DEVICE)
        consider(s, "optim.offload=host optim.offload_parts=states optim.offload_update=host");
    if (none && !gpu) consider(s, "optim.offload=disk");
    if (c->pipeline.attention != RB_ATTENTION_OWN) consider(s, "pipeline.attention=own");
    if (c->optim.offload_parts == RB_OFFLOAD_STATES && c->optim.offload_update == RB_OFFLOAD_UPDATE_DEVICE)
        consider(s, gpu ? "optim.offload=host optim.offload_parts=states+gradients"
                        : "optim.offload=disk optim.offload_parts=states+gradients");
}

/* --- the sentence ----------------------------------------------------------------------------------------- */

static double giga(size_t bytes) {
    return (double)bytes * 1e-9;
}

static void print_need(const search *s, const rb_fit_need *n, rb_buf *out) {
    rb_buf_printf(out,
                  "stage %d plans %.3g GB: weights %.3g, gradients %.3g, optimizer %.3g, room for %d "
                  "microbatches %.3g, "
                  "working memory %.3g",
                  s->stage, giga(n->total), giga(n->part.weights), giga(n->part.gradients),
                  giga(n->part.optimizer), n->slots, giga(n->activations),
                  giga(n->part.working + n->rounded));
    if (n->stashes) rb_buf_printf(out, ", older weights %.3g", giga(n->stashes));
    if (s->room) rb_buf_printf(out, "; %.3g GB are free for it", giga(s->room));
}

static void print_ways(const search *s, bool fitting, rb_buf *out) {
    int n = 0;
    for (int i = 0; i < s->ways; i++) {
        if (s->way[i].fits != fitting) continue;
        rb_buf_printf(out, "%s%s (%.3g GB)", n++ ? ", " : "", s->way[i].setting, giga(s->way[i].total));
    }
}

static void print_advice(const search *s, rb_buf *out) {
    rb_fit_need all;
    rb_err why;
    bool one = false;
    for (int i = 0; i < s->ways; i++) one = one || s->way[i].fits;
    if (one) {
        rb_buf_puts(out, ". It fits with any of: ");
        print_ways(s, true, out);
        return;
    }
    if (!s->ways) {
        rb_buf_puts(out, ". No setting takes less: spread the model over more pipeline.stages");
        return;
    }
    rb_buf_puts(out, s->room ? ". None of these alone is enough: " : ". Less is taken by: ");
    print_ways(s, false, out);
    if (rb_fit_stage(s->all, s->stage, depth_of(s, s->all), &all, &why)) return;
    rb_buf_printf(out, "; together %.3g GB", giga(all.total));
    if (!s->room) return;
    rb_buf_puts(out, fits(s, all.total)
                         ? ", which fits"
                         : ", which does not fit either: spread the model over more pipeline.stages");
}

void rb_fit_advise(const rb_config *cfg, int stage, int extra, size_t room, size_t kernels, rb_buf *out) {
    rb_fit_need need;
    rb_err why;
    search s = {.cfg = cfg, .all = malloc(sizeof *s.all), .stage = stage, .extra = extra};
    s.room = !room ? 0 : room > kernels ? room - kernels : 1;
    if (s.all && !rb_fit_stage(cfg, stage, extra, &need, &why)) {
        *s.all = *cfg;
        s.now = need.total;
        print_need(&s, &need, out);
        consider_all(&s);
        print_advice(&s, out);
    }
    free(s.all);
}
