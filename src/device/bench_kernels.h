/* `resbm bench kernels`: how fast a device's operations run at the sizes of one model, as a table of text. */
#ifndef RB_DEVICE_BENCH_KERNELS_H
#define RB_DEVICE_BENCH_KERNELS_H

#include "core/buf.h"
#include "device/device.h"

typedef struct rb_bench_sizes {
    int64_t batch, context, d, heads, kv_heads, ffn, vocab; /* rows of the products: batch * context */
    double seconds;                                         /* time spent on each operation; 0 = 0.1 */
    const char *only; /* products, attention, rows, swiglu, ends, squares or optimizers; NULL: all */
} rb_bench_sizes;

/* Runs every operation of a block, forward and backward, and the optimizers on an open device and appends one
 * line each: milliseconds, GF/s or GB/s, and for products the share of the peak (bench_peak.h: dnnl_sgemm's on processors,
 * measured at the start, and else the device's own). Operands are as training has them: activations inside blocks and
 * weights in bf16 where the device rounds factors to it. Takes some seconds. RESBM_E_ARG: sizes that do not divide, or
 * a part that is none. */
resbm_status rb_bench_kernels(rb_device *dev, const rb_bench_sizes *sizes, rb_buf *out, rb_err *err);

#endif
