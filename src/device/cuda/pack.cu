/* The codec of pack_layout.h, wherever its operands lie; what lies as in training goes to pack_fast.h's kernels.
 * A thread owns eight values of a sequence: whole bytes in every code, and one block of random bits. Scales are
 * found first, by a kernel of their own. The arithmetic is pack_layout.h's and core/rng.h's own code, so the bytes
 * are the CPU's. */
#include "device/cuda/pack_fast.h"

enum { PACK_THREADS = 128, PACK_OWN = 8 };

static __device__ __forceinline__ float *element(const rb_pack_plan &p, int64_t b, int64_t idx) {
    return p.x + b * p.stride_b + idx / p.k * p.stride_t + idx % p.k;
}

/* Walks the elements of one sequence from idx on, without a division each. */
struct walker {
    int64_t t, i;
    __device__ walker(const rb_pack_plan &p, int64_t idx) : t(idx / p.k), i(idx % p.k) {}
    __device__ float *at(const rb_pack_plan &p, int64_t b) const {
        return p.x + b * p.stride_b + t * p.stride_t + i;
    }
    __device__ void next(const rb_pack_plan &p) {
        if (++i == p.k) i = 0, t++;
    }
};

/* --- packing */

/* One warp per scale: the largest size of its values, as bits. */
static __device__ void find_scale_of(const rb_pack_plan &p, int64_t b, int64_t u) {
    int lane = (int)threadIdx.x % RB_WARP;
    unsigned most = 0;
    int64_t from = u * p.unit, to = from + p.unit < p.n ? from + p.unit : p.n;
    for (int64_t i = from + lane; i < to; i += RB_WARP) {
        unsigned size = __float_as_uint(*element(p, b, i)) & 0x7fffffffu;
        most = size > most ? size : most;
    }
    for (int o = RB_WARP / 2; o; o /= 2) {
        unsigned other = __shfl_xor_sync(RB_ALL_LANES, most, o);
        most = other > most ? other : most;
    }
    if (lane == 0) rb_put16(rb_pack_scales(&p, b) + 2 * u, rb_unit_bits(most, p.most));
}

__global__ void __launch_bounds__(PACK_THREADS) find_scales(rb_pack_plan p) {
    int64_t u = ((int64_t)blockIdx.x * PACK_THREADS + threadIdx.x) / RB_WARP;
    if (u >= p.units) return;
    for (int64_t b = blockIdx.y; b < p.B; b += gridDim.y) find_scale_of(p, b, u);
}

/* 16 random bits of each of the eight values. */
struct random8 {
    rb_philox word;
    __device__ random8(const rb_pack_plan &p, int64_t b, int64_t block) {
        uint64_t s = p.sequence + (uint64_t)b;
        rb_philox c = {{(uint32_t)block, (uint32_t)s, (uint32_t)(s >> 32), p.stream}};
        if (p.stochastic) word = rb_philox4x32(c, p.key);
    }
    __device__ uint32_t of(int i) const { return i % 2 ? word.v[i / 2] >> 16 : word.v[i / 2] & 0xffffu; }
};

static __device__ __forceinline__ int quantize(const rb_pack_plan &p, float x, float inverse,
                                               const random8 &r, int i) {
    if (!rb_f32_finite(x)) return rb_pack_bad(&p);
    float t = x * inverse;
    t = t > p.most ? p.most : t < -p.most ? -p.most : t;
    if (!p.stochastic) return (int)(p.half ? floorf(t) : rintf(t));
    float h = ((float)r.of(i) + 0.5f) * 0x1p-16f;
    return (int)floorf((p.half ? t - 0.5f : t) + h);
}

static __device__ __forceinline__ float inverse_of(const rb_pack_plan &p, int64_t b, int64_t idx,
                                                   int64_t coordinate) {
    if (p.steps) return 1.0f / p.steps[coordinate];
    return rb_unit_inverse(rb_get16(rb_pack_scales(&p, b) + 2 * (idx / p.unit)));
}

/* Eight codes as the low bits of one word, the first lowest. */
static __device__ uint64_t codes_of(const rb_pack_plan &p, int64_t b, int64_t from, int n,
                                    rb_cuda_fault *fault) {
    random8 r(p, b, from / PACK_OWN);
    walker w(p, from);
    uint64_t codes = 0;
    for (int i = 0; i < n; i++, w.next(p)) {
        float x = *w.at(p, b);
        if (p.steps && b == 0 && w.t == 0) rb_pack_check_steps_of<1>(&p.steps[w.i], RB_OP_PACK, w.i, fault);
        if (p.half && p.steps && !rb_f32_finite(x))
            rb_cuda_report(fault,
                           rb_cuda_fault{RB_FAULT_VALUE, RB_OP_PACK, b * p.n + from + i, p.k, (double)x});
        int q = quantize(p, x, inverse_of(p, b, from + i, w.i), r, i);
        codes |= (uint64_t)((unsigned)q & ((1u << p.bits) - 1)) << i * p.bits;
    }
    return codes;
}

