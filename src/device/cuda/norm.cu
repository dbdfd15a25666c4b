/* RMSNorm: a row by some lanes of a warp, a warp or a block that keep it in registers, so that it is read once; rows of odd widths
 * and distances by a block in two passes. The weight's gradient in pieces of 64 rows that are added in order. */
#include "device/cuda/cuda.h"
#include "device/cuda/in_order.h"

enum { NORM_THREADS = 256, NORM_PIECE = 64, NORM_WARPS = NORM_THREADS / RB_WARP };

/* --- rows that threads keep: a group of G threads per row, K times N elements each */

/* Rows of a view (rows, d) or (n, H, d), walked without divisions in 64 bits. */
template <class T> struct norm_lines {
    T *at;
    int64_t outer, inner;
    unsigned H;
    explicit norm_lines(const rb_view &v)
        : at((T *)v.data), outer(v.stride[0]), inner(v.rank == 3 ? v.stride[1] : 0),
          H(v.rank == 3 ? (unsigned)v.shape[1] : 1) {}
    __device__ __forceinline__ T *operator()(unsigned r) const {
        if (H == 1) return at + r * outer;
        return at + r / H * outer + r % H * inner;
    }
};

/* Row after row of them, from one on. */
template <class T> struct norm_walk {
    T *at;
    int64_t step, jump; /* to the next of H, and behind the last to the first of the next H */
    unsigned h, H;
    __device__ __forceinline__ norm_walk(const norm_lines<T> &l, unsigned r, unsigned i)
        : at(l(r) + i), step(l.inner), jump(l.outer - (int64_t)(l.H - 1) * l.inner), h(r % l.H), H(l.H) {}
    __device__ __forceinline__ T *next() {
        T *now = at;
        bool last = ++h == H;
        at += last ? jump : step;
        h = last ? 0 : h;
        return now;
    }
};

struct norm_size {
    unsigned rows;
    int d;
};

/* Small blocks, because rows take many registers. */
template <int G> struct norm_group {
    enum { THREADS = G > 128 ? G : 128, ROWS = THREADS / G, WARPS = THREADS / RB_WARP };
};

template <int N, int G> struct norm_place {
    unsigned row;
    int lane;
    bool here;
    __device__ __forceinline__ explicit norm_place(const norm_size &s)
        : row(blockIdx.x * norm_group<G>::ROWS + threadIdx.x / G), lane((int)threadIdx.x % G), here(row < s.rows) {
        if (!here) row = 0;
    }
    __device__ __forceinline__ int column(int k) const { return (lane + k * G) * N; }
};

template <int G> static __device__ __forceinline__ float norm_sum(float v, float *room) {
    if constexpr (G > RB_WARP) {
        return rb_block_sum(v, room);
    } else {
        for (int o = G / 2; o; o /= 2) v += __shfl_xor_sync(RB_ALL_LANES, v, o);
        return v;
    }
}

/* All of a thread's share is asked for at once: without conditions, for which the loads would wait. What is behind the end of a row
 * reads its last elements, and is nobody's. */
template <int N, int K, int G, class T>
static __device__ __forceinline__ void norm_load(rb_wide<T, N> *v, const T *row, const norm_place<N, G> &p, int d) {
#pragma unroll
    for (int k = 0; k < K; k++) v[k].load(row + (p.column(k) < d ? p.column(k) : d - N));
}
template <int N, int K, int G>
static __device__ __forceinline__ void norm_weights(rb_wide<float, N> *m, const float *w, const norm_place<N, G> &p,
                                                    int d) {
    if (w) return norm_load<N, K>(m, w, p, d);
    for (int k = 0; k < K; k++)
        for (int j = 0; j < N; j++) m[k].w[j] = 0x3f800000u; /* 1 */
}

