/* `resbm bench kernels`: how fast a device's operations run at the sizes of one model, as a table of text. */
#ifndef RB_DEVICE_BENCH_KERNELS_H
#define RB_DEVICE_BENCH_KERNELS_H

#include "core/buf.h"
#include "device/device.h"

typedef struct rb_bench_sizes {
    int64_t batch, context, d, heads, kv_heads, ffn, vocab; /* rows of the products: batch * context */
    double seconds;                                         /* time spent on each operation; 0 = 0.1 */
} rb_bench_sizes;

/* Runs every operation of a block, forward and backward, and the optimizers on an open device and appends one
 * line each: milliseconds, GF/s or GB/s, and for products the share of the peak. The peak is dnnl_sgemm's own
 * on 512 x 512 x 512, one product per thread at once, measured at the start. Takes some seconds. */
resbm_status rb_bench_kernels(rb_device *dev, const rb_bench_sizes *sizes, rb_buf *out, rb_err *err);

/* That peak, in GF/s, for this many threads. */
resbm_status rb_bench_sgemm_peak(int threads, double *gflops, rb_err *err);
/* The same at a glance: what processors shared with others give right now; 30 ms at most on anything but the slowest. */
resbm_status rb_bench_sgemm_glance(int threads, double *gflops, rb_err *err);

#endif
