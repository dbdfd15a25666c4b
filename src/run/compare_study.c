/* Which runs a comparison calls for, given what the finished ones came to. */
#include "run/compare_study.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

rb_compare_run *rb_study_find(const rb_study *t, int variant, const char *point, int seed, double share) {
    for (int i = 0; i < t->runs; i++) {
        rb_compare_run *r = t->run[i];
        if (r->variant == variant && r->seed == seed && r->share == share && !strcmp(r->point, point))
            return r;
    }
    return NULL;
}

const char *rb_study_point(const rb_study *t, int variant) {
    const rb_sweep *w = &t->s->variant[variant].sweep;
    return *w->key && t->state[variant].best >= 0 ? w->value[t->state[variant].best] : "";
}

rb_compare_which rb_study_first(const rb_study *t, int variant) {
    const rb_sweep *w = &t->s->variant[variant].sweep;
    return (rb_compare_which){
        .variant = variant, .point = *w->key ? w->value[0] : NULL, .share = 1, .seed = t->s->seed[0]};
}

resbm_status rb_study_config(const rb_study *t, const rb_compare_run *r, rb_config *out, rb_err *err) {
    const rb_compare_variant *v = &t->s->variant[r->variant];
    rb_compare_which w = {.variant = r->variant,
                          .point = *r->point ? r->point : NULL,
                          .share = r->share,
                          .seed = t->s->seed[r->seed],
                          .steps = t->state[r->variant].steps};
    if (v->control == RB_CONTROL_ALONE_AS_LONG) {
        int of = rb_compare_find(t->s, v->of);
        w.of_key = *rb_study_point(t, of) ? t->s->variant[of].sweep.key : NULL;
        w.of_point = rb_study_point(t, of);
    }
    return rb_compare_config(t->s, t->base, &w, out, err);
}

static void name_run(const rb_study *t, rb_compare_run *r) {
    const rb_compare_variant *v = &t->s->variant[r->variant];
    char point[180] = "", share[32] = "";
    if (*r->point) snprintf(point, sizeof point, "%s-%s", v->sweep.key, r->point);
    if (r->share < 1) snprintf(share, sizeof share, "-share-%g", r->share);
    unsigned long long seed = (unsigned long long)t->s->seed[r->seed];
    for (char *c = point; *c; c++)
        if (*c == '/') *c = '_';
    snprintf(r->name, sizeof r->name, "%s%s%.90s%s seed %llu", v->name, *point ? " " : "", point, share,
             seed);
    snprintf(r->dir, sizeof r->dir, "%s/runs/%s%s%s%s/seed-%llu", t->o->dir, v->name, *point ? "/" : "",
             point, share, seed);
}

static resbm_status look(rb_study *t, rb_compare_run *r, rb_err *err) {
    rb_config *c = malloc(sizeof *c);
    if (!c) return rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration");
    resbm_status st = rb_study_config(t, r, c, err);
    if (!st) st = rb_compare_run_look(r, c, err);
    if (!st && r->state == RB_RUN_CHANGED && t->o->replace) {
        st = rb_compare_run_clear(r, err);
        r->state = RB_RUN_NEW;
    }
    if (!st && r->state == RB_RUN_CHANGED) rb_buf_printf(&t->changed, "\n  %s: %s", r->name, r->fault);
    free(c);
    return st;
}

static resbm_status make_run(rb_study *t, int variant, const char *point, int seed, double share,
                             rb_compare_run **out, rb_err *err) {
    if (t->runs == t->capacity) {
        int room = t->capacity ? 2 * t->capacity : 64;
        rb_compare_run **grown = realloc(t->run, (size_t)room * sizeof *grown);
        if (!grown) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d runs", room);
        t->run = grown;
        t->capacity = room;
    }
    rb_compare_run *r = calloc(1, sizeof *r);
    if (!r) return rb_fail(err, RESBM_E_MEMORY, "no memory for a run");
    *r = (rb_compare_run){.variant = variant, .seed = seed, .share = share};
    snprintf(r->point, sizeof r->point, "%s", point);
    name_run(t, r);
    t->run[t->runs++] = *out = r;
    return look(t, r, err);
}

static resbm_status want(rb_study *t, rb_run_list *l, int variant, const char *point, int seed, double share,
                         rb_err *err) {
    rb_compare_run *r = rb_study_find(t, variant, point, seed, share);
    if (!r) RB_TRY(make_run(t, variant, point, seed, share, &r, err));
    for (int i = 0; i < l->count; i++)
        if (l->run[i] == r) return RESBM_OK;
    if (l->count == l->capacity) {
        int room = l->capacity ? 2 * l->capacity : 64;
        rb_compare_run **grown = realloc(l->run, (size_t)room * sizeof *grown);
        if (!grown) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d runs", room);
        l->run = grown;
        l->capacity = room;
    }
    l->run[l->count++] = r;
    return RESBM_OK;
}

