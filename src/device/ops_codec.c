/* Typed wrappers of the transport codec's operations. */
#include "device/ops.h"
#include "device/pack_layout.h"

static bool possible(const rb_pack_args *a) {
    if ((unsigned)a->code >= RB_CODE_COUNT || (unsigned)a->scale >= RB_SCALE_COUNT) return false;
    bool integers = a->code == RB_CODE_INT8 || a->code == RB_CODE_INT4;
    return integers ? a->scale != RB_SCALE_NONE : a->scale == RB_SCALE_NONE && !a->stochastic;
}

int64_t rb_packed_bytes(const rb_pack_args *a, int64_t B, int64_t T, int64_t k) {
    if (!possible(a) || B < 1 || T < 1 || k < 1 || T > (INT64_C(1) << 34) / k || B > (INT64_C(1) << 40) / (T * k))
        return -1;
    return B * rb_pack_shape_of(a, B, T, k).bytes;
}

static resbm_status check(const char *what, rb_view bytes, int64_t B, int64_t T, int64_t k, rb_view steps,
                          const rb_pack_args *a, rb_err *err) {
    int64_t want = rb_packed_bytes(a, B, T, k);
    if (want < 0)
        return rb_fail(err, RESBM_E_ARG, "%s: code %d with scale %d cannot hold (%lld,%lld,%lld)", what, (int)a->code,
                       (int)a->scale, (long long)B, (long long)T, (long long)k);
    if (rb_count(bytes) != want)
        return rb_fail(err, RESBM_E_ARG, "%s: bytes has %lld, (%lld,%lld,%lld) takes %lld", what,
                       (long long)rb_count(bytes), (long long)B, (long long)T, (long long)k, (long long)want);
    if (a->scale == RB_SCALE_STEP && rb_count(steps) != k)
        return rb_fail(err, RESBM_E_ARG, "%s: %lld steps for %lld coordinates", what, (long long)rb_count(steps),
                       (long long)k);
    return RESBM_OK;
}

static bool rows_touch(rb_view x) { return x.stride[2] == 1 && x.stride[1] == x.shape[2]; }

static resbm_status pack_op(rb_queue *q, rb_op_kind kind, rb_view out, rb_view in, rb_view x, rb_view bytes,
                            rb_view steps, const rb_pack_args *a, rb_err *err) {
    const char *what = kind == RB_OP_PACK ? "pack" : "unpack";
    if (x.rank != 3 || !rows_touch(x))
        return rb_fail(err, RESBM_E_ARG, "%s: x must be (B,T,k) with touching rows", what);
    RB_TRY(check(what, bytes, x.shape[0], x.shape[1], x.shape[2], steps, a, err));
    rb_op op = {.kind = kind, .t = {out, in, a->scale == RB_SCALE_STEP ? steps : rb_none()}};
    rb_pack_store(&op, a);
    return rb_run(q, &op, err);
}

resbm_status rb_pack(rb_queue *q, rb_view bytes, rb_view x, rb_view steps, const rb_pack_args *a, rb_err *err) {
    return pack_op(q, RB_OP_PACK, bytes, x, x, bytes, steps, a, err);
}

resbm_status rb_unpack(rb_queue *q, rb_view x, rb_view bytes, rb_view steps, const rb_pack_args *a, rb_err *err) {
    return pack_op(q, RB_OP_UNPACK, x, bytes, x, bytes, steps, a, err);
}

resbm_status rb_code_stats(rb_queue *q, rb_view stats, rb_view bytes, int64_t B, int64_t T, const rb_pack_args *a,
                           rb_err *err) {
    if (a->scale != RB_SCALE_STEP) return rb_fail(err, RESBM_E_ARG, "code_stats: only codes of learned steps");
    RB_TRY(check("code_stats", bytes, B, T, rb_count(stats), stats, a, err));
    rb_op op = {.kind = RB_OP_CODE_STATS, .t = {stats, bytes}};
    rb_pack_store(&op, a);
    op.i[3] = B;
    op.i[4] = T;
    return rb_run(q, &op, err);
}
