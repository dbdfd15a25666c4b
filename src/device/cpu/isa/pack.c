/* The codec of pack_layout.h in vector code, bytes equal to the reference's.
 *
 * A sequence is cut into pieces of about 4096 values (whole tokens for TOKEN, whole groups for GROUP), each
 * done by one thread in chunks of 512: multipliers, random bits, codes. Pieces begin at a multiple of 8
 * values, so a chunk begins at a byte and at a whole random block. */
#include <string.h>
#include "device/cpu/isa.h"
#include "device/cpu/isa/pack_vec.h"
#include "device/pack_layout.h"

enum {
    PIECE = 4096,
    STEPS_MOST = 1024,
    SPAWN_VALUES = 16384 /* below this a team costs more than it gives */
};

typedef struct job {
    const rb_pack_plan *p;
    int64_t piece, pieces; /* values of one piece; pieces of one sequence */
    bool flat;             /* rows of x touch */
    bool packing;
    /* STEP with k <= STEPS_MOST: multipliers of idx 0, 1, ... so that any chunk's are a run of it. */
    float table[STEPS_MOST + RB_CHUNK];
} job;

/* One piece's values [from, to) of sequence b, and one multiplier per scale in it. */
typedef struct piece {
    const job *j;
    int64_t b, from, to;
    float unit[PIECE];
} piece;

static float step_multiplier(const job *j, int64_t coordinate) {
    float u = j->p->steps[coordinate];
    return j->packing ? 1.0f / u : u;
}

static void plan_job(job *j, const rb_pack_plan *p, bool packing) {
    j->p = p;
    j->packing = packing;
    j->flat = p->stride_t == p->k || p->T == 1;
    j->piece = p->scale == RB_SCALE_TOKEN ? (PIECE / 8 + p->k - 1) / p->k * 8 * p->k : PIECE;
    j->pieces = (p->n + j->piece - 1) / j->piece;
    if (!p->steps || p->k > STEPS_MOST) return;
    for (int64_t i = 0; i < p->k + RB_CHUNK; i++)
        j->table[i] = i < p->k ? step_multiplier(j, i) : j->table[i - p->k];
}

static float *row_at(const rb_pack_plan *p, int64_t b, int64_t idx) {
    return p->x + b * p->stride_b + idx / p->k * p->stride_t + idx % p->k;
}

/* Values [from, from + n) between x and a buffer, row by row. */
static void gather(const rb_pack_plan *p, int64_t b, int64_t from, int64_t n, float *buf) {
    for (int64_t i = 0; i < n;) {
        int64_t left = p->k - (from + i) % p->k, run = left < n - i ? left : n - i;
        memcpy(buf + i, row_at(p, b, from + i), (size_t)run * sizeof *buf);
        i += run;
    }
}

static void scatter(const rb_pack_plan *p, int64_t b, int64_t from, int64_t n, const float *buf) {
    for (int64_t i = 0; i < n;) {
        int64_t left = p->k - (from + i) % p->k, run = left < n - i ? left : n - i;
        memcpy(row_at(p, b, from + i), buf + i, (size_t)run * sizeof *buf);
        i += run;
    }
}

/* The multipliers of values [from, from + n); they lie in buf or in the table. */
static const float *multipliers(const piece *w, int64_t from, int64_t n, float *buf) {
    const rb_pack_plan *p = w->j->p;
    if (p->steps && p->k <= STEPS_MOST) return w->j->table + from % p->k;
    for (int64_t i = 0, at = from % p->k; p->steps && i < n; i++, at = at + 1 < p->k ? at + 1 : 0)
        buf[i] = step_multiplier(w->j, at);
    if (!p->unit) return buf;
    const float *unit = w->unit + (from - w->from) / p->unit;
    int64_t run = p->unit - (from - w->from) % p->unit;
    for (int64_t i = 0; i < n; i += run, run = p->unit) {
        float m = *unit++;
        int64_t end = i + run < n ? i + run : n;
        for (int64_t v = i; v < end; v++) buf[v] = m;
    }
    return buf;
}

