/* PipeDream (Harlap et al. 2018, Narayanan et al. 2019): 1F1B without an end. Every stage updates its weights after
 * every backward and goes on, so that in steady state nobody idles; a microbatch's backward sees the weights that its
 * forward saw (weight stashing), which on stage s are stages - 1 - s updates old by then. With vertical sync a
 * microbatch sees on every stage the version that it saw on the first. Three stages, five microbatches:
 *
 *     0  0F0 0F1 0F2 .   .   .   .   0B0 =   0F3 0B1 =   0F4 0B2 =   .   0B3 =   .   0B4 =
 *     1  .   1F0 1F1 .   .   1B0 =   1F2 1B1 =   1F3 1B2 =   1F4 1B3 =   .   1B4 =   .   .
 *     2  .   .   2F0 2B0 =   2F1 2B1 =   2F2 2B2 =   2F3 2B3 =   2F4 2B4 =   .   .   .   .
 *
 * with an update of no length after every backward, and in all but the last steps as many microbatches more.
 *
 * PipeDream-2BW (Narayanan et al. 2021, "Memory-efficient pipeline-parallel DNN training"): the same with an update
 * after every step's microbatches only, by the gradient of the weights before: W(t+1) = W(t) - f(grad(W(t-1))). One older
 * version is kept, and the result does not depend on the number of stages. The step's microbatches must be no
 * fewer than the stages, or a third version would be in use. */
#include "pipeline/schedules.h"

static int total(const rb_schedule_args *a) {
    return a->microbatches * (a->steps > 1 ? a->steps : 1);
}

/* Updates that come before forward m on a stage that runs `ahead` forwards ahead and updates every `each`. */
static int updates_before(int m, int ahead, int each) {
    return m > ahead ? (m - ahead) / each : 0;
}

/* One stage: each = microbatches per update; older = version of microbatch m's forward, by the caller's rule. */
static resbm_status lay_down(const rb_schedule_args *a, rb_schedule *out, int stage, int ahead, int each,
                             int (*version)(const rb_schedule_args *a, int stage, int m), rb_err *err) {
    rb_action_list *l = &out->stage[stage];
    int count = total(a);
    for (int m = -ahead; m < count; m++) {
        int next = m + ahead, from = l->count;
        if (next < count) RB_TRY(rb_push_all(out, stage, RB_ACT_FORWARD, next, err));
        for (int i = from; i < l->count; i++)
            l->items[i].behind = updates_before(next, ahead, each) - version(a, stage, next);
        if (m >= 0) RB_TRY(rb_push_all(out, stage, RB_ACT_BACKWARD, m, err));
        if (m >= 0 && (m + 1) % each == 0) RB_TRY(rb_push_all(out, stage, RB_ACT_UPDATE, m, err));
    }
    return RESBM_OK;
}

/* --- pipedream --- */

static int pipedream_version(const rb_schedule_args *a, int stage, int m) {
    return updates_before(m, rb_1f1b_deep(a, a->vertical ? 0 : stage) - 1, 1);
}

static resbm_status generate_pipedream(const rb_schedule_args *a, rb_schedule *out, rb_err *err) {
    for (int s = 0; s < a->stages; s++)
        RB_TRY(lay_down(a, out, s, rb_1f1b_deep(a, s) - 1, 1, pipedream_version, err));
    return RESBM_OK;
}

static int least(int x, int y) {
    return x < y ? x : y;
}

static int pipedream_in_flight(const rb_schedule_args *a, int stage, int nth) {
    (void)nth;
    return least(rb_1f1b_deep(a, stage), total(a));
}

static int pipedream_stash(const rb_schedule_args *a, int stage) {
    return least(rb_1f1b_deep(a, a->vertical ? 0 : stage) - 1, total(a) - 1);
}

static int queue_bound(const rb_schedule_args *a) {
    int most = 1;
    for (int s = 0; s + 1 < a->stages; s++) {
        int ahead = rb_1f1b_deep(a, s) - rb_1f1b_deep(a, s + 1);
        if (ahead > most) most = ahead;
    }
    return most;
}

const rb_schedule_kind rb_schedule_pipedream = {
    .name = "pipedream",
    .summary = "asynchronous: an update per microbatch, weights stashed for the backward; no idle time",
    .takes_extra = true,
    .extra_ages = true,
    .flows = true,
    .generate = generate_pipedream,
    .in_flight = pipedream_in_flight,
    .stash = pipedream_stash,
    .queue_bound = queue_bound,
};

/* --- pipedream-2bw --- */

static resbm_status check_2bw(const rb_schedule_args *a, rb_err *err) {
    if (a->microbatches >= a->stages) return RESBM_OK;
    return rb_fail(err, RESBM_E_CONFIG,
                   "pipeline.schedule pipedream-2bw needs at least as many microbatches as stages, but train.microbatches "
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
        RB_TRY(lay_down(a, out, s, depth_2bw(a, s) - 1, a->microbatches, version_2bw, err));
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
