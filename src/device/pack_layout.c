#include "device/pack_layout.h"

static const char *const code_names[RB_CODE_COUNT] = {"f32",  "bf16", "int8",   "int4",
                                                      "int2", "int1", "index8", "index16"};
static const char *const scale_names[RB_SCALE_COUNT] = {
    "none", "step", "token", "group", "group of 32", "group of 16", "group of 8", "group of 4", "group of 2"};

static resbm_status check_kinds(rb_code code, rb_scale scale, rb_err *err) {
    if ((unsigned)code >= RB_CODE_COUNT || (unsigned)scale >= RB_SCALE_COUNT)
        return rb_fail(err, RESBM_E_ARG, "codec: there is no code %d with scale %d", (int)code, (int)scale);
    bool whole = code <= RB_CODE_BF16 || code >= RB_CODEC_COUNT;
    if (whole == (scale == RB_SCALE_NONE)) return RESBM_OK;
    return rb_fail(err, RESBM_E_ARG, "codec: code %s takes no scale \"%s\"; %s", code_names[code],
                   scale_names[scale], whole ? "only none" : "step, token or group");
}

/* Up to 2^34 values per sequence the random counter's first word suffices; in all, bytes stay in 63 bits. */
static resbm_status check_shape(int64_t B, int64_t T, int64_t k, rb_err *err) {
    const int64_t most = (int64_t)1 << 34;
    if (B >= 1 && T >= 1 && k >= 1 && k <= most && T <= most / k && B <= ((int64_t)1 << 48) / (T * k))
        return RESBM_OK;
    return rb_fail(err, RESBM_E_ARG, "codec: shape (%lld,%lld,%lld) is empty or too large", (long long)B,
                   (long long)T, (long long)k);
}

static const struct {
    int bits;
    float most;
    bool half;
} ranges[RB_CODE_COUNT] = {[RB_CODE_INT8] = {8, 127, false},
                           [RB_CODE_INT4] = {4, 7, false},
                           [RB_CODE_INT2] = {2, 1.5f, true},
                           [RB_CODE_INT1] = {1, 0.5f, true}};

resbm_status rb_pack_sizes(rb_pack_plan *p, rb_code code, rb_scale scale, int64_t B, int64_t T, int64_t k,
                           rb_err *err) {
    RB_TRY(check_kinds(code, scale, err));
    RB_TRY(check_shape(B, T, k, err));
    *p = (rb_pack_plan){.code = code, .scale = scale, .B = B, .T = T, .k = k, .n = T * k};
    p->bits = ranges[code].bits;
    p->most = ranges[code].most;
    p->half = ranges[code].half;
    p->unit = scale == RB_SCALE_TOKEN ? k : rb_group_of(scale);
    p->units = p->unit ? (p->n + p->unit - 1) / p->unit : 0;
    p->scale_bytes = 2 * p->units;
    p->sequence_bytes = p->bits ? p->scale_bytes + rb_code_bytes(p, p->n) : p->n * rb_value_bytes(code);
    return RESBM_OK;
}

int64_t rb_packed_bytes(const rb_pack_args *a, int64_t B, int64_t T, int64_t k) {
    rb_pack_plan p;
    rb_err e;
    return rb_pack_sizes(&p, a->code, a->scale, B, T, k, &e) == RESBM_OK ? B * p.sequence_bytes : -1;
}

static resbm_status check_bytes(const char *op, const rb_pack_plan *p, const rb_view *bytes, rb_err *err) {
    int64_t want = p->B * p->sequence_bytes, got = rb_count(*bytes);
    if (bytes->rank == 1 && got == want) return RESBM_OK;
    return rb_fail(err, RESBM_E_ARG, "%s: bytes has %lld, (%lld,%lld,%lld) in %s with scale %s is %lld", op,
                   (long long)got, (long long)p->B, (long long)p->T, (long long)p->k, code_names[p->code],
                   scale_names[p->scale], (long long)want);
}

static resbm_status stats_plan(const rb_op *op, rb_pack_plan *p, rb_err *err) {
    RB_TRY(
        rb_pack_sizes(p, (rb_code)op->i[0], (rb_scale)op->i[1], op->i[2], op->i[3], op->t[0].shape[0], err));
    if (p->scale != RB_SCALE_STEP)
        return rb_fail(err, RESBM_E_ARG, "code_stats: scale %s has no learned steps", scale_names[p->scale]);
    p->bytes = op->t[1].data;
    return check_bytes("code_stats", p, &op->t[1], err);
}

resbm_status rb_pack_plan_of(const rb_op *op, rb_pack_plan *p, rb_err *err) {
    if (op->kind == RB_OP_CODE_STATS) return stats_plan(op, p, err);
    bool pack = op->kind == RB_OP_PACK;
    const char *name = pack ? "pack" : "unpack";
    const rb_view *x = &op->t[pack], *bytes = &op->t[!pack], *steps = &op->t[2];
    RB_TRY(
        rb_pack_sizes(p, (rb_code)op->i[0], (rb_scale)op->i[1], x->shape[0], x->shape[1], x->shape[2], err));
    RB_TRY(check_bytes(name, p, bytes, err));
    if (p->scale == RB_SCALE_STEP && !steps->data)
        return rb_fail(err, RESBM_E_ARG, "%s: scale step needs steps (%lld)", name, (long long)p->k);
    p->stochastic = op->i[2] != 0;
    p->steps = p->scale == RB_SCALE_STEP ? steps->data : NULL;
    p->x = x->data;
    p->stride_b = x->stride[0];
    p->stride_t = x->stride[1];
    p->bytes = bytes->data;
    p->key = rb_mix64(op->key[0], op->key[1]);
    p->sequence = op->key[2];
    p->stream = (uint32_t)op->i[3] << 1 | (uint32_t)op->i[4];
    return RESBM_OK;
}

static resbm_status check_finite(const rb_pack_plan *p, rb_err *err) {
    for (int64_t b = 0; b < p->B; b++)
        for (int64_t t = 0; t < p->T; t++) {
            const float *x = p->x + b * p->stride_b + t * p->stride_t;
            uint32_t most = 0;
            for (int64_t j = 0; j < p->k; j++) {
                uint32_t size = rb_f32_bits(x[j]) & 0x7fffffffu;
                most = size > most ? size : most;
            }
            for (int64_t j = 0; most >= 0x7f800000u && j < p->k; j++)
                if (!rb_f32_finite(x[j]))
                    return rb_fail(
                        err, RESBM_E_NUMERIC,
                        "pack: coordinate %lld of position %lld in sequence %lld of the microbatch is %g, "
                        "for which %s with learned steps has no code",
                        (long long)j, (long long)t, (long long)b, (double)x[j], code_names[p->code]);
        }
    return RESBM_OK;
}

resbm_status rb_pack_check_steps(const rb_op *op, const rb_pack_plan *p, rb_err *err) {
    if (!p->steps) return RESBM_OK;
    for (int64_t j = 0; j < p->k; j++)
        if (!(p->steps[j] >= RB_UNIT_TINY && p->steps[j] <= RB_STEP_HUGE))
            return rb_fail(err, RESBM_E_NUMERIC, "%s: learned step of coordinate %lld is %g",
                           rb_op_info(op->kind)->name, (long long)j, (double)p->steps[j]);
    return op->kind == RB_OP_PACK && p->half ? check_finite(p, err) : RESBM_OK;
}
