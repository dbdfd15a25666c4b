/* Embedding: rows picked by token, and gradients added to them without atomics, so that the bits are always the same: tokens are
 * put in the order of their ids, and an id's gradients added one after the other. */
#include "device/cuda/each.h"
#include "device/cuda/in_order.h"

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

struct pick_row_wide {
    enum { N = RB_WIDE_F32 };
    typedef rb_wide<float, N> in;
    pick_row one;
    __device__ void read(unsigned r, unsigned i, in &a) const {
        int32_t id = one.ids[r];
        bool ok = in_table(id, one.table.shape[0]);
        if (ok) return a.load((const float *)one.table.data + id * one.table.stride[0] + i);
        for (int j = 0; j < N; j++) a.w[j] = 0;
        if (i == 0) one(r, 0); /* which reports it */
    }
    __device__ void write(unsigned r, unsigned i, const in &a) const {
        a.store((float *)one.out.data + r * one.out.stride[0] + i);
    }
};

RB_CUDA_SLOT(embed_forward) {
    const rb_view &out = op->t[0], &table = op->t[1];
    if (rb_is_wide(out, 4) && rb_is_wide(table, 4) && rb_count(out) <= RB_MOST_IN_32_BITS) {
        rb_each_wide(q, out, pick_row_wide{{out, table, (const int32_t *)op->t[2].data, rb_cuda_queue_of(q)->fault}});
        return rb_cuda_launched(op, err);
    }
    rb_each(q, &op->t[0],
            pick_row{op->t[0], op->t[1], (const int32_t *)op->t[2].data, rb_cuda_queue_of(q)->fault});
    return rb_cuda_launched(op, err);
}

/* --- tokens in the order of their ids, those of one id in the order they came: digit by digit from the lowest on. A warp
 * counts the digits of its tokens, each digit's counts are added up, and the warps hand out places. */

enum {
    SORT_DIGIT_BITS = 9, /* so that bytes, and the number that stands for ids outside their table, are one digit */
    SORT_DIGITS = 1 << SORT_DIGIT_BITS,
    SORT_WARPS = 4,
    SORT_THREADS = SORT_WARPS * RB_WARP,
    SORT_STEPS = 8,
    SORT_TILE = SORT_STEPS * RB_WARP /* tokens of a warp */
};

struct alignas(8) embed_token {
    int32_t id, at;
};
struct embed_sort {
    const int32_t *ids;         /* the first digit's tokens; of the others: */
    const embed_token *from;    /* what the digit before left */
    embed_token *to;
    unsigned *before, *total;   /* (digit, tile): tokens of the digit in earlier tiles; (digit): in all */
    int64_t n, tiles;
    int32_t V;                  /* an id outside the table counts as this one */
    int shift;
};

static __device__ __forceinline__ embed_token token_of(const embed_sort &s, int64_t i) {
    if (s.from) return s.from[i];
    int32_t id = s.ids[i];
    return embed_token{in_table(id, s.V) ? id : s.V, (int32_t)i};
}

/* What count[digit] was before this lane's token of the warp's 32 was counted; count has them all afterwards. */
static __device__ __forceinline__ unsigned count_digit(unsigned *count, int digit, bool here) {
    unsigned lane = threadIdx.x % RB_WARP, alike = __ballot_sync(RB_ALL_LANES, here);
    for (int b = 0; b < SORT_DIGIT_BITS; b++) {
        unsigned set = __ballot_sync(RB_ALL_LANES, here && digit >> b & 1);
        alike &= digit >> b & 1 ? set : ~set;
    }
    unsigned earlier = alike & ((1u << lane) - 1), was = here ? count[digit] : 0;
    __syncwarp();
    if (here && !earlier) count[digit] = was + (unsigned)__popc(alike);
    __syncwarp();
    return was + (unsigned)__popc(earlier);
}

/* The digits of the warp's tokens counted into `count`; f(token, what its digit's count was). */
template <class F> static __device__ __forceinline__ void walk_tile(const embed_sort &s, int64_t tile, unsigned *count, F f) {
    int64_t first = tile * SORT_TILE + threadIdx.x % RB_WARP;
    embed_token t[SORT_STEPS];
#pragma unroll
    for (int k = 0; k < SORT_STEPS; k++) {
        t[k] = embed_token{0, 0};
        if (first + k * RB_WARP < s.n) t[k] = token_of(s, first + k * RB_WARP);
    }
#pragma unroll
    for (int k = 0; k < SORT_STEPS; k++) {
        bool here = first + k * RB_WARP < s.n;
        unsigned was = count_digit(count, t[k].id >> s.shift & (SORT_DIGITS - 1), here);
        if (here) f(t[k], was);
    }
}

