/* Interleaved 1F1B (Narayanan et al. 2021, Megatron-LM): a stage hosts v segments instead of one, segment g on
 * stage g mod p, so that a microbatch goes round the stages v times and the pipeline fills in steps v times
 * shorter. Idle share (p-1)/(v m + p-1), for v times the messages. Microbatches go in rounds of p: all p
 * through a stage's first segment, then all p through its second. Two stages, four segments, four microbatches:
 *
 *     0  0F0 0F1 2F0 2F1 0F2 .   2B0 =   0F3 2B1 =   2F2 0B0 =   2F3 0B1 =   .   2B2 =   .   2B3 =   0B2 =   0B3 =
 *     1  .   1F0 1F1 3F0 3B0 =   3F1 3B1 =   1F2 1B0 =   1F3 1B1 =   3F2 3B2 =   3F3 3B3 =   1B2 =   1B3 =   .   .
 */
#include "pipeline/schedules.h"

static int place(int stages, int segments, int segment) {
    (void)segments;
    return segment % stages;
}

static resbm_status check(const rb_schedule_args *a, rb_err *err) {
    int p = a->stages;
    if (a->segments % p)
        return rb_fail(
            err, RESBM_E_CONFIG,
            "pipeline.schedule interleaved-1f1b gives every stage as many segments, but %d stages do "
            "not divide %d segments; set model.segments to %d or %d",
            p, a->segments, a->segments / p * p, (a->segments / p + 1) * p);
    if (a->microbatches % p == 0) return RESBM_OK;
    int below = a->microbatches / p * p;
    return rb_fail(err, RESBM_E_CONFIG,
                   "pipeline.schedule interleaved-1f1b takes microbatches in rounds of one per stage, but %d "
                   "stages do not divide train.microbatches %d; set it to %d",
                   p, a->microbatches, below ? below : p);
}

/* The nth forward of a stage (or, counted from its last segment, the nth backward). */
static rb_action nth(const rb_schedule_args *a, int stage, rb_action_kind kind, int n) {
    int p = a->stages, v = a->segments / p, turn = n % (p * v) / p;
    int chunk = kind == RB_ACT_FORWARD ? turn : v - 1 - turn;
    return (rb_action){.kind = kind, .segment = chunk * p + stage, .microbatch = n / (p * v) * p + n % p};
}

/* Forwards before the first backward's: two hops' worth per stage behind, and p for every further segment. */
static int ahead_of(const rb_schedule_args *a, int stage) {
    int p = a->stages, v = a->segments / p;
    int ahead = v > 1 ? 2 * (p - 1 - stage) + (v - 1) * p : p - 1 - stage;
    return ahead < v * a->microbatches ? ahead : v * a->microbatches;
}

static resbm_status generate(const rb_schedule_args *a, rb_schedule *out, rb_err *err) {
    int count = a->segments / a->stages * a->microbatches;
    for (int s = 0; s < a->stages; s++) {
        int ahead = ahead_of(a, s);
        rb_action_list *l = &out->stage[s];
        for (int n = 0; n < ahead; n++) RB_TRY(rb_action_push(l, nth(a, s, RB_ACT_FORWARD, n), err));
        for (int n = 0; n < count; n++) {
            if (n + ahead < count) RB_TRY(rb_action_push(l, nth(a, s, RB_ACT_FORWARD, n + ahead), err));
            RB_TRY(rb_action_push(l, nth(a, s, RB_ACT_BACKWARD, n), err));
        }
    }
    return RESBM_OK;
}

/* Of the first n forwards of a stage, how many are of its cth segment; of its backwards, with c from the last. */
static int share(const rb_schedule_args *a, int n, int c) {
    int p = a->stages, round = a->segments, rest = n % round - c * p;
    return n / round * p + (rest < 0 ? 0 : rest < p ? rest : p);
}

/* On a stage by itself a segment's slot is taken by the forward of the segment before, which hands over to it. */
static int in_flight(const rb_schedule_args *a, int stage, int which) {
    int taker = a->stages == 1 && which > 0 ? which - 1 : which;
    int v = a->segments / a->stages, count = v * a->microbatches, ahead = ahead_of(a, stage), most = 0;
    for (int n = 0; n < count; n++) {
        int forwards = n + ahead + 1 < count ? n + ahead + 1 : count;
        int alive = share(a, forwards, taker) - share(a, n, v - 1 - which);
        if (alive > most) most = alive;
    }
    return most;
}

static int queue_bound(const rb_schedule_args *a) {
    (void)a;
    return 2;
}

const rb_schedule_kind rb_schedule_interleaved = {
    .name = "interleaved-1f1b",
    .summary = "1F1B over scattered segments, several to a stage: less idle time for more messages",
    .place = place,
    .check = check,
    .generate = generate,
    .in_flight = in_flight,
    .queue_bound = queue_bound,
};
