/* Rotary embedding, in place. */
#include "device/cuda/each.h"

/* Row: one head of one position; column: the pair. */
struct rotate {
    rb_view x, cos, sin;
    int64_t T, H, half, offset;
    float sign;
    __device__ void operator()(int64_t r, int64_t i) const {
        int64_t h = r % H, t = r / H % T, b = r / (H * T);
        rb_cells p = rb_cells_of_head(x, b, t, h);
        float c = *rb_f32(cos, offset + t, i), s = sign * *rb_f32(sin, offset + t, i), re = p.get(i),
              im = p.get(i + half);
        p.put(i, re * c - im * s);
        p.put(i + half, im * c + re * s);
    }
};

RB_CUDA_SLOT(rope) {
    const rb_view &x = op->t[0];
    int64_t half = x.shape[3] / 2;
    rb_view pairs = rb_view2(x.data, RB_F32, x.shape[0] * x.shape[1] * x.shape[2], half);
    rotate f = {x, op->t[1], op->t[2], x.shape[1], x.shape[2], half, op->i[0], op->i[1] ? -1.0f : 1.0f};
    if (f.cos.shape[0] == 1) f.cos.rank = f.sin.rank = 2; /* rb_f32 counts rows of rank 2 by their stride */
    rb_each(q, &pairs, f);
    return rb_cuda_launched(op, err);
}
