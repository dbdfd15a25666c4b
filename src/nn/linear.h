/* Products with a weight w (o,i) as PyTorch's Linear stores it, and small helpers every layer here uses. x
 * (n,i), y (n,o). */
#ifndef RB_NN_LINEAR_H
#define RB_NN_LINEAR_H

#include "device/ops.h"

/* y = x w^T + beta y */
static inline resbm_status rb_linear_forward(rb_queue *q, rb_view y, float beta, rb_view x, rb_view w,
                                             rb_err *err) {
    return rb_gemm(q, false, true, 1.0f, x, w, beta, y, err);
}
/* y = x w^T + e, of y's shape and elsewhere: a sublayer on its stream */
static inline resbm_status rb_linear_plus(rb_queue *q, rb_view y, rb_view e, rb_view x, rb_view w,
                                          rb_err *err) {
    return rb_gemm_plus(q, false, true, 1.0f, x, w, 1.0f, e, y, err);
}
/* dx = dy w + beta dx */
static inline resbm_status rb_linear_backward_x(rb_queue *q, rb_view dx, float beta, rb_view dy, rb_view w,
                                                rb_err *err) {
    return rb_gemm(q, false, false, 1.0f, dy, w, beta, dx, err);
}
/* dw += dy^T x */
static inline resbm_status rb_linear_backward_w(rb_queue *q, rb_view dw, rb_view dy, rb_view x, rb_err *err) {
    return rb_gemm(q, true, false, 1.0f, dy, x, 1.0f, dw, err);
}
static inline resbm_status rb_copy(rb_queue *q, rb_view dst, rb_view src, rb_err *err) {
    return rb_axpby(q, 1.0f, src, 0.0f, dst, err);
}
static inline resbm_status rb_add(rb_queue *q, rb_view dst, rb_view src, rb_err *err) {
    return rb_axpby(q, 1.0f, src, 1.0f, dst, err);
}
/* The same bytes under another shape; v is contiguous. */
static inline rb_view rb_as1(rb_view v) {
    return rb_view1(v.data, v.dtype, rb_count(v));
}
static inline rb_view rb_as2(rb_view v, int64_t rows, int64_t cols) {
    return rb_view2(v.data, v.dtype, rows, cols);
}

#endif