__global__ void __launch_bounds__(SORT_THREADS) embed_count(embed_sort s, rb_cuda_fault *fault) {
    __shared__ unsigned room[SORT_WARPS][SORT_DIGITS];
    unsigned *count = room[threadIdx.x / RB_WARP], lane = threadIdx.x % RB_WARP;
    int64_t tile = (int64_t)blockIdx.x * SORT_WARPS + threadIdx.x / RB_WARP;
    if (tile >= s.tiles) return; /* whole warps, and no barriers of the block below */
    for (unsigned k = lane; k < SORT_DIGITS; k += RB_WARP) count[k] = 0;
    __syncwarp();
    walk_tile(s, tile, count, [&](embed_token t, unsigned) {
        if (!s.from && t.id == s.V)
            rb_cuda_report(fault, rb_cuda_fault{RB_FAULT_ID, RB_OP_EMBED_BWD, t.at, s.V, (double)s.ids[t.at]});
    });
    for (unsigned k = lane; k < SORT_DIGITS; k += RB_WARP) s.before[k * s.tiles + tile] = count[k];
}

/* v of this lane and all before. */
static __device__ __forceinline__ unsigned sum_so_far(unsigned v) {
    int lane = (int)(threadIdx.x % RB_WARP);
    for (int o = 1; o < RB_WARP; o *= 2) {
        unsigned w = __shfl_sync(RB_ALL_LANES, v, lane >= o ? lane - o : lane);
        if (lane >= o) v += w;
    }
    return v;
}

/* A warp per digit. */
__global__ void __launch_bounds__(SORT_THREADS) embed_add_counts(embed_sort s) {
    int64_t digit = (int64_t)blockIdx.x * SORT_WARPS + threadIdx.x / RB_WARP;
    unsigned *row = s.before + digit * s.tiles, sum = 0;
    for (int64_t from = 0; from < s.tiles; from += RB_WARP) {
        int64_t i = from + threadIdx.x % RB_WARP;
        unsigned v = i < s.tiles ? row[i] : 0, so_far = sum_so_far(v);
        if (i < s.tiles) row[i] = sum + so_far - v;
        sum += __shfl_sync(RB_ALL_LANES, so_far, RB_WARP - 1);
    }
    if (threadIdx.x % RB_WARP == 0) s.total[digit] = sum;
}

__global__ void __launch_bounds__(SORT_THREADS) embed_place(embed_sort s) {
    __shared__ unsigned room[SORT_WARPS][SORT_DIGITS];
    unsigned *count = room[threadIdx.x / RB_WARP], lower = 0;
    int64_t tile = (int64_t)blockIdx.x * SORT_WARPS + threadIdx.x / RB_WARP;
    if (tile >= s.tiles) return;
    for (unsigned k = threadIdx.x % RB_WARP; k < SORT_DIGITS; k += RB_WARP) {
        unsigned all = s.total[k], so_far = sum_so_far(all);
        count[k] = lower + so_far - all + s.before[k * s.tiles + tile];
        lower += __shfl_sync(RB_ALL_LANES, so_far, RB_WARP - 1);
    }
    __syncwarp();
    walk_tile(s, tile, count, [&](embed_token t, unsigned place) { s.to[place] = t; });
}

/* --- an id's gradients, in order */

struct embed_sum {
    const embed_token *token; /* in order */
    int64_t n, V, d;
    float *table;
    const float *dout;
    int64_t table_gap, dout_gap;
};

static __device__ __forceinline__ embed_token token_or_none(const embed_sum &s, int64_t i) {
    return i < s.n ? s.token[i] : embed_token{-1, 0};
}

enum {
    EMBED_FEW = 128, /* tokens of one id that a warp adds alone */
    EMBED_WARPS = 8,
    EMBED_THREADS = EMBED_WARPS * RB_WARP,
    EMBED_OWN = 8, /* tokens whose ids a warp looks at */
    EMBED_COLUMNS = 4 * RB_WARP /* of a warp */
};

