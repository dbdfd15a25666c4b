/* Bytes of packed latents, and the arithmetic that makes them: every device gives exactly these.
 *
 * Sequences follow one another; each is [scales][codes], byte aligned, so packing one sequence at a time gives the
 * same bytes as packing all. idx = position * k + coordinate within the sequence, N = T * k values.
 *   scales  bf16, little-endian. NONE, STEP: absent. TOKEN: T of them. GROUP: one per 64 consecutive idx, ceil(N/64).
 *   codes   f32: 4 bytes little-endian. bf16: 2 bytes, nearest even. int8: one byte, two's complement, -127..127.
 *           int4: two's complement nibble -7..7, idx even in the low half; ceil(N/2) bytes, an odd last high half 0.
 * Scale s of a group or token: its largest |x| as bf16, rounded up (so nothing is clipped); below 2^-120 it is 0
 * and all codes are 0; when any value is infinite or NaN it is NaN (0x7fc0) and all codes are 0, so the receiver
 * sees NaN. With STEP a value that is not finite gets the code -8 (int4) or -128 (int8), which unpacks to NaN.
 *   m    = qmax / s (TOKEN, GROUP) or 1 / step (STEP), one f32 division; qmax = 7 or 127
 *   y    = x * m, rounded to f32
 *   code = clamp(nearest even(y), -qmax, qmax), or stochastically clamp(floor(y + u), -qmax, qmax), the sum rounded
 *          to f32, u = r / 2^16 + 2^-17 with r 16 random bits
 *   x'   = code * (s / qmax), or code * step; one f32 division and one product
 * Random bits: Philox4x32-10, key rb_mix64(seed, step), counter (idx/8, sequence low, sequence high, boundary << 1 |
 * direction), word (idx % 8) / 2, low half for even idx. No multiply-add may be contracted in these files.
 *
 * Records: PACK t0 bytes, t1 x, t2 steps. UNPACK t0 x, t1 bytes, t2 steps. CODE_STATS t0 stats, t1 bytes. */
#ifndef RB_DEVICE_PACK_LAYOUT_H
#define RB_DEVICE_PACK_LAYOUT_H

#include "core/rng.h"
#include "device/ops.h"

enum { RB_PACK_GROUP = 64, RB_PACK_NAN_SCALE = 0x7fc0 };

/* One sequence's layout. */
typedef struct rb_pack_shape {
    int64_t B, T, k, values; /* values = T * k */
    int64_t scales;          /* of one sequence */
    int64_t code_bytes, bytes; /* of one sequence */
    int qmax;                /* 0 for f32, bf16 */
} rb_pack_shape;

static inline rb_pack_shape rb_pack_shape_of(const rb_pack_args *a, int64_t B, int64_t T, int64_t k) {
    static const int qmax[RB_CODE_COUNT] = {0, 0, 127, 7};
    static const int bits[RB_CODE_COUNT] = {32, 16, 8, 4};
    rb_pack_shape s = {.B = B, .T = T, .k = k, .values = T * k, .qmax = qmax[a->code]};
    if (a->scale == RB_SCALE_TOKEN) s.scales = T;
    if (a->scale == RB_SCALE_GROUP) s.scales = (s.values + RB_PACK_GROUP - 1) / RB_PACK_GROUP;
    s.code_bytes = (s.values * bits[a->code] + 7) / 8;
    s.bytes = 2 * s.scales + s.code_bytes;
    return s;
}

/* The record's scalars and back. */
static inline void rb_pack_store(rb_op *op, const rb_pack_args *a) {
    op->i[0] = (int64_t)a->code;
    op->i[1] = (int64_t)a->scale;
    op->i[2] = a->stochastic;
    op->key[0] = a->seed;
    op->key[1] = a->step;
    op->key[2] = a->sequence;
    op->key[3] = (uint64_t)a->boundary << 1 | a->direction;
}
static inline rb_pack_args rb_pack_load(const rb_op *op) {
    return (rb_pack_args){.code = (rb_code)op->i[0], .scale = (rb_scale)op->i[1], .stochastic = op->i[2] != 0,
                          .seed = op->key[0], .step = op->key[1], .sequence = op->key[2],
                          .boundary = (uint32_t)(op->key[3] >> 1), .direction = (uint32_t)op->key[3] & 1};
}

/* bf16 scale of the largest |x| whose bits (sign cleared) are `top`. */
static inline uint16_t rb_pack_scale(uint32_t top) {
    if (top >= 0x7f800000u) return RB_PACK_NAN_SCALE;
    if (top < 0x03800000u) return 0; /* 2^-120 */
    uint32_t up = (top + 0xffffu) >> 16;
    return (uint16_t)(up > 0x7f7fu ? 0x7f7fu : up);
}

#endif
