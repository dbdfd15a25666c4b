/* PipeDream-2BW (Narayanan et al. 2021, "Memory-efficient pipeline-parallel DNN training"): the order of PipeDream with
 * an update after every step's microbatches only, by the gradient of the weights before: W(t+1) = W(t) - f(grad(W(t-1))).
 * One older version is kept, and the result does not depend on the number of stages. The step's microbatches must be no
 * fewer than the stages, or a third version would be in use. Two stages, three microbatches a step, two steps:
 *
 *     0  0F0   0F1   .     .     0B0   =     0F2   0B1   =     0F3   0B2   =     0F4-1 0B3   =     0F5-1 0B4   =     .     0B5   =
 *     1  .     1F0   1B0   =     1F1   1B1   =     1F2   1B2   =     1F3-1 1B3   =     1F4-1 1B4   =     1F5-1 1B5   =     .     .
 *
 * with an update of no length behind 0B2, 0B5, 1B2 and 1B5; "-1": by the version before the newest.
 */
#include "pipeline/endless.h"

static int least(int x, int y) {
    return x < y ? x : y;
}

static resbm_status check_2bw(const rb_schedule_args *a, rb_err *err) {
    if (a->microbatches >= a->stages) return RESBM_OK;
    return rb_fail(
        err, RESBM_E_CONFIG,
        "pipeline.schedule pipedream-2bw needs at least as many microbatches as stages, but "
        "train.microbatches "
        "is %d and pipeline.stages %d; set train.microbatches to %d or more, or pipeline.stages to %d",
        a->microbatches, a->stages, a->stages, a->microbatches);
}

/* More in flight than a step has would need a third version. */
static int depth_2bw(const rb_schedule_args *a, int stage) {
    return least(rb_1f1b_deep(a, stage), a->microbatches);
}

static int version_2bw(const rb_schedule_args *a, int stage, int m) {
    (void)stage;
    return m < a->microbatches ? 0 : m / a->microbatches - 1;
}

static resbm_status generate_2bw(const rb_schedule_args *a, rb_schedule *out, rb_err *err) {
    for (int s = 0; s < a->stages; s++)
        RB_TRY(rb_endless_stage(a, out, s, depth_2bw(a, s) - 1, a->microbatches, version_2bw, err));
    return RESBM_OK;
}

static int in_flight_2bw(const rb_schedule_args *a, int stage, int nth) {
    (void)nth;
    return depth_2bw(a, stage);
}

static int stash_2bw(const rb_schedule_args *a, int stage) {
    (void)stage;
    return a->steps > 1;
}

static int queue_2bw(const rb_schedule_args *a) {
    return rb_schedule_1f1b.queue_bound(a);
}

const rb_schedule_kind rb_schedule_2bw = {
    .name = "pipedream-2bw",
    .summary = "asynchronous: an update per step by gradients one version old; two versions of the weights",
    .takes_extra = true,
    .flows = true,
    .check = check_2bw,
    .generate = generate_2bw,
    .in_flight = in_flight_2bw,
    .stash = stash_2bw,
    .queue_bound = queue_2bw,
};
