/* Defaults, overrides and the checks across keys. */
#include "run/config.h"
#include "run/devices.h"
#include "run/keys.h"
#include "run/workers.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "data/tokenizer_kinds.h"

/* A list in flow notation, [1, "a b", 3], cut at commas: overrides need no more of YAML than that. */
static resbm_status set_list(rb_config *c, const rb_key *k, const char *text, const char *place,
                             rb_err *err) {
    size_t len = strlen(text);
    if (text[len - 1] != ']') return rb_fail(err, RESBM_E_CONFIG, "%s: the list lacks its ]", place);
    char *copy = strndup(text + 1, len - 2);
    const char **items = calloc(RB_MAX_SEGMENTS + 1, sizeof *items);
    resbm_status st = copy && items ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "%s: no memory", place);
    int n = 0;
    char *rest = copy;
    for (char *p; st == RESBM_OK && (p = strsep(&rest, ",")) && n <= RB_MAX_SEGMENTS; n++) {
        p += strspn(p, " \"");
        for (char *end = p + strlen(p); end > p && strchr(" \"", end[-1]);) *--end = 0;
        items[n] = p;
    }
    if (n == 1 && !*items[0]) n = 0;
    if (st == RESBM_OK) st = rb_key_set(c, k, items, n, true, place, err);
    free(items);
    free(copy);
    return st;
}

static resbm_status set_text(rb_config *c, const rb_key *k, const char *text, const char *place,
                             rb_err *err) {
    bool list = (k->type == RB_KEY_SEGMENTS || k->type == RB_KEY_ADDRESSES || k->type == RB_KEY_REPLICAS) &&
                *text == '[';
    return list ? set_list(c, k, text, place, err) : rb_key_set(c, k, &text, 1, false, place, err);
}

resbm_status rb_config_defaults(rb_config *c, rb_err *err) {
    memset(c, 0, sizeof *c);
    for (int i = 0; i < rb_key_count; i++)
        RB_TRY(set_text(c, &rb_keys[i], rb_keys[i].fallback, "default", err));
    return RESBM_OK;
}

resbm_status rb_config_override(rb_config *c, const char *assignment, rb_err *err) {
    char section[64] = "", name[64], place[320], text[900];
    const char *eq = strchr(assignment, '=');
    if (!eq)
        return rb_fail(err, RESBM_E_CONFIG,
                       "'%.200s' is no setting: write section.key=value, e.g. train.steps=100", assignment);
    snprintf(place, sizeof place, "%.300s", assignment);
    int len = (int)(eq - assignment) < 63 ? (int)(eq - assignment) : 63;
    snprintf(name, sizeof name, "%.*s", len, assignment);
    char *dot = strchr(name, '.');
    if (dot) {
        *dot = 0;
        memcpy(section, name, sizeof section);
        memmove(name, dot + 1, strlen(dot + 1) + 1);
    }
    const rb_key *k = rb_key_find(section, name);
    if (k) {
        RB_TRY(set_text(c, k, eq + 1, place, err));
        c->line[k - rb_keys] = -1;
        return RESBM_OK;
    }
    if (*section && rb_section_exists(section))
        rb_key_unknown(section, name, text, sizeof text);
    else
        rb_section_unknown(*section ? section : name, text, sizeof text);
    return rb_fail(err, RESBM_E_CONFIG, "%s: %s", place, text);
}

/* ---- checks across keys */

/* "run.yaml:12: ", "run.yaml: " or "" for the message about a key. */
static const char *where(const rb_config *c, const char *section, const char *name, char out[300]) {
    const rb_key *k = rb_key_find(section, name);
    int32_t line = k ? c->line[k - rb_keys] : 0;
    if (line > 0)
        snprintf(out, 300, "%s:%d: ", c->file, line);
    else
        snprintf(out, 300, "%s", line < 0 ? "command line: " : "");
    return out;
}

static int64_t divisor_below(int64_t d, int64_t from) {
    while (from > 1 && d % from) from--;
    return from;
}
static int64_t divisor_above(int64_t d, int64_t from) {
    while (from < d && d % from) from++;
    return from < d ? from : d;
}