template <class Y, class X, int N, int G, int K>
__global__ void __launch_bounds__(norm_group<G>::THREADS)
    norm_held(norm_lines<Y> y, float *rstd, int64_t gap, norm_lines<X> x, const float *w, norm_size size, float eps) {
    __shared__ float room[norm_group<G>::WARPS];
    norm_place<N, G> p(size);
    rb_wide<X, N> v[K];
    rb_wide<float, N> m[K];
    float sum = 0;
    norm_load<N, K>(v, x(p.row), p, size.d);
    norm_weights<N, K>(m, w, p, size.d);
#pragma unroll
    for (int k = 0; k < K; k++)
        for (int j = 0; j < N; j++)
            if (p.column(k) < size.d) sum += v[k][j] * v[k][j];
    float s = 1.0f / sqrtf(norm_sum<G>(sum, room) / (float)size.d + eps);
    if (!p.here) return;
    Y *to = y(p.row);
#pragma unroll
    for (int k = 0; k < K; k++) {
        float out[N];
        for (int j = 0; j < N; j++) out[j] = v[k][j] * s * m[k][j];
        if (p.column(k) < size.d) rb_give<N>(to + p.column(k), out);
    }
    if (p.lane == 0) rstd[p.row * gap] = s;
}

/* As norm_back below. dx may be dy: all of a row is read before any of it is written. */
template <class DX, class DY, class X, int N, int G, int K>
__global__ void __launch_bounds__(norm_group<G>::THREADS)
    norm_back_held(norm_lines<DX> dx, norm_lines<DY> dy, norm_lines<X> x, const float *w, const float *rstd,
                   int64_t gap, norm_size size, float beta) {
    __shared__ float room[norm_group<G>::WARPS];
    norm_place<N, G> p(size);
    rb_wide<X, N> vx[K];
    rb_wide<DY, N> vy[K];
    rb_wide<DX, N> old[K];
    rb_wide<float, N> m[K];
    DX *to = dx(p.row);
    float dot = 0, s = rstd[p.row * gap];
    norm_load<N, K>(vx, x(p.row), p, size.d);
    norm_load<N, K>(vy, dy(p.row), p, size.d);
    norm_weights<N, K>(m, w, p, size.d);
    if (beta != 0) norm_load<N, K>(old, to, p, size.d);
#pragma unroll
    for (int k = 0; k < K; k++)
        for (int j = 0; j < N; j++)
            if (p.column(k) < size.d) dot += vy[k][j] * m[k][j] * vx[k][j];
    float c = norm_sum<G>(dot, room) * s * s * s / (float)size.d;
    if (!p.here) return;
#pragma unroll
    for (int k = 0; k < K; k++) {
        float out[N];
        for (int j = 0; j < N; j++) {
            float g = s * vy[k][j] * m[k][j] - c * vx[k][j];
            out[j] = beta == 0 ? g : g + beta * old[k][j];
        }
        if (p.column(k) < size.d) rb_give<N>(to + p.column(k), out);
    }
}

/* launch(shape) with G and K that hold `pieces` of N elements; false where none does. */
template <int G_, int K_> struct norm_shape {
    enum { G = G_, K = K_ };
};
template <class L> static bool norm_fits(int64_t pieces, L launch) {
    if (pieces <= 8)
        launch(norm_shape<8, 1>());
    else if (pieces <= 16)
        launch(norm_shape<16, 1>());
    else if (pieces <= 64)
        launch(norm_shape<32, 2>());
    else if (pieces <= 128)
        launch(norm_shape<32, 4>());
    else if (pieces <= 256)
        launch(norm_shape<32, 8>());
    else if (pieces <= 1024)
        launch(norm_shape<256, 4>());
    else if (pieces <= 2048)
        launch(norm_shape<512, 4>());
    else
        return false;
    return true;
}
template <class S> static unsigned norm_blocks(const norm_size &s, S) {
    unsigned per = norm_group<S::G>::ROWS;
    return (s.rows + per - 1) / per;
}

/* Whether the views, all of one shape, have rows that can be kept N elements at a time. */
static bool norm_is_wide(const rb_view *const *v, int count, int N, const void *w) {
    if ((uintptr_t)w % 16) return false;
    for (int i = 0; i < count; i++)
        if (v[i]->rank > 3 || !rb_is_wide(*v[i], N)) return false;
    return rb_row_count(v[0]) * RB_WARP <= RB_MOST_IN_32_BITS; /* rows, and threads of them */
}
static norm_size norm_size_of(const rb_view &x) {
    return norm_size{(unsigned)rb_row_count(&x), (int)rb_row_width(&x)};
}

