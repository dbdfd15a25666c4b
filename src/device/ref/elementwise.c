#include <math.h>
#include "core/bytes.h"
#include "device/ref/ref.h"
#include "device/view.h"

static double load(const rb_view *v, int64_t at) {
    return v->dtype == RB_BF16 ? (double)rb_bf16_to_f32(((const uint16_t *)v->data)[at])
                               : (double)((const float *)v->data)[at];
}

static void store(const rb_view *v, int64_t at, double value) {
    switch (v->dtype) {
    case RB_F32:
        ((float *)v->data)[at] = (float)value;
        break;
    case RB_BF16:
        ((uint16_t *)v->data)[at] = rb_bf16_from_f32((float)value);
        break;
    case RB_I32:
        ((int32_t *)v->data)[at] = (int32_t)value;
        break;
    case RB_U8:
        ((uint8_t *)v->data)[at] = (uint8_t)value;
        break;
    case RB_F64:
        ((double *)v->data)[at] = value;
        break;
    case RB_I64:
        ((int64_t *)v->data)[at] = (int64_t)value;
        break;
    case RB_DTYPE_COUNT:
        break;
    }
}

resbm_status rb_ref_fill(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    const rb_view *x = &op->t[0];
    for (int64_t r = 0; r < rb_row_count(x); r++)
        for (int64_t i = 0; i < rb_row_width(x); i++) store(x, rb_row_offset(x, r) + i, (double)op->f[0]);
    return RESBM_OK;
}

resbm_status rb_ref_axpby(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    const rb_view *y = &op->t[0], *x = &op->t[1];
    double alpha = op->f[0], beta = op->f[1];
    for (int64_t r = 0; r < rb_row_count(y); r++)
        for (int64_t i = 0; i < rb_row_width(y); i++) {
            int64_t at = rb_row_offset(y, r) + i;
            double ax = alpha * load(x, rb_row_offset(x, r) + i);
            store(y, at, beta == 0 ? ax : ax + beta * load(y, at));
        }
    return RESBM_OK;
}

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}
static double silu(double x) {
    return x * sigmoid(x);
}
static double silu_slope(double x) {
    return sigmoid(x) * (1 + x * (1 - sigmoid(x)));
}

resbm_status rb_ref_swiglu_forward(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    const rb_view *h = &op->t[0], *gate = &op->t[1], *up = &op->t[2];
    for (int64_t r = 0; r < h->shape[0]; r++)
        for (int64_t i = 0; i < h->shape[1]; i++)
            rb_row_f32(h, r)[i] = (float)(silu(rb_row_f32(gate, r)[i]) * (double)rb_row_f32(up, r)[i]);
    return RESBM_OK;
}

resbm_status rb_ref_swiglu_backward(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    const rb_view *dgate = &op->t[0], *dup = &op->t[1], *h = &op->t[2], *dh = &op->t[3], *gate = &op->t[4],
                  *up = &op->t[5];
    for (int64_t r = 0; r < dh->shape[0]; r++)
        for (int64_t i = 0; i < dh->shape[1]; i++) {
            double g = rb_row_f32(gate, r)[i], u = rb_row_f32(up, r)[i], d = rb_row_f32(dh, r)[i];
            rb_row_f32(dgate, r)[i] = (float)(d * u * silu_slope(g));
            rb_row_f32(dup, r)[i] = (float)(d * silu(g));
            if (h->data) rb_row_f32(h, r)[i] = (float)(silu(g) * u);
        }
    return RESBM_OK;
}

resbm_status rb_ref_silu_forward(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    const rb_view *y = &op->t[0], *x = &op->t[1];
    for (int64_t r = 0; r < rb_row_count(x); r++)
        for (int64_t i = 0; i < rb_row_width(x); i++) rb_row_f32(y, r)[i] = (float)silu(rb_row_f32(x, r)[i]);
    return RESBM_OK;
}

resbm_status rb_ref_silu_backward(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    const rb_view *dx = &op->t[0], *dy = &op->t[1], *x = &op->t[2];
    for (int64_t r = 0; r < rb_row_count(x); r++)
        for (int64_t i = 0; i < rb_row_width(x); i++)
            rb_row_f32(dx, r)[i] = (float)((double)rb_row_f32(dy, r)[i] * silu_slope(rb_row_f32(x, r)[i]));
    return RESBM_OK;
}
