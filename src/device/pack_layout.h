/* Packed latents, byte for byte. Layout version: part of the frame's version (codec/frame.h).
 *
 * Legend: B sequences, T positions, k coordinates, n = T*k values of one sequence, idx = position*k +
 * coordinate in [0, n) within its sequence. Everything is little-endian whatever the host.
 *
 *     packed (B,T,k)  =  sequence 0, sequence 1, ... sequence B-1; nothing before, between or behind
 *     one sequence    =  its scales, then its codes; both start at a byte
 *
 *     scale   bytes per sequence     meaning of its unit u (bf16 each)
 *     NONE    0                      f32, bf16 and indices only
 *     STEP    0                      u = steps[coordinate], known to both ends
 *     TOKEN   2 T                    one u per position
 *     GROUP   2 ceil(n/g)            one u per g consecutive idx (g = 64, 32, 16, 8, 4 or 2); the last group may
 *                                    be shorter
 *
 *     code    bytes per sequence     value idx
 *     f32     4 n                    its bits
 *     bf16    2 n                    upper half of the bits, rounded
 *     int8    n                      two's complement, -127..127; -128 = "was not finite"
 *     int4    ceil(n/2)              two's complement nibble, -7..7, -8 = "was not finite"; even idx in the
 * low nibble
 *     int2    ceil(n/4)              two's complement pair of bits, -2..1, all of them values; idx % 4 = 0 lowest
 *     int1    ceil(n/8)              a bit, set for -1, else 0; idx % 8 = 0 lowest
 *
 *     index8, index16  n, 2 n       whole numbers, unsigned; rounded towards 0, clamped; NaN is 0
 *
 * Rows follow each other without padding (k = 2 costs one byte per token in int4, odd k works); the bits behind
 * the last value are 0.
 *
 * Arithmetic, all in IEEE f32 with rounding to nearest even, one operation at a time. No line holds a product
 * and a sum that a fused multiply-add would round otherwise (the product in r is exact), so vector code and
 * any compiler setting short of -ffast-math give the same bits:
 *
 * int8 and int4 have an odd number of levels, one of them zero: code q stands for q u. int2 and int1 would give
 * away a quarter and half of what they have; their levels lie half a unit off: code q stands for (q + 1/2) u,
 * which is -3/2, -1/2, 1/2, 3/2 or -1/2, 1/2 units.
 *
 *     most = 127 (int8), 7 (int4), 3/2 (int2), 1/2 (int1);  o = 0, 0, 1/2, 1/2
 *     TOKEN, GROUP:  a   = largest |x| of the token or group
 *                    u   = up(a / most)     up: to the next bf16 not below, so the largest value is not clipped
 *                    inv = 1 / u
 *                    a < 2^-100: u = 0, inv = 0 (no denormal ever takes part in the arithmetic)
 *                    a >= 2^127, infinite or NaN anywhere, or u rounds to infinity: u = NaN (0x7fc0), inv = 0:
 *                    the receiver sees NaN in the whole token or group and the run stops there. A value that is
 *                    infinite or NaN has the code 0
 *     STEP:          u = steps[coordinate], inv = 1 / u; u must lie in [2^-100, 2^100]. A value that is infinite
 *                    or NaN gets the code -8 / -128, which unpacks to NaN; int2 and int1 have none to spare, and
 *                    packing fails with RESBM_E_NUMERIC
 *     pack:          t = clamp(x * inv, -most, most)
 *                    to nearest:  q = round half to even(t);  int2, int1: q = floor(t)
 *                    stochastic:  q = floor((t - o) + r), r = (h + 1/2) 2^-16, h = the value's 16 random bits
 *     unpack:        x = (q + o) * u; NaN (0x7fc00000) for the codes -8 / -128 and for a u that is infinite or NaN
 *
 *     bf16, to nearest: rb_bf16_from_f32. bf16, stochastic: (bits + h) >> 16 for finite x. f32 ignores
 * rounding.
 *
 * Nearest int4 of what nearest int4 unpacked to gives the same bytes again. (int8 with a scale need not: its
 * unit is rounded up by up to 2^-7, so the largest code may be 126 and the unit of the second pass smaller.)
 *
 * Random bits: Philox4x32-10 (core/rng.h) with key = rb_mix64(seed, step) and counter = (idx / 8, low word of
 * the sequence's number, its high word, boundary << 1 | direction). Word (idx % 8) / 2 of the result; its low
 * half for even idx. They never depend on stage, microbatch or message.
 *
 * Operation records (device.h):
 *     PACK        t0 bytes (u8), t1 x (B,T,k), t2 steps (k) or absent
 *     UNPACK      t0 x (B,T,k), t1 bytes (u8), t2 steps (k) or absent
 *                 i0 code, i1 scale, i2 stochastic, i3 boundary, i4 direction; key0 seed, key1 step, key2
 * sequence CODE_STATS  t0 stats (k) i64, t1 bytes (u8); i0 code, i1 scale, i2 B, i3 T. Codes -8 / -128 count
 * as 64 / 16384; int2 and int1 sum (2 q + 1)^2: 1 or 9
 */
#ifndef RB_DEVICE_PACK_LAYOUT_H
#define RB_DEVICE_PACK_LAYOUT_H

