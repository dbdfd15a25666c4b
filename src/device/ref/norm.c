#include <math.h>
#include "device/ref/ref.h"
#include "device/view.h"

resbm_status rb_ref_rmsnorm_forward(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    const rb_view *y = &op->t[0], *rstd = &op->t[1], *x = &op->t[2], *w = &op->t[3];
    int64_t d = rb_row_width(x);
    for (int64_t r = 0; r < rb_row_count(x); r++) {
        const float *px = rb_row_f32(x, r), *pw = w->data;
        float *py = rb_row_f32(y, r);
        double sum = 0;
        for (int64_t i = 0; i < d; i++) sum += (double)px[i] * (double)px[i];
        double s = 1 / sqrt(sum / (double)d + (double)op->f[0]);
        for (int64_t i = 0; i < d; i++) py[i] = (float)((double)px[i] * s * (pw ? (double)pw[i] : 1));
        *rb_at1(rstd, r) = (float)s;
    }
    return RESBM_OK;
}

/* dx = s (w dy) - x s^3/d sum(w dy x), s = rstd. */
resbm_status rb_ref_rmsnorm_backward_x(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    const rb_view *dx = &op->t[0], *dy = &op->t[1], *x = &op->t[2], *w = &op->t[3], *rstd = &op->t[4];
    int64_t d = rb_row_width(x);
    double beta = op->f[0];
    for (int64_t r = 0; r < rb_row_count(x); r++) {
        const float *px = rb_row_f32(x, r), *pdy = rb_row_f32(dy, r), *pw = w->data;
        float *pdx = rb_row_f32(dx, r);
        double s = *rb_at1(rstd, r), dot = 0;
        for (int64_t i = 0; i < d; i++) dot += (double)pdy[i] * (pw ? (double)pw[i] : 1) * (double)px[i];
        double c = dot * s * s * s / (double)d;
        for (int64_t i = 0; i < d; i++) {
            double g = s * (double)pdy[i] * (pw ? (double)pw[i] : 1) - c * (double)px[i];
            pdx[i] = (float)(g + (beta == 0 ? 0 : beta * (double)pdx[i]));
        }
    }
    return RESBM_OK;
}

resbm_status rb_ref_rmsnorm_backward_w(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    const rb_view *dw = &op->t[0], *dy = &op->t[1], *x = &op->t[2], *rstd = &op->t[3];
    int64_t rows = rb_row_count(x);
    for (int64_t i = 0; i < rb_row_width(x); i++) {
        double sum = 0;
        for (int64_t r = 0; r < rows; r++)
            sum += (double)rb_row_f32(dy, r)[i] * (double)rb_row_f32(x, r)[i] * (double)*rb_at1(rstd, r);
        ((float *)dw->data)[i] += (float)sum;
    }
    return RESBM_OK;
}
