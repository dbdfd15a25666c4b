/* The inner loops of the codec on runs of n values, n a multiple of 64: AVX-512, AVX2 and plain C, with
 * exactly the roundings of pack_layout.h. Callers pad their buffers. */
#ifndef RB_DEVICE_CPU_ISA_PACK_VEC_H
#define RB_DEVICE_CPU_ISA_PACK_VEC_H

#include <math.h>
#include "device/pack_layout.h"

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
#define RB_VEC_512 1
#include <immintrin.h>
#elif defined(__AVX2__)
#define RB_VEC_256 1
#include <immintrin.h>
#endif

enum { RB_CHUNK = 512 };

/* Which random bits: those of `block` = idx / 8 onwards. */
typedef struct vec_random {
    uint64_t key, sequence;
    uint32_t block, stream;
} vec_random;

/* most, half: of rb_pack_plan. bad: code of values that are not finite. */
typedef struct vec_range {
    float most;
    bool half;
    int bad;
} vec_range;

/* Largest |x| as bits; any n. */
static inline uint32_t vec_absmax(const float *x, int64_t n) {
    uint32_t most = 0;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < n; i++) {
        uint32_t v = rb_f32_bits(x[i]) & 0x7fffffffu;
        most = v > most ? v : most;
    }
    return most;
}

#if defined(RB_VEC_512)

static inline __m512i high_half(__m512i v) {
    return _mm512_srli_epi64(v, 32);
}

/* Eight blocks side by side, each word in the low half of a 64-bit lane (what is above it does not matter):
 * the widening multiply then needs no shuffles. */
static inline void vec_random_bits(uint16_t *h, int64_t n, vec_random r) {
    const __m512i m0 = _mm512_set1_epi64(RB_PHILOX_M0), m1 = _mm512_set1_epi64(RB_PHILOX_M1);
    const __m512i lane = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), low = _mm512_set1_epi64(0xffffffff);
    const __m512i first = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0),
                  last = _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4);
    for (int64_t i = 0; i < n; i += 64) {
        __m512i c0 = _mm512_add_epi64(_mm512_set1_epi64(r.block + i / 8), lane);
        __m512i c1 = _mm512_set1_epi64((int64_t)(r.sequence & 0xffffffffu));
        __m512i c2 = _mm512_set1_epi64((int64_t)(r.sequence >> 32)), c3 = _mm512_set1_epi64(r.stream);
        uint32_t k0 = (uint32_t)r.key, k1 = (uint32_t)(r.key >> 32);
        for (int round = 0; round < 10; round++, k0 += RB_PHILOX_W0, k1 += RB_PHILOX_W1) {
            __m512i p0 = _mm512_mul_epu32(c0, m0), p1 = _mm512_mul_epu32(c2, m1);
            c0 = _mm512_ternarylogic_epi64(high_half(p1), c1, _mm512_set1_epi64(k0), 0x96); /* xor of three */
            c2 = _mm512_ternarylogic_epi64(high_half(p0), c3, _mm512_set1_epi64(k1), 0x96);
            c1 = p1;
            c3 = p0;
        }
        __m512i w01 = _mm512_or_epi64(_mm512_and_epi64(c0, low), _mm512_slli_epi64(c1, 32));
        __m512i w23 = _mm512_or_epi64(_mm512_and_epi64(c2, low), _mm512_slli_epi64(c3, 32));
        _mm512_storeu_si512(h + i, _mm512_permutex2var_epi64(w01, first, w23));
        _mm512_storeu_si512(h + i + 32, _mm512_permutex2var_epi64(w01, last, w23));
    }
}

