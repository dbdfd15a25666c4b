/* Attention on the ordinary cores in f32: for f32 and tf32 products, and for heads wider than the tensor cores' kernels
 * take. A warp per query (per key in the backward pass of keys and values); lanes share out the keys for the scores and
 * the head's width for the sums. Nothing of size T x T exists and nothing is added by atomics. */
#include "device/cuda/attention.h"

enum { ROW_THREADS = 128, ROW_WARPS = ROW_THREADS / RB_WARP, MOST_D = 512, PER_LANE = MOST_D / RB_WARP };

static __device__ __forceinline__ float dot(const rb_cells &a, const rb_cells &b, int D) {
    float s = 0;
    for (int i = 0; i < D; i++) s += a.get(i) * b.get(i);
    return s;
}

typedef rb_attention_shape shape;

/* The warp's row: (b, h, t) of number n. */
struct row {
    int64_t b, h, t;
    __device__ row(int64_t n, int64_t H, int64_t T) : b(n / (H * T)), h(n / T % H), t(n % T) {}
};

static __device__ __forceinline__ float *lse_at(const rb_view &lse, const row &r) {
    return (float *)lse.data + r.b * lse.stride[0] + r.h * lse.stride[1] + r.t;
}

/* acc += sum over the lanes' keys of p v: lane l holds columns l, l + 32, ... */
static __device__ void add_rows(float *acc, float p, const rb_view &v, int64_t b, int64_t first, int n,
                                int64_t g, int D) {
    int lane = (int)threadIdx.x % RB_WARP;
    for (int j = 0; j < n; j++) {
        float w = __shfl_sync(RB_ALL_LANES, p, j);
        rb_cells from = rb_cells_of_head(v, b, first + j, g);
        for (int c = lane, u = 0; u < PER_LANE; c += RB_WARP, u++)
            if (c < D) acc[u] += w * from.get(c);
    }
}

static __device__ __forceinline__ int lanes_of(int64_t first, int64_t end) {
    return end - first < RB_WARP ? (int)(end - first) : RB_WARP;
}

__global__ void __launch_bounds__(ROW_THREADS)
    forward_rows(rb_view out, rb_view lse, rb_view q, rb_view k, rb_view v, shape s) {
    int64_t n = (int64_t)blockIdx.x * ROW_WARPS + threadIdx.x / RB_WARP;
    int lane = (int)threadIdx.x % RB_WARP;
    if (n >= s.B * s.H * s.T) return;
    row r(n, s.H, s.T);
    int64_t g = r.h / (s.H / s.G), end = s.offset + r.t + 1;
    rb_cells pq = rb_cells_of_head(q, r.b, r.t, r.h);
    float acc[PER_LANE] = {0}, top = -INFINITY, sum = 0;
    for (int64_t first = 0; first < end; first += RB_WARP) {
        int here = lanes_of(first, end);
        float x = lane < here ? s.scale * dot(pq, rb_cells_of_head(k, r.b, first + lane, g), s.D) : -INFINITY;
        float most = rb_nan_max(top, rb_warp_max(x)), shrink = expf(top - most),
              p = lane < here ? expf(x - most) : 0.0f;
        sum = sum * shrink + rb_warp_sum(p);
        for (int u = 0; u < PER_LANE; u++) acc[u] *= shrink;
        add_rows(acc, p, v, r.b, first, here, g, s.D);
        top = most;
    }
    rb_cells to = rb_cells_of_head(out, r.b, r.t, r.h);
    for (int c = lane, u = 0; u < PER_LANE; c += RB_WARP, u++)
        if (c < s.D) to.put(c, acc[u] / sum);
    if (lane == 0) *lse_at(lse, r) = top + logf(sum);
}

static unsigned blocks_for(int64_t warps) {
    return (unsigned)((warps + ROW_WARPS - 1) / ROW_WARPS);
}

static resbm_status check_width(const rb_op *op, int64_t D, rb_err *err) {
    if (D <= MOST_D) return RESBM_OK;
    return rb_fail(err, RESBM_E_UNSUPPORTED,
                   "%s: heads of width %lld; device cuda takes up to %d: raise model.heads",
                   rb_op_info(op->kind)->name, (long long)D, MOST_D);
}

resbm_status rb_cuda_attention_forward_f32(rb_queue *base, const rb_op *op, rb_err *err) {
    rb_cuda_queue *c = rb_cuda_queue_of(base);
    shape s = rb_attention_forward_shape(op);
    RB_TRY(check_width(op, s.D, err));
    RB_LAUNCH(c, forward_rows, blocks_for(s.B * s.H * s.T), ROW_THREADS, op->t[0], op->t[1], op->t[2],
              op->t[3], op->t[4], s);
    return rb_cuda_launched(op, err);
}

/* --- backward: delta = sum(dout out) per query, then dq by queries, dk and dv by keys */

typedef rb_attention_grads grads;