template <class Y, class X> static bool norm_forward_held(rb_queue *q, const rb_op *op) {
    enum { N = sizeof(Y) + sizeof(X) == 4 ? RB_WIDE_HALF : RB_WIDE_F32 };
    const rb_view &y = op->t[0], &rstd = op->t[1], &x = op->t[2], &w = op->t[3], *all[] = {&x, &y};
    if (!norm_is_wide(all, 2, N, w.data)) return false;
    norm_size size = norm_size_of(x);
    return norm_fits(rb_row_width(&x) / N, [&](auto shape) {
        typedef decltype(shape) S;
        auto kernel = norm_held<Y, X, N, S::G, S::K>;
        RB_LAUNCH(rb_cuda_queue_of(q), kernel, norm_blocks(size, shape), norm_group<S::G>::THREADS, norm_lines<Y>(y),
                  (float *)rstd.data, rstd.stride[0], norm_lines<X>(x), (const float *)w.data, size, op->f[0]);
    });
}

template <class DX, class DY, class X> static bool norm_back_x_held(rb_queue *q, const rb_op *op) {
    enum { N = sizeof(DX) + sizeof(DY) + sizeof(X) == 6 ? RB_WIDE_HALF : RB_WIDE_F32 };
    const rb_view &dx = op->t[0], &dy = op->t[1], &x = op->t[2], &w = op->t[3], &rstd = op->t[4],
                  *all[] = {&x, &dy, &dx};
    if (!norm_is_wide(all, 3, N, w.data)) return false;
    norm_size size = norm_size_of(x);
    return norm_fits(rb_row_width(&x) / N, [&](auto shape) {
        typedef decltype(shape) S;
        auto kernel = norm_back_held<DX, DY, X, N, S::G, S::K>;
        RB_LAUNCH(rb_cuda_queue_of(q), kernel, norm_blocks(size, shape), norm_group<S::G>::THREADS, norm_lines<DX>(dx),
                  norm_lines<DY>(dy), norm_lines<X>(x), (const float *)w.data, (const float *)rstd.data,
                  rstd.stride[0], size, op->f[0]);
    });
}

/* --- any rows, a block each */

static __device__ __forceinline__ rb_cells norm_row(const rb_view &v, int64_t r) {
    return rb_cells_at(v, v.rank == 1 ? r * rb_row_width(&v) : rb_row_offset(&v, r));
}

__global__ void __launch_bounds__(NORM_THREADS)
    norm_rows(rb_view y, rb_view rstd, rb_view x, const float *w, float eps) {
    __shared__ float room[NORM_WARPS];
    int64_t r = blockIdx.x, d = rb_row_width(&x);
    rb_cells px = norm_row(x, r), py = norm_row(y, r);
    float sum = 0;
    for (int64_t i = threadIdx.x; i < d; i += NORM_THREADS) sum += px.get(i) * px.get(i);
    float s = 1.0f / sqrtf(rb_block_sum(sum, room) / (float)d + eps);
    for (int64_t i = threadIdx.x; i < d; i += NORM_THREADS) py.put(i, px.get(i) * s * (w ? w[i] : 1.0f));
    if (threadIdx.x == 0) ((float *)rstd.data)[r * rstd.stride[0]] = s;
}

RB_CUDA_SLOT(rmsnorm_forward) {
    rb_cuda_queue *c = rb_cuda_queue_of(q);
    bool y = op->t[0].dtype == RB_BF16, x = op->t[2].dtype == RB_BF16; /* mixtures that training has */
    if (y   ? x ? norm_forward_held<uint16_t, uint16_t>(q, op) : norm_forward_held<uint16_t, float>(q, op)
        : x ? false
            : norm_forward_held<float, float>(q, op))
        return rb_cuda_launched(op, err);
    RB_LAUNCH(c, norm_rows, (unsigned)rb_row_count(&op->t[2]), NORM_THREADS, op->t[0], op->t[1], op->t[2],
              (const float *)op->t[3].data, op->f[0]);
    return rb_cuda_launched(op, err);
}

