/* RMSNorm: a block per row; the weight's gradient in pieces of 64 rows that are added in order. */
#include "device/cuda/cuda.h"

enum { NORM_THREADS = 256, NORM_PIECE = 64, NORM_WARPS = NORM_THREADS / RB_WARP };

static __device__ __forceinline__ rb_cells norm_row(const rb_view &v, int64_t r) {
    return rb_cells_at(v, v.rank == 1 ? r * rb_row_width(&v) : rb_row_offset(&v, r));
}

__global__ void __launch_bounds__(NORM_THREADS)
    norm_rows(rb_view y, rb_view rstd, rb_view x, const float *w, float eps) {
    __shared__ float room[NORM_WARPS];
    int64_t r = blockIdx.x, d = rb_row_width(&x);
    rb_cells px = norm_row(x, r), py = norm_row(y, r);
    float sum = 0;
    for (int64_t i = threadIdx.x; i < d; i += NORM_THREADS) sum += px.get(i) * px.get(i);
    float s = 1.0f / sqrtf(rb_block_sum(sum, room) / (float)d + eps);
    for (int64_t i = threadIdx.x; i < d; i += NORM_THREADS) py.put(i, px.get(i) * s * (w ? w[i] : 1.0f));
    if (threadIdx.x == 0) ((float *)rstd.data)[r * rstd.stride[0]] = s;
}

RB_CUDA_SLOT(rmsnorm_forward) {
    rb_cuda_queue *c = rb_cuda_queue_of(q);
    RB_LAUNCH(c, norm_rows, (unsigned)rb_row_count(&op->t[2]), NORM_THREADS, op->t[0], op->t[1], op->t[2],
              (const float *)op->t[3].data, op->f[0]);
    return rb_cuda_launched(op, err);
}

/* dx = s (w dy) - x s^3/d sum(w dy x), s = rstd. dx may be dy: every thread writes where it alone has read. */
__global__ void __launch_bounds__(NORM_THREADS)
    norm_back(rb_view dx, rb_view dy, rb_view x, const float *w, rb_view rstd, float beta) {
    __shared__ float room[NORM_WARPS];
    int64_t r = blockIdx.x, d = rb_row_width(&x);
    rb_cells px = norm_row(x, r), pdy = norm_row(dy, r), pdx = norm_row(dx, r);
    float dot = 0, s = ((const float *)rstd.data)[r * rstd.stride[0]];
    for (int64_t i = threadIdx.x; i < d; i += NORM_THREADS) dot += pdy.get(i) * (w ? w[i] : 1.0f) * px.get(i);
    float c = rb_block_sum(dot, room) * s * s * s / (float)d;
    for (int64_t i = threadIdx.x; i < d; i += NORM_THREADS) {
        float g = s * pdy.get(i) * (w ? w[i] : 1.0f) - c * px.get(i);
        pdx.put(i, beta == 0 ? g : g + beta * pdx.get(i));
    }
}

RB_CUDA_SLOT(rmsnorm_backward_x) {
    rb_cuda_queue *c = rb_cuda_queue_of(q);
    RB_LAUNCH(c, norm_back, (unsigned)rb_row_count(&op->t[2]), NORM_THREADS, op->t[0], op->t[1], op->t[2],
              (const float *)op->t[3].data, op->t[4], op->f[0]);
    return rb_cuda_launched(op, err);
}

/* part (pieces, d) */
__global__ void __launch_bounds__(NORM_THREADS)
    weight_pieces(float *part, rb_view dy, rb_view x, rb_view rstd) {
    int64_t d = rb_row_width(&x), rows = rb_row_count(&x),
            i = (int64_t)blockIdx.x * NORM_THREADS + threadIdx.x;
    if (i >= d) return;
    for (int64_t piece = blockIdx.y, from; (from = piece * NORM_PIECE) < rows; piece += gridDim.y) {
        int64_t to = from + NORM_PIECE < rows ? from + NORM_PIECE : rows;
        float sum = 0;
        for (int64_t r = from; r < to; r++)
            sum += norm_row(dy, r).get(i) * norm_row(x, r).get(i) *
                   ((const float *)rstd.data)[r * rstd.stride[0]];
        part[piece * d + i] = sum;
    }
}

__global__ void __launch_bounds__(NORM_THREADS)
    norm_add_pieces(float *dw, const float *part, int64_t pieces, int64_t d) {
    int64_t i = (int64_t)blockIdx.x * NORM_THREADS + threadIdx.x;
    float sum = 0;
    if (i >= d) return;
    for (int64_t p = 0; p < pieces; p++) sum += part[p * d + i];
    dw[i] += sum;
}

RB_CUDA_SLOT(rmsnorm_backward_w) {
    rb_cuda_queue *c = rb_cuda_queue_of(q);
    int64_t d = rb_row_width(&op->t[2]), pieces = (rb_row_count(&op->t[2]) + NORM_PIECE - 1) / NORM_PIECE;
    unsigned across = (unsigned)((d + NORM_THREADS - 1) / NORM_THREADS);
    float *part;
    RB_TRY(rb_cuda_scratch(q, 0, (size_t)(pieces * d) * sizeof *part, (void **)&part, err));
    RB_LAUNCH(c, weight_pieces, dim3(across, rb_grid_rows(pieces)), NORM_THREADS, part, op->t[1], op->t[2],
              op->t[3]);
    RB_LAUNCH(c, norm_add_pieces, across, NORM_THREADS, (float *)op->t[0].data, part, pieces, d);
    return rb_cuda_launched(op, err);
}
