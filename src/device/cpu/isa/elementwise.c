#include "core/bytes.h"
#include "device/cpu/cpu.h"
#include "device/cpu/isa.h"
#include "device/cpu/isa/math.h"
#include "device/cpu/spans.h"

#define FILL_ROW(type)                                                                                       \
    do {                                                                                                     \
        type *p_ = (type *)x->data + at, v_ = (type)value;                                                   \
        for (int64_t i_ = 0; i_ < n; i_++) p_[i_] = v_;                                                      \
    } while (0)

static void fill_span(const rb_view *x, int64_t at, int64_t n, float value) {
    switch (x->dtype) {
    case RB_F32:
        FILL_ROW(float);
        break;
    case RB_F64:
        FILL_ROW(double);
        break;
    case RB_I32:
        FILL_ROW(int32_t);
        break;
    case RB_I64:
        FILL_ROW(int64_t);
        break;
    default:
        FILL_ROW(uint8_t);
        break;
    }
}

resbm_status RB_ISA_NAME(rb_cpu_fill)(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    rb_spans s = rb_spans_of(op->t, 1);
#pragma omp parallel for num_threads(q->dev->opt.threads) if (s.total > RB_SPAWN_ELEMENTS) schedule(static)
    for (int64_t i = 0; i < s.count; i++)
        fill_span(&op->t[0], rb_span_offset(&s, &op->t[0], i), rb_span_length(&s, i), op->f[0]);
    return RESBM_OK;
}

/* y and x of n elements, each f32 or bf16. beta 0 never reads y. */
static void axpby_f32(float *y, const float *x, int64_t n, float alpha, float beta) {
    if (beta == 0) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) y[i] = alpha * x[i];
    } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) y[i] = alpha * x[i] + beta * y[i];
    }
}

static void axpby_mixed(const rb_view *y, int64_t y_at, const rb_view *x, int64_t x_at, int64_t n,
                        float alpha, float beta) {
    const float *xf = (const float *)x->data + x_at;
    const uint16_t *xh = (const uint16_t *)x->data + x_at;
    float *yf = (float *)y->data + y_at;
    uint16_t *yh = (uint16_t *)y->data + y_at;
    for (int64_t i = 0; i < n; i++) {
        float v = alpha * (x->dtype == RB_BF16 ? rb_bf16_to_f32(xh[i]) : xf[i]);
        if (beta != 0) v += beta * (y->dtype == RB_BF16 ? rb_bf16_to_f32(yh[i]) : yf[i]);
        if (y->dtype == RB_BF16)
            yh[i] = rb_bf16_from_f32(v);
        else
            yf[i] = v;
    }
}

resbm_status RB_ISA_NAME(rb_cpu_axpby)(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    const rb_view *y = &op->t[0], *x = &op->t[1];
    bool f32 = y->dtype == RB_F32 && x->dtype == RB_F32;
    rb_spans s = rb_spans_of(op->t, 2);
#pragma omp parallel for num_threads(q->dev->opt.threads) if (s.total > RB_SPAWN_ELEMENTS) schedule(static)
    for (int64_t i = 0; i < s.count; i++) {
        int64_t n = rb_span_length(&s, i), ya = rb_span_offset(&s, y, i), xa = rb_span_offset(&s, x, i);
        if (f32)
            axpby_f32((float *)y->data + ya, (const float *)x->data + xa, n, op->f[0], op->f[1]);
        else
            axpby_mixed(y, ya, x, xa, n, op->f[0], op->f[1]);
    }
    return RESBM_OK;
}

resbm_status RB_ISA_NAME(rb_cpu_swiglu_forward)(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    rb_spans s = rb_spans_of(op->t, 3);
#pragma omp parallel for num_threads(q->dev->opt.threads) if (s.total > RB_SPAWN_ELEMENTS) schedule(static)
    for (int64_t i = 0; i < s.count; i++) {
        float *h = rb_span_f32(&s, &op->t[0], i);
        const float *g = rb_span_f32(&s, &op->t[1], i), *u = rb_span_f32(&s, &op->t[2], i);
        int64_t n = rb_span_length(&s, i);
#pragma omp simd
        for (int64_t j = 0; j < n; j++) h[j] = g[j] * rb_sigmoidf(g[j]) * u[j];
    }
    return RESBM_OK;
}

/* dgate may be gate, dup may be up, h may be dh: each element is read before any of its results is stored. */
static void swiglu_backward_span(float *dgate, float *dup, float *h, const float *dh, const float *gate,
                                 const float *up, int64_t n) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        float g = gate[j], u = up[j], d = dh[j], sig = rb_sigmoidf(g), act = g * sig;
        dgate[j] = d * u * (sig + act * (1 - sig));
        dup[j] = d * act;
        if (h) h[j] = act * u;
    }
}

resbm_status RB_ISA_NAME(rb_cpu_swiglu_backward)(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    rb_spans s = rb_spans_of(op->t, 6);
#pragma omp parallel for num_threads(q->dev->opt.threads) if (s.total > RB_SPAWN_ELEMENTS) schedule(static)
    for (int64_t i = 0; i < s.count; i++) {
        float *p[6];
        for (int j = 0; j < 6; j++) p[j] = rb_span_f32(&s, &op->t[j], i);
        swiglu_backward_span(p[0], p[1], p[2], p[3], p[4], p[5], rb_span_length(&s, i));
    }
    return RESBM_OK;
}

resbm_status RB_ISA_NAME(rb_cpu_silu_forward)(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    rb_spans s = rb_spans_of(op->t, 2);
#pragma omp parallel for num_threads(q->dev->opt.threads) if (s.total > RB_SPAWN_ELEMENTS) schedule(static)
    for (int64_t i = 0; i < s.count; i++) {
        float *y = rb_span_f32(&s, &op->t[0], i);
        const float *x = rb_span_f32(&s, &op->t[1], i);
        int64_t n = rb_span_length(&s, i);
#pragma omp simd
        for (int64_t j = 0; j < n; j++) y[j] = x[j] * rb_sigmoidf(x[j]);
    }
    return RESBM_OK;
}

resbm_status RB_ISA_NAME(rb_cpu_silu_backward)(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    rb_spans s = rb_spans_of(op->t, 3);
#pragma omp parallel for num_threads(q->dev->opt.threads) if (s.total > RB_SPAWN_ELEMENTS) schedule(static)
    for (int64_t i = 0; i < s.count; i++) {
        float *dx = rb_span_f32(&s, &op->t[0], i);
        const float *dy = rb_span_f32(&s, &op->t[1], i), *x = rb_span_f32(&s, &op->t[2], i);
        int64_t n = rb_span_length(&s, i);
#pragma omp simd
        for (int64_t j = 0; j < n; j++) {
            float sig = rb_sigmoidf(x[j]);
            dx[j] = dy[j] * (sig + x[j] * sig * (1 - sig));
        }
    }
    return RESBM_OK;
}
