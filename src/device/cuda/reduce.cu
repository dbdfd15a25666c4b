/* Sums in double: a block per piece of 4096 elements, and the block that is done last adds up the pieces; both in an
 * order that the number of elements fixes, wherever they lie. */
#include "device/cuda/each.h"
#include "device/cuda/wide.h"

enum {
    SUM_THREADS = 256,
    SUM_WARPS = SUM_THREADS / RB_WARP,
    SUM_FOURS = 4, /* vectors of four elements that a thread adds */
    SUM_PIECE = SUM_THREADS * SUM_FOURS * 4
};

template <bool SQUARED> static __device__ __forceinline__ double with(double sum, float x) {
    double d = x;
    return SQUARED ? sum + d * d : sum + d;
}

/* A piece of elements without gaps, all there: loads first. */
template <bool SQUARED> static __device__ __forceinline__ double sum_fours(const float *x, int64_t from) {
    float4 v[SUM_FOURS];
    double sum = 0;
#pragma unroll
    for (int i = 0; i < SUM_FOURS; i++) v[i] = *(const float4 *)(x + from + i * SUM_THREADS * 4);
#pragma unroll
    for (int i = 0; i < SUM_FOURS; i++)
        sum = with<SQUARED>(with<SQUARED>(with<SQUARED>(with<SQUARED>(sum, v[i].x), v[i].y), v[i].z), v[i].w);
    return sum;
}

/* Any piece: the same elements in the same order. */
template <bool SQUARED>
static __device__ __forceinline__ double sum_ones(const rb_view &x, int64_t from, int64_t count) {
    int64_t width = rb_row_width(&x);
    double sum = 0;
#pragma unroll 1
    for (int i = 0; i < SUM_FOURS * 4; i++) {
        int64_t at = from + i / 4 * SUM_THREADS * 4 + i % 4;
        if (at >= count) continue;
        sum = with<SQUARED>(sum,
                            x.rank == 1 ? ((const float *)x.data)[at] : *rb_f32(x, at / width, at % width));
    }
    return sum;
}

template <bool SQUARED> static __device__ __forceinline__ double sum_piece(const rb_view &x, int64_t count) {
    int64_t from = (int64_t)blockIdx.x * SUM_PIECE + threadIdx.x * 4;
    bool whole = x.rank == 1 && (uintptr_t)x.data % 16 == 0 && (int64_t)(blockIdx.x + 1) * SUM_PIECE <= count;
    return whole ? sum_fours<SQUARED>((const float *)x.data, from) : sum_ones<SQUARED>(x, from, count);
}

/* Whether this block is the last of the grid to come here; then it sees what the others wrote before. */
static __device__ bool last_to_come(unsigned *done) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicAdd(done, 1u) == gridDim.x - 1;
        __threadfence();
    }
    __syncthreads();
    return last;
}

template <bool SQUARED>
__global__ void __launch_bounds__(SUM_THREADS)
    sum_pieces(double *out, double *part, rb_view x, int64_t count, unsigned *done) {
    __shared__ double room[SUM_WARPS];
    double sum = rb_block_sum(sum_piece<SQUARED>(x, count), room);
    if (gridDim.x == 1) {
        if (threadIdx.x == 0) *out = sum;
        return;
    }
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
    if (!last_to_come(done)) return;
    sum = 0;
    for (int64_t i = threadIdx.x; i < gridDim.x; i += SUM_THREADS) sum += ((const volatile double *)part)[i];
    sum = rb_block_sum(sum, room);
    if (threadIdx.x == 0) *out = sum, *done = 0;
}

template <bool SQUARED> static resbm_status reduce(rb_queue *q, const rb_op *op, rb_err *err) {
    rb_cuda_queue *c = rb_cuda_queue_of(q);
    rb_view x = op->t[1];
    rb_cuda_simplify(&x, 1);
    int64_t count = rb_count(x), pieces = (count + SUM_PIECE - 1) / SUM_PIECE;
    double *part;
    RB_TRY(rb_cuda_scratch(q, 0, (size_t)pieces * sizeof *part, (void **)&part, err));
    auto kernel = sum_pieces<SQUARED>;
    RB_LAUNCH(c, kernel, (unsigned)pieces, SUM_THREADS, (double *)op->t[0].data, part, x, count,
              &c->state->done);
    return rb_cuda_launched(op, err);
}

RB_CUDA_SLOT(sum) {
    return reduce<false>(q, op, err);
}
RB_CUDA_SLOT(sumsq) {
    return reduce<true>(q, op, err);
}

static __device__ __forceinline__ float inverse_norm(const double *sumsq, double eps) {
    double norm = sqrt(*sumsq);
    return (float)(1.0 / (norm < eps ? eps : norm));
}

struct divide {
    rb_view y, x;
    const double *sumsq;
    double eps;
    __device__ void operator()(int64_t r, int64_t i) const {
        rb_put(y, r, i, *rb_f32(x, r, i) * inverse_norm(sumsq, eps));
    }
};

/* Without gaps, in vectors; one thread of a block finds the norm while the others' loads are on their way. */
template <class Y>
__global__ void __launch_bounds__(SUM_THREADS)
    normalize_fours(Y *y, const float4 *x, int64_t fours, const double *sumsq, double eps) {
    __shared__ float inverse;
    int64_t from = (int64_t)blockIdx.x * SUM_THREADS * SUM_FOURS + threadIdx.x;
    float4 v[SUM_FOURS];
#pragma unroll
    for (int i = 0; i < SUM_FOURS; i++)
        if (from + i * SUM_THREADS < fours) v[i] = x[from + i * SUM_THREADS];
    if (threadIdx.x == 0) inverse = inverse_norm(sumsq, eps);
    __syncthreads();
    float s = inverse;
#pragma unroll
    for (int i = 0; i < SUM_FOURS; i++)
        if (from + i * SUM_THREADS < fours) {
            const float by[4] = {v[i].x * s, v[i].y * s, v[i].z * s, v[i].w * s};
            rb_give<4>(y + (from + i * SUM_THREADS) * 4, by);
        }
}
template <class Y>
static bool normalize_whole(rb_queue *q, const rb_view *v, const double *sumsq, double eps) {
    int64_t n = rb_count(v[0]), blocks = (n / 4 + SUM_THREADS * SUM_FOURS - 1) / (SUM_THREADS * SUM_FOURS);
    bool aligned = (uintptr_t)v[0].data % (4 * sizeof(Y)) == 0 && (uintptr_t)v[1].data % 16 == 0;
    if (v[0].rank != 1 || n % 4 || !aligned) return false;
    auto kernel = normalize_fours<Y>;
    RB_LAUNCH(rb_cuda_queue_of(q), kernel, (unsigned)blocks, SUM_THREADS, (Y *)v[0].data,
              (const float4 *)v[1].data, n / 4, sumsq, eps);
    return true;
}

RB_CUDA_SLOT(normalize) {
    rb_view v[2] = {op->t[0], op->t[1]};
    const double *sumsq = (const double *)op->t[2].data;
    double eps = (double)op->f[0];
    rb_cuda_simplify(v, 2);
    bool half = v[0].dtype == RB_BF16;
    if (!(half ? normalize_whole<uint16_t>(q, v, sumsq, eps) : normalize_whole<float>(q, v, sumsq, eps)))
        rb_each(q, &v[0], divide{v[0], v[1], sumsq, eps});
    return rb_cuda_launched(op, err);
}
