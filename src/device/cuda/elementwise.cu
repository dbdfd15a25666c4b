/* fill, axpby, and the activations. */
#include "device/cuda/each.h"
#include "device/cuda/wide.h"

template <class T> struct fill_with {
    rb_view x;
    T value;
    __device__ void operator()(int64_t r, int64_t i) const {
        ((T *)x.data)[rb_row_offset(&x, r) + i] = value;
    }
};

template <class T> static void fill_as(rb_queue *q, rb_view x, float value) {
    rb_cuda_simplify(&x, 1);
    rb_each(q, &x, fill_with<T>{x, (T)value});
}

struct fill_wide {
    enum { N = RB_WIDE_F32 };
    struct in {};
    rb_lines<float> x;
    float value;
    __device__ void read(unsigned, unsigned, in &) const {}
    __device__ void write(unsigned r, unsigned i, const in &) const {
        float v[N] = {value, value, value, value};
        rb_give<N>(x(r, i), v);
    }
};
static void fill_f32(rb_queue *q, rb_view x, float value) {
    rb_cuda_simplify(&x, 1);
    if (rb_can_walk(&x, 1, RB_WIDE_F32))
        rb_each_wide(q, x, fill_wide{rb_lines<float>(x), value});
    else
        fill_as<float>(q, x, value);
}

RB_CUDA_SLOT(fill) {
    const rb_view &x = op->t[0];
    switch (x.dtype) {
    case RB_F32:
        fill_f32(q, x, op->f[0]);
        break;
    case RB_F64:
        fill_as<double>(q, x, op->f[0]);
        break;
    case RB_I64:
        fill_as<int64_t>(q, x, op->f[0]);
        break;
    case RB_I32:
        fill_as<int32_t>(q, x, op->f[0]);
        break;
    default:
        fill_as<uint8_t>(q, x, op->f[0]);
        break;
    }
    return rb_cuda_launched(op, err);
}

struct axpby_of {
    rb_view y, x;
    float alpha, beta;
    __device__ void operator()(int64_t r, int64_t i) const {
        rb_cells to = rb_cell_row(y, r);
        float v = alpha * rb_get(x, r, i);
        if (beta != 0) v += beta * to.get(i);
        to.put(i, v);
    }
};

template <class Y, class X> struct axpby_wide {
    enum { N = sizeof(Y) + sizeof(X) == 4 ? RB_WIDE_HALF : RB_WIDE_F32 };
    struct in {
        rb_wide<X, N> x;
        rb_wide<Y, N> y;
    };
    rb_lines<Y> y;
    rb_lines<X> x;
    float alpha, beta;
    __device__ void read(unsigned r, unsigned i, in &a) const {
        a.x.load(x(r, i));
        if (beta != 0) a.y.load(y(r, i));
    }
    __device__ void write(unsigned r, unsigned i, const in &a) const {
        float v[N];
        for (int j = 0; j < N; j++) {
            v[j] = alpha * a.x[j];
            if (beta != 0) v[j] += beta * a.y[j];
        }
        rb_give<N>(y(r, i), v);
    }
};
template <class Y, class X> static bool axpby_walks(rb_queue *q, const rb_view *v, const float *f) {
    typedef axpby_wide<Y, X> walk;
    if (!rb_can_walk(v, 2, walk::N)) return false;
    rb_each_wide(q, v[0], walk{rb_lines<Y>(v[0]), rb_lines<X>(v[1]), f[0], f[1]});
    return true;
}

RB_CUDA_SLOT(axpby) {
    rb_view v[2] = {op->t[0], op->t[1]};
    rb_cuda_simplify(v, 2);
    bool y = v[0].dtype == RB_BF16, x = v[1].dtype == RB_BF16;
    if (!(y ? x ? axpby_walks<uint16_t, uint16_t>(q, v, op->f) : axpby_walks<uint16_t, float>(q, v, op->f)
          : x ? axpby_walks<float, uint16_t>(q, v, op->f)
              : axpby_walks<float, float>(q, v, op->f)))
        rb_each(q, &v[0], axpby_of{v[0], v[1], op->f[0], op->f[1]});
    return rb_cuda_launched(op, err);
}

/* The same in every kernel: what is computed again has the bits of what was there before. Good to two units in the last place:
 * without the steps of an exact division. */
static __device__ __forceinline__ float sigmoid(float x) {
#ifdef RB_CUDA_EMULATED
    return 1.0f / (1.0f + expf(-x));
#else
    return __fdividef(1.0f, 1.0f + expf(-x)); /* 0 where the sum is huge, as it should be */
#endif
}
static __device__ __forceinline__ float slope(float x, float s) {
    return s * (1.0f + x * (1.0f - s));
}

struct swiglu_of {
    rb_view h, gate, up;
    __device__ void operator()(int64_t r, int64_t i) const {
        float g = rb_get(gate, r, i);
        rb_put(h, r, i, g * sigmoid(g) * rb_get(up, r, i));
    }
};

/* Whether all of them are of one type. */
static bool all_of(const rb_view *v, int n, rb_dtype t) {
    for (int i = 0; i < n; i++)
        if (v[i].dtype != t) return false;
    return true;
}

