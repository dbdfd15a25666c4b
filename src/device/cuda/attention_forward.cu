/* Attention forward on the tensor cores: a block takes 64 queries of one head, a warp 16 of them; keys and values pass by
 * in tiles of 64, and the softmax is kept up to date as they do (Dao et al. 2022).
 *
 *     keys ->   first tile    second ...
 *     queries   S = q k^T, scaled, masked          top, sum: of the rows so far
 *               P = exp(S - top)                   out = out exp(old top - top) + P v
 */
#include "device/cuda/attention_tiles.h"

enum { FORWARD_KEYS = 64, FORWARD_N = FORWARD_KEYS / 8 };

/* The lane's two rows: the first is row g of the warp's tile, the second row g + 8. */
struct softmax_progress {
    float top[2], sum[2];
};

static __device__ float quad_max(float v) {
    v = rb_nan_max(v, __shfl_xor_sync(RB_ALL_LANES, v, 1));
    return rb_nan_max(v, __shfl_xor_sync(RB_ALL_LANES, v, 2));
}
static __device__ float quad_sum(float v) {
    v += __shfl_xor_sync(RB_ALL_LANES, v, 1);
    return v + __shfl_xor_sync(RB_ALL_LANES, v, 2);
}

/* Scores of keys that the query does not see become -inf. `seen`: last key of the first row. */
static __device__ void mask(float (*p)[4], int64_t first, int64_t seen, float scale) {
    int t = (int)threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < FORWARD_N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int64_t key = first + 8 * n + 2 * t + i % 2;
            p[n][i] = key <= seen + (i < 2 ? 0 : 8) ? p[n][i] * scale : -INFINITY;
        }
}

/* p: from scores to weights. shrink: what sums so far are multiplied with. */
static __device__ void soften(float (*p)[4], softmax_progress *s, float *shrink) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float most = s->top[half];
#pragma unroll
        for (int n = 0; n < FORWARD_N; n++)
            most = rb_nan_max(rb_nan_max(most, p[n][2 * half]), p[n][2 * half + 1]);
        most = quad_max(most);
        shrink[half] = rb_exp(s->top[half] - most);
        float sum = 0;
#pragma unroll
        for (int n = 0; n < FORWARD_N; n++)
            for (int i = 2 * half; i < 2 * half + 2; i++) sum += p[n][i] = rb_exp(p[n][i] - most);
        s->sum[half] = s->sum[half] * shrink[half] + sum;
        s->top[half] = most;
    }
}

template <int DP>
__global__ void __launch_bounds__(RB_TILE_THREADS)
    forward_tiles(rb_view out, rb_view lse, rb_view q, rb_view k, rb_view v, rb_attention_shape s) {
    __shared__ uint32_t keys[FORWARD_KEYS * RB_FLAT_GAP(DP)], values[DP * RB_UPRIGHT_GAP(FORWARD_KEYS)];
    int64_t b = blockIdx.x / s.H, h = blockIdx.x % s.H, g = h / (s.H / s.G),
            tile = (int64_t)(gridDim.y - 1 - blockIdx.y) * RB_TILE_ROWS; /* those with most keys first */
    int warp = (int)threadIdx.x / RB_WARP, lane = (int)threadIdx.x % RB_WARP;
    int64_t row = tile + 16 * warp, last = (tile + RB_TILE_ROWS < s.T ? tile + RB_TILE_ROWS : s.T) - 1;
    int64_t end = s.offset + last + 1;
    uint32_t a[DP / 16][4];
    float o[DP / 8][4] = {}, p[FORWARD_N][4], shrink[2];
    softmax_progress state = {{-INFINITY, -INFINITY}, {0, 0}};
    rb_load_a<DP>(a, rb_rows_of_head(q, b, h, s.T, s.D, 1.0f), row);
    for (int64_t first = 0; first < end; first += FORWARD_KEYS) {
        __syncthreads();
        rb_load_flat<FORWARD_KEYS, DP>(keys, rb_rows_of_head(k, b, g, end, s.D, 1.0f), first);
        rb_load_upright<FORWARD_KEYS, DP>(values, rb_rows_of_head(v, b, g, end, s.D, 1.0f), first);
        __syncthreads();
        rb_scores<FORWARD_N, DP>(p, a, keys);
        mask(p, first, s.offset + row + lane / 4, s.scale);
        soften(p, &state, shrink);
#pragma unroll
        for (int n = 0; n < DP / 8; n++)
            for (int i = 0; i < 4; i++) o[n][i] *= shrink[i / 2];
        rb_weigh<FORWARD_N, DP>(o, p, values);
    }
    float low = quad_sum(state.sum[0]), high = quad_sum(state.sum[1]);
    rb_store<DP>(out, b, h, row, s.T, s.D, o, 1.0f / low, 1.0f / high);
    float *to = (float *)lse.data + b * lse.stride[0] + h * lse.stride[1];
    int64_t r = row + lane / 4;
    if (lane % 4 == 0 && r < s.T) to[r] = state.top[0] + logf(low);
    if (lane % 4 == 0 && r + 8 < s.T) to[r + 8] = state.top[1] + logf(high);
}

template <int DP> static void launch_forward(rb_queue *base, const rb_op *op, const rb_attention_shape &s) {
    rb_cuda_queue *c = rb_cuda_queue_of(base);
    dim3 grid((unsigned)(s.B * s.H), (unsigned)((s.T + RB_TILE_ROWS - 1) / RB_TILE_ROWS));
    auto kernel = forward_tiles<DP>;
    RB_LAUNCH(c, kernel, grid, RB_TILE_THREADS, op->t[0], op->t[1], op->t[2], op->t[3], op->t[4], s);
}

resbm_status rb_cuda_attention_forward_tiles(rb_queue *q, const rb_op *op, rb_err *err) {
    rb_attention_shape s = rb_attention_forward_shape(op);
    if (s.D <= 32)
        launch_forward<32>(q, op, s);
    else if (s.D <= 64)
        launch_forward<64>(q, op, s);
    else
        launch_forward<128>(q, op, s);
    return rb_cuda_launched(op, err);
}
