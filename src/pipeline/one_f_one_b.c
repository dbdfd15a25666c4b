/* 1F1B (Narayanan et al. 2019, PipeDream-flush): a stage runs just enough forwards ahead to stay busy, then
 * one forward and one backward in turn, so that stage s keeps stages - s microbatches alive instead of all.
 * Three stages, four microbatches:
 *
 *     0  0F0 0F1 0F2 .   .   .   .   0B0 =   0F3 0B1 =   .   0B2 =   .   0B3 =
 *     1  .   1F0 1F1 .   .   1B0 =   1F2 1B1 =   1F3 1B2 =   .   1B3 =   .   .
 *     2  .   .   2F0 2B0 =   2F1 2B1 =   2F2 2B2 =   2F3 2B3 =   .   .   .   .
 *
 * Latency: between B of microbatch i leaving stage s+1 and the forward it makes room for coming back lie two
 * crossings, B and F of stage s. Stage s+1 has (w_s - w_(s+1)) (F+B) of work until then, w being the forwards
 * a stage may have in flight. So what hides a one-way latency L is a DIFFERENCE between neighbours, w_s -
 * w_(s+1) >= 1 + 2L/(F+B); the same extra on every stage hides nothing. `extra` is what stage 0 gets; it is
 * shared out over the hops between a stage and the last, which needs none. */
#include <stdint.h>
#include "pipeline/schedules.h"

int rb_1f1b_deep(const rb_schedule_args *a, int stage) {
    int hops = a->stages - 1, left = hops - stage;
    int extra = hops ? (int)(((int64_t)a->extra * left + hops - 1) / hops) : 0;
    return left + 1 + extra;
}

int rb_1f1b_in_flight(const rb_schedule_args *a, int stage) {
    int want = rb_1f1b_deep(a, stage);
    return want < a->microbatches ? want : a->microbatches;
}

static int in_flight(const rb_schedule_args *a, int stage, int nth) {
    (void)nth;
    return rb_1f1b_in_flight(a, stage);
}

static resbm_status generate(const rb_schedule_args *a, rb_schedule *out, rb_err *err) {
    for (int s = 0; s < a->stages; s++) {
        int ahead = rb_1f1b_in_flight(a, s) - 1;
        for (int m = 0; m < ahead; m++) RB_TRY(rb_push_all(out, s, RB_ACT_FORWARD, m, err));
        for (int m = 0; m < a->microbatches; m++) {
            if (m + ahead < a->microbatches) RB_TRY(rb_push_all(out, s, RB_ACT_FORWARD, m + ahead, err));
            RB_TRY(rb_push_all(out, s, RB_ACT_BACKWARD, m, err));
        }
    }
    return RESBM_OK;
}

/* A stage sends as many forwards before its first backward as it may have in flight more than its neighbour.
 */
static int queue_bound(const rb_schedule_args *a) {
    int most = 1;
    for (int s = 0; s + 1 < a->stages; s++) {
        int ahead = rb_1f1b_in_flight(a, s) - rb_1f1b_in_flight(a, s + 1);
        if (ahead > most) most = ahead;
    }
    return most;
}

const rb_schedule_kind rb_schedule_1f1b = {
    .name = "1f1b",
    .summary =
        "one forward, one backward in turn; stage s keeps stages - s microbatches alive (more under latency)",
    .takes_extra = true,
    .generate = generate,
    .in_flight = in_flight,
    .queue_bound = queue_bound,
};
