#include "run/compare_config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "run/keys.h"
#include "run/workers.h"

enum { TIMED_STEPS = 6 };

static resbm_status override_all(rb_config *c, const rb_overrides *o, rb_err *err) {
    for (int i = 0; i < o->count; i++) RB_TRY(rb_config_override(c, o->text[i], err));
    return RESBM_OK;
}

resbm_status rb_compare_base(const rb_compare_spec *s, rb_config *out, rb_err *err) {
    RB_TRY(rb_config_defaults(out, err));
    if (*s->base) RB_TRY(rb_config_load_file(out, s->base, err));
    RB_TRY(override_all(out, &s->base_set, err));
    return override_all(out, &s->set, err);
}

/* One machine, nothing between the stages. */
static resbm_status here(rb_config *c, int64_t stages, rb_err *err) {
    rb_config *plain = calloc(1, sizeof *plain);
    if (!plain) return rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration");
    resbm_status st = rb_config_defaults(plain, err);
    c->pipeline.stages = stages;
    rb_config_alone(c);
    c->pipeline.transport = plain->pipeline.transport;
    c->pipeline.addresses = 0;
    *c->pipeline.control = *c->pipeline.launcher = 0;
    c->link = plain->link;
    free(plain);
    return st;
}

/* One process does the same in any order, and not every order is one for it. */
static resbm_status alone(rb_config *c, rb_err *err) {
    const rb_key *schedule = rb_key_find("pipeline", "schedule"),
                 *inflight = rb_key_find("pipeline", "inflight");
    RB_TRY(here(c, 1, err));
    RB_TRY(rb_key_set(c, schedule, &schedule->fallback, 1, false, "schedule", err));
    return rb_key_set(c, inflight, &inflight->fallback, 1, false, "inflight", err);
}

/* Does the schedule update inside its lists? Then the loss is that of its stages. */
static resbm_status asynchronous(const rb_config *c, bool *out, rb_err *err) {
    rb_err later; /* what is wrong with it is said where it is used */
    *out = rb_config_flows(c);
    if (!rb_config_schedule_file(c)) return RESBM_OK;
    rb_config *copy = malloc(sizeof *copy);
    if (!copy) return rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration");
    *copy = *c;
    *out = rb_config_validate(copy, &later) == RESBM_OK && copy->pipeline.updates;
    free(copy);
    return RESBM_OK;
}

static resbm_status without_boundary(rb_config *c, rb_err *err) {
    rb_config *plain = calloc(1, sizeof *plain);
    if (!plain) return rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration");
    resbm_status st = rb_config_defaults(plain, err);
    c->boundary = plain->boundary;
    strcpy(c->boundary.kind, "none");
    free(plain);
    return st;
}

/* Weights of a block of matrices: width, heads that share keys, feed-forward. */
static double block_weights(double d, double kv_share, double ffn) {
    return d * d * (2 + 2 * kv_share) + 3 * d * ffn;
}

/* Blocks of the model that weigh what one receiver's trunk does. c is validated. */
static double trunk_in_blocks(const rb_config *c) {
    const rb_boundary_config *b = &c->boundary;
    if (b->tokens != RB_TOKENS_TRUNK || c->model.segments < 2) return 0;
    double trunk = (double)b->trunk_blocks * block_weights((double)b->trunk_width, 1, (double)b->trunk_ffn);
    return trunk / block_weights((double)c->model.d, (double)c->model.kv_heads / (double)c->model.heads,
                                 (double)c->model.ffn);
}

static int64_t whole_blocks(double blocks) {
    return (int64_t)ceil(blocks - 1e-9);
}

/* Layers of the control; a share of a block counts as one, in the control's favour. */
static resbm_status control_layers(const rb_compare_variant *v, const rb_config *of, int64_t *layers,
                                   rb_err *err) {
    const rb_model_config *m = &of->model;
    double trunk = trunk_in_blocks(of);
    if (v->control == RB_CONTROL_ALONE) {
        *layers = m->segment_layers[m->segments - 1] + whole_blocks(trunk);
        return RESBM_OK;
    }
    *layers = m->layers + whole_blocks((double)(m->segments - 1) * trunk);
    if (trunk > 0) return RESBM_OK;
    return rb_fail(err, RESBM_E_CONFIG,
                   "%s: %s has no trunk that adds blocks: 'same size as %s' is the uncompressed model",
                   v->place, v->of, v->of);
}

static resbm_status apply_control(const rb_compare_variant *v, rb_config *c, rb_err *err) {
    int64_t layers = 0;
    rb_config *of = malloc(sizeof *of);
    if (!of) return rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration");
    *of = *c;
    resbm_status st = alone(of, err);
    if (!st && (st = rb_config_validate(of, err)))
        rb_err_context(err, st, "%s: variant %s: ", v->place, v->of);
    if (!st) st = control_layers(v, of, &layers, err);
    free(of);
    RB_TRY(st);
    c->model.layers = layers;
    memset(c->model.segment_layers, 0, sizeof c->model.segment_layers);
    if (v->control == RB_CONTROL_ALONE) c->model.segments = 1;
    return without_boundary(c, err);
}