__global__ void __launch_bounds__(ROW_THREADS)
    find_delta(float *delta, rb_view dout, rb_view out, shape s) {
    int64_t n = (int64_t)blockIdx.x * ROW_WARPS + threadIdx.x / RB_WARP;
    if (n >= s.B * s.H * s.T) return;
    row r(n, s.H, s.T);
    rb_cells a = rb_cells_of_head(dout, r.b, r.t, r.h), b = rb_cells_of_head(out, r.b, r.t, r.h);
    float sum = 0;
    for (int c = (int)threadIdx.x % RB_WARP; c < s.D; c += RB_WARP) sum += a.get(c) * b.get(c);
    sum = rb_warp_sum(sum);
    if (threadIdx.x % RB_WARP == 0) delta[n] = sum;
}

__global__ void __launch_bounds__(ROW_THREADS) query_grads(grads x, const float *delta, shape s) {
    int64_t n = (int64_t)blockIdx.x * ROW_WARPS + threadIdx.x / RB_WARP;
    int lane = (int)threadIdx.x % RB_WARP;
    if (n >= s.B * s.H * s.T) return;
    row r(n, s.H, s.T);
    int64_t g = r.h / (s.H / s.G), end = r.t + 1;
    rb_cells pq = rb_cells_of_head(x.q, r.b, r.t, r.h), go = rb_cells_of_head(x.dout, r.b, r.t, r.h);
    float l = *lse_at(x.lse, r), acc[PER_LANE] = {0};
    for (int64_t first = 0; first < end; first += RB_WARP) {
        int here = lanes_of(first, end);
        float ds = 0;
        if (lane < here) {
            float p = expf(s.scale * dot(pq, rb_cells_of_head(x.k, r.b, first + lane, g), s.D) - l);
            ds = p * (dot(go, rb_cells_of_head(x.v, r.b, first + lane, g), s.D) - delta[n]) * s.scale;
        }
        add_rows(acc, ds, x.k, r.b, first, here, g, s.D);
    }
    rb_cells to = rb_cells_of_head(x.dq, r.b, r.t, r.h);
    for (int c = lane, u = 0; u < PER_LANE; c += RB_WARP, u++)
        if (c < s.D) to.put(c, acc[u]);
}

/* Key (b, g, t): the queries of one head from t on, 32 at a time. */
static __device__ void key_from_head(const grads &x, const float *delta, const shape &s, const row &r,
                                     int64_t h, float *dk, float *dv) {
    int lane = (int)threadIdx.x % RB_WARP;
    rb_cells pk = rb_cells_of_head(x.k, r.b, r.t, r.h), pv = rb_cells_of_head(x.v, r.b, r.t, r.h);
    for (int64_t first = r.t; first < s.T; first += RB_WARP) {
        int here = lanes_of(first, s.T);
        float p = 0, ds = 0;
        if (lane < here) {
            row m((r.b * s.H + h) * s.T + first + lane, s.H, s.T);
            p = expf(s.scale * dot(rb_cells_of_head(x.q, m.b, m.t, h), pk, s.D) - *lse_at(x.lse, m));
            ds = p *
                 (dot(rb_cells_of_head(x.dout, m.b, m.t, h), pv, s.D) - delta[(m.b * s.H + h) * s.T + m.t]) *
                 s.scale;
        }
        add_rows(dv, p, x.dout, r.b, first, here, h, s.D);
        add_rows(dk, ds, x.q, r.b, first, here, h, s.D);
    }
}

__global__ void __launch_bounds__(ROW_THREADS) key_grads(grads x, const float *delta, shape s) {
    int64_t n = (int64_t)blockIdx.x * ROW_WARPS + threadIdx.x / RB_WARP, per = s.H / s.G;
    if (n >= s.B * s.G * s.T) return;
    row r(n, s.G, s.T);
    float dk[PER_LANE] = {0}, dv[PER_LANE] = {0};
    for (int64_t h = r.h * per; h < (r.h + 1) * per; h++) key_from_head(x, delta, s, r, h, dk, dv);
    rb_cells to_k = rb_cells_of_head(x.dk, r.b, r.t, r.h), to_v = rb_cells_of_head(x.dv, r.b, r.t, r.h);
    for (int c = (int)threadIdx.x % RB_WARP, u = 0; u < PER_LANE; c += RB_WARP, u++)
        if (c < s.D) {
            to_k.put(c, dk[u]);
            to_v.put(c, dv[u]);
        }
}

resbm_status rb_cuda_attention_backward_f32(rb_queue *base, const rb_op *op, rb_err *err) {
    rb_cuda_queue *c = rb_cuda_queue_of(base);
    shape s = rb_attention_backward_shape(op);
    grads x = rb_attention_grads_of(op);
    int64_t rows = s.B * s.H * s.T;
    float *delta;
    RB_TRY(check_width(op, s.D, err));
    RB_TRY(rb_cuda_scratch(base, 0, (size_t)rows * sizeof *delta, (void **)&delta, err));
    RB_LAUNCH(c, find_delta, blocks_for(rows), ROW_THREADS, delta, x.dout, x.out, s);
    RB_LAUNCH(c, query_grads, blocks_for(rows), ROW_THREADS, x, delta, s);
    RB_LAUNCH(c, key_grads, blocks_for(s.B * s.G * s.T), ROW_THREADS, x, delta, s);
    return rb_cuda_launched(op, err);
}
