/* ZB-H1 (Qi et al. 2024, arXiv 2401.10241): 1F1B with the backward in two halves. The next stage waits for the
 * input half I alone; weight halves W wait, s of them on stage s, and fill the time in which 1F1B drains.
 * Memory of 1F1B's first stage on every stage; idle share (p-1)/(3m+p-1) where F, I and W take as long. Three
 * stages, four microbatches:
 *
 *     0  0F0 0F1 0F2 .   .   0I0 0W0 0F3 0I1 0W1 0I2 0W2 0I3 0W3
 *     1  .   1F0 1F1 .   1I0 1F2 1I1 1W0 1F3 1I2 1W1 1I3 1W2 1W3
 *     2  .   .   2F0 2I0 2F1 2I1 2F2 2I2 2W0 2F3 2I3 2W1 2W2 2W3
 *
 * `extra` microbatches in flight go to forwards where latency wants them (1F1B's share), and what a stage has left of
 * them to weight halves that wait longer: the last stage needs no forwards ahead, but the sooner its last input half is
 * done, the less the others wait for the gradients on their way at the end. */
#include <stdint.h>
#include "pipeline/schedules.h"

static int in_flight(const rb_schedule_args *a, int stage, int nth) {
    (void)stage, (void)nth;
    int64_t most = (int64_t)a->stages + a->extra;
    return most < a->microbatches ? (int)most : a->microbatches;
}

static resbm_status generate(const rb_schedule_args *a, rb_schedule *out, rb_err *err) {
    int count = a->microbatches;
    for (int s = 0; s < a->stages; s++) {
        int ahead = rb_1f1b_in_flight(a, s) - 1, weights = 0;
        int put_off = a->stages + a->extra - rb_1f1b_deep(a, s); /* s of them without extra */
        for (int m = 0; m < ahead; m++) RB_TRY(rb_push_all(out, s, RB_ACT_FORWARD, m, err));
        for (int m = 0; m < count; m++) {
            if (m + ahead < count) RB_TRY(rb_push_all(out, s, RB_ACT_FORWARD, m + ahead, err));
            RB_TRY(rb_push_all(out, s, RB_ACT_BACKWARD_INPUT, m, err));
            if (m >= put_off) RB_TRY(rb_push_all(out, s, RB_ACT_BACKWARD_WEIGHT, weights++, err));
        }
        while (weights < count) RB_TRY(rb_push_all(out, s, RB_ACT_BACKWARD_WEIGHT, weights++, err));
    }
    return RESBM_OK;
}

static int queue_bound(const rb_schedule_args *a) {
    return rb_schedule_1f1b.queue_bound(a);
}

const rb_schedule_kind rb_schedule_zb_h1 = {
    .name = "zb-h1",
    .summary = "1F1B whose weight gradients wait and fill the idle time at the end; no more memory than 1F1B",
    .takes_extra = true,
    .generate = generate,
    .in_flight = in_flight,
    .queue_bound = queue_bound,
};
