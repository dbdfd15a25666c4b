#include <math.h>
#include "device/ref/ref.h"
#include "device/view.h"

static double reduce(const rb_view *x, bool squared) {
    double sum = 0;
    for (int64_t r = 0; r < rb_row_count(x); r++)
        for (int64_t i = 0; i < rb_row_width(x); i++) {
            double v = rb_row_f32(x, r)[i];
            sum += squared ? v * v : v;
        }
    return sum;
}

resbm_status rb_ref_sum(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    *(double *)op->t[0].data = reduce(&op->t[1], false);
    return RESBM_OK;
}

resbm_status rb_ref_sumsq(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    *(double *)op->t[0].data = reduce(&op->t[1], true);
    return RESBM_OK;
}

resbm_status rb_ref_normalize(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    const rb_view *y = &op->t[0], *x = &op->t[1];
    double norm = sqrt(*(const double *)op->t[2].data), eps = op->f[0];
    if (norm < eps) norm = eps;
    for (int64_t r = 0; r < rb_row_count(x); r++)
        for (int64_t i = 0; i < rb_row_width(x); i++)
            rb_row_f32(y, r)[i] = (float)((double)rb_row_f32(x, r)[i] / norm);
    return RESBM_OK;
}