/* Largest |x| of each unit of the piece, as bits. */
static void find_absmax(const piece *w, uint32_t *most, int64_t units) {
    const rb_pack_plan *p = w->j->p;
    float buf[RB_GROUP];
    for (int64_t u = 0, from = w->from; u < units; u++, from += p->unit) {
        int64_t n = w->to - from < p->unit ? w->to - from : p->unit;
        const float *x = buf;
        if (w->j->flat)
            x = p->x + w->b * p->stride_b + from;
        else if (p->scale == RB_SCALE_TOKEN)
            x = row_at(p, w->b, from);
        else
            gather(p, w->b, from, n, buf);
        if (n == RB_GROUP)
            most[u] = vec_absmax(x, RB_GROUP);
        else if (n == 8)
            most[u] = vec_absmax(x, 8);
        else
            most[u] = vec_absmax(x, n);
    }
}

static void pack_units(piece *w) {
    const rb_pack_plan *p = w->j->p;
    uint32_t most[PIECE];
    if (!p->unit) return;
    int64_t units = (w->to - w->from + p->unit - 1) / p->unit;
    uint8_t *scales = rb_pack_scales(p, w->b) + 2 * (w->from / p->unit);
    find_absmax(w, most, units);
    for (int64_t u = 0; u < units; u++) {
        uint16_t scale = rb_unit_bits(most[u], p->most);
        rb_put16(scales + 2 * u, scale);
        w->unit[u] = rb_unit_inverse(scale);
    }
}

static void unpack_units(piece *w) {
    const rb_pack_plan *p = w->j->p;
    if (!p->unit) return;
    int64_t units = (w->to - w->from + p->unit - 1) / p->unit;
    const uint8_t *scales = rb_pack_scales(p, w->b) + 2 * (w->from / p->unit);
    for (int64_t u = 0; u < units; u++) w->unit[u] = rb_unit_value(rb_get16(scales + 2 * u));
}

/* n values, of which those from `real` on are padding. */
static void quantize_half(const rb_pack_plan *p, uint8_t *out, const float *x, const float *m,
                          const uint16_t *h, int64_t n, int64_t real) {
    vec_range range = {p->most, true, 0};
    uint8_t q[RB_CHUNK];
    if (h)
        vec_quantize8(q, x, m, h, n, range);
    else
        vec_quantize8(q, x, m, NULL, n, range);
    vec_squeeze(out, q, real, p->bits);
}

static void quantize(const rb_pack_plan *p, uint8_t *out, const float *x, const float *m, const uint16_t *h,
                     int64_t n) {
    vec_range range = {p->most, false, rb_pack_bad(p)};
    if (p->code == RB_CODE_INT4 && h)
        vec_quantize4(out, x, m, h, n, range);
    else if (p->code == RB_CODE_INT4)
        vec_quantize4(out, x, m, NULL, n, range);
    else if (h)
        vec_quantize8(out, x, m, h, n, range);
    else
        vec_quantize8(out, x, m, NULL, n, range);
}

static const uint16_t *random_bits(const piece *w, int64_t from, int64_t n, uint16_t *buf) {
    const rb_pack_plan *p = w->j->p;
    if (!p->stochastic) return NULL;
    vec_random_bits(buf, n,
                    (vec_random){p->key, p->sequence + (uint64_t)w->b, (uint32_t)(from / 8), p->stream});
    return buf;
}

static int64_t padded(int64_t n) {
    return (n + 63) / 64 * 64;
}

static void pack_chunk(const piece *w, int64_t from, int64_t n) {
    const rb_pack_plan *p = w->j->p;
    float values[RB_CHUNK], m[RB_CHUNK];
    uint16_t h[RB_CHUNK];
    uint8_t codes[RB_CHUNK], *out = rb_pack_codes(p, w->b) + rb_code_bytes(p, from);
    int64_t full = padded(n);
    const float *x = values;
    if (w->j->flat && full == n)
        x = row_at(p, w->b, from);
    else
        gather(p, w->b, from, n, values);
    if (full != n) {
        memset(values + n, 0, (size_t)(full - n) * sizeof *values);
        memset(m + n, 0, (size_t)(full - n) * sizeof *m);
    }
    const float *by = multipliers(w, from, n, m);
    const uint16_t *random = random_bits(w, from, full, h);
    if (p->half) {
        quantize_half(p, out, x, by, random, full, n);
        return;
    }
    quantize(p, full == n ? out : codes, x, by, random, full);
    if (full != n) memcpy(out, codes, (size_t)rb_code_bytes(p, n));
}

