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

/* The largest extra in [0, high] that fits memory; 0 does. */
static resbm_status most_that_fits(search *f, int high, int *out) {
    int low = 0;
    while (low < high) {
        int middle = low + (high - low + 1) / 2;
        double step;
        RB_TRY(try_extra(f, middle, &step));
        if (step < 0)
            high = middle - 1;
        else
            low = middle;
    }
    *out = low;
    return RESBM_OK;
}

/* Every depth while they are few, then each an eighth further than the one before. */
static int next_depth(int extra) {
    return extra + 1 + extra / 8;
}

enum { PATIENCE = 16 }; /* depths in a row that gain nothing before the search ends */

resbm_status rb_schedule_auto_inflight(const rb_schedule_kind *kind, const rb_schedule_args *a,
                                       const rb_sim_options *o, const rb_inflight_limits *limits, int *extra,
                                       rb_err *err) {
    search f = {kind, *a, o, limits, err};
    double step, best;
    int most;
    *extra = 0;
    RB_TRY(try_extra(&f, 0, &best));
    if (!kind->takes_extra || kind->extra_ages) return RESBM_OK;
    /* Stage s gets its share of extra, and no more than all microbatches can be in flight on any of them. */
    int enough = a->microbatches * (a->stages > 1 ? a->stages - 1 : 1);
    RB_TRY(most_that_fits(&f, enough < 65536 ? enough : 65536, &most));
    /* Not a bisection: where bandwidth is short, too many in flight are slower again. */
    for (int i = 1, vain = 0; i <= most && vain < PATIENCE; i = next_depth(i), vain++) {
        RB_TRY(try_extra(&f, i, &step));
        if (step >= best * 0.995) continue;
        best = step;
        *extra = i;
        vain = -1;
    }
    return RESBM_OK;
}
