#include "device/cpu/cpu.h"
#include "device/cpu/isa.h"
#include "device/cpu/spans.h"

/* Rotates the pairs (i, i + half) of one head by the angles of one position. */
static void rotate(float *p, const float *c, const float *s, int64_t half, float sign) {
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        float re = p[i], im = p[i + half], si = sign * s[i];
        p[i] = re * c[i] - im * si;
        p[i + half] = im * c[i] + re * si;
    }
}

resbm_status RB_ISA_NAME(rb_cpu_rope)(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    const rb_view *x = &op->t[0], *cos = &op->t[1], *sin = &op->t[2];
    int64_t B = x->shape[0], T = x->shape[1], H = x->shape[2], D = x->shape[3];
    float sign = op->i[1] ? -1 : 1;
#pragma omp parallel for num_threads(q->dev->opt.threads) if (rb_count(*x) > RB_SPAWN_ELEMENTS)              \
    schedule(static)
    for (int64_t r = 0; r < B * T; r++) {
        int64_t t = r % T;
        const float *c = rb_row_f32(cos, op->i[0] + t), *s = rb_row_f32(sin, op->i[0] + t);
        float *row = rb_head_row(x, r / T, t, 0);
        for (int64_t h = 0; h < H; h++) rotate(row + h * x->stride[2], c, s, D / 2, sign);
    }
    return RESBM_OK;
}
