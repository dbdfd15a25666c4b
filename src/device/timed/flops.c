#include "device/timed/timed.h"

static double count(rb_view v) {
    return (double)rb_count(v);
}

/* Scores and values: 4 B H T S D for a full square, of which a causal query sees half. */
static double attention(const rb_view *q, const rb_view *k, double products) {
    double T = (double)q->shape[1], S = (double)k->shape[1];
    return products * count(*q) * (S - (T - 1) / 2);
}

double rb_op_flops(const rb_op *op) {
    const rb_view *t = op->t;
    switch (op->kind) {
    case RB_OP_GEMM:
        return 2 * count(t[0]) * (double)t[1].shape[op->i[0] ? 0 : 1];
    case RB_OP_SYRK: /* one triangle, the diagonal with it */
        return (count(t[0]) + (double)t[0].shape[0]) * (double)t[1].shape[op->i[0] ? 0 : 1];
    case RB_OP_ATTN_FWD:
        return attention(&t[2], &t[3], 4);
    case RB_OP_ATTN_BWD:
        return attention(&t[6], &t[7], 10); /* scores again, and four gradients */
    default:
        return 0;
    }
}
