#include "device/bench_call.h"

#include <math.h>
#include "core/clock.h"

static resbm_status round_of(rb_queue *q, rb_bench_act act, void *ctx, int calls, double *ns, rb_err *err) {
    int64_t begin = rb_now_ns();
    for (int i = 0; i < calls; i++) RB_TRY(act(ctx, err));
    RB_TRY(rb_queue_sync(q, err));
    *ns = (double)(rb_now_ns() - begin) / calls;
    return RESBM_OK;
}

resbm_status rb_bench_call(rb_queue *q, rb_bench_act act, void *ctx, int64_t budget_ns, double *ns,
                           rb_err *err) {
    enum { MOST = 20, LEAST_ROUNDS = 3 };
    int64_t begin = rb_now_ns();
    double one, best = INFINITY;
    int calls = 1;
    if (!q->dev->table->host_memory) { /* whose first call also loads kernels */
        RB_TRY(round_of(q, act, ctx, 1, &one, err));
        RB_TRY(round_of(q, act, ctx, 1, &one, err));
        calls = (int)fmax(1, fmin(MOST, (double)budget_ns / LEAST_ROUNDS / fmax(one, 1)));
    }
    for (int i = 0; i < LEAST_ROUNDS || rb_now_ns() - begin < budget_ns; i++) {
        RB_TRY(round_of(q, act, ctx, calls, &one, err));
        best = fmin(best, one);
    }
    *ns = fmax(best, 1);
    return RESBM_OK;
}