resbm_status rb_config_check_tokenizer(const rb_config *c, rb_err *err) {
    char at[300];
    const char *spec = c->data.tokenizer;
    if (!*spec) return RESBM_OK;
    const rb_tokenizer_kind *known = rb_tokenizer_find(spec);
    if (known && (known == &rb_tokenizer_bytes || !access(spec, R_OK))) return RESBM_OK;
    int why = errno;
    where(c, "data", "tokenizer", at);
    return rb_fail(err, RESBM_E_CONFIG,
                   "%sdata.tokenizer = %s: %s; it is to be bytes, or the file (.model, .json) by which the "
                   "shards were made: what is trained is read and continued with it",
                   at, spec, known ? strerror(why) : "no tokenizer is called so");
}

/* Said here rather than by rb_model_check because the line of the file is known here. */
static resbm_status check_ratio(const rb_config *c, rb_err *err) {
    char at[300];
    long long d = c->model.d, r = c->boundary.ratio;
    const rb_boundary_kind *kind = rb_boundary_find(c->boundary.kind);
    if (c->model.segments == 1 || !kind || !kind->narrows) return RESBM_OK;
    where(c, "boundary", "ratio", at);
    if (r > d)
        return rb_fail(err, RESBM_E_CONFIG,
                       "%sboundary.ratio = %lld is above model.d = %lld; the largest that works is %lld", at,
                       r, d, d);
    if (d % r)
        return rb_fail(
            err, RESBM_E_CONFIG,
            "%sboundary.ratio = %lld does not divide model.d = %lld; the nearest that do are %lld and %lld",
            at, r, d, (long long)divisor_below(d, r), (long long)divisor_above(d, r));
    return RESBM_OK;
}

static resbm_status check_layers(const rb_config *c, rb_err *err) {
    char at[300];
    const rb_model_config *m = &c->model;
    int64_t sum = 0;
    for (int64_t i = 0; i < m->segments; i++) sum += m->segment_layers[i];
    if (sum && sum != m->layers)
        return rb_fail(err, RESBM_E_CONFIG,
                       "%smodel.segments lists %lld blocks, but model.layers = %lld: no block may be lost",
                       where(c, "model", "segments", at), (long long)sum, (long long)m->layers);
    if (m->segments > m->layers)
        return rb_fail(err, RESBM_E_CONFIG,
                       "%smodel.segments = %lld, but there are only model.layers = %lld blocks",
                       where(c, "model", "segments", at), (long long)m->segments, (long long)m->layers);
    return RESBM_OK;
}

static resbm_status check_batch(const rb_config *c, rb_err *err) {
    char at[300];
    const rb_train_config *t = &c->train;
    if (t->batch % t->microbatches == 0) return RESBM_OK;
    if (t->microbatches > t->batch)
        return rb_fail(
            err, RESBM_E_CONFIG, "%strain.microbatches = %lld is above train.batch = %lld sequences",
            where(c, "train", "microbatches", at), (long long)t->microbatches, (long long)t->batch);
    return rb_fail(err, RESBM_E_CONFIG,
                   "%strain.microbatches = %lld does not divide train.batch = %lld; the nearest that do are "
                   "%lld and %lld",
                   where(c, "train", "microbatches", at), (long long)t->microbatches, (long long)t->batch,
                   (long long)divisor_below(t->batch, t->microbatches),
                   (long long)divisor_above(t->batch, t->microbatches));
}

static resbm_status check_rates(const rb_config *c, rb_err *err) {
    char at[300];
    const rb_lr_schedule *r = &c->optim.rates;
    if (r->warmup > r->steps)
        return rb_fail(err, RESBM_E_CONFIG,
                       "%soptim.warmup = %lld steps is longer than train.steps = %lld; lower it",
                       where(c, "optim", "warmup", at), (long long)r->warmup, (long long)r->steps);
    if (r->decay == RB_DECAY_WSD && (double)r->warmup + r->share * (double)r->steps > (double)r->steps)
        return rb_fail(
            err, RESBM_E_CONFIG,
            "%soptim.warmup = %lld steps and optim.decay = %g of train.steps = %lld overlap: lower one",
            where(c, "optim", "decay", at), (long long)r->warmup, r->share, (long long)r->steps);
    return RESBM_OK;
}

