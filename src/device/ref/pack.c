/* The codec of pack_layout.h, value by value. */
#include "device/ref/pack.h"

#include <math.h>
#include "device/pack_layout.h"

static float *element(const rb_pack_plan *p, int64_t b, int64_t idx) {
    return p->x + b * p->stride_b + idx / p->k * p->stride_t + idx % p->k;
}

/* The value's 16 random bits. */
static uint32_t random_bits(const rb_pack_plan *p, int64_t b, int64_t idx) {
    uint64_t s = p->sequence + (uint64_t)b;
    rb_philox c = {{(uint32_t)(idx / 8), (uint32_t)s, (uint32_t)(s >> 32), p->stream}};
    uint32_t word = rb_philox4x32(c, p->key).v[idx % 8 / 2];
    return idx % 2 ? word >> 16 : word & 0xffffu;
}

static float clamp(float t, float most) {
    return t > most ? most : t < -most ? -most : t;
}

static int quantize(const rb_pack_plan *p, int64_t b, int64_t idx, float inv) {
    float x = *element(p, b, idx);
    if (!rb_f32_finite(x)) return rb_pack_bad(p);
    float t = clamp(x * inv, p->most);
    if (!p->stochastic) return (int)(p->half ? floorf(t) : rintf(t));
    float r = ((float)random_bits(p, b, idx) + 0.5f) * 0x1p-16f;
    return (int)floorf((p->half ? t - 0.5f : t) + r);
}

static void put_code(const rb_pack_plan *p, uint8_t *codes, int64_t idx, int q) {
    int64_t per = 8 / p->bits, place = idx % per * p->bits;
    int before = place ? codes[idx / per] : 0;
    codes[idx / per] = (uint8_t)(before | (q & ((1 << p->bits) - 1)) << place);
}

static int get_code(const rb_pack_plan *p, const uint8_t *codes, int64_t idx) {
    int64_t per = 8 / p->bits;
    int levels = 1 << p->bits, q = codes[idx / per] >> idx % per * p->bits & (levels - 1);
    return q < levels / 2 ? q : q - levels;
}

static void pack_whole(const rb_pack_plan *p, int64_t b) {
    uint8_t *codes = rb_pack_codes(p, b);
    for (int64_t i = 0; i < p->n; i++) {
        float x = *element(p, b, i);
        if (p->code == RB_CODE_F32)
            rb_put32(codes + 4 * i, rb_f32_bits(x));
        else if (p->code == RB_CODE_INDEX8)
            codes[i] = (uint8_t)rb_index_of(p, x);
        else if (p->code == RB_CODE_INDEX16)
            rb_put16(codes + 2 * i, rb_index_of(p, x));
        else
            rb_put16(codes + 2 * i,
                     p->stochastic ? rb_bf16_stochastic(x, random_bits(p, b, i)) : rb_bf16_from_f32(x));
    }
}

static void unpack_whole(const rb_pack_plan *p, int64_t b) {
    const uint8_t *codes = rb_pack_codes(p, b);
    for (int64_t i = 0; i < p->n; i++)
        *element(p, b, i) = p->code == RB_CODE_F32       ? rb_f32_of(rb_get32(codes + 4 * i))
                            : p->code == RB_CODE_INDEX8  ? codes[i]
                            : p->code == RB_CODE_INDEX16 ? rb_get16(codes + 2 * i)
                                                         : rb_bf16_to_f32(rb_get16(codes + 2 * i));
}

/* Values [from, to) share one scale. */
static void pack_unit(const rb_pack_plan *p, int64_t b, int64_t unit, int64_t from, int64_t to) {
    uint32_t absmax = 0;
    for (int64_t i = from; i < to; i++) {
        uint32_t bits = rb_f32_bits(*element(p, b, i)) & 0x7fffffffu;
        if (bits > absmax) absmax = bits;
    }
    uint16_t scale = rb_unit_bits(absmax, p->most);
    rb_put16(rb_pack_scales(p, b) + 2 * unit, scale);
    for (int64_t i = from; i < to; i++)
        put_code(p, rb_pack_codes(p, b), i, quantize(p, b, i, rb_unit_inverse(scale)));
}

static void pack_sequence(const rb_pack_plan *p, int64_t b) {
    if (p->scale == RB_SCALE_NONE) {
        pack_whole(p, b);
        return;
    }
    for (int64_t u = 0; u < p->units; u++) {
        int64_t from = u * p->unit, to = from + p->unit;
        pack_unit(p, b, u, from, to < p->n ? to : p->n);
    }
    if (p->scale == RB_SCALE_STEP)
        for (int64_t i = 0; i < p->n; i++)
            put_code(p, rb_pack_codes(p, b), i, quantize(p, b, i, 1.0f / p->steps[i % p->k]));
}

static void unpack_sequence(const rb_pack_plan *p, int64_t b) {
    if (p->scale == RB_SCALE_NONE) {
        unpack_whole(p, b);
        return;
    }
    for (int64_t i = 0; i < p->n; i++) {
        int q = get_code(p, rb_pack_codes(p, b), i);
        float u =
            p->steps ? p->steps[i % p->k] : rb_unit_value(rb_get16(rb_pack_scales(p, b) + 2 * (i / p->unit)));
        bool bad = !p->half && (float)q < -p->most;
        *element(p, b, i) = bad ? rb_f32_of(0x7fc00000u) : ((float)q + (p->half ? 0.5f : 0)) * u;
    }
}

resbm_status rb_ref_pack(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q;
    rb_pack_plan p;
    RB_TRY(rb_pack_plan_of(op, &p, err));
    RB_TRY(rb_pack_check_steps(op, &p, err));
    for (int64_t b = 0; b < p.B; b++) pack_sequence(&p, b);
    return RESBM_OK;
}

resbm_status rb_ref_unpack(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q;
    rb_pack_plan p;
    RB_TRY(rb_pack_plan_of(op, &p, err));
    RB_TRY(rb_pack_check_steps(op, &p, err));
    for (int64_t b = 0; b < p.B; b++) unpack_sequence(&p, b);
    return RESBM_OK;
}

resbm_status rb_ref_code_stats(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q;
    rb_pack_plan p;
    RB_TRY(rb_pack_plan_of(op, &p, err));
    int64_t *stats = op->t[0].data;
    for (int64_t b = 0; b < p.B; b++)
        for (int64_t i = 0; i < p.n; i++) {
            int64_t code = get_code(&p, rb_pack_codes(&p, b), i);
            if (p.half) code = 2 * code + 1;
            stats[i % p.k] += code * code;
        }
    return RESBM_OK;
}
