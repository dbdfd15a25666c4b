#include "pipeline/inflight.h"

#include <stdlib.h>

typedef struct search {
    const rb_schedule_kind *kind;
    rb_schedule_args args;
    const rb_sim_options *sim;
    const rb_inflight_limits *limits;
    rb_err *err;
} search;

/* The first stage whose slots need more than it may take, -1 when all fit; *need gets its bytes. */
static int over_memory(const search *f, const rb_schedule *s, const int *slots, size_t *need) {
    for (int i = 0; f->limits->memory && i < s->stages; i++) {
        *need = 0;
        for (int g = 0; g < s->segments; g++) {
            if (s->stage_of[g] == i) *need += (size_t)slots[g] * f->limits->slot_bytes[g];
        }
        if (*need > f->limits->memory[i]) return i;
    }
    return -1;
}

/* *step: simulated time with this extra; negative when it does not fit. */
static resbm_status try_extra(search *f, int extra, double *step) {
    rb_schedule s;
    rb_sim_result r = {0};
    size_t need = 0;
    int slots[1024];
    f->args.extra = extra;
    resbm_status st = rb_schedule_build(f->kind, &f->args, &s, slots, f->err);
    if (st == RESBM_OK) {
        int stage = over_memory(f, &s, slots, &need);
        *step = -1;
        if (stage < 0) {
            st = rb_simulate(&s, f->sim, &r, f->err);
            *step = r.step;
        } else if (extra == 0) {
            st = rb_fail(
                f->err, RESBM_E_CONFIG,
                "stage %d: activations of the microbatches in flight take %zu bytes, but only %zu are free; "
                "lower train.batch or raise train.microbatches, pipeline.stages or pipeline.memory",
                stage, need, f->limits->memory[stage]);
        }
    }
    rb_sim_free(&r);
    rb_schedule_free(&s);
    return st;
}

/* The smallest extra in [low, high] with a step of at most `goal`; high is one. Or, with goal < 0, the
 * largest that fits memory; low is one. */
static resbm_status bisect(search *f, int low, int high, double goal, int *out) {
    while (low < high) {
        int middle = goal < 0 ? low + (high - low + 1) / 2 : low + (high - low) / 2;
        double step;
        RB_TRY(try_extra(f, middle, &step));
        if (goal < 0) {
            if (step < 0)
                high = middle - 1;
            else
                low = middle;
        } else {
            if (step <= goal)
                high = middle;
            else
                low = middle + 1;
        }
    }
    *out = low;
    return RESBM_OK;
}

resbm_status rb_schedule_auto_inflight(const rb_schedule_kind *kind, const rb_schedule_args *a,
                                       const rb_sim_options *o, const rb_inflight_limits *limits, int *extra,
                                       rb_err *err) {
    search f = {kind, *a, o, limits, err};
    double best;
    int most;
    *extra = 0;
    RB_TRY(try_extra(&f, 0, &best));
    if (!kind->takes_extra) return RESBM_OK;
    /* Stage s gets its share of extra, and no more than all microbatches can be in flight on any of them. */
    int enough = a->microbatches * (a->stages > 1 ? a->stages - 1 : 1);
    RB_TRY(bisect(&f, 0, enough < 65536 ? enough : 65536, -1, &most));
    RB_TRY(try_extra(&f, most, &best));
    return bisect(&f, 0, most, best * 1.005, extra);
}
