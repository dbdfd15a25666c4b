/* Packing in blocks of 64 values, the length of a scale group: multipliers, quantised codes, bytes. The bytes are
 * those of the reference (device/pack_layout.h); plain loops that the compiler turns into vector code. */
#include <math.h>
#include <string.h>
#include "core/bytes.h"
#include "device/cpu/isa.h"
#include "device/pack_layout.h"

enum { block = RB_PACK_GROUP };

typedef struct sequence {
    const rb_pack_args *a;
    const rb_pack_shape *s;
    uint64_t number;    /* in the run's order */
    const float *steps; /* STEP: (k) multipliers 1/step when packing, steps when unpacking */
} sequence;

/* u of values [from, from+64): eight Philox counters side by side. */
static void random_block(const sequence *q, int64_t from, float *u) {
    uint32_t c0[8], c1[8], c2[8], c3[8];
    uint64_t key = rb_mix64(q->a->seed, q->a->step);
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int j = 0; j < 8; j++) {
        c0[j] = (uint32_t)(from / 8 + j);
        c1[j] = (uint32_t)q->number;
        c2[j] = (uint32_t)(q->number >> 32);
        c3[j] = q->a->boundary << 1 | q->a->direction;
    }
    for (int r = 0; r < 10; r++) {
#pragma omp simd
        for (int j = 0; j < 8; j++) {
            uint64_t p0 = (uint64_t)RB_PHILOX_M0 * c0[j], p1 = (uint64_t)RB_PHILOX_M1 * c2[j];
            uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1[j] ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3[j] ^ k1;
            c1[j] = (uint32_t)p1;
            c3[j] = (uint32_t)p0;
            c0[j] = n0;
            c2[j] = n2;
        }
        k0 += RB_PHILOX_W0;
        k1 += RB_PHILOX_W1;
    }
    uint32_t w[32];
#pragma omp simd
    for (int j = 0; j < 8; j++) {
        w[4 * j] = c0[j];
        w[4 * j + 1] = c1[j];
        w[4 * j + 2] = c2[j];
        w[4 * j + 3] = c3[j];
    }
    uint16_t h[block];
    for (int i = 0; i < 32; i++) { /* byte order made plain: low half first */
        h[2 * i] = (uint16_t)w[i];
        h[2 * i + 1] = (uint16_t)(w[i] >> 16);
    }
#pragma omp simd
    for (int i = 0; i < block; i++) u[i] = (float)h[i] * 0x1p-16f + 0x1p-17f;
}

static uint32_t top_bits(const float *x, int64_t n) {
    uint32_t top = 0;
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < n; i++) {
        uint32_t v;
        memcpy(&v, x + i, 4);
        v &= 0x7fffffffu;
        top = v > top ? v : top;
    }
    return top;
}

static float multiplier(const sequence *q, uint16_t h) {
    return h && h != RB_PACK_NAN_SCALE ? (float)q->s->qmax / rb_bf16_to_f32(h) : 0;
}

static uint16_t scale_at(const uint8_t *scales, int64_t g) { return rb_get16(scales + 2 * g); }

/* Multiplier of each value of a block. TOKEN scales are written already. */
static void multipliers(const sequence *q, const uint8_t *scales, int64_t from, int n, float *m) {
    int64_t k = q->s->k;
    if (q->a->scale == RB_SCALE_GROUP) {
        float one = multiplier(q, scale_at(scales, from / block));
        for (int i = 0; i < block; i++) m[i] = one;
        return;
    }
    int64_t token = from / k, at = from % k;
    for (int i = 0; i < n;) {
        int run = (int)(k - at < n - i ? k - at : n - i);
        if (q->a->scale == RB_SCALE_STEP)
            memcpy(m + i, q->steps + at, (size_t)run * sizeof *m);
        else
            for (int j = 0; j < run; j++) m[i + j] = multiplier(q, scale_at(scales, token));
        i += run;
        at = 0;
        token++;
    }
}