static resbm_status check_offload(const rb_config *c, rb_err *err) {
    char at[300];
    if (!strcmp(c->optim.offload, "host") && rb_devices_all_host(c))
        return rb_fail(
            err, RESBM_E_CONFIG,
            "%soptim.offload = host is for accelerators: pipeline.device = %s keeps everything in the host's "
            "memory already; use disk to free it, or none",
            where(c, "optim", "offload", at), c->pipeline.device);
    if (c->optim.offload_parts != RB_OFFLOAD_STATES && !strcmp(c->optim.offload, "none"))
        return rb_fail(err, RESBM_E_CONFIG,
                       "%soptim.offload_parts is set, but optim.offload = none; set it to disk or host",
                       where(c, "optim", "offload_parts", at));
    if (c->optim.offload_update == RB_OFFLOAD_UPDATE_HOST &&
        (strcmp(c->optim.offload, "host") || c->optim.offload_parts != RB_OFFLOAD_STATES))
        return rb_fail(
            err, RESBM_E_CONFIG,
            "%soptim.offload_update = host needs optim.offload = host and optim.offload_parts = states",
            where(c, "optim", "offload_update", at));
    if (*c->optim.offload_dir && !strcmp(c->optim.offload, "none"))
        return rb_fail(err, RESBM_E_CONFIG,
                       "%soptim.offload_dir is set, but optim.offload = none; set it to disk",
                       where(c, "optim", "offload_dir", at));
    return RESBM_OK;
}

static resbm_status check_stages(const rb_config *c, rb_err *err) {
    char at[300];
    const rb_pipeline_config *p = &c->pipeline;
    RB_TRY(rb_devices_check(c, where(c, "pipeline", "device", at), err));
    if (p->attention == RB_ATTENTION_CUDNN && rb_devices_all_host(c))
        return rb_fail(err, RESBM_E_CONFIG,
                       "%spipeline.attention = cudnn is for GPUs, but pipeline.device = %s; set it to own",
                       where(c, "pipeline", "attention", at), p->device);
    if (p->stages > c->model.segments)
        return rb_fail(
            err, RESBM_E_CONFIG,
            "%spipeline.stages = %lld, but model.segments = %lld: a stage hosts at least one segment",
            where(c, "pipeline", "stages", at), (long long)p->stages, (long long)c->model.segments);
    if (*p->control && p->transport != RB_TRANSPORT_TCP && strcmp(c->engine, "mpi"))
        return rb_fail(err, RESBM_E_CONFIG, "%spipeline.control needs pipeline.transport: tcp",
                       where(c, "pipeline", "control", at));
    if (!p->addresses) return RESBM_OK;
    where(c, "pipeline", "addresses", at);
    if (p->transport != RB_TRANSPORT_TCP)
        return rb_fail(err, RESBM_E_CONFIG, "%spipeline.addresses needs pipeline.transport: tcp", at);
    if (p->addresses != rb_workers(c))
        return rb_fail(err, RESBM_E_CONFIG,
                       "%spipeline.addresses has %d entries for pipeline.stages = %lld%s", at, p->addresses,
                       (long long)p->stages, rb_replicated(c) ? " and their replicas" : "");
    for (int i = 0; i < p->addresses; i++)
        for (int j = 0; j < i; j++)
            if (!strcmp(p->address[i], p->address[j]))
                return rb_fail(err, RESBM_E_CONFIG, "%spipeline.addresses: stages %d and %d share %s", at, j,
                               i, p->address[i]);
    return RESBM_OK;
}

static resbm_status check_replicas(const rb_config *c, rb_err *err) {
    char at[300];
    resbm_status st = rb_config_check_replicas(c, err);
    where(c, "pipeline", "replicas", at);
    return st && *at ? rb_err_context(err, st, "%s", at) : st;
}

static resbm_status check_schedule(rb_config *c, rb_err *err) {
    char at[300];
    resbm_status st = rb_config_check_schedule(c, err);
    where(c, "pipeline", "schedule", at);
    return st && *at ? rb_err_context(err, st, "%s", at) : st;
}

/* Seconds that the messages of one microbatch and direction spend on one link: through an uplink, then a downlink. */
static double message_seconds(const rb_config *c, int direction) {
    rb_wire w;
    rb_err no_boundary;
    double bits = 0;
    if (rb_model_wire(&c->model, &c->boundary, direction, &w, &no_boundary)) return 0;
    for (int i = 0; i < w.parts; i++)
        bits += 8 * (double)rb_packed_bytes(&w.part[i].pack, c->train.batch / c->train.microbatches,
                                            c->model.context, w.part[i].width);
    return (c->link.up_bits > 0 ? bits / c->link.up_bits : 0) +
           (c->link.down_bits > 0 ? bits / c->link.down_bits : 0);
}

