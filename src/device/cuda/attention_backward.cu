/* Attention backward on the tensor cores, in two kernels so that no sum needs atomics: one goes over the keys for 64
 * queries (dq), one over the queries of all heads of a group for 64 keys (dk, dv); each makes the scores again.
 *
 *     P = exp(scale q k^T - lse)      dP = dout v^T      dS = P (dP - delta) scale
 *     dq = dS k                       dk = dS^T q        dv = P^T dout
 *
 * With f16, dout is first multiplied by a power of two that keeps it in range; the results are divided by it. */
#include "device/cuda/attention_tiles.h"

enum { BACK_STEP = 32, BACK_N = BACK_STEP / 8 };

/* The power of two, and what takes it back; both 1 with bf16. */
struct loss_scale {
    float up, down;
};

static __device__ __forceinline__ int64_t row_number(const rb_attention_shape &s, int64_t b, int64_t h,
                                                     int64_t t) {
    return (b * s.H + h) * s.T + t;
}
static __device__ __forceinline__ float lse_of(const rb_view &lse, int64_t b, int64_t h, int64_t t) {
    return ((const float *)lse.data)[b * lse.stride[0] + h * lse.stride[1] + t];
}

/* From scores and dP to P and dS, in place. query, key: of the first row and column of the lane; `down`: rows are queries. */
struct lane_rows {
    int64_t query[4], key[4]; /* of elements 0..3 of a fragment */
    float lse[4], delta[4];
};
static __device__ void weights(float *p, float *dp, const lane_rows &r, const rb_attention_shape &s) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        bool seen = r.key[i] <= r.query[i] && r.query[i] < s.T;
        p[i] = seen ? rb_exp(p[i] * s.scale - r.lse[i]) : 0.0f;
        dp[i] = seen ? p[i] * (dp[i] - r.delta[i]) * s.scale : 0.0f;
    }
}

template <int DP>
__global__ void __launch_bounds__(RB_TILE_THREADS)
    query_tiles(rb_attention_grads x, const float *delta, const loss_scale *ls, rb_attention_shape s) {
    __shared__ uint32_t keys[BACK_STEP * RB_FLAT_GAP(DP)], values[BACK_STEP * RB_FLAT_GAP(DP)],
        upright[DP * RB_UPRIGHT_GAP(BACK_STEP)];
    int64_t b = blockIdx.x / s.H, h = blockIdx.x % s.H, g = h / (s.H / s.G),
            tile = (int64_t)(gridDim.y - 1 - blockIdx.y) * RB_TILE_ROWS; /* those with most keys first */
    int warp = (int)threadIdx.x / RB_WARP, lane = (int)threadIdx.x % RB_WARP;
    int64_t row = tile + 16 * warp, end = tile + RB_TILE_ROWS < s.T ? tile + RB_TILE_ROWS : s.T;
    uint32_t a[DP / 16][4], go[DP / 16][4];
    float dq[DP / 8][4] = {}, p[BACK_N][4], dp[BACK_N][4];
    lane_rows r;
    rb_load_a<DP>(a, rb_rows_of_head(x.q, b, h, s.T, s.D, 1.0f), row);
    rb_load_a<DP>(go, rb_rows_of_head(x.dout, b, h, s.T, s.D, ls->up), row);
    for (int i = 0; i < 4; i++) {
        r.query[i] = row + lane / 4 + (i < 2 ? 0 : 8);
        bool there = r.query[i] < s.T;
        r.lse[i] = there ? lse_of(x.lse, b, h, r.query[i]) : 0.0f;
        r.delta[i] = there ? delta[row_number(s, b, h, r.query[i])] : 0.0f;
    }
    for (int64_t first = 0; first < end; first += BACK_STEP) {
        __syncthreads();
        rb_head_rows k = rb_rows_of_head(x.k, b, g, end, s.D, 1.0f);
        rb_load_flat<BACK_STEP, DP>(keys, k, first);
        rb_load_flat<BACK_STEP, DP>(values, rb_rows_of_head(x.v, b, g, end, s.D, 1.0f), first);
        rb_load_upright<BACK_STEP, DP>(upright, k, first);
        __syncthreads();
        rb_scores<BACK_N, DP>(p, a, keys);
        rb_scores<BACK_N, DP>(dp, go, values);
#pragma unroll
        for (int n = 0; n < BACK_N; n++) {
            for (int i = 0; i < 4; i++) r.key[i] = first + 8 * n + 2 * (lane % 4) + i % 2;
            weights(p[n], dp[n], r, s);
        }
        rb_weigh<BACK_N, DP>(dq, dp, upright);
    }
    rb_store<DP>(x.dq, b, h, row, s.T, s.D, dq, ls->down, ls->down);
}