static void quantise(const sequence *q, const float *x, const float *m, int64_t from, int8_t *code) {
    float high = (float)q->s->qmax, low = -high, u[block];
    int32_t c[block];
    if (q->a->stochastic) {
        random_block(q, from, u);
#pragma omp simd
        for (int i = 0; i < block; i++) {
            float r = floorf(x[i] * m[i] + u[i]);
            r = r > low ? r : low;
            c[i] = (int32_t)(r < high ? r : high);
        }
    } else {
#pragma omp simd
        for (int i = 0; i < block; i++) {
            float r = rintf(x[i] * m[i]);
            r = r > low ? r : low;
            c[i] = (int32_t)(r < high ? r : high);
        }
    }
    int32_t mark = -q->s->qmax - 1;
    bool stepped = q->a->scale == RB_SCALE_STEP;
#pragma omp simd
    for (int i = 0; i < block; i++) {
        uint32_t v;
        memcpy(&v, x + i, 4);
        bool finite = (v & 0x7f800000u) != 0x7f800000u;
        int32_t z = m[i] != 0 ? c[i] : 0;
        code[i] = (int8_t)(finite ? z : stepped ? mark : 0);
    }
}

static void put_codes(const sequence *q, uint8_t *codes, int64_t from, int n, const int8_t *c) {
    if (q->a->code == RB_CODE_INT8) {
        memcpy(codes + from, c, (size_t)n);
        return;
    }
    uint8_t pair[block / 2];
#pragma omp simd
    for (int i = 0; i < block / 2; i++) pair[i] = (uint8_t)((c[2 * i] & 15) | (c[2 * i + 1] & 15) << 4);
    memcpy(codes + from / 2, pair, (size_t)(n + 1) / 2);
}

static void pack_sequence(const sequence *q, const float *x, uint8_t *out) {
    const rb_pack_shape *s = q->s;
    for (int64_t g = 0; q->a->scale == RB_SCALE_TOKEN && g < s->T; g++)
        rb_put16(out + 2 * g, rb_pack_scale(top_bits(x + g * s->k, s->k)));
    for (int64_t from = 0; from < s->values; from += block) {
        int n = (int)(s->values - from < block ? s->values - from : block);
        float part[block], m[block];
        const float *v = x + from;
        int8_t code[block];
        if (n < block) {
            memset(part, 0, sizeof part);
            memset(m, 0, sizeof m);
            memcpy(part, v, (size_t)n * sizeof *v);
            v = part;
        }
        if (q->a->scale == RB_SCALE_GROUP) rb_put16(out + 2 * (from / block), rb_pack_scale(top_bits(v, block)));
        multipliers(q, out, from, n, m);
        quantise(q, v, m, from, code);
        put_codes(q, out + 2 * s->scales, from, n, code);
    }
}

static void pack_plain(const float *x, uint8_t *out, rb_code code, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        uint32_t v;
        memcpy(&v, x + i, 4);
        if (code == RB_CODE_F32)
            rb_put32(out + 4 * i, v);
        else
            rb_put16(out + 2 * i, rb_bf16_from_f32(x[i]));
    }
}

resbm_status RB_ISA_NAME(rb_cpu_pack)(rb_queue *dev, const rb_op *op, rb_err *err) {
    rb_pack_args a = rb_pack_load(op);
    const rb_view *x = &op->t[1];
    rb_pack_shape s = rb_pack_shape_of(&a, x->shape[0], x->shape[1], x->shape[2]);
    enum { most = 16384 };
    float inverse[most];
    if (a.scale == RB_SCALE_STEP && s.k > most)
        return rb_fail(err, RESBM_E_UNSUPPORTED, "pack: %lld learned steps, at most %d", (long long)s.k, most);
    for (int64_t i = 0; a.scale == RB_SCALE_STEP && i < s.k; i++) inverse[i] = 1.0f / ((const float *)op->t[2].data)[i];
#pragma omp parallel for schedule(static) num_threads(dev->dev->opt.threads)
    for (int64_t b = 0; b < s.B; b++) {
        uint8_t *out = (uint8_t *)op->t[0].data + b * s.bytes;
        const float *row = (const float *)x->data + b * x->stride[0];
        sequence q = {&a, &s, a.sequence + (uint64_t)b, inverse};
        if (a.scale == RB_SCALE_NONE)
            pack_plain(row, out, a.code, s.values);
        else
            pack_sequence(&q, row, out);
    }
    return RESBM_OK;
}