/* K rows, those of the tokens that lanes k, k + 1 ... hold, added to four columns: all asked for before one is added. */
template <bool WIDE, int K>
static __device__ __forceinline__ void add_held(const embed_sum &s, rb_wide<float, 4> &sum, int32_t at, int k, int64_t c) {
    rb_wide<float, 4> row[K];
    const float *from[K];
#pragma unroll
    for (int u = 0; u < K; u++) from[u] = s.dout + __shfl_sync(RB_ALL_LANES, at, k + u) * s.dout_gap;
#pragma unroll
    for (int u = 0; u < K; u++) /* without a condition: those would be loaded one after the other */
        row[u] = WIDE ? rb_take<4>(from[u] + c) : rb_quad<false>(from[u], c, s.d);
#pragma unroll
    for (int u = 0; u < K; u++)
        for (int j = 0; j < 4; j++) sum.w[j] = __float_as_uint(sum[j] + row[u][j]);
}

/* By the whole warp: the tokens from place i on that are of one id, of which each lane holds one; columns c to c + 3. */
template <bool WIDE> static __device__ void add_few(const embed_sum &s, int64_t i, int32_t id, int64_t c) {
    int64_t column = c < s.d ? c : 0; /* who has none reads along */
    float *to = s.table + id * s.table_gap;
    rb_wide<float, 4> sum = rb_quad<WIDE>(to, column, s.d);
    embed_token held = token_or_none(s, i + threadIdx.x % RB_WARP);
    for (int there = RB_WARP; there == RB_WARP;) {
        there = __popc(__ballot_sync(RB_ALL_LANES, held.id == id));
        int32_t at = held.at;
        i += RB_WARP;
        if (there == RB_WARP) held = token_or_none(s, i + threadIdx.x % RB_WARP);
        int k = 0;
        for (; k + 8 <= there; k += 8) add_held<WIDE, 8>(s, sum, at, k, column);
        for (; k + 4 <= there; k += 4) add_held<WIDE, 4>(s, sum, at, k, column);
        for (; k < there; k++) add_held<WIDE, 1>(s, sum, at, k, column);
    }
    if (WIDE && c < s.d) sum.store(to + c);
    for (int j = 0; !WIDE && j < 4 && c + j < s.d; j++) to[c + j] = sum[j];
}

template <bool WIDE> __global__ void __launch_bounds__(EMBED_THREADS) embed_add_few(embed_sum s) {
    int lane = (int)threadIdx.x % RB_WARP;
    int64_t first = ((int64_t)blockIdx.x * EMBED_WARPS + threadIdx.x / RB_WARP) * EMBED_OWN, i = first + lane;
    int32_t id = lane < EMBED_OWN && i < s.n ? s.token[i].id : (int32_t)s.V;
    bool begins = id < s.V && (i == 0 || s.token[i - 1].id != id);
    begins = begins && !(i + EMBED_FEW < s.n && s.token[i + EMBED_FEW].id == id);
    unsigned mine = __ballot_sync(RB_ALL_LANES, begins);
    for (; mine; mine &= mine - 1) {
        int k = __ffs(mine) - 1;
        int32_t this_id = __shfl_sync(RB_ALL_LANES, id, k);
        for (int64_t c = blockIdx.y * EMBED_COLUMNS; c < s.d; c += gridDim.y * EMBED_COLUMNS)
            add_few<WIDE>(s, first + k, this_id, c + 4 * lane);
    }
}

struct tokens_of_id {
    const embed_sum &s;
    int64_t first;
    int32_t id;
    __device__ __forceinline__ int64_t find(int64_t k) const {
        embed_token t = token_or_none(s, first + k);
        return t.id == id ? t.at : -1;
    }
    __device__ __forceinline__ const float *at(int64_t place) const { return s.dout + place * s.dout_gap; }
};