__global__ void __launch_bounds__(PACK_THREADS) pack_codes(rb_pack_plan p, rb_cuda_fault *fault) {
    int64_t from = ((int64_t)blockIdx.x * PACK_THREADS + threadIdx.x) * PACK_OWN;
    if (from >= p.n) return;
    int n = p.n - from < PACK_OWN ? (int)(p.n - from) : PACK_OWN;
    for (int64_t b = blockIdx.y; b < p.B; b += gridDim.y) {
        uint64_t codes = codes_of(p, b, from, n, fault);
        uint8_t *out = rb_pack_codes(&p, b) + rb_code_bytes(&p, from);
        for (int i = 0; i < (int)rb_code_bytes(&p, n); i++) out[i] = (uint8_t)(codes >> 8 * i);
    }
}

/* f32, bf16, indices. */
static __device__ void pack_whole_of(const rb_pack_plan &p, int64_t b, int64_t from) {
    int n = p.n - from < PACK_OWN ? (int)(p.n - from) : PACK_OWN;
    random8 r(p, b, from / PACK_OWN);
    walker w(p, from);
    uint8_t *out = rb_pack_codes(&p, b) + rb_value_bytes(p.code) * from;
    for (int i = 0; i < n; i++, w.next(p)) {
        float x = *w.at(p, b);
        if (p.code == RB_CODE_F32)
            rb_put32(out + 4 * i, rb_f32_bits(x));
        else if (p.code == RB_CODE_INDEX8)
            out[i] = (uint8_t)rb_index_of(&p, x);
        else if (p.code == RB_CODE_INDEX16)
            rb_put16(out + 2 * i, rb_index_of(&p, x));
        else
            rb_put16(out + 2 * i, p.stochastic ? rb_bf16_stochastic(x, r.of(i)) : rb_bf16_from_f32(x));
    }
}
__global__ void __launch_bounds__(PACK_THREADS) pack_whole(rb_pack_plan p) {
    int64_t from = ((int64_t)blockIdx.x * PACK_THREADS + threadIdx.x) * PACK_OWN;
    for (int64_t b = blockIdx.y; from < p.n && b < p.B; b += gridDim.y) pack_whole_of(p, b, from);
}

static dim3 grid_of(int64_t threads, int64_t B) {
    return dim3((unsigned)((threads + PACK_THREADS - 1) / PACK_THREADS), rb_grid_rows(B));
}

RB_CUDA_SLOT(pack) {
    rb_cuda_queue *c = rb_cuda_queue_of(q);
    rb_pack_plan p;
    rb_pack_fast fast;
    RB_TRY(rb_pack_plan_of(op, &p, err));
    int64_t owners = (p.n + PACK_OWN - 1) / PACK_OWN;
    if (rb_pack_fits(&p, &fast)) {
        rb_pack_fast_run(c, &fast);
        return rb_cuda_launched(op, err);
    }
    if (p.units) RB_LAUNCH(c, find_scales, grid_of(p.units * RB_WARP, p.B), PACK_THREADS, p);
    if (p.scale == RB_SCALE_NONE)
        RB_LAUNCH(c, pack_whole, grid_of(owners, p.B), PACK_THREADS, p);
    else
        RB_LAUNCH(c, pack_codes, grid_of(owners, p.B), PACK_THREADS, p, c->fault);
    return rb_cuda_launched(op, err);
}

/* --- unpacking */

static __device__ __forceinline__ int code_at(const rb_pack_plan &p, const uint8_t *codes, int64_t idx) {
    int64_t bit = idx * p.bits;
    int levels = 1 << p.bits, q = codes[bit >> 3] >> (bit & 7) & (levels - 1);
    return q < levels / 2 ? q : q - levels;
}