static void unpack_chunk(const piece *w, int64_t from, int64_t n) {
    const rb_pack_plan *p = w->j->p;
    float values[RB_CHUNK], m[RB_CHUNK];
    uint8_t tail[RB_CHUNK];
    const uint8_t *codes = rb_pack_codes(p, w->b) + rb_code_bytes(p, from);
    int64_t full = padded(n);
    bool direct = w->j->flat && full == n;
    if (full != n) {
        memset(tail, 0, (size_t)rb_code_bytes(p, full));
        memset(m + n, 0, (size_t)(full - n) * sizeof *m);
        codes = memcpy(tail, codes, (size_t)rb_code_bytes(p, n));
    }
    float *x = direct ? row_at(p, w->b, from) : values;
    const float *by = multipliers(w, from, n, m);
    if (p->half) {
        uint8_t q[RB_CHUNK];
        vec_spread(q, codes, full, p->bits);
        vec_dequantize8(x, q, by, full, 0.5f);
    } else if (p->code == RB_CODE_INT4) {
        vec_dequantize4(x, codes, by, full);
    } else {
        vec_dequantize8(x, codes, by, full, 0);
    }
    if (!direct) scatter(p, w->b, from, n, values);
}

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
static void put_words16(uint8_t *out, const uint16_t *v, int64_t n) {
    memcpy(out, v, (size_t)n * 2);
}
static void get_words16(uint16_t *v, const uint8_t *in, int64_t n) {
    memcpy(v, in, (size_t)n * 2);
}
static void put_floats(uint8_t *out, const float *v, int64_t n) {
    memcpy(out, v, (size_t)n * 4);
}
static void get_floats(float *v, const uint8_t *in, int64_t n) {
    memcpy(v, in, (size_t)n * 4);
}
#else
static void put_words16(uint8_t *out, const uint16_t *v, int64_t n) {
    for (int64_t i = 0; i < n; i++) rb_put16(out + 2 * i, v[i]);
}
static void get_words16(uint16_t *v, const uint8_t *in, int64_t n) {
    for (int64_t i = 0; i < n; i++) v[i] = rb_get16(in + 2 * i);
}
static void put_floats(uint8_t *out, const float *v, int64_t n) {
    for (int64_t i = 0; i < n; i++) rb_put32(out + 4 * i, rb_f32_bits(v[i]));
}
static void get_floats(float *v, const uint8_t *in, int64_t n) {
    for (int64_t i = 0; i < n; i++) v[i] = rb_f32_of(rb_get32(in + 4 * i));
}
#endif

/* Indices are few and far between: as the reference has them. */
static void pack_indices(const piece *w, int64_t from, int64_t n, const float *x) {
    const rb_pack_plan *p = w->j->p;
    uint8_t *out = rb_pack_codes(p, w->b) + rb_value_bytes(p->code) * from;
    for (int64_t i = 0; i < n; i++)
        if (p->code == RB_CODE_INDEX8)
            out[i] = (uint8_t)rb_index_of(p, x[i]);
        else
            rb_put16(out + 2 * i, rb_index_of(p, x[i]));
}

static void unpack_indices(const piece *w, int64_t from, int64_t n, float *x) {
    const rb_pack_plan *p = w->j->p;
    const uint8_t *in = rb_pack_codes(p, w->b) + rb_value_bytes(p->code) * from;
    for (int64_t i = 0; i < n; i++) x[i] = p->code == RB_CODE_INDEX8 ? in[i] : rb_get16(in + 2 * i);
}

/* f32, bf16 and indices. */
static void pack_whole(const piece *w, int64_t from, int64_t n) {
    const rb_pack_plan *p = w->j->p;
    float values[RB_CHUNK];
    uint16_t words[RB_CHUNK], bits[RB_CHUNK];
    const float *x = w->j->flat ? row_at(p, w->b, from) : values;
    if (!w->j->flat) gather(p, w->b, from, n, values);
    if (p->code == RB_CODE_F32) {
        put_floats(rb_pack_codes(p, w->b) + 4 * from, x, n);
        return;
    }
    if (p->code != RB_CODE_BF16) {
        pack_indices(w, from, n, x);
        return;
    }
    const uint16_t *h = random_bits(w, from, padded(n), bits);
    for (int64_t i = 0; i < n && !h; i++) words[i] = rb_bf16_from_f32(x[i]);
    for (int64_t i = 0; i < n && h; i++) words[i] = rb_bf16_stochastic(x[i], h[i]);
    put_words16(rb_pack_codes(p, w->b) + 2 * from, words, n);
}