/* 16 codes as 32-bit numbers; h NULL rounds to nearest. */
static inline __m512i vec_quantize16(const float *x, const float *m, const uint16_t *h, vec_range range) {
    __m512 v = _mm512_loadu_ps(x), t = _mm512_mul_ps(v, _mm512_loadu_ps(m));
    t = _mm512_min_ps(_mm512_max_ps(t, _mm512_set1_ps(-range.most)), _mm512_set1_ps(range.most));
    __m512i q;
    if (h) {
        __m512 r =
            _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)h)));
        r = _mm512_mul_ps(_mm512_add_ps(r, _mm512_set1_ps(0.5f)), _mm512_set1_ps(0x1p-16f));
        if (range.half) t = _mm512_sub_ps(t, _mm512_set1_ps(0.5f));
        q = _mm512_cvt_roundps_epi32(_mm512_add_ps(t, r), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    } else if (range.half) {
        q = _mm512_cvt_roundps_epi32(t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    } else {
        q = _mm512_cvt_roundps_epi32(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    }
    __mmask16 bad = _mm512_fpclass_ps_mask(v, 0x99); /* quiet and signalling NaN, both infinities */
    return _mm512_mask_mov_epi32(q, bad, _mm512_set1_epi32(range.bad));
}

static inline void vec_quantize4(uint8_t *out, const float *x, const float *m, const uint16_t *h, int64_t n,
                                 vec_range range) {
    for (int64_t i = 0; i < n; i += 16) {
        __m512i q =
            _mm512_and_epi32(vec_quantize16(x + i, m + i, h ? h + i : NULL, range), _mm512_set1_epi32(15));
        q = _mm512_or_epi64(q, _mm512_srli_epi64(q, 28));
        _mm_storel_epi64((__m128i *)(void *)(out + i / 2), _mm512_cvtepi64_epi8(q));
    }
}

static inline void vec_quantize8(uint8_t *out, const float *x, const float *m, const uint16_t *h, int64_t n,
                                 vec_range range) {
    for (int64_t i = 0; i < n; i += 16) {
        __m512i q = vec_quantize16(x + i, m + i, h ? h + i : NULL, range);
        _mm_storeu_si128((__m128i *)(void *)(out + i), _mm512_cvtepi32_epi8(q));
    }
}

static inline void vec_dequantize4(float *x, const uint8_t *codes, const float *m, int64_t n) {
    const __m512 value =
        _mm512_set_ps(-1, -2, -3, -4, -5, -6, -7, rb_f32_of(0x7fc00000u), 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i nibbles = _mm512_set1_epi64(0x0000000f0000000f);
    for (int64_t i = 0; i < n; i += 16) {
        __m512i v = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)(const void *)(codes + i / 2)));
        v = _mm512_and_epi64(_mm512_or_epi64(v, _mm512_slli_epi64(v, 28)), nibbles);
        _mm512_storeu_ps(x + i, _mm512_mul_ps(_mm512_permutexvar_ps(v, value), _mm512_loadu_ps(m + i)));
    }
}

static inline void vec_dequantize8(float *x, const uint8_t *codes, const float *m, int64_t n, float offset) {
    for (int64_t i = 0; i < n; i += 16) {
        __m512i q = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(codes + i)));
        __m512 v = _mm512_add_ps(_mm512_cvtepi32_ps(q), _mm512_set1_ps(offset));
        v = _mm512_mul_ps(v, _mm512_loadu_ps(m + i));
        __mmask16 bad = _mm512_cmpeq_epi32_mask(q, _mm512_set1_epi32(-128));
        _mm512_storeu_ps(x + i, _mm512_mask_mov_ps(v, bad, _mm512_set1_ps(rb_f32_of(0x7fc00000u))));
    }
}

#elif defined(RB_VEC_256)

static inline __m256i high_half(__m256i v) {
    return _mm256_srli_epi64(v, 32);
}
static inline __m256i xor3(__m256i a, __m256i b, __m256i c) {
    return _mm256_xor_si256(_mm256_xor_si256(a, b), c);
}

/* As above, four blocks side by side. */
static inline void vec_random_bits(uint16_t *h, int64_t n, vec_random r) {
    const __m256i m0 = _mm256_set1_epi64x(RB_PHILOX_M0), m1 = _mm256_set1_epi64x(RB_PHILOX_M1);
    const __m256i lane = _mm256_set_epi64x(3, 2, 1, 0), low = _mm256_set1_epi64x(0xffffffff);
    for (int64_t i = 0; i < n; i += 32) {
        __m256i c0 = _mm256_add_epi64(_mm256_set1_epi64x(r.block + i / 8), lane);
        __m256i c1 = _mm256_set1_epi64x((int64_t)(r.sequence & 0xffffffffu));
        __m256i c2 = _mm256_set1_epi64x((int64_t)(r.sequence >> 32)), c3 = _mm256_set1_epi64x(r.stream);
        uint32_t k0 = (uint32_t)r.key, k1 = (uint32_t)(r.key >> 32);
        for (int round = 0; round < 10; round++, k0 += RB_PHILOX_W0, k1 += RB_PHILOX_W1) {
            __m256i p0 = _mm256_mul_epu32(c0, m0), p1 = _mm256_mul_epu32(c2, m1);
            c0 = xor3(high_half(p1), c1, _mm256_set1_epi64x(k0));
            c2 = xor3(high_half(p0), c3, _mm256_set1_epi64x(k1));
            c1 = p1;
            c3 = p0;
        }
        __m256i w01 = _mm256_or_si256(_mm256_and_si256(c0, low), _mm256_slli_epi64(c1, 32));
        __m256i w23 = _mm256_or_si256(_mm256_and_si256(c2, low), _mm256_slli_epi64(c3, 32));
        __m256i even = _mm256_unpacklo_epi64(w01, w23), odd = _mm256_unpackhi_epi64(w01, w23);
        __m256i *out = (__m256i *)(void *)(h + i);
        _mm256_storeu_si256(out, _mm256_permute2x128_si256(even, odd, 0x20));
        _mm256_storeu_si256(out + 1, _mm256_permute2x128_si256(even, odd, 0x31));
    }
}

