/* Unpacking by fours (pack_fast.h). */
#include "device/cuda/pack_fast.h"

enum { FOURS_THREADS = 256, FOUR = 4, FOURS_EACH = 2, FOURS_BLOCK = FOURS_THREADS * FOUR * FOURS_EACH };

/* The codes of four values as the low bits of a word. */
static __device__ __forceinline__ uint32_t codes_of_four(const uint8_t *codes, uint32_t from, int bits) {
    if (bits == 8) return *(const uint32_t *)(codes + from);
    if (bits == 4) return *(const uint16_t *)(codes + from / 2);
    if (bits == 2) return codes[from / 4];
    return codes[from / 8] >> from % 8;
}

static __device__ __forceinline__ float4 units_of_four(const rb_pack_fast &f, int64_t b, uint32_t from) {
    const rb_pack_plan &p = f.p;
    const uint16_t *scales = (const uint16_t *)rb_pack_scales(&p, b);
    if (p.steps) return *(const float4 *)(p.steps + rb_pack_place_of(f, from).i);
    float u = rb_unit_value(scales[f.log2 < 0 ? rb_pack_place_of(f, from).t : from >> f.log2]), v = u;
    if (f.log2 == 1) v = rb_unit_value(scales[from / 2 + 1]);
    return make_float4(u, u, v, v);
}

/* The code's sign turned round makes it a number from 0 on, which the low bits of 2^23 are. */
template <int BITS> static __device__ __forceinline__ float value_of(uint32_t codes, int i, float u) {
    const uint32_t sign = 1u << (BITS - 1), mask = (1u << BITS) - 1;
    uint32_t level = (codes >> i * BITS ^ sign) & mask;
    float q = __uint_as_float(0x4b000000u | level) - (8388608.0f + (float)sign);
    bool bad = (BITS > 2 && level == 0) || u != u;
    return bad ? rb_f32_of(0x7fc00000u) : (BITS > 2 ? q : q + 0.5f) * u;
}

template <int BITS>
__global__ void __launch_bounds__(FOURS_THREADS) unpack_fours(rb_pack_fast f, rb_cuda_fault *fault) {
    uint32_t first = blockIdx.x * FOURS_BLOCK + threadIdx.x * FOUR, n = (uint32_t)f.p.n;
    for (int64_t b = blockIdx.y; b < f.p.B; b += gridDim.y) {
        const uint8_t *in = rb_pack_codes(&f.p, b);
        uint32_t codes[FOURS_EACH] = {};
        float4 u[FOURS_EACH];
#pragma unroll
        for (int e = 0; e < FOURS_EACH; e++) { /* all that is read before any is written */
            uint32_t from = first + e * FOURS_THREADS * FOUR;
            u[e] = make_float4(0, 0, 0, 0);
            if (from >= n) continue;
            codes[e] = codes_of_four(in, from, BITS);
            u[e] = units_of_four(f, b, from);
        }
#pragma unroll
        for (int e = 0; e < FOURS_EACH; e++) {
            uint32_t from = first + e * FOURS_THREADS * FOUR;
            if (from >= n) continue;
            if (f.p.steps && b == 0 && from < (uint32_t)f.p.k) {
                const float step[FOUR] = {u[e].x, u[e].y, u[e].z, u[e].w};
                rb_pack_check_steps_of<FOUR>(step, RB_OP_UNPACK, from, fault);
            }
            *(float4 *)rb_pack_at(f, b, from) =
                make_float4(value_of<BITS>(codes[e], 0, u[e].x), value_of<BITS>(codes[e], 1, u[e].y),
                            value_of<BITS>(codes[e], 2, u[e].z), value_of<BITS>(codes[e], 3, u[e].w));
        }
    }
}

/* Codes without a scale. */
template <int CODE> static __device__ __forceinline__ float4 whole_four(const uint8_t *in, uint32_t from) {
    if (CODE == RB_CODE_F32) return ((const float4 *)in)[from / FOUR];
    uint2 w = make_uint2(0, 0);
    if (CODE == RB_CODE_INDEX8) {
        w.x = ((const uint32_t *)in)[from / FOUR];
        return make_float4((float)(w.x & 255u), (float)(w.x >> 8 & 255u), (float)(w.x >> 16 & 255u),
                           (float)(w.x >> 24));
    }
    w = ((const uint2 *)in)[from / FOUR];
    if (CODE == RB_CODE_INDEX16)
        return make_float4((float)(w.x & 0xffffu), (float)(w.x >> 16), (float)(w.y & 0xffffu),
                           (float)(w.y >> 16));
    return make_float4(rb_f32_of(w.x << 16), rb_f32_of(w.x & 0xffff0000u), rb_f32_of(w.y << 16),
                       rb_f32_of(w.y & 0xffff0000u));
}
template <int CODE> __global__ void __launch_bounds__(FOURS_THREADS) unpack_fours_whole(rb_pack_fast f) {
    uint32_t first = blockIdx.x * FOURS_BLOCK + threadIdx.x * FOUR, n = (uint32_t)f.p.n;
    for (int64_t b = blockIdx.y; b < f.p.B; b += gridDim.y) {
        float4 v[FOURS_EACH];
#pragma unroll
        for (int e = 0; e < FOURS_EACH; e++) {
            uint32_t from = first + e * FOURS_THREADS * FOUR;
            if (from < n) v[e] = whole_four<CODE>(rb_pack_codes(&f.p, b), from);
        }
#pragma unroll
        for (int e = 0; e < FOURS_EACH; e++) {
            uint32_t from = first + e * FOURS_THREADS * FOUR;
            if (from < n) *(float4 *)rb_pack_at(f, b, from) = v[e];
        }
    }
}

static dim3 grid_of_fours(const rb_pack_plan *p) {
    return dim3((unsigned)((p->n + FOURS_BLOCK - 1) / FOURS_BLOCK), rb_grid_rows(p->B));
}

template <int BITS> static void run_bits_back(rb_cuda_queue *c, const rb_pack_fast *f) {
    auto kernel = unpack_fours<BITS>;
    RB_LAUNCH(c, kernel, grid_of_fours(&f->p), FOURS_THREADS, *f, c->fault);
}
template <int CODE> static void run_whole_back(rb_cuda_queue *c, const rb_pack_fast *f) {
    auto kernel = unpack_fours_whole<CODE>;
    RB_LAUNCH(c, kernel, grid_of_fours(&f->p), FOURS_THREADS, *f);
}

void rb_unpack_fast_run(rb_cuda_queue *c, const rb_pack_fast *f) {
    switch (f->p.code) {
    case RB_CODE_F32:
        return run_whole_back<RB_CODE_F32>(c, f);
    case RB_CODE_BF16:
        return run_whole_back<RB_CODE_BF16>(c, f);
    case RB_CODE_INDEX8:
        return run_whole_back<RB_CODE_INDEX8>(c, f);
    case RB_CODE_INDEX16:
        return run_whole_back<RB_CODE_INDEX16>(c, f);
    case RB_CODE_INT8:
        return run_bits_back<8>(c, f);
    case RB_CODE_INT4:
        return run_bits_back<4>(c, f);
    case RB_CODE_INT2:
        return run_bits_back<2>(c, f);
    default:
        return run_bits_back<1>(c, f);
    }
}
