/* Rotary embedding, in place. */
#include "device/cuda/each.h"
#include "device/cuda/wide.h"

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

/* The same, N pairs at a time. */
template <class X> struct rotate_wide {
    enum { N = 16 / sizeof(X) };
    struct in {
        rb_wide<X, N> re, im;
        rb_wide<float, N> c, s;
    };
    X *x;
    int64_t per_b, per_t, per_h;
    const float *cos, *sin; /* rows from the offset on */
    int64_t cos_gap, sin_gap;
    unsigned T, H, half;
    float sign;
    __device__ __forceinline__ X *pairs(unsigned r, unsigned i, unsigned &t) const {
        unsigned bt = r / H, b = bt / T;
        t = bt - b * T;
        return x + b * per_b + t * per_t + (r - bt * H) * per_h + i;
    }
    __device__ void read(unsigned r, unsigned i, in &a) const {
        unsigned t;
        const X *p = pairs(r, i, t);
        a.re.load(p);
        a.im.load(p + half);
        a.c.load(cos + t * cos_gap + i);
        a.s.load(sin + t * sin_gap + i);
    }
    __device__ void write(unsigned r, unsigned i, const in &a) const {
        unsigned t;
        X *p = pairs(r, i, t);
        float re[N], im[N];
        for (int j = 0; j < N; j++) {
            float c = a.c[j], s = sign * a.s[j];
            re[j] = a.re[j] * c - a.im[j] * s;
            im[j] = a.im[j] * c + a.re[j] * s;
        }
        rb_give<N>(p, re);
        rb_give<N>(p + half, im);
    }
};

template <class X> static bool rotates_wide(rb_queue *q, const rb_op *op, const rotate &f) {
    enum { N = rotate_wide<X>::N };
    const rb_view &x = f.x;
    int64_t rows = x.shape[0] * x.shape[1] * x.shape[2];
    if (f.half % N || rows * x.shape[3] > RB_MOST_IN_32_BITS || !rb_is_wide(x, N) || !rb_is_wide(op->t[1], 4) ||
        !rb_is_wide(op->t[2], 4))
        return false;
    int64_t cos_gap = f.cos.stride[0], sin_gap = f.sin.stride[0];
    rotate_wide<X> w = {(X *)x.data,
                        x.stride[0],
                        x.stride[1],
                        x.stride[2],
                        (const float *)f.cos.data + f.offset * cos_gap,
                        (const float *)f.sin.data + f.offset * sin_gap,
                        cos_gap,
                        sin_gap,
                        (unsigned)f.T,
                        (unsigned)f.H,
                        (unsigned)f.half,
                        f.sign};
    rb_each_wide(q, rows, f.half, w);
    return true;
}

RB_CUDA_SLOT(rope) {
    const rb_view &x = op->t[0];
    int64_t half = x.shape[3] / 2;
    rb_view pairs = rb_view2(x.data, RB_F32, x.shape[0] * x.shape[1] * x.shape[2], half);
    rotate f = {x, op->t[1], op->t[2], x.shape[1], x.shape[2], half, op->i[0], op->i[1] ? -1.0f : 1.0f};
    if (f.cos.shape[0] == 1) f.cos.rank = f.sin.rank = 2; /* rb_f32 counts rows of rank 2 by their stride */
    if (x.dtype == RB_BF16 ? rotates_wide<uint16_t>(q, op, f) : rotates_wide<float>(q, op, f))
        return rb_cuda_launched(op, err);
    rb_each(q, &pairs, f);
    return rb_cuda_launched(op, err);
}