/* The first stage waits for a gradient until a microbatch has been to the last stage and back. */
static resbm_status check_rate(const rb_config *c, rb_err *err) {
    char at[300];
    double there_and_back =
        (double)(c->pipeline.stages - 1) *
        (message_seconds(c, 0) + message_seconds(c, 1) + 2e-9 * (double)c->link.latency_ns);
    if (c->model.segments < 2 || there_and_back < (double)c->pipeline.deadline_ns * 1e-9) return RESBM_OK;
    return rb_fail(
        err, RESBM_E_CONFIG,
        "%spipeline.deadline = %gs is below the %.3g s that one microbatch spends on the links to the last "
        "stage "
        "and back (link.up, link.down): raise it, choose a larger boundary.ratio or more train.microbatches",
        where(c, "pipeline", "deadline", at), (double)c->pipeline.deadline_ns / 1e9, there_and_back);
}

static resbm_status check_link(const rb_config *c, rb_err *err) {
    char at[300];
    const rb_shape_options *l = &c->link;
    if (2 * (l->latency_ns + l->jitter_ns) >= c->pipeline.deadline_ns)
        return rb_fail(err, RESBM_E_CONFIG,
                       "%spipeline.deadline = %gs is not above a round trip of %gs (link.latency and "
                       "link.jitter): raise it",
                       where(c, "pipeline", "deadline", at), (double)c->pipeline.deadline_ns / 1e9,
                       2 * (double)(l->latency_ns + l->jitter_ns) / 1e9);
    return RESBM_OK;
}

resbm_status rb_config_validate(rb_config *c, rb_err *err) {
    c->model.seed = c->train.seed;
    c->boundary.k = 0; /* rb_model_check makes it from ratio, also where another one was there before */
    c->model.recompute = c->train.recompute;
    c->optim.rates.steps = c->train.steps;
    if (!c->model.kv_heads) c->model.kv_heads = c->model.heads;
    if (c->model.rope.kind == RB_ROPE_LLAMA3 && c->model.rope.high <= c->model.rope.low)
        return rb_fail(err, RESBM_E_CONFIG, "model.rope_high %g must be above model.rope_low %g",
                       c->model.rope.high, c->model.rope.low);
    c->boundary.feedback_rows = c->train.batch * c->model.context;
    RB_TRY(check_layers(c, err));
    RB_TRY(check_ratio(c, err));
    RB_TRY(check_batch(c, err));
    RB_TRY(check_rates(c, err));
    RB_TRY(check_offload(c, err));
    RB_TRY(check_stages(c, err));
    RB_TRY(check_schedule(c, err));
    RB_TRY(check_replicas(c, err));
    RB_TRY(check_link(c, err));
    resbm_status st = rb_model_check(&c->model, &c->boundary, err);
    if (st != RESBM_OK) return *c->file ? rb_err_context(err, st, "%s: ", c->file) : st;
    if (c->data.distribute == RB_DISTRIBUTE_AUTO)
        c->data.distribute = c->boundary.tokens == RB_TOKENS_NONE ? RB_DISTRIBUTE_SHARED : RB_DISTRIBUTE_WIRE;
    return check_rate(c, err);
}

double rb_aux_weight(const rb_config *c, int64_t step) {
    double until = c->train.aux_until * (double)c->train.steps;
    if (c->boundary.aux == RB_AUX_NONE || c->model.segments < 2 || (double)step >= until) return 0;
    return c->train.aux_weight * (1 - (double)step / until);
}

double rb_tensor_lr(const rb_config *c, const rb_tensor *t) {
    bool end =
        t->role == RB_ROLE_BOUNDARY_MATRIX && (strstr(t->name, ".encoder.") || strstr(t->name, ".decoder."));
    double scale = end ? c->optim.boundary_lr_scale : 1; /* by products: the same on every machine */
    for (int64_t i = t->segment + 1; i < c->model.segments; i++) scale *= c->optim.segment_lr_scale;
    return scale;
}

int64_t rb_live_width(const rb_config *c, int64_t step) {
    if (!c->boundary.anneal_from || c->model.segments < 2) return c->boundary.k;
    int64_t until = (int64_t)(c->train.anneal_until * (double)c->train.steps),
            end = c->model.d / c->boundary.ratio;
    if (step >= until) return end;
    if (step < 0) return c->boundary.k;
    return end + ((c->boundary.k - end) * (until - step) + until - 1) / until;
}
