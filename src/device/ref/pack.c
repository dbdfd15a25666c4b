/* The packed layout value by value, as device/pack_layout.h states it. */
#include "device/ref/pack.h"

#include <math.h>
#include <string.h>
#include "core/bytes.h"
#include "device/pack_layout.h"

static uint32_t random16(const rb_pack_args *a, uint64_t sequence, int64_t idx) {
    rb_philox c = {{(uint32_t)(idx / 8), (uint32_t)sequence, (uint32_t)(sequence >> 32), a->boundary << 1 | a->direction}};
    uint32_t word = rb_philox4x32(c, rb_mix64(a->seed, a->step)).v[idx % 8 / 2];
    return idx % 2 ? word >> 16 : word & 0xffff;
}

static int quantise(float y, int qmax, const rb_pack_args *a, uint64_t sequence, int64_t idx) {
    float u = (float)random16(a, sequence, idx) * 0x1p-16f + 0x1p-17f;
    float r = a->stochastic ? floorf(y + u) : rintf(y);
    return (int)fminf(fmaxf(r, (float)-qmax), (float)qmax);
}

static uint16_t scale_of(const float *x, int64_t n) {
    uint32_t top = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, x + i, 4);
        u &= 0x7fffffffu;
        if (u > top) top = u;
    }
    return rb_pack_scale(top);
}

static int64_t span_of(const rb_pack_args *a, const rb_pack_shape *s) {
    return a->scale == RB_SCALE_TOKEN ? s->k : RB_PACK_GROUP;
}

static void put_code(uint8_t *codes, rb_code code, int64_t idx, int c) {
    if (code == RB_CODE_INT8)
        codes[idx] = (uint8_t)(int8_t)c;
    else
        codes[idx / 2] = (uint8_t)(idx % 2 ? (codes[idx / 2] & 15) | (c & 15) << 4 : (c & 15));
}

static int get_code(const uint8_t *codes, rb_code code, int64_t idx) {
    if (code == RB_CODE_INT8) return (int8_t)codes[idx];
    int c = codes[idx / 2] >> (idx % 2 * 4) & 15;
    return c > 7 ? c - 16 : c;
}

static void pack_scaled(uint8_t *out, const float *x, const rb_pack_args *a, const rb_pack_shape *s, uint64_t seq) {
    int64_t span = span_of(a, s);
    for (int64_t g = 0; g < s->scales; g++) {
        int64_t from = g * span, n = s->values - from < span ? s->values - from : span;
        uint16_t h = scale_of(x + from, n);
        rb_put16(out + 2 * g, h);
        float m = h && h != RB_PACK_NAN_SCALE ? (float)s->qmax / rb_bf16_to_f32(h) : 0;
        for (int64_t i = from; i < from + n; i++)
            put_code(out + 2 * s->scales, a->code, i, m != 0 ? quantise(x[i] * m, s->qmax, a, seq, i) : 0);
    }
}

static void pack_stepped(uint8_t *out, const float *x, const float *steps, const rb_pack_args *a,
                         const rb_pack_shape *s, uint64_t seq) {
    for (int64_t i = 0; i < s->values; i++) {
        float m = 1.0f / steps[i % s->k];
        put_code(out, a->code, i, isfinite(x[i]) ? quantise(x[i] * m, s->qmax, a, seq, i) : -s->qmax - 1);
    }
}

static void pack_plain(uint8_t *out, const float *x, rb_code code, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, x + i, 4);
        if (code == RB_CODE_F32)
            rb_put32(out + 4 * i, u);
        else
            rb_put16(out + 2 * i, rb_bf16_from_f32(x[i]));
    }
}

resbm_status rb_ref_pack(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    rb_pack_args a = rb_pack_load(op);
    const rb_view *x = &op->t[1];
    rb_pack_shape s = rb_pack_shape_of(&a, x->shape[0], x->shape[1], x->shape[2]);
    for (int64_t b = 0; b < s.B; b++) {
        uint8_t *out = (uint8_t *)op->t[0].data + b * s.bytes;
        const float *row = (const float *)x->data + b * x->stride[0];
        if (a.scale == RB_SCALE_NONE)
            pack_plain(out, row, a.code, s.values);
        else if (a.scale == RB_SCALE_STEP)
            pack_stepped(out, row, op->t[2].data, &a, &s, a.sequence + (uint64_t)b);
        else
            pack_scaled(out, row, &a, &s, a.sequence + (uint64_t)b);
    }
    return RESBM_OK;
}

static float unpack_one(const uint8_t *in, const float *steps, const rb_pack_args *a, const rb_pack_shape *s,
                        int64_t i) {
    if (a->code == RB_CODE_BF16) return rb_bf16_to_f32(rb_get16(in + 2 * i));
    if (a->code == RB_CODE_F32) {
        uint32_t u = rb_get32(in + 4 * i);
        float f;
        memcpy(&f, &u, 4);
        return f;
    }
    int c = get_code(in + 2 * s->scales, a->code, i);
    if (c < -s->qmax) return NAN;
    if (a->scale == RB_SCALE_STEP) return (float)c * steps[i % s->k];
    return (float)c * (rb_bf16_to_f32(rb_get16(in + 2 * (i / span_of(a, s)))) / (float)s->qmax);
}

resbm_status rb_ref_unpack(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    rb_pack_args a = rb_pack_load(op);
    const rb_view *x = &op->t[0];
    rb_pack_shape s = rb_pack_shape_of(&a, x->shape[0], x->shape[1], x->shape[2]);
    for (int64_t b = 0; b < s.B; b++)
        for (int64_t i = 0; i < s.values; i++)
            ((float *)x->data)[b * x->stride[0] + i] =
                unpack_one((const uint8_t *)op->t[1].data + b * s.bytes, op->t[2].data, &a, &s, i);
    return RESBM_OK;
}

resbm_status rb_ref_code_stats(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    rb_pack_args a = rb_pack_load(op);
    int64_t *stats = op->t[0].data, k = rb_count(op->t[0]);
    rb_pack_shape s = rb_pack_shape_of(&a, op->i[3], op->i[4], k);
    for (int64_t b = 0; b < s.B; b++)
        for (int64_t i = 0; i < s.values; i++) {
            int c = get_code((const uint8_t *)op->t[1].data + b * s.bytes, a.code, i);
            if (c >= -s.qmax) stats[i % k] += c * c;
        }
    return RESBM_OK;
}