template <int DP>
__global__ void __launch_bounds__(RB_TILE_THREADS)
    key_tiles(rb_attention_grads x, const float *delta, const loss_scale *ls, rb_attention_shape s) {
    __shared__ uint32_t qs[BACK_STEP * RB_FLAT_GAP(DP)], os[BACK_STEP * RB_FLAT_GAP(DP)];
    __shared__ uint32_t q_up[DP * RB_UPRIGHT_GAP(BACK_STEP)], o_up[DP * RB_UPRIGHT_GAP(BACK_STEP)];
    int64_t b = blockIdx.x / s.G, g = blockIdx.x % s.G, tile = (int64_t)blockIdx.y * RB_TILE_ROWS,
            per = s.H / s.G;
    int warp = (int)threadIdx.x / RB_WARP, lane = (int)threadIdx.x % RB_WARP;
    int64_t row = tile + 16 * warp;
    uint32_t k[DP / 16][4], v[DP / 16][4];
    float dk[DP / 8][4] = {}, dv[DP / 8][4] = {}, p[BACK_N][4], dp[BACK_N][4];
    lane_rows r;
    rb_load_a<DP>(k, rb_rows_of_head(x.k, b, g, s.T, s.D, 1.0f), row);
    rb_load_a<DP>(v, rb_rows_of_head(x.v, b, g, s.T, s.D, 1.0f), row);
    for (int i = 0; i < 4; i++) r.key[i] = row + lane / 4 + (i < 2 ? 0 : 8);
    for (int64_t h = g * per; h < (g + 1) * per; h++)
        for (int64_t first = tile; first < s.T; first += BACK_STEP) {
            rb_head_rows qr = rb_rows_of_head(x.q, b, h, s.T, s.D, 1.0f),
                         orows = rb_rows_of_head(x.dout, b, h, s.T, s.D, ls->up);
            __syncthreads();
            rb_load_flat<BACK_STEP, DP>(qs, qr, first);
            rb_load_flat<BACK_STEP, DP>(os, orows, first);
            rb_load_upright<BACK_STEP, DP>(q_up, qr, first);
            rb_load_upright<BACK_STEP, DP>(o_up, orows, first);
            __syncthreads();
            rb_scores<BACK_N, DP>(p, k, qs);
            rb_scores<BACK_N, DP>(dp, v, os);
#pragma unroll
            for (int n = 0; n < BACK_N; n++) {
                for (int i = 0; i < 4; i++) {
                    r.query[i] = first + 8 * n + 2 * (lane % 4) + i % 2;
                    bool there = r.query[i] < s.T;
                    r.lse[i] = there ? lse_of(x.lse, b, h, r.query[i]) : 0.0f;
                    r.delta[i] = there ? delta[row_number(s, b, h, r.query[i])] : 0.0f;
                }
                weights(p[n], dp[n], r, s);
            }
            rb_weigh<BACK_N, DP>(dv, p, o_up);
            rb_weigh<BACK_N, DP>(dk, dp, q_up);
        }
    rb_store<DP>(x.dk, b, g, row, s.T, s.D, dk, ls->down, ls->down);
    rb_store<DP>(x.dv, b, g, row, s.T, s.D, dv, ls->down, ls->down);
}

