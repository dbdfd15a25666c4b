/* Speed of plain matrix products: what others are shares of, and what plans count with. */
#ifndef RB_DEVICE_BENCH_PEAK_H
#define RB_DEVICE_BENCH_PEAK_H

#include "device/device.h"

/* GF/s of dnnl_sgemm on 512 x 512 x 512, one product per thread at once. */
resbm_status rb_bench_sgemm_peak(int threads, double *gflops, rb_err *err);
/* The same at a glance: what processors shared with others give right now; 30 ms at most on anything but the slowest. */
resbm_status rb_bench_sgemm_glance(int threads, double *gflops, rb_err *err);

/* GF/s of the device's own products of square matrices of normal numbers, in the type that it rounds factors to, at the size
 * where it is fastest (up to 8192, or what its memory or half a second allow). */
resbm_status rb_bench_device_peak(rb_device *dev, double *gflops, rb_err *err);
/* The same at a glance: up to 4096, and some 100 ms on a GPU. */
resbm_status rb_bench_device_glance(rb_device *dev, double *gflops, rb_err *err);

#endif
