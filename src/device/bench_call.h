/* How long a call takes whose work a queue does. */
#ifndef RB_DEVICE_BENCH_CALL_H
#define RB_DEVICE_BENCH_CALL_H

#include "device/device.h"

typedef resbm_status (*rb_bench_act)(void *ctx, rb_err *err);

/* Nanoseconds of one call of `act`, which queues work on q: the least of at least three rounds, and of as many as begin within
 * budget_ns. Where the host does not compute itself a round is up to 20 calls with one wait behind them: launching,
 * copying and waking up take longer than a small kernel. */
resbm_status rb_bench_call(rb_queue *q, rb_bench_act act, void *ctx, int64_t budget_ns, double *ns,
                           rb_err *err);

#endif