template <class T> struct swiglu_wide {
    enum { N = 16 / sizeof(T) };
    struct in {
        rb_wide<T, N> gate, up;
    };
    rb_lines<T> h, gate, up;
    __device__ void read(unsigned r, unsigned i, in &a) const {
        a.gate.load(gate(r, i));
        a.up.load(up(r, i));
    }
    __device__ void write(unsigned r, unsigned i, const in &a) const {
        float v[N];
        for (int j = 0; j < N; j++) v[j] = a.gate[j] * sigmoid(a.gate[j]) * a.up[j];
        rb_give<N>(h(r, i), v);
    }
};
template <class T> static bool swiglu_walks(rb_queue *q, const rb_view *v, rb_dtype t) {
    if (!all_of(v, 3, t) || !rb_can_walk(v, 3, swiglu_wide<T>::N)) return false;
    rb_each_wide(q, v[0], swiglu_wide<T>{rb_lines<T>(v[0]), rb_lines<T>(v[1]), rb_lines<T>(v[2])});
    return true;
}

RB_CUDA_SLOT(swiglu_forward) {
    rb_view v[3] = {op->t[0], op->t[1], op->t[2]};
    rb_cuda_simplify(v, 3);
    if (swiglu_walks<uint16_t>(q, v, RB_BF16) || swiglu_walks<float>(q, v, RB_F32))
        return rb_cuda_launched(op, err);
    rb_each(q, &v[0], swiglu_of{v[0], v[1], v[2]});
    return rb_cuda_launched(op, err);
}

struct swiglu_back {
    rb_view dgate, dup, h, dh, gate, up;
    __device__ void operator()(int64_t r, int64_t i) const {
        float g = rb_get(gate, r, i), u = rb_get(up, r, i), d = rb_get(dh, r, i), s = sigmoid(g);
        rb_put(dgate, r, i, d * u * slope(g, s));
        rb_put(dup, r, i, d * (g * s));
        if (h.data) rb_put(h, r, i, g * s * u);
    }
};

template <class T> struct swiglu_back_wide {
    enum { N = 16 / sizeof(T) };
    struct in {
        rb_wide<T, N> dh, gate, up;
    };
    rb_lines<T> dgate, dup, h, dh, gate, up;
    __device__ void read(unsigned r, unsigned i, in &a) const {
        a.dh.load(dh(r, i));
        a.gate.load(gate(r, i));
        a.up.load(up(r, i));
    }
    __device__ void write(unsigned r, unsigned i, const in &a) const {
        float vg[N], vu[N], vh[N];
        for (int j = 0; j < N; j++) {
            float g = a.gate[j], u = a.up[j], d = a.dh[j], s = sigmoid(g);
            vg[j] = d * u * slope(g, s);
            vu[j] = d * (g * s);
            vh[j] = g * s * u;
        }
        rb_give<N>(dgate(r, i), vg);
        rb_give<N>(dup(r, i), vu);
        if (h.at) rb_give<N>(h(r, i), vh);
    }
};
/* v: dgate, dup, dh, gate, up, and h where n is 6. */
template <class T> static bool swiglu_back_walks(rb_queue *q, const rb_view *v, int n, rb_dtype t) {
    if (!all_of(v, n, t) || !rb_can_walk(v, n, swiglu_back_wide<T>::N)) return false;
    rb_lines<T> h(v[0]);
    h.at = NULL;
    if (n == 6) h = rb_lines<T>(v[5]);
    rb_each_wide(q, v[0],
                 swiglu_back_wide<T>{rb_lines<T>(v[0]), rb_lines<T>(v[1]), h, rb_lines<T>(v[2]),
                                     rb_lines<T>(v[3]), rb_lines<T>(v[4])});
    return true;
}

RB_CUDA_SLOT(swiglu_backward) {
    rb_view v[6] = {op->t[0], op->t[1], op->t[3], op->t[4], op->t[5], op->t[2]};
    int n = op->t[2].data ? 6 : 5;
    rb_cuda_simplify(v, n);
    if (swiglu_back_walks<uint16_t>(q, v, n, RB_BF16) || swiglu_back_walks<float>(q, v, n, RB_F32))
        return rb_cuda_launched(op, err);
    rb_each(q, &v[0], swiglu_back{v[0], v[1], v[5], v[2], v[3], v[4]});
    return rb_cuda_launched(op, err);
}

struct silu_of {
    rb_view y, x;
    __device__ void operator()(int64_t r, int64_t i) const {
        float v = *rb_f32(x, r, i);
        *rb_f32(y, r, i) = v * sigmoid(v);
    }
};

RB_CUDA_SLOT(silu_forward) {
    rb_view v[2] = {op->t[0], op->t[1]};
    rb_cuda_simplify(v, 2);
    rb_each(q, &v[0], silu_of{v[0], v[1]});
    return rb_cuda_launched(op, err);
}

struct silu_back {
    rb_view dx, dy, x;
    __device__ void operator()(int64_t r, int64_t i) const {
        float v = *rb_f32(x, r, i);
        *rb_f32(dx, r, i) = *rb_f32(dy, r, i) * slope(v, sigmoid(v));
    }
};

RB_CUDA_SLOT(silu_backward) {
    rb_view v[3] = {op->t[0], op->t[1], op->t[2]};
    rb_cuda_simplify(v, 3);
    rb_each(q, &v[0], silu_back{v[0], v[1], v[2]});
    return rb_cuda_launched(op, err);
}
