/* Evaluation: every microbatch forward, nothing kept for a backward. Three stages, three microbatches:
 *
 *     0  0F0 0F1 0F2 .   .
 *     1  .   1F0 1F1 1F2 .
 *     2  .   .   2F0 2F1 2F2
 */
#include "pipeline/schedules.h"

static resbm_status generate(const rb_schedule_args *a, rb_schedule *out, rb_err *err) {
    for (int s = 0; s < a->stages; s++) {
        for (int m = 0; m < a->microbatches; m++) RB_TRY(rb_push_forward(out, s, m, err));
    }
    return RESBM_OK;
}

static int in_flight(const rb_schedule_args *a, int stage) {
    (void)a;
    (void)stage;
    return 1;
}

static int queue_bound(const rb_schedule_args *a) {
    (void)a;
    return 1;
}

const rb_schedule_kind rb_schedule_forward = {
    .name = "forward",
    .summary = "evaluation: forwards only",
    .forward_only = true,
    .generate = generate,
    .in_flight = in_flight,
    .queue_bound = queue_bound,
};