/* An id with more than a few: among its places is one at least that is a multiple of EMBED_FEW; the first one's block adds. */
template <bool WIDE> __global__ void __launch_bounds__(RB_ORDER_THREADS) embed_add_many(embed_sum s) {
    __shared__ rb_order_room room;
    __shared__ int counts[RB_ORDER_THREADS / RB_WARP];
    int64_t i = (int64_t)blockIdx.x * EMBED_FEW, j = i - 1 - threadIdx.x;
    int32_t id = s.token[i].id;
    if (id >= s.V || (i && s.token[i - EMBED_FEW].id == id)) return;
    bool before = threadIdx.x < EMBED_FEW && j >= 0 && s.token[j].id == id;
    int64_t first = i - rb_block_sum(before ? 1 : 0, counts);
    if (first + EMBED_FEW >= s.n || s.token[first + EMBED_FEW].id != id) return;
    tokens_of_id rows = {s, first, id};
    for (int64_t c = blockIdx.y * RB_ORDER_COLUMNS; c < s.d; c += gridDim.y * RB_ORDER_COLUMNS) {
        float *to = s.table + id * s.table_gap + c + threadIdx.x;
        bool here = threadIdx.x < RB_ORDER_COLUMNS && c + threadIdx.x < s.d;
        float sum = rb_add_in_order<WIDE>(here ? *to : 0.0f, rows, c, s.d, &room);
        if (here) *to = sum;
    }
}

static int64_t pieces_of(int64_t n, int64_t size) {
    return (n + size - 1) / size;
}

/* *out: the tokens in order, in working memory. */
static resbm_status sort_tokens(rb_queue *q, const rb_op *op, const embed_token **out, rb_err *err) {
    rb_cuda_queue *c = rb_cuda_queue_of(q);
    int64_t n = op->t[1].shape[0], tiles = pieces_of(n, SORT_TILE);
    size_t counts = SORT_DIGITS * (size_t)(tiles + 1);
    embed_token *room;
    RB_TRY(rb_cuda_scratch(q, 0, 2 * (size_t)n * sizeof *room + counts * sizeof(unsigned), (void **)&room, err));
    unsigned *total = (unsigned *)(room + 2 * n);
    embed_sort s = {(const int32_t *)op->t[2].data, NULL, room, total + SORT_DIGITS, total, n, tiles,
                    (int32_t)op->t[0].shape[0], 0};
    unsigned blocks = (unsigned)pieces_of(tiles, SORT_WARPS);
    for (; s.shift == 0 || (s.shift < 32 && s.V >> s.shift); s.shift += SORT_DIGIT_BITS) {
        RB_LAUNCH(c, embed_count, blocks, SORT_THREADS, s, c->fault);
        RB_LAUNCH(c, embed_add_counts, (unsigned)(SORT_DIGITS / SORT_WARPS), SORT_THREADS, s);
        RB_LAUNCH(c, embed_place, blocks, SORT_THREADS, s);
        s.from = s.to;
        s.to = s.to == room ? room + n : room;
    }
    *out = s.from;
    return RESBM_OK;
}

template <bool WIDE> static void add_tokens(rb_cuda_queue *c, const embed_sum &s) {
    auto few = embed_add_few<WIDE>;
    auto many = embed_add_many<WIDE>;
    RB_LAUNCH(c, few,
              dim3((unsigned)pieces_of(s.n, EMBED_WARPS * EMBED_OWN), rb_grid_rows(pieces_of(s.d, EMBED_COLUMNS))),
              EMBED_THREADS, s);
    if (s.n > EMBED_FEW)
        RB_LAUNCH(c, many,
                  dim3((unsigned)pieces_of(s.n, EMBED_FEW), rb_grid_rows(pieces_of(s.d, RB_ORDER_COLUMNS))),
                  RB_ORDER_THREADS, s);
}

RB_CUDA_SLOT(embed_backward) {
    const rb_view &table = op->t[0], &dout = op->t[1];
    const embed_token *tokens;
    if (table.shape[0] >= INT32_MAX || dout.shape[0] >= INT32_MAX)
        return rb_fail(err, RESBM_E_UNSUPPORTED, "embed_backward: %lld ids, %lld tokens: 2^31 - 2 at most",
                       (long long)table.shape[0], (long long)dout.shape[0]);
    RB_TRY(sort_tokens(q, op, &tokens, err));
    embed_sum s = {tokens,
                   dout.shape[0],
                   table.shape[0],
                   table.shape[1],
                   (float *)table.data,
                   (const float *)dout.data,
                   table.stride[0],
                   dout.stride[0]};
    if (rb_is_wide(table, 4) && rb_is_wide(dout, 4))
        add_tokens<true>(rb_cuda_queue_of(q), s);
    else
        add_tokens<false>(rb_cuda_queue_of(q), s);
    return rb_cuda_launched(op, err);
}
