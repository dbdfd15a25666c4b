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
 */
#include "pipeline/endless.h"

static int pipedream_version(const rb_schedule_args *a, int stage, int m) {
    return rb_endless_updates(m, rb_1f1b_deep(a, a->vertical ? 0 : stage) - 1, 1);
}

static resbm_status generate_pipedream(const rb_schedule_args *a, rb_schedule *out, rb_err *err) {
    for (int s = 0; s < a->stages; s++)
        RB_TRY(rb_endless_stage(a, out, s, rb_1f1b_deep(a, s) - 1, 1, pipedream_version, err));
    return RESBM_OK;
}

static int least(int x, int y) {
    return x < y ? x : y;
}

static int pipedream_in_flight(const rb_schedule_args *a, int stage, int nth) {
    (void)nth;
    return least(rb_1f1b_deep(a, stage), rb_endless_total(a));
}

static int pipedream_stash(const rb_schedule_args *a, int stage) {
    return least(rb_1f1b_deep(a, a->vertical ? 0 : stage) - 1, rb_endless_total(a) - 1);
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
