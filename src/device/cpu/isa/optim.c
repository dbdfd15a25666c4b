#include <math.h>
#include "device/cpu/cpu.h"
#include "device/cpu/isa.h"
#include "device/cpu/spans.h"

/* f: 1 - lr wd, 1 - beta1, beta2, 1 - beta2, lr/bias1, sqrt(bias2), eps, grad_scale (ops.c). */
static void adamw_span(float *p, float *m, float *v, const float *pg, int64_t n, const float *f) {
    float decay = f[0], lerp = f[1], beta2 = f[2], rest2 = f[3], step = f[4], root = 1 / f[5], eps = f[6],
          gs = f[7];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float g = pg[i] * gs;
        float mi = m[i] + (g - m[i]) * lerp;
        float vi = v[i] * beta2 + g * g * rest2;
        m[i] = mi;
        v[i] = vi;
        p[i] = p[i] * decay - step * mi / (sqrtf(vi) * root + eps);
    }
}

resbm_status RB_ISA_NAME(rb_cpu_adamw)(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    rb_spans s = rb_spans_of(op->t, 4);
#pragma omp parallel for num_threads(q->dev->opt.threads) if (s.total > RB_SPAWN_ELEMENTS) schedule(static)
    for (int64_t i = 0; i < s.count; i++)
        adamw_span(rb_span_f32(&s, &op->t[0], i), rb_span_f32(&s, &op->t[1], i),
                   rb_span_f32(&s, &op->t[2], i), rb_span_f32(&s, &op->t[3], i), rb_span_length(&s, i),
                   op->f);
    return RESBM_OK;
}

/* update may be pg: each element is read before it is stored. */
static void momentum_span(float *buf, float *update, const float *pg, int64_t n, float mu, float gs,
                          bool nesterov) {
    float rest = 1 - mu;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float g = pg[i] * gs, b = mu * buf[i] + rest * g;
        buf[i] = b;
        update[i] = nesterov ? mu * b + rest * g : b;
    }
}

resbm_status RB_ISA_NAME(rb_cpu_muon_momentum)(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    rb_spans s = rb_spans_of(op->t, 3);
#pragma omp parallel for num_threads(q->dev->opt.threads) if (s.total > RB_SPAWN_ELEMENTS) schedule(static)
    for (int64_t i = 0; i < s.count; i++)
        momentum_span(rb_span_f32(&s, &op->t[0], i), rb_span_f32(&s, &op->t[1], i),
                      rb_span_f32(&s, &op->t[2], i), rb_span_length(&s, i), op->f[0], op->f[1],
                      op->i[0] != 0);
    return RESBM_OK;
}