static inline __m256i vec_quantize(const float *x, const float *m, const uint16_t *h, vec_range range) {
    __m256 v = _mm256_loadu_ps(x), t = _mm256_mul_ps(v, _mm256_loadu_ps(m));
    t = _mm256_min_ps(_mm256_max_ps(t, _mm256_set1_ps(-range.most)), _mm256_set1_ps(range.most));
    if (h) {
        __m256 r =
            _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)h)));
        r = _mm256_mul_ps(_mm256_add_ps(r, _mm256_set1_ps(0.5f)), _mm256_set1_ps(0x1p-16f));
        if (range.half) t = _mm256_sub_ps(t, _mm256_set1_ps(0.5f));
        t = _mm256_floor_ps(_mm256_add_ps(t, r));
    } else if (range.half) {
        t = _mm256_floor_ps(t);
    } else {
        t = _mm256_round_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    }
    __m256i size = _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fffffff));
    __m256i bad = _mm256_cmpgt_epi32(size, _mm256_set1_epi32(0x7f7fffff));
    return _mm256_blendv_epi8(_mm256_cvttps_epi32(t), _mm256_set1_epi32(range.bad), bad);
}

/* 32 codes as bytes, in order. */
static inline __m256i vec_quantize32(const float *x, const float *m, const uint16_t *h, vec_range range) {
    __m256i q[4];
    for (int j = 0; j < 4; j++) q[j] = vec_quantize(x + 8 * j, m + 8 * j, h ? h + 8 * j : NULL, range);
    __m256i b = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    return _mm256_permutevar8x32_epi32(b, _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0));
}

static inline void vec_quantize4(uint8_t *out, const float *x, const float *m, const uint16_t *h, int64_t n,
                                 vec_range range) {
    for (int64_t i = 0; i < n; i += 32) {
        __m256i b =
            _mm256_and_si256(vec_quantize32(x + i, m + i, h ? h + i : NULL, range), _mm256_set1_epi8(15));
        b = _mm256_maddubs_epi16(b, _mm256_set1_epi16(0x1001)); /* even + 16 odd */
        b = _mm256_permute4x64_epi64(_mm256_packus_epi16(b, b), 0x08);
        _mm_storeu_si128((__m128i *)(void *)(out + i / 2), _mm256_castsi256_si128(b));
    }
}

static inline void vec_quantize8(uint8_t *out, const float *x, const float *m, const uint16_t *h, int64_t n,
                                 vec_range range) {
    for (int64_t i = 0; i < n; i += 32)
        _mm256_storeu_si256((__m256i *)(void *)(out + i),
                            vec_quantize32(x + i, m + i, h ? h + i : NULL, range));
}

static inline void vec_put_values(float *x, __m256i q, const float *m, int marker, float offset) {
    __m256 v = _mm256_add_ps(_mm256_cvtepi32_ps(q), _mm256_set1_ps(offset));
    v = _mm256_mul_ps(v, _mm256_loadu_ps(m));
    __m256 bad = _mm256_castsi256_ps(_mm256_cmpeq_epi32(q, _mm256_set1_epi32(marker)));
    _mm256_storeu_ps(x, _mm256_blendv_ps(v, _mm256_set1_ps(rb_f32_of(0x7fc00000u)), bad));
}

static inline void vec_dequantize4(float *x, const uint8_t *codes, const float *m, int64_t n) {
    for (int64_t i = 0; i < n; i += 8) {
        int32_t four;
        memcpy(&four, codes + i / 2, 4);
        __m256i v = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four));
        v = _mm256_or_si256(v, _mm256_slli_epi64(v, 28));
        vec_put_values(x + i, _mm256_srai_epi32(_mm256_slli_epi32(v, 28), 28), m + i, -8, 0);
    }
}

static inline void vec_dequantize8(float *x, const uint8_t *codes, const float *m, int64_t n, float offset) {
    for (int64_t i = 0; i < n; i += 8)
        vec_put_values(x + i,
                       _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(codes + i))),
                       m + i, -128, offset);
}

#else