/* The variant's settings without its sweep. finish() has seen to it that the chain of likes and ofs ends. */
static resbm_status build(const rb_compare_spec *s, const rb_config *base, int variant, rb_config *out,
                          rb_err *err) {
    const rb_compare_variant *v = &s->variant[variant];
    const char *from = *v->of ? v->of : v->like;
    if (*from)
        RB_TRY(build(s, base, rb_compare_find(s, from), out, err));
    else
        *out = *base;
    if (v->control == RB_CONTROL_UNCOMPRESSED) RB_TRY(without_boundary(out, err));
    if (v->control == RB_CONTROL_ALONE || v->control == RB_CONTROL_SAME_SIZE)
        RB_TRY(apply_control(v, out, err));
    return override_all(out, &v->set, err);
}

static resbm_status set_point(rb_config *c, const char *key, const char *value, rb_err *err) {
    char text[256];
    if (!key || !value) return RESBM_OK;
    snprintf(text, sizeof text, "%s=%s", key, value);
    return rb_config_override(c, text, err);
}

static resbm_status build_point(const rb_compare_spec *s, const rb_config *base, const rb_compare_which *w,
                                rb_config *out, rb_err *err) {
    RB_TRY(build(s, base, w->variant, out, err));
    RB_TRY(set_point(out, w->of_key, w->of_point, err));
    RB_TRY(set_point(out, s->variant[w->variant].sweep.key, w->point, err));
    out->train.seed = w->seed;
    out->train.max_seconds = 0;
    out->train.keep = 1;
    if (w->steps > 0) out->train.steps = w->steps;
    if (w->share < 1) {
        out->train.steps = (int64_t)fmax(1, round(w->share * (double)out->train.steps));
        out->optim.rates.warmup = (int64_t)round(w->share * (double)out->optim.rates.warmup);
    }
    return RESBM_OK;
}

static resbm_status checked(const rb_compare_spec *s, int variant, rb_config *c, rb_err *err) {
    resbm_status st = rb_config_validate(c, err);
    if (st) rb_err_context(err, st, "%s: variant %s: ", s->variant[variant].place, s->variant[variant].name);
    return st;
}

/* A stage per segment, unless spec.deploy says otherwise. */
static resbm_status spread(const rb_compare_spec *s, rb_config *c, rb_err *err) {
    RB_TRY(here(c, c->model.segments, err));
    c->pipeline.threads = 1;
    RB_TRY(override_all(c, &s->deploy, err));
    if (c->pipeline.stages > c->model.segments) c->pipeline.stages = c->model.segments;
    return RESBM_OK;
}

resbm_status rb_compare_config(const rb_compare_spec *s, const rb_config *base, const rb_compare_which *w,
                               rb_config *out, rb_err *err) {
    bool stale;
    RB_TRY(build_point(s, base, w, out, err));
    RB_TRY(asynchronous(out, &stale, err));
    RB_TRY(stale ? spread(s, out, err) : alone(out, err));
    if (stale) RB_TRY(here(out, out->pipeline.stages, err)); /* whatever deploy says of links */
    out->pipeline.threads = 1;
    return checked(s, w->variant, out, err);
}

/* What takes no time: variants that differ in nothing else are measured once. */
static resbm_status forget_rates(rb_config *c, rb_err *err) {
    static const char *const keys[] = {"lr",       "adamw_lr", "weight_decay", "beta1", "beta2",
                                       "momentum", "min_lr",   "decay",        "clip"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const rb_key *k = rb_key_find("optim", keys[i]);
        RB_TRY(rb_key_set(c, k, &k->fallback, 1, false, keys[i], err));
    }
    return RESBM_OK;
}

resbm_status rb_compare_deployed(const rb_compare_spec *s, const rb_config *base, const rb_compare_which *w,
                                 const rb_compare_link *link, rb_config *out, rb_err *err) {
    RB_TRY(build_point(s, base, w, out, err));
    RB_TRY(spread(s, out, err));
    if (!link || out->model.segments < 2) RB_TRY(alone(out, err));
    if (link) out->link = link->shape;
    RB_TRY(forget_rates(out, err));
    out->train.seed = 1;
    out->train.steps = TIMED_STEPS;
    out->train.checkpoint_every = 0;
    out->optim.rates.warmup = 0;
    out->optim.rates.decay = RB_DECAY_CONSTANT;
    *out->data.val = 0;
    return checked(s, w->variant, out, err);
}

static bool whole(const char *codec) {
    return !strcmp(codec, "f32") || !strcmp(codec, "bf16");
}

bool rb_compare_uncompressed(const rb_config *c) {
    const rb_boundary_config *b = &c->boundary;
    return c->model.segments > 1 && !strcmp(b->kind, "none") && whole(b->codec_fwd) && whole(b->codec_bwd);
}
