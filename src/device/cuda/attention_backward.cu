/* Attention backward on the tensor cores, in two kernels so that no sum needs atomics: one goes over the keys for some
 * queries (dq), one over the queries of all heads of a group for 64 keys (dk, dv); each makes the scores again. What passes by
 * is fetched a tile ahead.
 *
 *     P = exp(scale q k^T - lse)      dP = dout v^T      dS = P (dP - delta) scale
 *     dq = dS k                       dk = dS^T q        dv = P^T dout
 *
 * With f16, dout is first multiplied by a power of two that keeps it in range; the results are divided by it. */
#include "device/cuda/attention_room.h"
#include "device/cuda/attention_tiles.h"

/* The power of two, and what takes it back; NULL stands for 1 and 1. */
struct loss_scale {
    float up, down;
};

/* What a query's scores are set off by: lse in base 2, and delta = sum(dout out) times scale. Of each head there are
 * `stride` (rb_attention_stride) of them; queries from T on have the weight 0. */
struct alignas(8) query_ends {
    float lse, delta;
};
enum { ENDS_THREADS = 128, ENDS_LANES = 8, ENDS_PER_BLOCK = ENDS_THREADS / ENDS_LANES };

/* A few lanes per query. delta is of dout as the products have it, so that it cancels against them. */
__global__ void __launch_bounds__(ENDS_THREADS)
    find_query_ends(query_ends *to, int stride, rb_attention_grads x, const loss_scale *ls,
                    rb_attention_shape s) {
    int blocks = stride / ENDS_PER_BLOCK, bh = (int)blockIdx.x / blocks, lane = (int)threadIdx.x % ENDS_LANES;
    int t = (int)blockIdx.x % blocks * ENDS_PER_BLOCK + (int)threadIdx.x / ENDS_LANES;
    int b = bh / (int)s.H, h = bh % (int)s.H;
    bool there = t < (int)s.T;
    float sum = 0, up = ls ? ls->up : 1.0f;
    if (there) {
        rb_cells dout = rb_cells_of_head(x.dout, b, t, h), out = rb_cells_of_head(x.out, b, t, h);
        for (int c = 8 * lane; c < s.D; c += 8 * ENDS_LANES) {
            float v[8], w[8];
            rb_eight(v, dout, c, s.D);
            rb_eight(w, out, c, s.D);
#pragma unroll
            for (int i = 0; i < 8; i++) sum += rb_half_round(up * v[i]) * w[i];
        }
    }
    for (int o = ENDS_LANES / 2; o; o /= 2) sum += __shfl_xor_sync(RB_ALL_LANES, sum, o);
    if (lane) return;
    float lse = there ? ((const float *)x.lse.data)[b * x.lse.stride[0] + h * x.lse.stride[1] + t] : INFINITY;
    to[(int64_t)bh * stride + t] = query_ends{lse * RB_LOG2_E, sum * s.scale};
}

/* What the two kernels read. */
struct backward_inputs {
    rb_half_heads q, k, v, dout;
    query_ends *ends;
    int stride;
    loss_scale *ls;
};

/* From scores and dP to P and dS, in place, of a query's element. */
static __device__ __forceinline__ void weight(float *p, float *dp, const query_ends &e, float by,
                                              float scale) {
    *p = rb_exp2(fmaf(*p, by, -e.lse));
    *dp = *p * fmaf(*dp, scale, -e.delta);
}

template <int DP, int MT, int KEYS, int BLOCKS>
__global__ void __launch_bounds__(RB_TILE_THREADS, BLOCKS)
    query_tiles(rb_view dq, backward_inputs in, rb_attention_shape s) {
    enum { N = KEYS / 8, ROWS = 16 * MT * RB_TILE_WARPS };
    __shared__ rb_chunk keys[2][KEYS * DP / 8], values[2][KEYS * DP / 8];
    int H = (int)s.H, T = (int)s.T, b = (int)blockIdx.x / H, h = (int)blockIdx.x % H, g = h / (H / (int)s.G);
    int tile = (int)(gridDim.y - 1 - blockIdx.y) * ROWS; /* those with most keys first */
    int row = tile + 16 * MT * rb_warp(), left = rb_least(tile + ROWS, T); /* keys from the tile on */
    int seen = row < T ? row : -16 * MT; /* last key of the tile that the warp's first row sees */
    rb_passing<KEYS, DP> kp(rb_rows_of_head(in.k, b, g), 0), vp(rb_rows_of_head(in.v, b, g), 0);
    uint32_t a[MT][DP / 16][4], go[MT][DP / 16][4];
    float d[MT][DP / 8][4] = {}, p[MT][N][4], dp[MT][N][4], by = s.scale * RB_LOG2_E;
    query_ends e[MT][2];
    kp.fetch(keys[0], left);
    vp.fetch(values[0], left);
#pragma unroll
    for (int m = 0; m < MT; m++) {
        rb_load_a<DP>(a[m], rb_rows_of_head(in.q, b, h), row + 16 * m, T);
        rb_load_a<DP>(go[m], rb_rows_of_head(in.dout, b, h), row + 16 * m, T);
        for (int i = 0; i < 2; i++) {
            int t = row + 16 * m + 8 * i + rb_lane() / 4;
            e[m][i] = t < T ? in.ends[(int64_t)blockIdx.x * in.stride + t] : query_ends{INFINITY, 0};
        }
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
        rb_scores<MT, N, DP>(dp, go, values[now]);
#pragma unroll
        for (int m = 0; m < MT; m++) {
            if (seen + 16 * m < KEYS - 1) mask_keys<N>(p[m], seen + 16 * m);
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) weight(&p[m][n][i], &dp[m][n][i], e[m][i / 2], by, s.scale);
        }
        rb_weigh<MT, N, DP>(d, dp, keys[now]);
    }
    rb_result_rows to = rb_results_of_head(dq, b, h, T);
    float down = in.ls ? in.ls->down : 1.0f;
