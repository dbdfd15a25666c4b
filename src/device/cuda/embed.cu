/* Embedding: rows picked by token, and gradients added to them without atomics, so that the bits are always the same. */
#include "device/cuda/each.h"

static __device__ __forceinline__ bool in_table(int32_t id, int64_t V) {
    return id >= 0 && id < V;
}

struct pick_row {
    rb_view out, table;
    const int32_t *ids;
    rb_cuda_fault *fault;
    __device__ void operator()(int64_t r, int64_t i) const {
        int32_t id = ids[r];
        bool ok = in_table(id, table.shape[0]);
        if (!ok && i == 0)
            rb_cuda_report(fault, rb_cuda_fault{RB_FAULT_ID, RB_OP_EMBED_FWD, r, table.shape[0], (double)id});
        *((float *)out.data + r * out.stride[0] + i) =
            ok ? ((const float *)table.data)[id * table.stride[0] + i] : 0.0f;
    }
};

RB_CUDA_SLOT(embed_forward) {
    rb_each(q, &op->t[0],
            pick_row{op->t[0], op->t[1], (const int32_t *)op->t[2].data, rb_cuda_queue_of(q)->fault});
    return rb_cuda_launched(op, err);
}

enum { TOKEN_THREADS = 128 };

/* Does a token before `i` have its id? Asked by the whole block, 128 of them at a time. */
static __device__ bool seen_before(const int32_t *ids, int64_t i, int32_t id, float *room) {
    for (int64_t from = 0; from < i; from += TOKEN_THREADS) {
        int64_t j = from + threadIdx.x;
        if (rb_block_sum(j < i && ids[j] == id ? 1.0f : 0.0f, room) > 0) return true;
    }
    return false;
}

/* One block per token. The first token of each id adds all of that id's, in ascending order. */
__global__ void __launch_bounds__(TOKEN_THREADS)
    embed_add_rows(rb_view table, rb_view dout, const int32_t *ids, int64_t n, rb_cuda_fault *fault) {
    __shared__ float room[TOKEN_THREADS / RB_WARP];
    int64_t i = blockIdx.x, d = table.shape[1];
    int32_t id = ids[i];
    if (!in_table(id, table.shape[0])) {
        if (threadIdx.x == 0)
            rb_cuda_report(fault, rb_cuda_fault{RB_FAULT_ID, RB_OP_EMBED_BWD, i, table.shape[0], (double)id});
        return;
    }
    if (seen_before(ids, i, id, room)) return;
    float *to = (float *)table.data + id * table.stride[0];
    int lane = (int)threadIdx.x % RB_WARP;
    for (int64_t from = i; from < n; from += RB_WARP) {
        unsigned mine = __ballot_sync(RB_ALL_LANES, from + lane < n && ids[from + lane] == id);
        while (mine) {
            int64_t j = from + __ffs(mine) - 1;
            mine &= mine - 1;
            const float *row = (const float *)dout.data + j * dout.stride[0];
            for (int64_t c = threadIdx.x; c < d; c += TOKEN_THREADS) to[c] += row[c];
        }
    }
}

RB_CUDA_SLOT(embed_backward) {
    rb_cuda_queue *c = rb_cuda_queue_of(q);
    int64_t n = op->t[1].shape[0];
    RB_LAUNCH(c, embed_add_rows, (unsigned)n, TOKEN_THREADS, op->t[0], op->t[1],
              (const int32_t *)op->t[2].data, n, c->fault);
    return rb_cuda_launched(op, err);
}
