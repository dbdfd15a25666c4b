/* Softmax cross-entropy: a block per row; three passes over the row, of which the later ones mostly find it in cache. */
#include "device/cuda/cuda.h"

enum { XENT_THREADS = 512, XENT_WARPS = XENT_THREADS / RB_WARP };

static __device__ void gradient_row(float *x, int64_t V, int32_t target, float top, float sum, float scale) {
    for (int64_t j = threadIdx.x; j < V; j += XENT_THREADS) {
        float p = expf(x[j] - top) / sum;
        x[j] = target < 0 ? 0.0f : scale * (p - (j == target ? 1.0f : 0.0f));
    }
}

__global__ void __launch_bounds__(XENT_THREADS)
    xent_rows(rb_view loss, rb_view logits, const int32_t *targets, float scale, rb_cuda_fault *fault) {
    __shared__ float room[XENT_WARPS];
    int64_t r = blockIdx.x, V = logits.shape[1];
    float *x = (float *)logits.data + r * logits.stride[0], most = -INFINITY, part = 0;
    int32_t target = targets[r];
    if (target >= V) {
        if (threadIdx.x == 0)
            rb_cuda_report(fault, rb_cuda_fault{RB_FAULT_TARGET, RB_OP_XENT, r, V, (double)target});
        return;
    }
    for (int64_t j = threadIdx.x; j < V; j += XENT_THREADS) most = rb_nan_max(most, x[j]);
    float top = rb_block_max(most, room);
    for (int64_t j = threadIdx.x; j < V; j += XENT_THREADS) part += expf(x[j] - top);
    float sum = rb_block_sum(part, room);
    if (threadIdx.x == 0)
        ((float *)loss.data)[r * loss.stride[0]] = target < 0 ? 0.0f : top + logf(sum) - x[target];
    __syncthreads(); /* the target's logit has been read */
    if (scale != 0) gradient_row(x, V, target, top, sum, scale);
}

RB_CUDA_SLOT(xent) {
    rb_cuda_queue *c = rb_cuda_queue_of(q);
    RB_LAUNCH(c, xent_rows, (unsigned)op->t[1].shape[0], XENT_THREADS, op->t[0], op->t[1],
              (const int32_t *)op->t[2].data, op->f[0], c->fault);
    return rb_cuda_launched(op, err);
}
