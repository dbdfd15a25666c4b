/* Softmax cross-entropy. Short rows: a warp each, which keeps it in registers. Others: a block each, in two passes; the first finds
 * the maximum and the sum together (Milakov & Gimelshein 2018), the second begins where the first ended, with what the cache still
 * has. */
#include "device/cuda/wide.h"

enum { XENT_THREADS = 1024, XENT_WARPS = XENT_THREADS / RB_WARP, XENT_AHEAD = 4, XENT_SHORT_WARPS = 8 };

/* G: the gradient's type, float or uint16_t for bf16. */
template <class G> struct xent_args {
    float *loss;
    const float *logits;
    G *grad; /* the logits' own place, or another */
    int64_t loss_gap, gap, grad_gap, rows, V;
    const int32_t *targets;
    float scale; /* 0: no gradient */
    rb_cuda_fault *fault;
};

/* Whether the row's target can be; who asks first reports it. */
template <class G>
static __device__ __forceinline__ bool xent_target(const xent_args<G> &a, int64_t r, int32_t target,
                                                   bool reports) {
    if (target < a.V) return true;
    if (reports) rb_cuda_report(a.fault, rb_cuda_fault{RB_FAULT_TARGET, RB_OP_XENT, r, a.V, (double)target});
    return false;
}
static __device__ __forceinline__ float xent_loss(int32_t target, float top, float sum, float hit) {
    return target < 0 ? 0.0f : top + logf(sum) - hit;
}

/* --- rows of up to 128 K numbers */

template <int K, class G>
__global__ void __launch_bounds__(XENT_SHORT_WARPS *RB_WARP) xent_short_rows(xent_args<G> a) {
    int64_t r = (int64_t)blockIdx.x * XENT_SHORT_WARPS + threadIdx.x / RB_WARP;
    if (r >= a.rows) return; /* whole warps */
    int lane = (int)threadIdx.x % RB_WARP;
    int32_t target = a.targets[r];
    const float *x = a.logits + r * a.gap;
    float most = -INFINITY, part = 0, e[K][4];
    rb_wide<float, 4> v[K];
    if (!xent_target(a, r, target, lane == 0)) return;
#pragma unroll
    for (int k = 0; k < K; k++) {
        int64_t c = (lane + k * RB_WARP) * 4;
        v[k].load(x + (c < a.V ? c : 0)); /* twice what is there does no harm to the maximum */
    }
    float hit = x[target < 0 ? 0 : target];
#pragma unroll
    for (int k = 0; k < K; k++)
        for (int j = 0; j < 4; j++) most = rb_nan_max(most, v[k][j]);
    float top = rb_warp_max(most);
#pragma unroll
    for (int k = 0; k < K; k++)
        for (int j = 0; j < 4; j++) {
            e[k][j] = expf(v[k][j] - top);
            if ((lane + k * RB_WARP) * 4 < a.V) part += e[k][j];
        }
    float sum = rb_warp_sum(part), share = target < 0 ? 0.0f : a.scale / sum;
    if (lane == 0) a.loss[r * a.loss_gap] = xent_loss(target, top, sum, hit);
    __syncwarp(); /* the target's logit has been read by all lanes */
    if (a.scale == 0) return;
#pragma unroll
    for (int k = 0; k < K; k++) {
        int c = (lane + k * RB_WARP) * 4;
        float g[4];
        for (int j = 0; j < 4; j++)
            g[j] = target < 0 ? 0.0f : e[k][j] * share - (c + j == target ? a.scale : 0.0f);
        if (c < a.V) rb_give<4>(a.grad + r * a.grad_gap + c, g);
    }
}

/* --- rows of any length, N numbers at a time */

/* The largest so far, and the sum of exp(x - that). */
struct xent_sum {
    float most, sum;
    template <int N> __device__ __forceinline__ void add(const rb_wide<float, N> &v) {
        float top = most;
        for (int j = 0; j < N; j++) top = rb_nan_max(top, v[j]);
        if (top != most) sum *= expf(most - top); /* a NaN is unlike itself, and stays */
        most = top;
        float from = top == -INFINITY ? 0.0f : top; /* nothing but -inf yet: adds zeros */
        for (int j = 0; j < N; j++) sum += expf(v[j] - from);
    }
};

