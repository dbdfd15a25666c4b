/* Rows of a view: all dimensions but the last, flattened in order. What kernels walk. */
#ifndef RB_DEVICE_VIEW_H
#define RB_DEVICE_VIEW_H

#include "core/inline.h"
#include "device/device.h"

/* Length of a row: the last dimension. */
RB_ANYWHERE int64_t rb_row_width(const rb_view *v) {
    return v->shape[v->rank - 1];
}

RB_ANYWHERE int64_t rb_row_count(const rb_view *v) {
    int64_t n = 1;
    for (int i = 0; i < v->rank - 1; i++) n *= v->shape[i];
    return n;
}

/* Offset in elements of row r. */
RB_ANYWHERE int64_t rb_row_offset(const rb_view *v, int64_t r) {
    int64_t at = 0;
    for (int i = v->rank - 2; i > 0; i--) {
        at += r % v->shape[i] * v->stride[i];
        r /= v->shape[i];
    }
    return v->rank > 1 ? at + r * v->stride[0] : 0;
}

RB_ANYWHERE float *rb_row_f32(const rb_view *v, int64_t r) {
    return (float *)v->data + rb_row_offset(v, r);
}

/* Row (b, t, h) of a (B,T,H,D) view. */
RB_ANYWHERE float *rb_head_row(const rb_view *v, int64_t b, int64_t t, int64_t h) {
    return (float *)v->data + b * v->stride[0] + t * v->stride[1] + h * v->stride[2];
}

/* Element of a rank-1 view. */
RB_ANYWHERE float *rb_at1(const rb_view *v, int64_t i) {
    return (float *)v->data + i * v->stride[0];
}

/* No gaps between its elements: it can be walked as one flat array. */
RB_ANYWHERE bool rb_is_flat(const rb_view *v) {
    int64_t want = 1;
    for (int i = v->rank - 1; i >= 0; i--) {
        if (v->shape[i] != 1 && v->stride[i] != want) return false;
        want *= v->shape[i];
    }
    return true;
}

#endif