#pragma unroll
    for (int m = 0; m < MT; m++) rb_store<DP>(to, row + 16 * m, d[m], down, down);
}

/* Of scores with keys as rows: those whose query does not see the key become -inf. `least`: first column that sees row 0. */
template <int N> static __device__ __forceinline__ void mask_queries(float (*p)[4], int least) {
    least += rb_lane() / 4 - 2 * (rb_lane() % 4);
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (8 * n + i % 2 < least + i / 2 * 8) p[n][i] = -INFINITY;
}

/* A tile of queries as the keys' kernel takes it. */
template <int DP, int STEP> struct query_tile {
    rb_chunk q[STEP * DP / 8], dout[STEP * DP / 8], ends[STEP / 2];
};

/* The tiles of one head's queries from `first` on. */
template <int DP, int STEP> struct passing_queries {
    rb_passing<STEP, DP> q, dout;
    const query_ends *ends;
    __device__ __forceinline__ passing_queries(const backward_inputs &in, int b, int h, int H, int first)
        : q(rb_rows_of_head(in.q, b, h), first), dout(rb_rows_of_head(in.dout, b, h), first),
          ends(in.ends + (int64_t)(b * H + h) * in.stride + first) {}
    __device__ __forceinline__ void fetch(query_tile<DP, STEP> *to, int left) {
        q.fetch(to->q, left);
        dout.fetch(to->dout, left);
        int two = (int)threadIdx.x;
        if (two < STEP / 2) rb_fetch_chunk(&to->ends[two], ends + 2 * two, true);
        ends += STEP;
    }
};

template <int DP, int STEP, int BLOCKS>
__global__ void __launch_bounds__(RB_TILE_THREADS, BLOCKS)
    key_tiles(rb_view dk, rb_view dv, backward_inputs in, rb_attention_shape s) {
    enum { N = STEP / 8, ROWS = 16 * RB_TILE_WARPS };
    __shared__ query_tile<DP, STEP> tiles[2];
    int H = (int)s.H, G = (int)s.G, T = (int)s.T, b = (int)blockIdx.x / G, g = (int)blockIdx.x % G;
    int begin = (int)blockIdx.y * ROWS, row = begin + 16 * rb_warp();
    uint32_t ka[1][DP / 16][4], va[1][DP / 16][4];
    float sum_k[1][DP / 8][4] = {}, sum_v[1][DP / 8][4] = {}, p[1][N][4], dp[1][N][4],
          by = s.scale * RB_LOG2_E;
    int h = g * (H / G), last = h + H / G - 1;
    passing_queries<DP, STEP>(in, b, h, H, begin).fetch(&tiles[0], T - begin);
    rb_load_a<DP>(ka[0], rb_rows_of_head(in.k, b, g), row, T);
    rb_load_a<DP>(va[0], rb_rows_of_head(in.v, b, g), row, T);
    bool more = true;
    for (int first = begin, next, now = 0; more; first = next, now ^= 1) {
        rb_fetch_wait();
        __syncthreads(); /* this tile is there, and nobody needs the one before */
        next = first + STEP;
        more = next < T || h < last;
        if (next >= T) next = begin, h++;
        if (more) passing_queries<DP, STEP>(in, b, h, H, next).fetch(&tiles[now ^ 1], T - next);
        if (first + STEP - 1 < row || row >= T) continue; /* no query of it sees the warp's keys */
        const query_tile<DP, STEP> &x = tiles[now];
        rb_scores<1, N, DP>(p, ka, x.q);
        rb_scores<1, N, DP>(dp, va, x.dout);
        if (first < row + 15) mask_queries<N>(p[0], row - first);
#pragma unroll
        for (int n = 0; n < N; n++) {
            rb_chunk c = x.ends[4 * n + rb_lane() % 4];
            query_ends e[2] = {{__uint_as_float(c.w[0]), __uint_as_float(c.w[1])},
                               {__uint_as_float(c.w[2]), __uint_as_float(c.w[3])}};
#pragma unroll
            for (int i = 0; i < 4; i++) weight(&p[0][n][i], &dp[0][n][i], e[i % 2], by, s.scale);
        }
        rb_weigh<1, N, DP>(sum_v, p, x.dout);
        rb_weigh<1, N, DP>(sum_k, dp, x.q);
    }
    float down = in.ls ? in.ls->down : 1.0f;
    rb_store<DP>(rb_results_of_head(dk, b, g, T), row, sum_k[0], down, down);
    rb_store<DP>(rb_results_of_head(dv, b, g, T), row, sum_v[0], down, down);
}