template <int N> static __device__ __forceinline__ xent_sum xent_read(const float *x, int count) {
    xent_sum s = {-INFINITY, 0.0f};
    int i = (int)threadIdx.x, step = (int)blockDim.x;
    for (; i + (XENT_AHEAD - 1) * step < count; i += XENT_AHEAD * step) {
        rb_wide<float, N> v[XENT_AHEAD];
#pragma unroll
        for (int u = 0; u < XENT_AHEAD; u++) v[u].load(x + (int64_t)(i + u * step) * N);
#pragma unroll
        for (int u = 0; u < XENT_AHEAD; u++) s.add(v[u]);
    }
    for (; i < count; i += step) s.add(rb_take<N>(x + (int64_t)i * N));
    return s;
}

template <class G> struct xent_gradient {
    const float *x;
    G *to;
    int32_t target;
    float top, share, scale;
    template <int N> __device__ __forceinline__ void put(const rb_wide<float, N> &v, int i) const {
        float g[N];
        for (int j = 0; j < N; j++)
            g[j] = target < 0 ? 0.0f : expf(v[j] - top) * share - (i * N + j == target ? scale : 0.0f);
        rb_give<N>(to + (int64_t)i * N, g);
    }
    template <int N> __device__ __forceinline__ void write(int count) const {
        int i = count - 1 - (int)threadIdx.x, step = (int)blockDim.x;
        for (; i >= (XENT_AHEAD - 1) * step; i -= XENT_AHEAD * step) {
            rb_wide<float, N> v[XENT_AHEAD];
#pragma unroll
            for (int u = 0; u < XENT_AHEAD; u++) v[u].load(x + (int64_t)(i - u * step) * N);
#pragma unroll
            for (int u = 0; u < XENT_AHEAD; u++) put<N>(v[u], i - u * step);
        }
        for (; i >= 0; i -= step) put<N>(rb_take<N>(x + (int64_t)i * N), i);
    }
};

template <int N, class G> __global__ void __launch_bounds__(XENT_THREADS) xent_rows(xent_args<G> a) {
    __shared__ float room[XENT_WARPS];
    int64_t r = blockIdx.x;
    const float *x = a.logits + r * a.gap;
    int32_t target = a.targets[r];
    if (!xent_target(a, r, target, threadIdx.x == 0)) return;
    xent_sum s = xent_read<N>(x, (int)(a.V / N));
    float top = rb_block_max(s.most, room);
    float sum = rb_block_sum(s.sum * expf(s.most - top), room); /* who had nothing: 0 exp(-inf) */
    if (threadIdx.x == 0) a.loss[r * a.loss_gap] = xent_loss(target, top, sum, x[target < 0 ? 0 : target]);
    if (a.scale == 0) return;
    __syncthreads(); /* the target's logit has been read */
    xent_gradient<G> gradient = {x, a.grad + r * a.grad_gap, target, top, a.scale / sum, a.scale};
    gradient.template write<N>((int)(a.V / N));
}

template <class G>
static resbm_status xent_run(rb_cuda_queue *c, const rb_op *op, const rb_view &grad, rb_err *err) {
    const rb_view &loss = op->t[0], &logits = op->t[1];
    xent_args<G> a = {(float *)loss.data,
                      (const float *)logits.data,
                      (G *)grad.data,
                      loss.stride[0],
                      logits.stride[0],
                      grad.stride[0],
                      logits.shape[0],
                      logits.shape[1],
                      (const int32_t *)op->t[2].data,
                      op->f[0],
                      c->fault};
    bool wide = rb_is_wide(logits, 4) && rb_is_wide(grad, 4);
    unsigned blocks = (unsigned)((a.rows + XENT_SHORT_WARPS - 1) / XENT_SHORT_WARPS),
             threads = a.V < 16384 ? XENT_THREADS / 4 : XENT_THREADS;
    auto few = xent_short_rows<2, G>, some = xent_short_rows<8, G>;
    auto any = wide ? xent_rows<4, G> : xent_rows<1, G>;
    if (a.V > INT32_MAX / 2)
        return rb_fail(err, RESBM_E_UNSUPPORTED, "xent: rows of %lld logits", (long long)a.V);
    if (wide && a.V <= 1024)
        RB_LAUNCH(c, (a.V <= 256 ? few : some), blocks, XENT_SHORT_WARPS * RB_WARP, a);
    else
        RB_LAUNCH(c, any, (unsigned)a.rows, threads, a);
    return rb_cuda_launched(op, err);
}

RB_CUDA_SLOT(xent) {
    rb_cuda_queue *c = rb_cuda_queue_of(q);
    const rb_view &grad = op->t[3].data ? op->t[3] : op->t[1];
    return grad.dtype == RB_BF16 ? xent_run<uint16_t>(c, op, grad, err) : xent_run<float>(c, op, grad, err);
}
