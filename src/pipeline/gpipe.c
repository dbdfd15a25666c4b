/* GPipe (Huang et al. 2019): all forwards, then all backwards. Backwards ascend like the forwards (the paper
 * descends), because gradients accumulate in ascending order under every schedule here and then have the same
 * bits. Three stages, four microbatches:
 *
 *     0  0F0 0F1 0F2 0F3 .   .   .   .   .   .   0B0 =   0B1 =   0B2 =   0B3 =
 *     1  .   1F0 1F1 1F2 1F3 .   .   .   1B0 =   1B1 =   1B2 =   1B3 =   .   .
 *     2  .   .   2F0 2F1 2F2 2F3 2B0 =   2B1 =   2B2 =   2B3 =   .   .   .   .
 */
#include "pipeline/schedules.h"

static resbm_status generate(const rb_schedule_args *a, rb_schedule *out, rb_err *err) {
    for (int s = 0; s < a->stages; s++) {
        for (int m = 0; m < a->microbatches; m++) RB_TRY(rb_push_all(out, s, RB_ACT_FORWARD, m, err));
        for (int m = 0; m < a->microbatches; m++) RB_TRY(rb_push_all(out, s, RB_ACT_BACKWARD, m, err));
    }
    return RESBM_OK;
}

static int in_flight(const rb_schedule_args *a, int stage, int nth) {
    (void)stage, (void)nth;
    return a->microbatches;
}

static int queue_bound(const rb_schedule_args *a) {
    (void)a;
    return 1;
}

const rb_schedule_kind rb_schedule_gpipe = {
    .name = "gpipe",
    .summary = "all forwards, then all backwards; every microbatch's activations are alive at once",
    .generate = generate,
    .in_flight = in_flight,
    .queue_bound = queue_bound,
};
