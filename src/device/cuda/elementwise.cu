/* fill, axpby, and the activations. */
#include "device/cuda/each.h"

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

RB_CUDA_SLOT(fill) {
    const rb_view &x = op->t[0];
    switch (x.dtype) {
    case RB_F32:
        fill_as<float>(q, x, op->f[0]);
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

RB_CUDA_SLOT(axpby) {
    rb_view v[2] = {op->t[0], op->t[1]};
    rb_cuda_simplify(v, 2);
    rb_each(q, &v[0], axpby_of{v[0], v[1], op->f[0], op->f[1]});
    return rb_cuda_launched(op, err);
}

static __device__ __forceinline__ float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
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

RB_CUDA_SLOT(swiglu_forward) {
    rb_view v[3] = {op->t[0], op->t[1], op->t[2]};
    rb_cuda_simplify(v, 3);
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

RB_CUDA_SLOT(swiglu_backward) {
    rb_view v[6] = {op->t[0], op->t[1], op->t[3], op->t[4], op->t[5], op->t[2]};
    rb_cuda_simplify(v, op->t[2].data ? 6 : 5);
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
