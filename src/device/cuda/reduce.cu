/* Sums in double: a block per piece of 4096 elements, then one block over the pieces; both in an order that the number
 * of elements fixes. */
#include "device/cuda/each.h"

enum { SUM_THREADS = 256, SUM_WARPS = SUM_THREADS / RB_WARP, SUM_PIECE = 4096 };

template <bool SQUARED>
__global__ void __launch_bounds__(SUM_THREADS) sum_pieces(double *part, rb_view x, int64_t count) {
    __shared__ double room[SUM_WARPS];
    int64_t from = (int64_t)blockIdx.x * SUM_PIECE, width = rb_row_width(&x);
    double sum = 0;
    for (int i = 0; i < SUM_PIECE / SUM_THREADS; i++) {
        int64_t at = from + i * SUM_THREADS + threadIdx.x;
        if (at >= count) break;
        double v = x.rank == 1 ? ((const float *)x.data)[at] : *rb_f32(x, at / width, at % width);
        sum += SQUARED ? v * v : v;
    }
    sum = rb_block_sum(sum, room);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(SUM_THREADS) add_up(double *out, const double *part, int64_t pieces) {
    __shared__ double room[SUM_WARPS];
    double sum = 0;
    for (int64_t i = threadIdx.x; i < pieces; i += SUM_THREADS) sum += part[i];
    sum = rb_block_sum(sum, room);
    if (threadIdx.x == 0) *out = sum;
}

template <bool SQUARED> static resbm_status reduce(rb_queue *q, const rb_op *op, rb_err *err) {
    rb_cuda_queue *c = rb_cuda_queue_of(q);
    rb_view x = op->t[1];
    rb_cuda_simplify(&x, 1);
    int64_t count = rb_count(x), pieces = (count + SUM_PIECE - 1) / SUM_PIECE;
    double *part;
    RB_TRY(rb_cuda_scratch(q, 0, (size_t)pieces * sizeof *part, (void **)&part, err));
    auto first = sum_pieces<SQUARED>;
    RB_LAUNCH(c, first, (unsigned)pieces, SUM_THREADS, part, x, count);
    RB_LAUNCH(c, add_up, 1u, SUM_THREADS, (double *)op->t[0].data, part, pieces);
    return rb_cuda_launched(op, err);
}

RB_CUDA_SLOT(sum) {
    return reduce<false>(q, op, err);
}
RB_CUDA_SLOT(sumsq) {
    return reduce<true>(q, op, err);
}

struct divide {
    rb_view y, x;
    const double *sumsq;
    double eps;
    __device__ void operator()(int64_t r, int64_t i) const {
        double norm = sqrt(*sumsq);
        float inverse = (float)(1.0 / (norm < eps ? eps : norm));
        *rb_f32(y, r, i) = *rb_f32(x, r, i) * inverse;
    }
};

RB_CUDA_SLOT(normalize) {
    rb_view v[2] = {op->t[0], op->t[1]};
    rb_cuda_simplify(v, 2);
    rb_each(q, &v[0], divide{v[0], v[1], (const double *)op->t[2].data, (double)op->f[0]});
    return rb_cuda_launched(op, err);
}