/* dx = s (w dy) - x s^3/d sum(w dy x), s = rstd. dx may be dy: every thread writes where it alone has read. */
__global__ void __launch_bounds__(NORM_THREADS)
    norm_back(rb_view dx, rb_view dy, rb_view x, const float *w, rb_view rstd, float beta) {
    __shared__ float room[NORM_WARPS];
    int64_t r = blockIdx.x, d = rb_row_width(&x);
    rb_cells px = norm_row(x, r), pdy = norm_row(dy, r), pdx = norm_row(dx, r);
    float dot = 0, s = ((const float *)rstd.data)[r * rstd.stride[0]];
    for (int64_t i = threadIdx.x; i < d; i += NORM_THREADS) dot += pdy.get(i) * (w ? w[i] : 1.0f) * px.get(i);
    float c = rb_block_sum(dot, room) * s * s * s / (float)d;
    for (int64_t i = threadIdx.x; i < d; i += NORM_THREADS) {
        float g = s * pdy.get(i) * (w ? w[i] : 1.0f) - c * px.get(i);
        pdx.put(i, beta == 0 ? g : g + beta * pdx.get(i));
    }
}

RB_CUDA_SLOT(rmsnorm_backward_x) {
    rb_cuda_queue *c = rb_cuda_queue_of(q);
    int halves = (op->t[0].dtype == RB_BF16) | (op->t[1].dtype == RB_BF16) << 1 | (op->t[2].dtype == RB_BF16) << 2;
    if (halves == 7   ? norm_back_x_held<uint16_t, uint16_t, uint16_t>(q, op)
        : halves == 2 ? norm_back_x_held<float, uint16_t, float>(q, op) /* into the residual stream's */
        : halves == 0 ? norm_back_x_held<float, float, float>(q, op)
                      : false)
        return rb_cuda_launched(op, err);
    RB_LAUNCH(c, norm_back, (unsigned)rb_row_count(&op->t[2]), NORM_THREADS, op->t[0], op->t[1], op->t[2],
              (const float *)op->t[3].data, op->t[4], op->f[0]);
    return rb_cuda_launched(op, err);
}

/* part (pieces, d) */
__global__ void __launch_bounds__(NORM_THREADS)
    weight_pieces(float *part, rb_view dy, rb_view x, rb_view rstd) {
    int64_t d = rb_row_width(&x), rows = rb_row_count(&x),
            i = (int64_t)blockIdx.x * NORM_THREADS + threadIdx.x;
    if (i >= d) return;
    for (int64_t piece = blockIdx.y, from; (from = piece * NORM_PIECE) < rows; piece += gridDim.y) {
        int64_t to = from + NORM_PIECE < rows ? from + NORM_PIECE : rows;
        float sum = 0;
        for (int64_t r = from; r < to; r++)
            sum += norm_row(dy, r).get(i) * norm_row(x, r).get(i) *
                   ((const float *)rstd.data)[r * rstd.stride[0]];
        part[piece * d + i] = sum;
    }
}

/* The same, N columns a thread and eight rows on their way. */
enum { WEIGHT_THREADS = 128, WEIGHT_AHEAD = 8 };

template <class DY, class X, int N>
__global__ void __launch_bounds__(WEIGHT_THREADS)
    weight_pieces_wide(float *part, norm_lines<DY> dy, norm_lines<X> x, const float *rstd, int64_t gap,
                       norm_size size, unsigned pieces) {
    unsigned across = (unsigned)size.d / N, at = blockIdx.x * WEIGHT_THREADS + threadIdx.x, piece = at / across,
             i = (at - piece * across) * N;
    if (piece >= pieces) return;
    unsigned r = piece * NORM_PIECE, left = size.rows - r < NORM_PIECE ? size.rows - r : (unsigned)NORM_PIECE, k = 0;
    norm_walk<DY> py(dy, r, i);
    norm_walk<X> px(x, r, i);
    const float *ps = rstd + r * gap;
    float sum[N];
    for (int j = 0; j < N; j++) sum[j] = 0;
    for (; k + WEIGHT_AHEAD <= left; k += WEIGHT_AHEAD, ps += WEIGHT_AHEAD * gap) {
        rb_wide<DY, N> vy[WEIGHT_AHEAD];
        rb_wide<X, N> vx[WEIGHT_AHEAD];
        float s[WEIGHT_AHEAD];
#pragma unroll
        for (int u = 0; u < WEIGHT_AHEAD; u++) {
            vy[u].load(py.next());
            vx[u].load(px.next());
            s[u] = ps[u * gap];
        }
#pragma unroll
        for (int u = 0; u < WEIGHT_AHEAD; u++)
            for (int j = 0; j < N; j++) sum[j] += vy[u][j] * vx[u][j] * s[u];
    }
    for (; k < left; k++, ps += gap) {
        rb_wide<DY, N> vy = rb_take<N>(py.next());
        rb_wide<X, N> vx = rb_take<N>(px.next());
        for (int j = 0; j < N; j++) sum[j] += vy[j] * vx[j] * *ps;
    }
    rb_wide<float, N> out;
    out.set(sum);
    out.store(part + (int64_t)piece * size.d + i);
}

