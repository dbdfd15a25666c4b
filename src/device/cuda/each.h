/* Kernels that do the same to every element: f(row, column) over rows of one width, each element once. */
#ifndef RB_DEVICE_CUDA_EACH_H
#define RB_DEVICE_CUDA_EACH_H

#include "device/cuda/cuda.h"

enum {
    RB_EACH_THREADS = 256,
    RB_EACH_PER_THREAD = 4,
    RB_EACH_COLUMNS = RB_EACH_THREADS * RB_EACH_PER_THREAD
};

/* A block does up to RB_EACH_COLUMNS columns of `rows_at_once` rows. */
struct rb_each_shape {
    int64_t rows, width, columns, rows_at_once;
};

template <class F> __global__ void __launch_bounds__(RB_EACH_THREADS) rb_each_kernel(F f, rb_each_shape s) {
    int64_t block = blockIdx.x, first = block % s.columns * RB_EACH_COLUMNS,
            row = block / s.columns * s.rows_at_once;
    if (s.rows_at_once > 1) { /* narrow rows: the threads share out several */
        for (int64_t i = threadIdx.x; i < s.rows_at_once * s.width; i += RB_EACH_THREADS)
            if (row + i / s.width < s.rows) f(row + i / s.width, i % s.width);
        return;
    }
    for (int u = 0; u < RB_EACH_PER_THREAD; u++) {
        int64_t i = first + u * RB_EACH_THREADS + threadIdx.x;
        if (i < s.width) f(row, i);
    }
}

/* Over the elements of v. */
template <class F> static void rb_each(rb_queue *base, const rb_view *v, F f) {
    rb_cuda_queue *q = rb_cuda_queue_of(base);
    rb_each_shape s = {rb_row_count(v), rb_row_width(v), 1, 1};
    s.columns = (s.width + RB_EACH_COLUMNS - 1) / RB_EACH_COLUMNS;
    if (s.width <= RB_EACH_COLUMNS / 2) s.rows_at_once = RB_EACH_COLUMNS / s.width;
    int64_t blocks = (s.rows + s.rows_at_once - 1) / s.rows_at_once * s.columns;
    auto kernel = rb_each_kernel<F>;
    RB_LAUNCH(q, kernel, (unsigned)blocks, RB_EACH_THREADS, f, s);
}

static __device__ __forceinline__ float *rb_f32(const rb_view &v, int64_t row, int64_t i) {
    return (float *)v.data + (v.rank == 1 ? i : rb_row_offset(&v, row) + i);
}
/* The same of a view that may be in bf16. */
static __device__ __forceinline__ rb_cells rb_cell_row(const rb_view &v, int64_t row) {
    return rb_cells_at(v, v.rank == 1 ? 0 : rb_row_offset(&v, row));
}
static __device__ __forceinline__ float rb_get(const rb_view &v, int64_t row, int64_t i) {
    return rb_cell_row(v, row).get(i);
}
static __device__ __forceinline__ void rb_put(const rb_view &v, int64_t row, int64_t i, float value) {
    rb_cell_row(v, row).put(i, value);
}

#endif
