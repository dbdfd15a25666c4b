#include <math.h>
#include "device/ref/ref.h"
#include "device/view.h"

/* f: 1 - lr wd, 1 - beta1, beta2, 1 - beta2, lr/bias1, sqrt(bias2), eps, grad_scale (ops.c). */
resbm_status rb_ref_adamw(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    const float *f = op->f, *pg = op->t[3].data;
    float *p = op->t[0].data, *m = op->t[1].data, *v = op->t[2].data;
    for (int64_t i = 0; i < op->t[0].shape[0]; i++) {
        double g = (double)pg[i] * (double)f[7];
        double mi = (double)m[i] + (g - (double)m[i]) * (double)f[1];
        double vi = (double)v[i] * (double)f[2] + g * g * (double)f[3];
        m[i] = (float)mi;
        v[i] = (float)vi;
        p[i] = (float)((double)p[i] * (double)f[0] -
                       (double)f[4] * mi / (sqrt(vi) / (double)f[5] + (double)f[6]));
    }
    return RESBM_OK;
}

resbm_status rb_ref_muon_momentum(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    const rb_view *buf = &op->t[0], *update = &op->t[1], *g = &op->t[2];
    double mu = op->f[0];
    for (int64_t r = 0; r < rb_row_count(g); r++)
        for (int64_t i = 0; i < rb_row_width(g); i++) {
            double gi = (double)rb_row_f32(g, r)[i] * (double)op->f[1];
            double b = mu * (double)rb_row_f32(buf, r)[i] + (1 - mu) * gi;
            rb_row_f32(buf, r)[i] = (float)b;
            rb_row_f32(update, r)[i] = (float)(op->i[0] ? mu * b + (1 - mu) * gi : b);
        }
    return RESBM_OK;
}
