/* Packing by eights (pack_fast.h). The bytes are the CPU's: the same operations on the same numbers, rounded to
 * whole ones by an addition instead of a conversion, which GPUs do at an eighth of the rate. */
#include "device/cuda/pack_fast.h"
#include "device/cuda/wide.h"

enum { EIGHTS_THREADS = 256, EIGHT = 8 };

/* 2^23 + 2^22: in a sum with it the mantissa's last bit stands for 1, so that the addition rounds to a whole number,
 * whose two's complement the low bits are. */
static __device__ __forceinline__ uint32_t nearest_whole(float t) {
    return __float_as_uint(t + 12582912.0f);
}
static __device__ __forceinline__ uint32_t whole_below(float t) {
    return __float_as_uint(__fadd_rd(t, 12582912.0f));
}

static __device__ __forceinline__ uint32_t size_bits(float x) {
    return __float_as_uint(x) & 0x7fffffffu;
}
static __device__ __forceinline__ uint32_t most_of(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

static __device__ __forceinline__ void load_eight(const float *at, float *v) {
    rb_wide<float, EIGHT> x = rb_take<EIGHT>(at);
#pragma unroll
    for (int i = 0; i < EIGHT; i++) v[i] = x[i];
}

static __device__ __forceinline__ rb_philox random_of_eight(const rb_pack_plan &p, int64_t b,
                                                            uint32_t from) {
    uint64_t s = p.sequence + (uint64_t)b;
    rb_philox c = {{from / EIGHT, (uint32_t)s, (uint32_t)(s >> 32), p.stream}};
    return rb_philox4x32(c, p.key);
}
static __device__ __forceinline__ uint32_t random_of(const rb_philox &w, int i) {
    return i % 2 ? w.v[i / 2] >> 16 : w.v[i / 2] & 0xffffu;
}

template <int BITS, bool STOCHASTIC>
static __device__ __forceinline__ uint32_t code_of(const rb_pack_plan &p, float x, float inverse,
                                                   uint32_t h) {
    const bool half = BITS <= 2;
    float t = fminf(fmaxf(x * inverse, -p.most), p.most);
    uint32_t q;
    if (STOCHASTIC) {
        float r = __uint_as_float(0x3f800040u | h << 7) - 1.0f; /* (h + 1/2) 2^-16 */
        q = whole_below((half ? t - 0.5f : t) + r);
    } else
        q = half ? whole_below(t) : nearest_whole(t);
    uint32_t bad = half || !p.steps ? 0 : 1u << (BITS - 1); /* rb_pack_bad */
    return (fabsf(x) < INFINITY ? q : bad) & ((1u << BITS) - 1);
}

static __device__ __forceinline__ void store_codes(uint8_t *out, const uint32_t *w, int bits) {
    if (bits == 8)
        *(uint2 *)out = make_uint2(w[0], w[1]);
    else if (bits == 4)
        *(uint32_t *)out = w[0];
    else if (bits == 2)
        *(uint16_t *)out = (uint16_t)w[0];
    else
        *out = (uint8_t)w[0];
}

/* Quantizes eight values and stores their codes. */
template <int BITS, bool STOCHASTIC>
static __device__ __forceinline__ void put_eight(const rb_pack_plan &p, int64_t b, uint32_t from,
                                                 const float *v, const float *inverse) {
    rb_philox random = {};
    if (STOCHASTIC) random = random_of_eight(p, b, from);
    uint32_t w[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < EIGHT; i++)
        w[i * BITS / 32] |= code_of<BITS, STOCHASTIC>(p, v[i], inverse[i], random_of(random, i))
                            << i * BITS % 32;
    store_codes(rb_pack_codes(&p, b) + from / 8 * BITS, w, BITS);
}

/* Of the values that are not finite the first is reported. */
static __device__ __forceinline__ void check_values(const rb_pack_plan &p, int64_t b, uint32_t from,
                                                    const float *v, rb_cuda_fault *fault) {
    int at = EIGHT;
    float value = 0;
#pragma unroll
    for (int i = EIGHT - 1; i >= 0; i--)
        if (!(fabsf(v[i]) < INFINITY)) at = i, value = v[i];
    if (at < EIGHT)
        rb_cuda_report(fault,
                       rb_cuda_fault{RB_FAULT_VALUE, RB_OP_PACK, b * p.n + from + at, p.k, (double)value});
}

static __device__ __forceinline__ void inverses_of_steps(const rb_pack_fast &f, int64_t b, uint32_t from,
                                                         float *inverse, rb_cuda_fault *fault) {
    rb_pack_place at = rb_pack_place_of(f, from);
    load_eight(f.p.steps + at.i, inverse);
    if (b == 0 && at.t == 0) rb_pack_check_steps_of<EIGHT>(inverse, RB_OP_PACK, at.i, fault);
#pragma unroll
    for (int i = 0; i < EIGHT; i++) inverse[i] = 1.0f / inverse[i];
}

/* Groups of UNIT values, several of them within the eight. */
template <int UNIT>
static __device__ __forceinline__ void inverses_within(const rb_pack_plan &p, uint16_t *scales, uint32_t from,
                                                       bool inside, const float *v, float *inverse) {
#pragma unroll
    for (int g = 0; g < EIGHT / UNIT; g++) {
        uint32_t most = 0;
#pragma unroll
        for (int i = 0; i < UNIT; i++) most = most_of(most, size_bits(v[g * UNIT + i]));
        uint16_t u = rb_unit_bits(most, p.most);
        if (inside) scales[from / UNIT + g] = u;
#pragma unroll
        for (int i = 0; i < UNIT; i++) inverse[g * UNIT + i] = rb_unit_inverse(u);
    }
}

/* Up to eight threads hold a group, up to 32 a token: neighbours in a warp. Those behind the end hold zeros. */
static __device__ __forceinline__ void inverses_across(const rb_pack_fast &f, uint16_t *scales, uint32_t from,
                                                       bool inside, const float *v, float *inverse) {
    uint32_t most = 0, lanes = 1u << f.log2 >> 3;
#pragma unroll
    for (int i = 0; i < EIGHT; i++) most = most_of(most, size_bits(v[i]));
    for (uint32_t o = lanes / 2; o; o /= 2)
        most = most_of(most, __shfl_xor_sync(RB_ALL_LANES, most, (int)o));
    uint16_t u = rb_unit_bits(most, f.p.most);
    if (inside && threadIdx.x % lanes == 0) scales[from >> f.log2] = u;
    float one = rb_unit_inverse(u);
#pragma unroll
    for (int i = 0; i < EIGHT; i++) inverse[i] = one;
}

/* Learned steps, groups, and tokens of up to 256 values if a power of two. */
template <int BITS, bool STOCHASTIC>
__global__ void __launch_bounds__(EIGHTS_THREADS) pack_eights(rb_pack_fast f, rb_cuda_fault *fault) {
    const rb_pack_plan &p = f.p;
    uint32_t from = (blockIdx.x * EIGHTS_THREADS + threadIdx.x) * EIGHT;
    bool inside = from < (uint32_t)p.n;
    for (int64_t b = blockIdx.y; b < p.B; b += gridDim.y) {
        float v[EIGHT] = {0, 0, 0, 0, 0, 0, 0, 0}, inverse[EIGHT];
        uint16_t *scales = (uint16_t *)rb_pack_scales(&p, b);
        if (inside) load_eight(rb_pack_at(f, b, from), v);
        if (p.steps) {
            if (!inside) continue;
            inverses_of_steps(f, b, from, inverse, fault);
            if (BITS <= 2) check_values(p, b, from, v, fault);
        } else if (f.log2 >= 3)
            inverses_across(f, scales, from, inside, v, inverse);
        else if (f.log2 == 2)
            inverses_within<4>(p, scales, from, inside, v, inverse);
        else
            inverses_within<2>(p, scales, from, inside, v, inverse);
        if (inside) put_eight<BITS, STOCHASTIC>(p, b, from, v, inverse);
    }
}

/* Other widths of tokens: a warp to each, which goes over it twice. */
template <int BITS, bool STOCHASTIC>
static __device__ void pack_token(const rb_pack_fast &f, int64_t b, uint32_t t) {
    const rb_pack_plan &p = f.p;
    const uint32_t k = (uint32_t)p.k, lane = threadIdx.x % RB_WARP;
    const float *row = p.x + b * p.stride_b + t * p.stride_t;
    float v[EIGHT], inverse[EIGHT];
    uint32_t most = 0;
    for (uint32_t i = lane * EIGHT; i < k; i += RB_WARP * EIGHT) {
        load_eight(row + i, v);
        for (int j = 0; j < EIGHT; j++) most = most_of(most, size_bits(v[j]));
    }
    for (int o = RB_WARP / 2; o; o /= 2) most = most_of(most, __shfl_xor_sync(RB_ALL_LANES, most, o));
    uint16_t u = rb_unit_bits(most, p.most);
    if (lane == 0) ((uint16_t *)rb_pack_scales(&p, b))[t] = u;
    for (int j = 0; j < EIGHT; j++) inverse[j] = rb_unit_inverse(u);
    for (uint32_t i = lane * EIGHT; i < k; i += RB_WARP * EIGHT) {
        load_eight(row + i, v);
        put_eight<BITS, STOCHASTIC>(p, b, t * k + i, v, inverse);
    }
}
template <int BITS, bool STOCHASTIC>
__global__ void __launch_bounds__(EIGHTS_THREADS) pack_tokens(rb_pack_fast f) {
    uint32_t t = (blockIdx.x * EIGHTS_THREADS + threadIdx.x) / RB_WARP;
    for (int64_t b = blockIdx.y; t < f.p.T && b < f.p.B; b += gridDim.y)
        pack_token<BITS, STOCHASTIC>(f, b, t);
}

/* Codes without a scale. */
template <int CODE, bool STOCHASTIC>
static __device__ __forceinline__ uint32_t word_of(const rb_pack_plan &p, float x, uint32_t h) {
    if (CODE == RB_CODE_F32) return rb_f32_bits(x);
    if (CODE != RB_CODE_BF16) return rb_index_of(&p, x);
    return STOCHASTIC ? rb_bf16_stochastic(x, h) : rb_bf16_from_f32(x);
}
template <int CODE, bool STOCHASTIC>
__global__ void __launch_bounds__(EIGHTS_THREADS) pack_eights_whole(rb_pack_fast f) {
    enum { BYTES = CODE == RB_CODE_F32 ? 4 : CODE == RB_CODE_INDEX8 ? 1 : 2, WORDS = 2 * BYTES };
    uint32_t from = (blockIdx.x * EIGHTS_THREADS + threadIdx.x) * EIGHT;
    for (int64_t b = blockIdx.y; from < (uint32_t)f.p.n && b < f.p.B; b += gridDim.y) {
        float v[EIGHT];
        uint32_t w[WORDS] = {};
        rb_philox random = {};
        load_eight(rb_pack_at(f, b, from), v);
        if (STOCHASTIC) random = random_of_eight(f.p, b, from);
#pragma unroll
        for (int i = 0; i < EIGHT; i++)
            w[i * BYTES / 4] |= word_of<CODE, STOCHASTIC>(f.p, v[i], random_of(random, i))
                                << i * BYTES % 4 * 8;
        uint8_t *out = rb_pack_codes(&f.p, b) + (uint64_t)from * BYTES;
        if (WORDS == 2) *(uint2 *)out = make_uint2(w[0], w[1]);
#pragma unroll
        for (int i = 0; i + 4 <= WORDS; i += 4)
            *(uint4 *)(out + 4 * i) = make_uint4(w[i], w[i + 1], w[i + 2], w[i + 3]);
    }
}

/* --- which kernel */

static dim3 grid_for(int64_t threads, int64_t B) {
    return dim3((unsigned)((threads + EIGHTS_THREADS - 1) / EIGHTS_THREADS), rb_grid_rows(B));
}

template <int BITS, bool STOCHASTIC> static void run_scaled(rb_cuda_queue *c, const rb_pack_fast *f) {
    auto eights = pack_eights<BITS, STOCHASTIC>;
    auto tokens = pack_tokens<BITS, STOCHASTIC>;
    if (f->p.scale == RB_SCALE_TOKEN && (f->log2 < 3 || f->log2 > 8))
        RB_LAUNCH(c, tokens, grid_for(f->p.T * RB_WARP, f->p.B), EIGHTS_THREADS, *f);
    else
        RB_LAUNCH(c, eights, grid_for(f->p.n / EIGHT, f->p.B), EIGHTS_THREADS, *f, c->fault);
}
template <int BITS> static void run_bits(rb_cuda_queue *c, const rb_pack_fast *f) {
    f->p.stochastic ? run_scaled<BITS, true>(c, f) : run_scaled<BITS, false>(c, f);
}
template <int CODE, bool STOCHASTIC> static void run_whole(rb_cuda_queue *c, const rb_pack_fast *f) {
    auto kernel = pack_eights_whole<CODE, STOCHASTIC>;
    RB_LAUNCH(c, kernel, grid_for(f->p.n / EIGHT, f->p.B), EIGHTS_THREADS, *f);
}

void rb_pack_fast_run(rb_cuda_queue *c, const rb_pack_fast *f) {
    switch (f->p.code) {
    case RB_CODE_F32:
        return run_whole<RB_CODE_F32, false>(c, f);
    case RB_CODE_BF16:
        return f->p.stochastic ? run_whole<RB_CODE_BF16, true>(c, f) : run_whole<RB_CODE_BF16, false>(c, f);
    case RB_CODE_INDEX8:
        return run_whole<RB_CODE_INDEX8, false>(c, f);
    case RB_CODE_INDEX16:
        return run_whole<RB_CODE_INDEX16, false>(c, f);
    case RB_CODE_INT8:
        return run_bits<8>(c, f);
    case RB_CODE_INT4:
        return run_bits<4>(c, f);
    case RB_CODE_INT2:
        return run_bits<2>(c, f);
    default:
        return run_bits<1>(c, f);
    }
}

/* --- whether it can be done */

static int log2_of(int64_t n) {
    int l = 0;
    while ((int64_t)1 << l < n) l++;
    return l;
}

static bool at_every(int64_t unit, int64_t first, int64_t gap, int64_t gaps) {
    return first % unit == 0 && (gaps == 1 || gap % unit == 0);
}

bool rb_pack_fits(const rb_pack_plan *p, rb_pack_fast *f) {
    int l = log2_of(p->k), codes = p->bits ? p->bits : 8 * (int)rb_value_bytes(p->code);
    bool flat = p->T == 1 || p->stride_t == p->k, rows = p->k % EIGHT == 0;
    if (p->n % EIGHT || p->n > RB_MOST_IN_32_BITS) return false;
    if (!rows && (p->steps || p->scale == RB_SCALE_TOKEN || !flat)) return false;
    if (!at_every(4, (intptr_t)p->x / 4, p->stride_b, p->B) || (intptr_t)p->x % 4) return false;
    if (!flat && p->stride_t % 4) return false;
    if ((intptr_t)p->steps % 16) return false;
    if (p->units && !at_every(2, (intptr_t)p->bytes, p->sequence_bytes, p->B)) return false;
    if (!at_every(codes > 16 ? 16 : codes, (intptr_t)p->bytes + p->scale_bytes, p->sequence_bytes, p->B))
        return false;
    int unit = p->unit ? log2_of(p->unit) : 0;
    *f = rb_pack_fast{*p, 0, l - 1, flat, p->unit == (int64_t)1 << unit ? unit : -1};
    f->magic = p->k > 1 ? (uint32_t)((((uint64_t)1 << (31 + l)) + (uint64_t)p->k - 1) / (uint64_t)p->k) : 0;
    return true;
}
