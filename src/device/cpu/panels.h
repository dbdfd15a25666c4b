/* Products whose factors lie badly in the caches. oneDNN's sgemm walks down the columns of a second factor, and of a
 * transposed first one, as they are: where rows lie a power of two apart (512, 1024 floats) those numbers fall into the
 * same few sets of the cache, where they lie far apart each is on another page, and the product runs at 0.4 to 0.7 of its
 * speed. Copied into small panels first they are ordinary. Large tiles (1/m + 1/n below 0.0038) oneDNN copies itself.
 * Measured with AVX2. */
#ifndef RB_DEVICE_CPU_PANELS_H
#define RB_DEVICE_CPU_PANELS_H

#include "device/device.h"

/* A (rows, depth), B (depth, columns) and a gap behind each row of B, all within a core's second cache. */
enum {
    RB_PANEL_ROWS = 128,
    RB_PANEL_DEPTH = 256,
    RB_PANEL_COLUMNS = 256,
    RB_PANEL_GAP = 16,
    RB_PANELS =
        RB_PANEL_DEPTH * (RB_PANEL_ROWS + RB_PANEL_COLUMNS + RB_PANEL_GAP) /* floats for each thread */
};

/* Room for the panels of each of the queue's threads, one behind the other: the queue's working memory. */
resbm_status rb_cpu_take_panels(rb_queue *q, float **out, rb_err *err);

/* dst (columns, rows) = src (rows, columns) transposed. */
void rb_cpu_transpose(float *dst, int64_t ldd, const float *src, int64_t lds, int64_t rows, int64_t columns);

static inline int64_t rb_least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* C (m,n) = alpha op(A) op(B) + beta C on the calling thread; ta, tb as in rb_gemm; `panels` holds RB_PANELS floats.
 * What is copied goes by shapes and strides alone. Returns oneDNN's status. */
int rb_cpu_sgemm(float *panels, bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha,
                 const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

#endif
