/* A plan's prediction of a step beside what a run measured: the track "predicted" of trace.json. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "run/plan.h"
#include "run/stage.h"

static int64_t ns(double seconds) {
    return (int64_t)llround(seconds * 1e9);
}

static rb_trace_event event(int stage, double begin, double end) {
    return (rb_trace_event){.track = RB_TRACK_PREDICTED,
                            .category = RB_TRACE_PREDICTED,
                            .stage = stage,
                            .segment = -1,
                            .microbatch = -1,
                            .begin_ns = ns(begin),
                            .end_ns = ns(end)};
}

/* Actions of the step in full swing that take time, waiting included; where lists do not update, the update before. */
static size_t take_stage(const rb_prediction *p, int stage, int M, double origin, rb_trace_event *out) {
    const rb_action_list *l = &p->schedule.stage[stage];
    const rb_sim_span *span = p->sim.span[stage];
    size_t n = 0;
    if (l->count && span[0].begin > 0) { /* the simulator begins a list behind its stage's optimizer */
        out[n] = event(stage, -origin, span[0].begin - origin);
        snprintf(out[n++].name, RB_TRACE_NAME, "optimizer");
    }
    for (int i = 0; i < l->count; i++) {
        rb_action a = l->items[i];
        if (a.microbatch / M != p->first || !(span[i].end > span[i].begin)) continue;
        a.microbatch -= p->first * M;
        out[n] = event(stage, span[i].begin - origin, span[i].end - origin);
        out[n].segment = a.segment;
        out[n].microbatch = a.microbatch;
        rb_action_print(out[n++].name, RB_TRACE_NAME, a);
    }
    return n;
}

static double first_begin(const rb_prediction *p, int M) {
    double first = INFINITY;
    for (int s = 0; s < p->schedule.stages; s++)
        for (int i = 0; i < p->schedule.stage[s].count; i++)
            if (p->schedule.stage[s].items[i].microbatch / M == p->first)
                first = fmin(first, p->sim.span[s][i].begin);
    return first;
}

resbm_status rb_plan_keep_events(const rb_prediction *p, int M, rb_plan_events *out, rb_err *err) {
    size_t most = 0;
    for (int s = 0; s < p->schedule.stages; s++) most += (size_t)p->schedule.stage[s].count + 1;
    free(out->event);
    *out = (rb_plan_events){.event = calloc(most + 1, sizeof *out->event)};
    if (!out->event) return rb_fail(err, RESBM_E_MEMORY, "no memory for %zu predicted events", most);
    double origin = first_begin(p, M);
    for (int s = 0; s < p->schedule.stages && p->sim.span; s++)
        out->count += take_stage(p, s, M, origin, out->event + out->count);
    return RESBM_OK;
}

/* Step n was measured to begin its list at *begin; false when the trace has nothing of it. */
static bool begin_of(const rb_trace_event *e, size_t n, int64_t step, int64_t *begin) {
    *begin = INT64_MAX;
    for (size_t i = 0; i < n; i++)
        if (e[i].step == step && e[i].category == RB_TRACE_COMPUTE && e[i].begin_ns < *begin)
            *begin = e[i].begin_ns;
    return *begin < INT64_MAX;
}

static resbm_status add_step(rb_trace *t, const rb_plan_events *p, int64_t step, int64_t begin, rb_err *err) {
    for (size_t i = 0; i < p->count; i++) {
        rb_trace_event e = p->event[i];
        e.step = step;
        RB_TRY(rb_trace_add(t, &e, 1, begin, err));
    }
    return RESBM_OK;
}

resbm_status rb_plan_write_trace(const char *path, const rb_plan_events *p, rb_err *err) {
    rb_trace_event *e = NULL;
    rb_trace *t;
    size_t n = 0;
    bool any = false;
    RB_TRY(rb_trace_new(RB_TRACE_STEPS, &t, err));
    resbm_status st = access(path, F_OK) ? RESBM_OK : rb_trace_read(path, &e, &n, err);
    for (size_t i = 0; i < n && !st; i++)
        if (e[i].category != RB_TRACE_PREDICTED) st = rb_trace_add(t, &e[i], 1, 0, err);
    for (int64_t step = 1; step <= RB_TRACE_STEPS && !st; step++) {
        int64_t begin;
        if (!begin_of(e, n, step, &begin)) continue;
        any = true;
        st = add_step(t, p, step, begin, err);
    }
    if (!st && !any) st = add_step(t, p, 1, 0, err);
    if (!st) st = rb_trace_write(t, path, err);
    rb_trace_free(t);
    free(e);
    return st;
}
