/* Updates of the optimizers, element by element. */
#include "device/cuda/each.h"

/* f: 1 - lr wd, 1 - beta1, beta2, 1 - beta2, lr/bias1, sqrt(bias2), eps, grad_scale (ops.c). */
struct adamw_of {
    float *p, *m, *v;
    const float *g;
    float f[8];
    __device__ void operator()(int64_t, int64_t i) const {
        float d = g[i] * f[7];
        float mi = m[i] + (d - m[i]) * f[1];
        float vi = v[i] * f[2] + d * d * f[3];
        m[i] = mi;
        v[i] = vi;
        p[i] = p[i] * f[0] - f[4] * mi / (sqrtf(vi) / f[5] + f[6]);
    }
};

RB_CUDA_SLOT(adamw) {
    adamw_of a = {(float *)op->t[0].data,
                  (float *)op->t[1].data,
                  (float *)op->t[2].data,
                  (const float *)op->t[3].data,
                  {}};
    for (int i = 0; i < 8; i++) a.f[i] = op->f[i];
    rb_each(q, &op->t[0], a);
    return rb_cuda_launched(op, err);
}

struct momentum_of {
    rb_view buf, update, g;
    float mu, scale;
    bool nesterov;
    __device__ void operator()(int64_t r, int64_t i) const {
        float gi = *rb_f32(g, r, i) * scale;
        float b = mu * *rb_f32(buf, r, i) + (1.0f - mu) * gi;
        *rb_f32(buf, r, i) = b;
        *rb_f32(update, r, i) = nesterov ? mu * b + (1.0f - mu) * gi : b;
    }
};

RB_CUDA_SLOT(muon_momentum) {
    rb_view v[3] = {op->t[0], op->t[1], op->t[2]};
    rb_cuda_simplify(v, 3);
    rb_each(q, &v[0], momentum_of{v[0], v[1], v[2], op->f[0], op->f[1], op->i[0] != 0});
    return rb_cuda_launched(op, err);
}
