/* Products, by the library that does them best: cuBLASLt (lt_cublas.cc), or plain loops with the same rounding in the
 * emulation (emu/lt_plain.cc). Matrices are row-major here. */
#ifndef RB_DEVICE_CUDA_LT_H
#define RB_DEVICE_CUDA_LT_H

#include "device/cuda/cuda.h"

struct rb_lt;

/* c (m,n) = alpha op(a) (m,k) op(b) (k,n) + beta e; e is c itself, or of c's type and elsewhere.
 * math F32 and TF32: a and b are f32; BF16, F16: 16-bit. Sums
 * are f32; c is f32, or bf16 where c_half says so (math BF16 only). Leading dimensions in elements. scalars: {alpha, beta} in device memory, or NULL: those here. */
struct rb_lt_product {
    rb_math math;
    bool ta, tb;
    int64_t m, n, k;
    const void *a, *b;
    void *c;
    int64_t lda, ldb, ldc;
    float alpha, beta;
    const float *scalars;
    bool c_half;
    const void *e;
    int64_t lde;
};

/* RESBM_E_UNSUPPORTED says where the library was looked for. */
resbm_status rb_lt_open(rb_cuda_device *d, rb_lt **out, rb_err *err);
size_t rb_lt_working(void);  /* bytes of working memory that its products take */
void rb_lt_close(rb_lt *lt); /* NULL is fine */
resbm_status rb_lt_run(rb_lt *lt, rb_cuda_queue *q, const rb_lt_product *p, rb_err *err);

#endif