static resbm_status want_seeds(rb_study *t, rb_run_list *l, int variant, const char *point, rb_err *err) {
    for (int i = 0; i < t->s->seeds; i++) RB_TRY(want(t, l, variant, point, i, 1, err));
    return RESBM_OK;
}

/* Adds the point beyond the edge, where the specification asks for it and the key takes it. */
static bool extend(rb_study *t, int variant) {
    rb_sweep *w = &t->s->variant[variant].sweep;
    rb_compare_state *state = &t->state[variant];
    rb_config *c = malloc(sizeof *c);
    rb_err refused;
    if (!c) return false;
    bool more = state->edge && state->extended < t->s->extend_sweeps && w->values < RB_COMPARE_POINTS;
    if (more) rb_sweep_beyond(w->value[state->best], state->edge, w->value[w->values]);
    rb_compare_which which = {
        .variant = variant, .point = w->value[w->values], .share = 1, .seed = t->s->seed[0]};
    more = more && !rb_compare_config(t->s, t->base, &which, c, &refused);
    free(c);
    if (!more) return false;
    w->values++;
    state->extended++;
    return true;
}

/* Once every point of the sweep has ended one way or the other: the best, or another round. */
static void decide(rb_study *t, int variant) {
    const rb_sweep *w = &t->s->variant[variant].sweep;
    rb_compare_state *state = &t->state[variant];
    double loss[RB_COMPARE_POINTS];
    for (int i = 0; i < w->values; i++) {
        const rb_compare_run *r = rb_study_find(t, variant, w->value[i], 0, t->s->sweep_share);
        if (!r || (r->state != RB_RUN_DONE && r->state != RB_RUN_FAILED)) return;
        loss[i] = r->state == RB_RUN_DONE ? r->loss : NAN;
    }
    int best = rb_sweep_best(loss, w->values);
    state->failed = best < 0;
    if (best < 0) return;
    state->best = best;
    state->edge = rb_sweep_edge(t->s->variant[variant].sweep.value, w->values, best);
    if (extend(t, variant)) state->best = -1;
}

static resbm_status want_sweep(rb_study *t, rb_run_list *l, int variant, rb_err *err) {
    const rb_sweep *w = &t->s->variant[variant].sweep;
    for (;;) {
        int values = w->values;
        for (int i = 0; i < values; i++) RB_TRY(want(t, l, variant, w->value[i], 0, t->s->sweep_share, err));
        if (t->state[variant].best < 0) decide(t, variant);
        if (w->values == values) break;
    }
    return t->state[variant].best < 0 ? RESBM_OK : want_seeds(t, l, variant, rb_study_point(t, variant), err);
}

static resbm_status want_variant(rb_study *t, rb_run_list *l, int variant, rb_err *err) {
    const rb_compare_variant *v = &t->s->variant[variant];
    if (*v->sweep.key) return want_sweep(t, l, variant, err);
    if (v->control == RB_CONTROL_ALONE_AS_LONG) {
        int of = rb_compare_find(t->s, v->of);
        if (!t->state[variant].steps || (*t->s->variant[of].sweep.key && t->state[of].best < 0))
            return RESBM_OK;
    }
    return want_seeds(t, l, variant, "", err);
}

/* The first seed of everything, then the second, ...: an early end has something of each. */
static int by_urgency(const void *a, const void *b) {
    const rb_compare_run *x = *(rb_compare_run *const *)a, *y = *(rb_compare_run *const *)b;
    if (x->seed != y->seed) return x->seed < y->seed ? -1 : 1;
    if (x->variant != y->variant) return x->variant < y->variant ? -1 : 1;
    return strcmp(x->dir, y->dir);
}

resbm_status rb_study_wanted(rb_study *t, rb_run_list *out, rb_err *err) {
    out->count = 0;
    for (int i = 0; i < t->s->variants; i++) RB_TRY(want_variant(t, out, i, err));
    if (t->changed.len)
        return rb_fail(err, RESBM_E_STATE,
                       "%s holds runs of another configuration; use another --out, or --replace to train "
                       "these anew:%.700s",
                       t->o->dir, t->changed.data);
    qsort(out->run, (size_t)out->count, sizeof(rb_compare_run *), by_urgency);
    return RESBM_OK;
}

void rb_study_seeds(const rb_study *t, int variant, rb_compare_run *run[RB_COMPARE_SEEDS]) {
    bool undecided = *t->s->variant[variant].sweep.key && t->state[variant].best < 0;
    for (int i = 0; i < t->s->seeds; i++)
        run[i] = undecided ? NULL : rb_study_find(t, variant, rb_study_point(t, variant), i, 1);
}

void rb_study_free(rb_study *t) {
    for (int i = 0; i < t->runs; i++) {
        rb_compare_run_free(t->run[i]);
        free(t->run[i]);
    }
    for (int i = 0; t->time && i < t->s->variants; i++) rb_timing_free(&t->time[i].measured);
    free(t->run);
    free(t->state);
    free(t->time);
    free(t->base);
    rb_buf_free(&t->changed);
}
