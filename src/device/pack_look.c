#include "device/pack_look.h"

#include <math.h>

static int code_at(const rb_pack_plan *p, const uint8_t *codes, int64_t i) {
    int per = 8 / p->bits, levels = 1 << p->bits;
    int q = codes[i / per] >> (int)(i % per) * p->bits & (levels - 1);
    return q < levels / 2 ? q : q - levels;
}

/* Twice the value in units: odd where levels lie half a unit off. */
static int64_t doubled(const rb_pack_plan *p, int q) {
    return 2 * q + p->half;
}

static void look_whole(const rb_pack_plan *p, const uint8_t *codes, rb_pack_sight *out) {
    double sum = 0;
    for (int64_t i = 0; i < p->n; i++) {
        float x = p->code == RB_CODE_F32 ? rb_f32_of(rb_get32(codes + 4 * i))
                                         : rb_bf16_to_f32(rb_get16(codes + 2 * i));
        sum += (double)x * (double)x;
    }
    out->sum += sum; /* of squares that fit: not finite where one of them is not */
}

static void look_at_places(const rb_pack_plan *p, const uint8_t *codes, int64_t d, rb_pack_sight *out) {
    for (int64_t i = 0; i < p->n; i++)
        out->outside |= (p->code == RB_CODE_INDEX8 ? codes[i] : rb_get16(codes + 2 * i)) >= d;
}

static void look_at_steps(const rb_pack_plan *p, const uint8_t *codes, rb_pack_sight *out) {
    for (int64_t i = 0; i < p->n; i++) {
        int q = code_at(p, codes, i);
        double x = 0.5 * (double)doubled(p, q) * (double)p->steps[i % p->k];
        out->sum += !p->half && (float)q < -p->most ? NAN : x * x;
    }
}

static void look_at_unit(const rb_pack_plan *p, const uint8_t *codes, int64_t from, int64_t to, uint16_t bits,
                         rb_pack_sight *out) {
    double unit = 0.5 * (double)rb_unit_value(bits);
    int64_t sum = 0;
    bool bad = false;
    for (int64_t i = from; i < to; i++) {
        int q = code_at(p, codes, i);
        sum += doubled(p, q) * doubled(p, q);
        bad |= !p->half && (float)q < -p->most;
    }
    out->sum += bad ? NAN : (double)sum * unit * unit;
}

void rb_pack_look(const rb_pack_plan *p, int64_t d, rb_pack_sight *out) {
    for (int64_t b = 0; b < p->B; b++) {
        const uint8_t *codes = rb_pack_codes(p, b), *scales = rb_pack_scales(p, b);
        if (p->code >= RB_CODEC_COUNT)
            look_at_places(p, codes, d, out);
        else if (p->scale == RB_SCALE_NONE)
            look_whole(p, codes, out);
        else if (p->scale == RB_SCALE_STEP)
            look_at_steps(p, codes, out);
        for (int64_t u = 0; u < p->units; u++) {
            int64_t from = u * p->unit, to = from + p->unit < p->n ? from + p->unit : p->n;
            look_at_unit(p, codes, from, to, rb_get16(scales + 2 * u), out);
        }
    }
    if (p->code < RB_CODEC_COUNT) out->count += p->B * p->n;
}