/* --- f16: the power of two from the largest size in dout */

enum { SCALE_THREADS = 256 };

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

/* NULL where products are in bf16. */
static resbm_status find_scale(rb_queue *base, const rb_view *dout, loss_scale **out, rb_err *err) {
    rb_cuda_queue *c = rb_cuda_queue_of(base);
    *out = NULL;
    if (!c->f16) return RESBM_OK;
    RB_TRY(rb_cuda_scratch(base, 1, 256, (void **)out, err));
    loss_scale *ls = *out;
    unsigned *most = (unsigned *)((char *)ls + 64);
    RB_CUDA_TRY(rb_cuda_choose(c->index), "attention_backward", err);
    RB_CUDA_TRY(cudaMemsetAsync(most, 0, sizeof *most, c->stream), "attention_backward", err);
    RB_LAUNCH(c, find_most_of_heads, 256u, SCALE_THREADS, most, *dout);
    RB_LAUNCH(c, make_scale, 1u, RB_WARP, ls, most);
    return RESBM_OK;
}

static resbm_status prepare(rb_queue *base, const rb_attention_grads *x, const rb_attention_shape &s,
                            backward_inputs *in, rb_err *err) {
    rb_cuda_queue *c = rb_cuda_queue_of(base);
    const rb_view *from[] = {&x->q, &x->k, &x->v, &x->dout};
    rb_half_heads *to[] = {&in->q, &in->k, &in->v, &in->dout};
    size_t ends = rb_attention_ends(s.B, s.T, s.H), bytes = ends;
    char *room;
    RB_TRY(find_scale(base, &x->dout, &in->ls, err));
    for (int i = 0; i < 4; i++) bytes += rb_cuda_half_bytes(base, from[i], s.T);
    RB_TRY(rb_cuda_scratch(base, 0, bytes, (void **)&room, err));
    in->ends = (query_ends *)room;
    in->stride = (int)rb_attention_stride(s.T);
    room += ends;
    for (int i = 0; i < 4; i++)
        *to[i] = rb_cuda_halves(base, from[i], s.T, i == 3 && in->ls ? &in->ls->up : NULL, &room);
    RB_LAUNCH(c, find_query_ends, (unsigned)(s.B * s.H * in->stride / ENDS_PER_BLOCK), ENDS_THREADS, in->ends,
              in->stride, *x, in->ls, s);
    return RESBM_OK;
}

/* Rows of 16 queries a warp, keys a tile, blocks at a time; queries a tile of the keys' kernel, blocks at a time. */
template <int DP, int MT, int KEYS, int QUERY_BLOCKS, int STEP, int KEY_BLOCKS>
static void launch_backward(rb_queue *base, const rb_attention_grads &x, const backward_inputs &in,
                            const rb_attention_shape &s) {
    static_assert(64 % STEP == 0 && 16 * RB_TILE_WARPS % STEP == 0, "tiles end at rb_attention_stride");
    rb_cuda_queue *c = rb_cuda_queue_of(base);
    int64_t queries = 16 * MT * RB_TILE_WARPS, keys = 16 * RB_TILE_WARPS;
    dim3 over_queries((unsigned)(s.B * s.H), (unsigned)((s.T + queries - 1) / queries)),
        over_keys((unsigned)(s.B * s.G), (unsigned)((s.T + keys - 1) / keys));
    auto q = query_tiles<DP, MT, KEYS, QUERY_BLOCKS>;
    auto k = key_tiles<DP, STEP, KEY_BLOCKS>;
    RB_LAUNCH(c, q, over_queries, RB_TILE_THREADS, x.dq, in, s);
    RB_LAUNCH(c, k, over_keys, RB_TILE_THREADS, x.dk, x.dv, in, s);
}

resbm_status rb_cuda_attention_backward_tiles(rb_queue *q, const rb_op *op, rb_err *err) {
    rb_attention_shape s = rb_attention_backward_shape(op);
    rb_attention_grads x = rb_attention_grads_of(op);
    backward_inputs in;
    RB_TRY(prepare(q, &x, s, &in, err));
    if (s.D <= 32)
        launch_backward<32, 2, 32, 3, 64, 3>(q, x, in, s);
    else if (s.D <= 64)
        launch_backward<64, 2, 32, 2, 32, 3>(q, x, in, s);
    else
        launch_backward<128, 1, 32, 2, 16, 2>(q, x, in, s);
    return rb_cuda_launched(op, err);
}
