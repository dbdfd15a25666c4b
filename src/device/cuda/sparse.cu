/* Rows of a few coordinates: picking the largest, and putting them back. */
#include "device/cuda/cuda.h"

enum { SPARSE_THREADS = 256 };

/* Larger first, NaN above infinity; of equal ones the earlier place. 0 is nobody's. */
static __device__ __forceinline__ unsigned long long rank_of(float x, int64_t at) {
    return (unsigned long long)((__float_as_uint(x) & 0x7fffffffu) + 1) << 32 | (0xffffffffu - (unsigned)at);
}

static __device__ unsigned long long block_most(unsigned long long v, unsigned long long *room) {
    for (int o = RB_WARP / 2; o; o /= 2) {
        unsigned long long w = __shfl_xor_sync(RB_ALL_LANES, v, o);
        v = w > v ? w : v;
    }
    __syncthreads();
    if (threadIdx.x % RB_WARP == 0) room[threadIdx.x / RB_WARP] = v;
    __syncthreads();
    for (int i = 0; i < SPARSE_THREADS / RB_WARP; i++) v = room[i] > v ? room[i] : v;
    return v;
}

/* The largest rank below `before` among the thread's elements; 0: none. */
static __device__ unsigned long long own_most(const float *row, int64_t d, unsigned long long before) {
    unsigned long long best = 0;
    for (int64_t i = threadIdx.x; i < d; i += SPARSE_THREADS) {
        unsigned long long v = rank_of(row[i], i);
        if (v < before && v > best) best = v;
    }
    return best;
}

/* Each round finds the largest of what the threads have; whose it was looks for its next one. */
__global__ void __launch_bounds__(SPARSE_THREADS) pick_largest(rb_view values, rb_view index, rb_view x) {
    __shared__ unsigned long long room[SPARSE_THREADS / RB_WARP];
    int64_t r = blockIdx.x, d = x.shape[1], k = values.shape[1];
    const float *row = (const float *)x.data + r * x.stride[0];
    unsigned long long mine = own_most(row, d, ~0ull);
    for (int64_t j = 0; j < k; j++) {
        unsigned long long most = block_most(mine, room);
        if (most != mine) continue;
        int64_t at = 0xffffffffu - (unsigned)most;
        ((float *)values.data)[r * values.stride[0] + j] = row[at];
        ((float *)index.data)[r * index.stride[0] + j] = (float)at;
        mine = own_most(row, d, most);
    }
}

RB_CUDA_SLOT(topk) {
    rb_cuda_queue *c = rb_cuda_queue_of(q);
    RB_LAUNCH(c, pick_largest, (unsigned)op->t[2].shape[0], SPARSE_THREADS, op->t[0], op->t[1], op->t[2]);
    return rb_cuda_launched(op, err);
}

enum { SPARSE_PICKS = 512 /* in shared memory at a time */ };

/* A thread has coordinates of its own and looks through the picks for them: one may be named twice, and is added to
 * in order. */
__global__ void __launch_bounds__(SPARSE_THREADS)
    put_back(rb_view y, rb_view values, rb_view index, float alpha, float beta, rb_cuda_fault *fault) {
    __shared__ float value[SPARSE_PICKS];
    __shared__ int place[SPARSE_PICKS]; /* -1: nowhere */
    int64_t r = blockIdx.x, d = y.shape[1], k = values.shape[1];
    float *to = (float *)y.data + r * y.stride[0];
    for (int64_t first = 0; first < k; first += SPARSE_PICKS) {
        int n = k - first < SPARSE_PICKS ? (int)(k - first) : SPARSE_PICKS;
        __syncthreads();
        for (int j = (int)threadIdx.x; j < n; j += SPARSE_THREADS) {
            float at = ((const float *)index.data)[r * index.stride[0] + first + j];
            bool there = at >= 0 && at < (float)d;
            value[j] = ((const float *)values.data)[r * values.stride[0] + first + j];
            place[j] = there ? (int)at : -1;
            if (!there) rb_cuda_report(fault, rb_cuda_fault{RB_FAULT_PICK, RB_OP_SCATTER, r, d, (double)at});
        }
        __syncthreads();
        for (int i = (int)threadIdx.x; i < d; i += SPARSE_THREADS) {
            float sum = first ? to[i] : beta == 0 ? 0.0f : beta * to[i];
            for (int j = 0; j < n; j++)
                if (place[j] == i) sum += alpha * value[j];
            to[i] = sum;
        }
    }
}

RB_CUDA_SLOT(scatter) {
    rb_cuda_queue *c = rb_cuda_queue_of(q);
    RB_LAUNCH(c, put_back, (unsigned)op->t[0].shape[0], SPARSE_THREADS, op->t[0], op->t[1], op->t[2],
              op->f[0], op->f[1], c->fault);
    return rb_cuda_launched(op, err);
}