static inline void vec_random_bits(uint16_t *h, int64_t n, vec_random r) {
    for (int64_t i = 0; i < n; i += 8) {
        rb_philox c = {
            {r.block + (uint32_t)(i / 8), (uint32_t)r.sequence, (uint32_t)(r.sequence >> 32), r.stream}};
        c = rb_philox4x32(c, r.key);
        for (int j = 0; j < 8; j++) h[i + j] = (uint16_t)(c.v[j / 2] >> (j % 2 * 16));
    }
}

static inline int vec_quantize(float x, float m, const uint16_t *h, vec_range range) {
    float t = x * m;
    t = t > -range.most ? t : -range.most;
    t = t < range.most ? t : range.most;
    if (h)
        t = floorf((range.half ? t - 0.5f : t) + ((float)*h + 0.5f) * 0x1p-16f);
    else
        t = range.half ? floorf(t) : rintf(t);
    return rb_f32_finite(x) ? (int)t : range.bad;
}

static inline void vec_quantize8(uint8_t *out, const float *x, const float *m, const uint16_t *h, int64_t n,
                                 vec_range range) {
    for (int64_t i = 0; i < n; i++) out[i] = (uint8_t)vec_quantize(x[i], m[i], h ? h + i : NULL, range);
}

static inline void vec_quantize4(uint8_t *out, const float *x, const float *m, const uint16_t *h, int64_t n,
                                 vec_range range) {
    uint8_t q[RB_CHUNK];
    vec_quantize8(q, x, m, h, n, range);
    for (int64_t i = 0; i < n / 2; i++) out[i] = (uint8_t)((q[2 * i] & 15) | q[2 * i + 1] << 4);
}

static inline void vec_dequantize8(float *x, const uint8_t *codes, const float *m, int64_t n, float offset) {
    for (int64_t i = 0; i < n; i++) {
        float v = ((float)(int8_t)codes[i] + offset) * m[i];
        x[i] = codes[i] == 0x80 ? rb_f32_of(0x7fc00000u) : v;
    }
}

static inline void vec_dequantize4(float *x, const uint8_t *codes, const float *m, int64_t n) {
    int8_t q[RB_CHUNK];
    for (int64_t i = 0; i < n / 2; i++) {
        q[2 * i] = (int8_t)((codes[i] & 15) ^ 8) - 8;
        q[2 * i + 1] = (int8_t)((codes[i] >> 4) ^ 8) - 8;
    }
    for (int64_t i = 0; i < n; i++) {
        float v = (float)q[i] * m[i];
        x[i] = q[i] == -8 ? rb_f32_of(0x7fc00000u) : v;
    }
}

#endif

/* Codes of 2 or 1 bits from and to a byte each, eight at a time in a word; any n, of which the last byte may be
 * filled in part: squeeze leaves its other bits 0, and both may touch up to 7 bytes of the wider side beyond n. */
static inline uint64_t squeeze8(uint64_t v, int bits) {
    if (bits == 1) return ((v & 0x0101010101010101u) * 0x0102040810204080u) >> 56;
    v &= 0x0303030303030303u;
    v = (v | v >> 6) & 0x000f000f000f000fu;
    v = (v | v >> 12) & 0x000000ff000000ffu;
    return (v | v >> 24) & 0xffffu;
}

static inline uint64_t spread8(uint64_t v, int bits) {
    if (bits == 1) {
        v = (v * 0x0101010101010101u) & 0x8040201008040201u;
        return (v + 0x00406070787c7e7fu) >> 7 & 0x0101010101010101u;
    }
    v = (v | v << 24) & 0x000000ff000000ffu;
    v = (v | v << 12) & 0x000f000f000f000fu;
    return (v | v << 6) & 0x0303030303030303u;
}

static inline void vec_squeeze(uint8_t *out, const uint8_t *q, int64_t n, int bits) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t v = squeeze8(rb_get64(q + i), bits);
        for (int b = 0; b < bits; b++) *out++ = (uint8_t)(v >> 8 * b);
    }
    if (i == n) return;
    uint64_t keep = ((uint64_t)1 << 8 * (n - i)) - 1, v = squeeze8(rb_get64(q + i) & keep, bits);
    for (int64_t b = 0; 8 * b < (n - i) * bits; b++) *out++ = (uint8_t)(v >> 8 * b);
}

static inline void vec_spread(uint8_t *q, const uint8_t *codes, int64_t n, int bits) {
    int64_t bytes = (n * bits + 7) / 8, sign = 1 << (bits - 1);
    for (int64_t i = 0; i < n; i += 8, codes += bits, bytes -= bits) {
        uint64_t v = codes[0];
        if (bits == 2 && bytes > 1) v |= (uint64_t)codes[1] << 8;
        rb_put64(q + i, spread8(v, bits));
    }
    for (int64_t i = 0; i < n; i++) q[i] = (uint8_t)((q[i] ^ sign) - sign);
}
#endif
