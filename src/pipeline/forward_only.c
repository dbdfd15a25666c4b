/* Evaluation: every microbatch forward, nothing kept for a backward. Three stages, three microbatches:
 *
 *     0  0F0 0F1 0F2 .   .
 *     1  .   1F0 1F1 1F2 .
 *     2  .   .   2F0 2F1 2F2
 *
 * Where a stage hosts scattered segments, microbatches go in rounds of one per stage: all of a round through a
 * stage's first run of neighbouring segments, then all through the next, so that nobody waits for one to come
 * round. Two stages, four segments:
 *
 *     0  0F0 0F1 2F0 2F1
 *     1  .   1F0 1F1 3F0 3F1
 */
#include "pipeline/schedules.h"

/* Neighbouring segments of one stage from g on. */
static int run_of(const rb_schedule *s, int g) {
    int n = 1;
    while (g + n < s->segments && s->stage_of[g + n] == s->stage_of[g]) n++;
    return n;
}

/* Microbatches from, from + 1, ... through the run that begins with segment g. */
static resbm_status push_round(rb_schedule *s, int g, int from, int count, rb_err *err) {
    rb_action_list *l = &s->stage[s->stage_of[g]];
    for (int m = from; m < from + count; m++) {
        for (int i = 0; i < run_of(s, g); i++)
            RB_TRY(rb_action_push(l, (rb_action){.kind = RB_ACT_FORWARD, .segment = g + i, .microbatch = m},
                                  err));
    }
    return RESBM_OK;
}

static resbm_status generate(const rb_schedule_args *a, rb_schedule *out, rb_err *err) {
    for (int from = 0; from < a->microbatches; from += a->stages) {
        int rest = a->microbatches - from;
        for (int g = 0; g < a->segments; g += run_of(out, g))
            RB_TRY(push_round(out, g, from, rest < a->stages ? rest : a->stages, err));
    }
    return RESBM_OK;
}

static int in_flight(const rb_schedule_args *a, int stage, int nth) {
    (void)a, (void)stage, (void)nth;
    return 1;
}

static int queue_bound(const rb_schedule_args *a) {
    return a->stages;
}

const rb_schedule_kind rb_schedule_forward = {
    .name = "forward",
    .summary = "evaluation: forwards only",
    .forward_only = true,
    .anywhere = true,
    .generate = generate,
    .in_flight = in_flight,
    .queue_bound = queue_bound,
};