static __device__ void unpack_codes_of(const rb_pack_plan &p, int64_t b, int64_t from, rb_cuda_fault *fault) {
    walker w(p, from);
    const uint8_t *codes = rb_pack_codes(&p, b);
    for (int64_t i = from; i < from + PACK_OWN && i < p.n; i++, w.next(p)) {
        int q = code_at(p, codes, i);
        float u = p.steps ? p.steps[w.i] : rb_unit_value(rb_get16(rb_pack_scales(&p, b) + 2 * (i / p.unit)));
        if (p.steps && b == 0 && w.t == 0) rb_pack_check_steps_of<1>(&u, RB_OP_UNPACK, w.i, fault);
        bool bad = (!p.half && (float)q < -p.most) || u != u; /* a product of NaN need not be this one */
        *w.at(p, b) = bad ? rb_f32_of(0x7fc00000u) : ((float)q + (p.half ? 0.5f : 0.0f)) * u;
    }
}
__global__ void __launch_bounds__(PACK_THREADS) unpack_codes(rb_pack_plan p, rb_cuda_fault *fault) {
    int64_t from = ((int64_t)blockIdx.x * PACK_THREADS + threadIdx.x) * PACK_OWN;
    for (int64_t b = blockIdx.y; b < p.B; b += gridDim.y) unpack_codes_of(p, b, from, fault);
}

static __device__ void unpack_whole_of(const rb_pack_plan &p, int64_t b, int64_t from) {
    walker w(p, from);
    const uint8_t *in = rb_pack_codes(&p, b);
    for (int64_t i = from; i < from + PACK_OWN && i < p.n; i++, w.next(p))
        *w.at(p, b) = p.code == RB_CODE_F32       ? rb_f32_of(rb_get32(in + 4 * i))
                      : p.code == RB_CODE_INDEX8  ? (float)in[i]
                      : p.code == RB_CODE_INDEX16 ? (float)rb_get16(in + 2 * i)
                                                  : rb_bf16_to_f32(rb_get16(in + 2 * i));
}
__global__ void __launch_bounds__(PACK_THREADS) unpack_whole(rb_pack_plan p) {
    int64_t from = ((int64_t)blockIdx.x * PACK_THREADS + threadIdx.x) * PACK_OWN;
    for (int64_t b = blockIdx.y; b < p.B; b += gridDim.y) unpack_whole_of(p, b, from);
}

RB_CUDA_SLOT(unpack) {
    rb_cuda_queue *c = rb_cuda_queue_of(q);
    rb_pack_plan p;
    rb_pack_fast fast;
    RB_TRY(rb_pack_plan_of(op, &p, err));
    int64_t owners = (p.n + PACK_OWN - 1) / PACK_OWN;
    if (rb_pack_fits(&p, &fast))
        rb_unpack_fast_run(c, &fast);
    else if (p.scale == RB_SCALE_NONE)
        RB_LAUNCH(c, unpack_whole, grid_of(owners, p.B), PACK_THREADS, p);
    else
        RB_LAUNCH(c, unpack_codes, grid_of(owners, p.B), PACK_THREADS, p, c->fault);
    return rb_cuda_launched(op, err);
}

/* --- statistics of the codes: whole numbers, so the order of the additions does not matter */

enum { PACK_POSITIONS = 64 };

/* A block has PACK_POSITIONS positions at a time; where rows are narrow its threads share them out. */
__global__ void __launch_bounds__(PACK_THREADS) add_squares(rb_pack_plan p, int64_t *stats) {
    int wide = p.k < PACK_THREADS ? (int)p.k : PACK_THREADS, abreast = PACK_THREADS / wide;
    int row = (int)threadIdx.x / wide;
    int64_t j = (int64_t)blockIdx.x * PACK_THREADS + (int)threadIdx.x % wide;
    unsigned long long sum = 0;
    if (row >= abreast || j >= p.k) return;
    for (int64_t first = (int64_t)blockIdx.y * PACK_POSITIONS; first < p.B * p.T;
         first += (int64_t)gridDim.y * PACK_POSITIONS) {
        int64_t b = (first + row) / p.T, t = (first + row) % p.T;
        for (int at = row; at < PACK_POSITIONS && b < p.B; at += abreast) {
            int code = code_at(p, rb_pack_codes(&p, b), t * p.k + j);
            if (p.half) code = 2 * code + 1;
            sum += (unsigned)(code * code);
            for (t += abreast; t >= p.T; t -= p.T) b++;
        }
    }
    atomicAdd((unsigned long long *)stats + j, sum);
}

RB_CUDA_SLOT(code_stats) {
    rb_cuda_queue *c = rb_cuda_queue_of(q);
    rb_pack_plan p;
    RB_TRY(rb_pack_plan_of(op, &p, err));
    dim3 grid((unsigned)((p.k + PACK_THREADS - 1) / PACK_THREADS),
              rb_grid_rows((p.B * p.T + PACK_POSITIONS - 1) / PACK_POSITIONS));
    RB_LAUNCH(c, add_squares, grid, PACK_THREADS, p, (int64_t *)op->t[0].data);
    return rb_cuda_launched(op, err);
}