/* --- f16: the power of two from the largest size in dout */

enum { SCALE_THREADS = 256 };

__global__ void no_scale(loss_scale *ls) {
    if (threadIdx.x == 0) ls->up = ls->down = 1.0f;
}
__global__ void __launch_bounds__(SCALE_THREADS) find_most_of_heads(unsigned *most, rb_view dout) {
    int64_t rows = rb_row_count(&dout), D = rb_row_width(&dout);
    unsigned here = 0;
    for (int64_t i = (int64_t)blockIdx.x * SCALE_THREADS + threadIdx.x; i < rows * D;
         i += (int64_t)gridDim.x * SCALE_THREADS) {
        unsigned size =
            __float_as_uint(rb_cells_at(dout, rb_row_offset(&dout, i / D)).get(i % D)) & 0x7fffffffu;
        here = size > here ? size : here;
    }
    atomicMax(most, here);
}
/* Sizes below 2^4: dP sums over a head's width. */
__global__ void make_scale(loss_scale *ls, const unsigned *most) {
    if (threadIdx.x) return;
    int e = (int)(*most >> 23), up = e == 0 || e == 255 ? 127 : 127 + 3 - (e - 127);
    up = up > 250 ? 250 : up < 4 ? 4 : up;
    ls->up = __uint_as_float((unsigned)up << 23);
    ls->down = __uint_as_float((unsigned)(254 - up) << 23);
}

static resbm_status find_scale(rb_queue *base, const rb_view *dout, loss_scale **out, rb_err *err) {
    rb_cuda_queue *c = rb_cuda_queue_of(base);
    RB_TRY(rb_cuda_scratch(base, 1, 256, (void **)out, err));
    loss_scale *ls = *out;
    unsigned *most = (unsigned *)((char *)ls + 64);
    if (!c->f16) {
        RB_LAUNCH(c, no_scale, 1u, RB_WARP, ls);
        return RESBM_OK;
    }
    RB_CUDA_TRY(cudaSetDevice(c->index), "attention_backward", err);
    RB_CUDA_TRY(cudaMemsetAsync(most, 0, sizeof *most, c->stream), "attention_backward", err);
    RB_LAUNCH(c, find_most_of_heads, 256u, SCALE_THREADS, most, *dout);
    RB_LAUNCH(c, make_scale, 1u, RB_WARP, ls, most);
    return RESBM_OK;
}

template <int DP>
static void launch_backward(rb_queue *base, const rb_attention_grads &x, const float *delta,
                            const loss_scale *ls, const rb_attention_shape &s) {
    rb_cuda_queue *c = rb_cuda_queue_of(base);
    unsigned tiles = (unsigned)((s.T + RB_TILE_ROWS - 1) / RB_TILE_ROWS);
    auto queries = query_tiles<DP>;
    auto keys = key_tiles<DP>;
    RB_LAUNCH(c, queries, dim3((unsigned)(s.B * s.H), tiles), RB_TILE_THREADS, x, delta, ls, s);
    RB_LAUNCH(c, keys, dim3((unsigned)(s.B * s.G), tiles), RB_TILE_THREADS, x, delta, ls, s);
}

resbm_status rb_cuda_attention_backward_tiles(rb_queue *q, const rb_op *op, rb_err *err) {
    rb_attention_shape s = rb_attention_backward_shape(op);
    rb_attention_grads x = rb_attention_grads_of(op);
    float *delta;
    loss_scale *ls;
    RB_TRY(find_scale(q, &x.dout, &ls, err));
    RB_TRY(rb_cuda_attention_delta(q, &x, &s, &ls->up, &delta, err));
    if (s.D <= 32)
        launch_backward<32>(q, x, delta, ls, s);
    else if (s.D <= 64)
        launch_backward<64>(q, x, delta, ls, s);
    else
        launch_backward<128>(q, x, delta, ls, s);
    return rb_cuda_launched(op, err);
}