static void get_codes(const sequence *q, const uint8_t *codes, int64_t from, int n, int8_t *c) {
    if (q->a->code == RB_CODE_INT8) {
        memcpy(c, codes + from, (size_t)n);
        return;
    }
    uint8_t pair[block / 2] = {0};
    memcpy(pair, codes + from / 2, (size_t)(n + 1) / 2);
#pragma omp simd
    for (int i = 0; i < block / 2; i++) {
        c[2 * i] = (int8_t)((int8_t)(uint8_t)(pair[i] << 4) >> 4);
        c[2 * i + 1] = (int8_t)((int8_t)pair[i] >> 4);
    }
}

static float scale_step(const sequence *q, uint16_t h) { return rb_bf16_to_f32(h) / (float)q->s->qmax; }

static void unpack_steps(const sequence *q, const uint8_t *scales, int64_t from, int n, float *m) {
    int64_t k = q->s->k, token = from / k, at = from % k;
    if (q->a->scale == RB_SCALE_GROUP) {
        float one = scale_step(q, scale_at(scales, from / block));
        for (int i = 0; i < n; i++) m[i] = one;
        return;
    }
    for (int i = 0; i < n; at = 0, token++) {
        int run = (int)(k - at < n - i ? k - at : n - i);
        if (q->a->scale == RB_SCALE_STEP) {
            memcpy(m + i, q->steps + at, (size_t)run * sizeof *m);
        } else {
            float one = scale_step(q, scale_at(scales, token));
            for (int j = 0; j < run; j++) m[i + j] = one;
        }
        i += run;
    }
}

static void unpack_sequence(const sequence *q, const uint8_t *in, float *x) {
    const rb_pack_shape *s = q->s;
    int mark = -s->qmax - 1;
    for (int64_t from = 0; from < s->values; from += block) {
        int n = (int)(s->values - from < block ? s->values - from : block);
        float m[block];
        int8_t c[block];
        unpack_steps(q, in, from, n, m);
        get_codes(q, in + 2 * s->scales, from, n, c);
#pragma omp simd
        for (int i = 0; i < n; i++) x[from + i] = c[i] == mark ? NAN : (float)c[i] * m[i];
    }
}

static void unpack_plain(const uint8_t *in, float *x, rb_code code, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        uint32_t v = code == RB_CODE_F32 ? rb_get32(in + 4 * i) : (uint32_t)rb_get16(in + 2 * i) << 16;
        memcpy(x + i, &v, 4);
    }
}

resbm_status RB_ISA_NAME(rb_cpu_unpack)(rb_queue *dev, const rb_op *op, rb_err *err) {
    (void)err;
    rb_pack_args a = rb_pack_load(op);
    const rb_view *x = &op->t[0];
    rb_pack_shape s = rb_pack_shape_of(&a, x->shape[0], x->shape[1], x->shape[2]);
#pragma omp parallel for schedule(static) num_threads(dev->dev->opt.threads)
    for (int64_t b = 0; b < s.B; b++) {
        const uint8_t *in = (const uint8_t *)op->t[1].data + b * s.bytes;
        float *row = (float *)x->data + b * x->stride[0];
        sequence q = {&a, &s, 0, op->t[2].data};
        if (a.scale == RB_SCALE_NONE)
            unpack_plain(in, row, a.code, s.values);
        else
            unpack_sequence(&q, in, row);
    }
    return RESBM_OK;
}

resbm_status RB_ISA_NAME(rb_cpu_code_stats)(rb_queue *dev, const rb_op *op, rb_err *err) {
    (void)dev, (void)err;
    rb_pack_args a = rb_pack_load(op);
    int64_t *stats = op->t[0].data, k = rb_count(op->t[0]);
    rb_pack_shape s = rb_pack_shape_of(&a, op->i[3], op->i[4], k);
    int mark = -s.qmax - 1;
    for (int64_t b = 0; b < s.B; b++) {
        sequence q = {&a, &s, 0, NULL};
        for (int64_t from = 0; from < s.values; from += block) {
            int n = (int)(s.values - from < block ? s.values - from : block);
            int8_t c[block];
            get_codes(&q, (const uint8_t *)op->t[1].data + b * s.bytes, from, n, c);
            int64_t at = from % k;
            for (int i = 0; i < n; i++) {
                if (c[i] != mark) stats[at] += c[i] * c[i];
                if (++at == k) at = 0;
            }
        }
    }
    return RESBM_OK;
}
