/* Typed wrappers of the codec operations; the records are fixed in pack_layout.h. */
#include "device/ops.h"
#include "device/check.h"
#include "device/pack_layout.h"

/* The sizes are checked here as well as in the kernels, so that a late device refuses at once. */
static resbm_status run_checked(rb_queue *q, const rb_op *op, rb_err *err) {
    rb_pack_plan p;
    RB_TRY(rb_check_op(op, err));
    RB_TRY(rb_pack_plan_of(op, &p, err));
    return rb_run(q, op, err);
}

static rb_op record(rb_op_kind kind, rb_view t0, rb_view t1, rb_view steps, const rb_pack_args *a) {
    return (rb_op){.kind = kind,
                   .t = {t0, t1, a->scale == RB_SCALE_STEP ? steps : rb_none()},
                   .i = {a->code, a->scale, a->stochastic, a->boundary, a->direction},
                   .key = {a->seed, a->step, a->sequence}};
}

resbm_status rb_pack(rb_queue *q, rb_view bytes, rb_view x, rb_view steps, const rb_pack_args *a,
                     rb_err *err) {
    rb_op op = record(RB_OP_PACK, bytes, x, steps, a);
    return run_checked(q, &op, err);
}

resbm_status rb_unpack(rb_queue *q, rb_view x, rb_view bytes, rb_view steps, const rb_pack_args *a,
                       rb_err *err) {
    rb_op op = record(RB_OP_UNPACK, x, bytes, steps, a);
    return run_checked(q, &op, err);
}

resbm_status rb_code_stats(rb_queue *q, rb_view stats, rb_view bytes, int64_t B, int64_t T,
                           const rb_pack_args *a, rb_err *err) {
    rb_op op = {.kind = RB_OP_CODE_STATS, .t = {stats, bytes}, .i = {a->code, a->scale, B, T}};
    return run_checked(q, &op, err);
}
