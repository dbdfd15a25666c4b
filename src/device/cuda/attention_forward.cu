/* Attention forward on the tensor cores: a warp takes 16 MT queries of one head, a block four times as many; keys and
 * values pass by in tiles, of which the next is fetched while one is worked with, and the softmax is kept up to date as they do
 * (Dao et al. 2022; Dao 2023). Exponents are in base 2.
 *
 *     keys ->   first tile    second ...
 *     queries   S = q k^T, masked                  top, sum: of the rows so far
 *               P = exp(scale (S - top))           out = out exp(scale (old top - top)) + P v
 */
#include "device/cuda/attention_tiles.h"

/* A lane's two rows of a warp's 16: row g and row g + 8. */
struct softmax_progress {
    float top[2], sum[2];
};

static __device__ __forceinline__ float quad_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(RB_ALL_LANES, v, 1));
    return fmaxf(v, __shfl_xor_sync(RB_ALL_LANES, v, 2));
}
static __device__ __forceinline__ float quad_sum(float v) {
    v += __shfl_xor_sync(RB_ALL_LANES, v, 1);
    return v + __shfl_xor_sync(RB_ALL_LANES, v, 2);
}

/* p: from scores to weights. shrink: what sums so far are multiplied with. by: scale in base 2, above 0. A NaN among the scores
 * is no maximum, but a weight. */
template <int N>
static __device__ __forceinline__ void soften(float (*p)[4], softmax_progress *s, float *shrink, float by) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float most = s->top[half];
#pragma unroll
        for (int n = 0; n < N; n++) most = fmaxf(most, fmaxf(p[n][2 * half], p[n][2 * half + 1]));
        most = quad_max(most);
        float off = -most * by, sum = 0;
        shrink[half] = rb_exp2(fmaf(s->top[half], by, off));
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++) sum += p[n][i] = rb_exp2(fmaf(p[n][i], by, off));
        s->sum[half] = s->sum[half] * shrink[half] + sum;
        s->top[half] = most;
    }
}

template <int DP, int MT, int KEYS>
__global__ void __launch_bounds__(RB_TILE_THREADS)
    forward_tiles(rb_view out, rb_view lse, rb_half_heads q, rb_half_heads k, rb_half_heads v,
                  rb_attention_shape s) {
    enum { N = KEYS / 8, ROWS = 16 * MT * RB_TILE_WARPS };
    __shared__ rb_chunk keys[2][KEYS * DP / 8], values[2][KEYS * DP / 8];
    int H = (int)s.H, T = (int)s.T, b = (int)blockIdx.x / H, h = (int)blockIdx.x % H, g = h / (H / (int)s.G);
    int tile = (int)(gridDim.y - 1 - blockIdx.y) * ROWS; /* those with most keys first */
    int row = tile + 16 * MT * rb_warp();
    int seen = row < T ? (int)s.offset + row : -16 * MT; /* last of the tile's keys for the warp's first row */
    int left = (int)s.offset + rb_least(tile + ROWS, T); /* keys from the tile on */
    rb_passing<KEYS, DP> kp(rb_rows_of_head(k, b, g), 0), vp(rb_rows_of_head(v, b, g), 0);
    uint32_t a[MT][DP / 16][4];
    float o[MT][DP / 8][4] = {}, p[MT][N][4], by = s.scale * RB_LOG2_E;
    softmax_progress state[MT];
    kp.fetch(keys[0], left);
    vp.fetch(values[0], left);
#pragma unroll
    for (int m = 0; m < MT; m++) {
        rb_load_a<DP>(a[m], rb_rows_of_head(q, b, h), row + 16 * m, T);
        state[m] = softmax_progress{{-INFINITY, -INFINITY}, {0, 0}};
    }
    for (int now = 0; left > 0; left -= KEYS, seen -= KEYS, now ^= 1) {
        rb_fetch_wait();
        __syncthreads(); /* this tile is there, and nobody needs the one before */
        if (left > KEYS) {
            kp.fetch(keys[now ^ 1], left - KEYS);
            vp.fetch(values[now ^ 1], left - KEYS);
        }
        if (seen < 1 - 16 * MT) continue; /* the warp sees none of it */
        rb_scores<MT, N, DP>(p, a, keys[now]);
#pragma unroll
        for (int m = 0; m < MT; m++) {
            float shrink[2];
            if (seen + 16 * m < KEYS - 1) mask_keys<N>(p[m], seen + 16 * m);
            soften<N>(p[m], &state[m], shrink, by);
#pragma unroll
            for (int n = 0; n < DP / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) o[m][n][i] *= shrink[i / 2];
        }
        rb_weigh<MT, N, DP>(o, p, values[now]);
    }
    rb_result_rows to = rb_results_of_head(out, b, h, T);
    float *ends = (float *)lse.data + b * lse.stride[0] + h * lse.stride[1];
#pragma unroll
    for (int m = 0; m < MT; m++) {
        float low = quad_sum(state[m].sum[0]), high = quad_sum(state[m].sum[1]);
        int r = row + 16 * m + rb_lane() / 4;
        rb_store<DP>(to, row + 16 * m, o[m], 1.0f / low, 1.0f / high);
        if (rb_lane() % 4 == 0 && r < T) ends[r] = state[m].top[0] * s.scale + logf(low);
        if (rb_lane() % 4 == 0 && r + 8 < T) ends[r + 8] = state[m].top[1] * s.scale + logf(high);
    }
}

template <int DP, int MT, int KEYS>
static void launch_forward(rb_queue *base, const rb_op *op, const rb_half_heads *in,
                           const rb_attention_shape &s) {
    rb_cuda_queue *c = rb_cuda_queue_of(base);
    int64_t rows = 16 * MT * RB_TILE_WARPS;
    dim3 grid((unsigned)(s.B * s.H), (unsigned)((s.T + rows - 1) / rows));
    auto kernel = forward_tiles<DP, MT, KEYS>;
    RB_LAUNCH(c, kernel, grid, RB_TILE_THREADS, op->t[0], op->t[1], in[0], in[1], in[2], s);
}

resbm_status rb_cuda_attention_forward_tiles(rb_queue *q, const rb_op *op, rb_err *err) {
    rb_attention_shape s = rb_attention_forward_shape(op);
    int64_t rows[] = {s.T, s.offset + s.T, s.offset + s.T}; /* keys behind those may be anything */
    rb_half_heads in[3];
    size_t bytes = 0;
    char *room = NULL;
    for (int i = 0; i < 3; i++) bytes += rb_cuda_half_bytes(q, &op->t[2 + i], rows[i]);
    if (bytes) RB_TRY(rb_cuda_scratch(q, 0, bytes, (void **)&room, err));
    for (int i = 0; i < 3; i++) in[i] = rb_cuda_halves(q, &op->t[2 + i], rows[i], NULL, &room);
    if (s.D <= 32)
        launch_forward<32, 2, 64>(q, op, in, s);
    else if (s.D <= 64)
        launch_forward<64, 2, 64>(q, op, in, s);
    else
        launch_forward<128, 1, 32>(q, op, in, s);
    return rb_cuda_launched(op, err);
}