static void unpack_whole(const piece *w, int64_t from, int64_t n) {
    const rb_pack_plan *p = w->j->p;
    float values[RB_CHUNK], *x = w->j->flat ? row_at(p, w->b, from) : values;
    uint16_t words[RB_CHUNK];
    if (p->code == RB_CODE_F32) {
        get_floats(x, rb_pack_codes(p, w->b) + 4 * from, n);
    } else if (p->code != RB_CODE_BF16) {
        unpack_indices(w, from, n, x);
    } else {
        get_words16(words, rb_pack_codes(p, w->b) + 2 * from, n);
        for (int64_t i = 0; i < n; i++) x[i] = rb_bf16_to_f32(words[i]);
    }
    if (!w->j->flat) scatter(p, w->b, from, n, values);
}

static void run_piece(const job *j, int64_t number) {
    piece w;
    w.j = j;
    w.b = number / j->pieces;
    w.from = number % j->pieces * j->piece;
    w.to = w.from + j->piece < j->p->n ? w.from + j->piece : j->p->n;
    if (j->packing)
        pack_units(&w);
    else
        unpack_units(&w);
    bool whole = j->p->scale == RB_SCALE_NONE;
    void (*chunk)(const piece *, int64_t, int64_t) =
        j->packing ? (whole ? pack_whole : pack_chunk) : (whole ? unpack_whole : unpack_chunk);
    for (int64_t from = w.from; from < w.to; from += RB_CHUNK)
        chunk(&w, from, w.to - from < RB_CHUNK ? w.to - from : RB_CHUNK);
}

static resbm_status run(rb_queue *q, const rb_op *op, bool packing, rb_err *err) {
    rb_pack_plan p;
    job j;
    RB_TRY(rb_pack_plan_of(op, &p, err));
    RB_TRY(rb_pack_check_steps(op, &p, err));
    plan_job(&j, &p, packing);
    int threads = q->dev->opt.threads;
    (void)threads; /* without OpenMP */
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && p.B * p.n >= SPAWN_VALUES)
    for (int64_t i = 0; i < p.B * j.pieces; i++) run_piece(&j, i);
    return RESBM_OK;
}

resbm_status RB_ISA_NAME(rb_cpu_pack)(rb_queue *q, const rb_op *op, rb_err *err) {
    return run(q, op, true, err);
}
resbm_status RB_ISA_NAME(rb_cpu_unpack)(rb_queue *q, const rb_op *op, rb_err *err) {
    return run(q, op, false, err);
}

/* int2 and int1: 2 code + 1. out has room for a whole chunk. */
static void get_codes(const rb_pack_plan *p, const uint8_t *codes, int64_t n, int8_t *out) {
    if (p->code == RB_CODE_INT8) {
        memcpy(out, codes, (size_t)n);
        return;
    }
    if (p->half) {
        vec_spread((uint8_t *)out, codes, n, p->bits);
        for (int64_t i = 0; i < n; i++) out[i] = (int8_t)(2 * out[i] + 1);
        return;
    }
    for (int64_t i = 0; i < (n + 1) / 2; i++) {
        out[2 * i] = (int8_t)(((codes[i] & 15) ^ 8) - 8);
        out[2 * i + 1] = (int8_t)(((codes[i] >> 4) ^ 8) - 8);
    }
}

static void add_squares(int64_t *stats, const int8_t *codes, int64_t n) {
    for (int64_t i = 0; i < n; i++) stats[i] += codes[i] * codes[i];
}

resbm_status RB_ISA_NAME(rb_cpu_code_stats)(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q;
    rb_pack_plan p;
    RB_TRY(rb_pack_plan_of(op, &p, err));
    int8_t codes[RB_CHUNK];
    for (int64_t b = 0; b < p.B; b++)
        for (int64_t from = 0; from < p.n; from += RB_CHUNK) {
            int64_t n = p.n - from < RB_CHUNK ? p.n - from : RB_CHUNK;
            get_codes(&p, rb_pack_codes(&p, b) + rb_code_bytes(&p, from), n, codes);
            for (int64_t i = 0; i < n;) {
                int64_t at = (from + i) % p.k, run = p.k - at < n - i ? p.k - at : n - i;
                add_squares((int64_t *)op->t[0].data + at, codes + i, run);
                i += run;
            }
        }
    return RESBM_OK;
}