template <class DY, class X> static bool norm_back_w_wide(rb_queue *q, const rb_op *op, float *part, int64_t pieces) {
    enum { N = sizeof(DY) + sizeof(X) == 4 ? RB_WIDE_HALF : RB_WIDE_F32 };
    const rb_view &dy = op->t[1], &x = op->t[2], &rstd = op->t[3], *all[] = {&x, &dy};
    int64_t sums = pieces * rb_row_width(&x), threads = sums / N;
    if (!norm_is_wide(all, 2, N, NULL) || sums > RB_MOST_IN_32_BITS) return false;
    auto kernel = weight_pieces_wide<DY, X, N>;
    RB_LAUNCH(rb_cuda_queue_of(q), kernel, (unsigned)((threads + WEIGHT_THREADS - 1) / WEIGHT_THREADS),
              WEIGHT_THREADS, part, norm_lines<DY>(dy), norm_lines<X>(x), (const float *)rstd.data, rstd.stride[0],
              norm_size_of(x), (unsigned)pieces);
    return true;
}

struct norm_pieces {
    const float *part;
    int64_t count, d;
    __device__ __forceinline__ int64_t find(int64_t k) const { return k < count ? k : -1; }
    __device__ __forceinline__ const float *at(int64_t k) const { return part + k * d; }
};

template <bool WIDE> __global__ void __launch_bounds__(RB_ORDER_THREADS) norm_add_pieces(float *dw, norm_pieces p) {
    __shared__ rb_order_room room;
    int64_t first = (int64_t)blockIdx.x * RB_ORDER_COLUMNS, i = first + threadIdx.x;
    float sum = rb_add_in_order<WIDE>(0.0f, p, first, p.d, &room);
    if (threadIdx.x < RB_ORDER_COLUMNS && i < p.d) dw[i] += sum;
}

RB_CUDA_SLOT(rmsnorm_backward_w) {
    rb_cuda_queue *c = rb_cuda_queue_of(q);
    int64_t d = rb_row_width(&op->t[2]), pieces = (rb_row_count(&op->t[2]) + NORM_PIECE - 1) / NORM_PIECE;
    bool dy = op->t[1].dtype == RB_BF16, x = op->t[2].dtype == RB_BF16;
    float *part;
    RB_TRY(rb_cuda_scratch(q, 0, (size_t)(pieces * d) * sizeof *part, (void **)&part, err));
    if (!(dy  ? x ? norm_back_w_wide<uint16_t, uint16_t>(q, op, part, pieces)
                  : norm_back_w_wide<uint16_t, float>(q, op, part, pieces)
          : x ? false
              : norm_back_w_wide<float, float>(q, op, part, pieces)))
        RB_LAUNCH(c, weight_pieces, dim3((unsigned)((d + NORM_THREADS - 1) / NORM_THREADS), rb_grid_rows(pieces)),
                  NORM_THREADS, part, op->t[1], op->t[2], op->t[3]);
    auto add = d % 4 ? norm_add_pieces<false> : norm_add_pieces<true>;
    RB_LAUNCH(c, add, (unsigned)((d + RB_ORDER_COLUMNS - 1) / RB_ORDER_COLUMNS), RB_ORDER_THREADS,
              (float *)op->t[0].data, norm_pieces{part, pieces, d});
    return rb_cuda_launched(op, err);
}
