#include "device/ref/ref.h"
#include "device/view.h"

resbm_status rb_ref_rope(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    const rb_view *x = &op->t[0], *cos = &op->t[1], *sin = &op->t[2];
    int64_t half = x->shape[3] / 2;
    double sign = op->i[1] ? -1 : 1;
    for (int64_t b = 0; b < x->shape[0]; b++)
        for (int64_t t = 0; t < x->shape[1]; t++)
            for (int64_t h = 0; h < x->shape[2]; h++) {
                float *p = rb_head_row(x, b, t, h);
                const float *c = rb_row_f32(cos, op->i[0] + t), *s = rb_row_f32(sin, op->i[0] + t);
                for (int64_t i = 0; i < half; i++) {
                    double re = p[i], im = p[i + half], si = sign * (double)s[i];
                    p[i] = (float)(re * (double)c[i] - im * si);
                    p[i + half] = (float)(im * (double)c[i] + re * si);
                }
            }
    return RESBM_OK;
}
