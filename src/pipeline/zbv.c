/* ZB-V (Qi et al. 2024, arXiv 2405.15362): every stage hosts two segments, placed in a V: stage s has segment s
 * on the way out and segment 2p-1-s on the way back, so that the last stage turns microbatches round without a
 * message and the first one ends with the loss. With the halves apart no stage idles between its first action
 * and its last once there are 2p microbatches, in 1F1B's memory. Two stages, four microbatches:
 *
 *     0  0F0 0F1 0F2 3F0 3I0 3W0 3F1 3I1 3W1 0F3 0I0 0W0 3F2 3I2 3W2 0I1 0W1 3F3 3I3 3W3 0I2 0W2 0I3 0W3 .
 *     1  .   1F0 2F0 1F1 2F1 2I0 2W0 1F2 1I0 1W0 2F2 2I1 2W1 1F3 1I1 1W1 2F3 2I2 2W2 1I2 2I3 1I3 1W2 2W3 1W3
 */
#include "pipeline/schedules.h"

static int place(int stages, int segments, int segment) {
    return segment < stages ? segment : segments - 1 - segment;
}

static resbm_status check(const rb_schedule_args *a, rb_err *err) {
    if (a->segments == 2 * a->stages) return RESBM_OK;
    return rb_fail(
        err, RESBM_E_CONFIG,
        "pipeline.schedule zbv needs segments = 2 x stages, two segments to a stage, but there are %d "
        "segments and %d stages; set model.segments to %d, or pipeline.stages to %d",
        a->segments, a->stages, 2 * a->stages, a->segments > 1 ? a->segments / 2 : 1);
}

/* A stage's list under construction: counts of what each of its two segments has done. */
typedef struct builder {
    rb_schedule *out;
    int stage,
        count; /* microbatches that exist; those beyond are left out of a list made for enough of them */
    int done[2][RB_ACT_COUNT];
} builder;

static resbm_status push(builder *b, rb_action_kind kind, int way, rb_err *err) {
    int m = b->done[way][kind]++, segment = way ? b->out->segments - 1 - b->stage : b->stage;
    if (m >= b->count) return RESBM_OK;
    return rb_action_push(&b->out->stage[b->stage],
                          (rb_action){.kind = kind, .segment = segment, .microbatch = m}, err);
}

/* I and W of one microbatch. */
static resbm_status push_backward(builder *b, int way, rb_err *err) {
    RB_TRY(push(b, RB_ACT_BACKWARD_INPUT, way, err));
    return push(b, RB_ACT_BACKWARD_WEIGHT, way, err);
}

static resbm_status warm_up(builder *b, int p, rb_err *err) {
    for (int i = 0; i < 2 * (p - b->stage) - 1; i++) RB_TRY(push(b, RB_ACT_FORWARD, 0, err));
    for (int i = 0; i < b->stage; i++) {
        RB_TRY(push(b, RB_ACT_FORWARD, 1, err));
        RB_TRY(push(b, RB_ACT_FORWARD, 0, err));
    }
    for (int i = 0; i < p - b->stage; i++) {
        RB_TRY(push(b, RB_ACT_FORWARD, 1, err));
        RB_TRY(push_backward(b, 1, err));
    }
    return RESBM_OK;
}

static resbm_status cool_down(builder *b, int p, rb_err *err) {
    for (int i = 0; i < b->stage; i++) {
        RB_TRY(push(b, RB_ACT_BACKWARD_INPUT, 0, err));
        RB_TRY(push(b, RB_ACT_BACKWARD_INPUT, 1, err));
    }
    for (int i = 0; i < p - b->stage; i++) RB_TRY(push_backward(b, 0, err));
    for (int way = 1; way >= 0; way--) {
        const int *done = b->done[way];
        while (done[RB_ACT_BACKWARD_WEIGHT] < done[RB_ACT_BACKWARD_INPUT])
            RB_TRY(push(b, RB_ACT_BACKWARD_WEIGHT, way, err));
    }
    return RESBM_OK;
}

static resbm_status generate(const rb_schedule_args *a, rb_schedule *out, rb_err *err) {
    int p = a->stages, enough = a->microbatches > 2 * p - 1 ? a->microbatches : 2 * p - 1;
    for (int s = 0; s < p; s++) {
        builder b = {.out = out, .stage = s, .count = a->microbatches};
        RB_TRY(warm_up(&b, p, err));
        while (b.done[0][RB_ACT_FORWARD] < enough || b.done[1][RB_ACT_FORWARD] < enough) {
            if (b.done[0][RB_ACT_FORWARD] < enough) RB_TRY(push(&b, RB_ACT_FORWARD, 0, err));
            RB_TRY(push_backward(&b, 0, err));
            RB_TRY(push(&b, RB_ACT_FORWARD, 1, err));
            RB_TRY(push_backward(&b, 1, err));
        }
        RB_TRY(cool_down(&b, p, err));
    }
    return RESBM_OK;
}

static int in_flight(const rb_schedule_args *a, int stage, int nth) {
    int most = nth ? stage + 1 : 2 * a->stages - stage;
    return most < a->microbatches ? most : a->microbatches;
}

static int queue_bound(const rb_schedule_args *a) {
    (void)a;
    return 2;
}

const rb_schedule_kind rb_schedule_zbv = {
    .name = "zbv",
    .summary = "two segments to a stage in a V, backward in halves: no idle time in 1F1B's memory",
    .place = place,
    .check = check,
    .generate = generate,
    .in_flight = in_flight,
    .queue_bound = queue_bound,
};