#include "core/bytes.h"
#include "core/rng.h"
#include "device/ops.h"

enum { RB_GROUP = 64 /* the largest */ };
#define RB_UNIT_TINY 0x1p-100f /* largest values below it count as zero; smallest learned step */
#define RB_STEP_HUGE 0x1p100f  /* largest learned step */
#define RB_BF16_NAN  0x7fc0u

/* A checked record: all sizes, and where the operands lie. */
typedef struct rb_pack_plan {
    rb_code code;
    rb_scale scale;
    bool stochastic;
    int bits;           /* of a code: 8, 4, 2, 1; 0 for f32 and bf16 */
    float most;         /* largest value in units: 127, 7, 3/2, 1/2 */
    bool half;          /* o is 1/2 */
    int64_t B, T, k, n; /* n = T*k */
    int64_t unit;       /* values that share one scale: k (TOKEN), 64 to 2 (GROUP), else 0 */
    int64_t units;      /* scales per sequence */
    int64_t scale_bytes, sequence_bytes;
    const float *steps;         /* (k), STEP only */
    float *x;                   /* (B,T,k) */
    int64_t stride_b, stride_t; /* of x, in elements */
    uint8_t *bytes;
    uint64_t key, sequence; /* of the random bits */
    uint32_t stream;        /* boundary << 1 | direction */
} rb_pack_plan;

/* Sizes for args and shape. RESBM_E_ARG for a combination or a shape that cannot be. */
resbm_status rb_pack_sizes(rb_pack_plan *p, rb_code code, rb_scale scale, int64_t B, int64_t T, int64_t k,
                           rb_err *err);
/* The plan of a record of PACK, UNPACK or CODE_STATS whose views passed rb_check_op: sizes, length of bytes,
 * presence of steps. */
resbm_status rb_pack_plan_of(const rb_op *op, rb_pack_plan *p, rb_err *err);
/* Every learned step must be usable, and every value finite where no code says otherwise; RESBM_E_NUMERIC names
 * the coordinate. Reads device memory: kernels only. */
resbm_status rb_pack_check_steps(const rb_op *op, const rb_pack_plan *p, rb_err *err);

RB_ANYWHERE uint32_t rb_f32_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
RB_ANYWHERE float rb_f32_of(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}
RB_ANYWHERE bool rb_f32_finite(float x) {
    return (rb_f32_bits(x) & 0x7fffffffu) < 0x7f800000u;
}

/* One scale as it lies in the bytes, from the largest |x| (bits of it, NaN and infinity included). */
RB_ANYWHERE uint16_t rb_unit_bits(uint32_t absmax_bits, float most) {
    float a = rb_f32_of(absmax_bits);
    if (absmax_bits >= 0x7f000000u) return RB_BF16_NAN; /* 2^127 and more counts as not finite */
    if (a < RB_UNIT_TINY) return 0;
    uint32_t bits = (rb_f32_bits(a / most) + 0xffffu) >> 16;
    return (uint16_t)(bits < 0x7f80u ? bits : RB_BF16_NAN);
}
/* What values are multiplied with when packing ... */
RB_ANYWHERE float rb_unit_inverse(uint16_t bits) {
    return bits == 0 || bits == RB_BF16_NAN ? 0.0f : 1.0f / rb_bf16_to_f32(bits);
}
/* ... and when unpacking; bytes are untrusted, so every non-finite pattern becomes the one NaN. */
RB_ANYWHERE float rb_unit_value(uint16_t bits) {
    return rb_bf16_to_f32((bits & 0x7f80u) == 0x7f80u ? RB_BF16_NAN : bits);
}

/* bf16 with h of 0..65535 as the part that decides; NaN and infinity as rb_bf16_from_f32 has them. */
RB_ANYWHERE uint16_t rb_bf16_stochastic(float x, uint32_t h) {
    return rb_f32_finite(x) ? (uint16_t)((rb_f32_bits(x) + h) >> 16) : rb_bf16_from_f32(x);
}

/* The code a value that is not finite gets. */
RB_ANYWHERE int rb_pack_bad(const rb_pack_plan *p) {
    return p->steps && !p->half ? -(int)p->most - 1 : 0;
}
/* Bytes of n codes of integers. */
RB_ANYWHERE int64_t rb_code_bytes(const rb_pack_plan *p, int64_t n) {
    return (n * p->bits + 7) / 8;
}
RB_ANYWHERE uint16_t rb_index_of(const rb_pack_plan *p, float x) {
    float most = p->code == RB_CODE_INDEX8 ? 255 : 65535;
    return (uint16_t)(x > 0 ? (x < most ? x : most) : 0);
}
/* Bytes of a value of the codes without a scale. */
RB_ANYWHERE int64_t rb_value_bytes(rb_code code) {
    return code == RB_CODE_F32 ? 4 : code == RB_CODE_INDEX8 ? 1 : 2;
}
RB_ANYWHERE uint8_t *rb_pack_scales(const rb_pack_plan *p, int64_t b) {
    return p->bytes + b * p->sequence_bytes;
}
RB_ANYWHERE uint8_t *rb_pack_codes(const rb_pack_plan *p, int64_t b) {
    return p->bytes + b * p->sequence_bytes + p->scale_bytes;
}

#endif
