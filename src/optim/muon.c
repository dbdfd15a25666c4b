/* Muon (Jordan et al. 2024): momentum, then the update's nearest semi-orthogonal matrix by Newton-Schulz
 * iteration,
 *
 *     X <- a X + (b G + c G^2) X,  G = X X^T        on the smaller side; for tall X:  X <- a X + X (b G + c
 * G^2), G = X^T X, which is the same with everything transposed. */
#include <math.h>
#include "device/ops.h"
#include "optim/rule.h"

static const float A = 3.4445f, B = -4.7750f, C = 2.0315f, NORM_EPS = 1e-7f;

/* next (m,n) = one iteration of x (m,n); gram, poly (min,min). */
static resbm_status iterate(rb_queue *q, rb_view x, rb_view next, rb_view gram, rb_view poly, rb_err *err) {
    bool tall = x.shape[0] > x.shape[1];
    RB_TRY(rb_syrk(q, tall, 1, x, 0, gram, err));
    RB_TRY(rb_syrk(q, false, C, gram, 0, poly, err));
    RB_TRY(rb_axpby(q, B, gram, 1, poly, err));
    RB_TRY(tall ? rb_gemm(q, false, false, 1, x, poly, 0, next, err)
                : rb_gemm(q, false, false, 1, poly, x, 0, next, err));
    return rb_axpby(q, A, x, 1, next, err);
}

static double scaling(const rb_optim_config *c, double rows, double columns) {
    if (c->scaling == RB_SCALING_MATCH_RMS) return 0.2 * sqrt(fmax(rows, columns));
    return sqrt(fmax(1, rows / columns));
}

/* The momentum and the update it gives, which gathers in scratch. */
static resbm_status tile(rb_queue *q, const rb_rule_call *c, rb_err *err) {
    const rb_optim_config *k = c->config;
    rb_view x = rb_view1(c->scratch->matrix[0] + c->from, RB_F32, c->count);
    return rb_muon_momentum(q, c->state[0], x, c->grad, (float)k->momentum, c->grad_scale, k->nesterov, err);
}

static resbm_status finish(rb_queue *q, const rb_rule_call *c, rb_err *err) {
    const rb_optim_config *k = c->config;
    const rb_rule_scratch *s = c->scratch;
    int64_t rows = c->weight.shape[0], columns = c->weight.shape[1], side = rows < columns ? rows : columns;
    rb_view x = rb_view2(s->matrix[0], RB_F32, rows, columns),
            next = rb_view2(s->matrix[1], RB_F32, rows, columns);
    rb_view gram = rb_view2(s->square[0], RB_F32, side, side),
            poly = rb_view2(s->square[1], RB_F32, side, side);
    rb_view sum = rb_view1(s->sum, RB_F64, 1);
    RB_TRY(rb_sumsq(q, sum, x, err));
    RB_TRY(rb_normalize(q, x, x, sum, NORM_EPS, err));
    for (int i = 0; i < k->ns_steps; i++) {
        RB_TRY(iterate(q, x, next, gram, poly, err));
        rb_view t = x;
        x = next;
        next = t;
    }
    double step = c->lr * scaling(k, (double)rows, (double)columns);
    return rb_axpby(q, (float)-step, x, (float)(1 - c->lr * rb_decay_of(c)), c->weight, err);
}

const rb_rule_table rb_rule_muon = {
    .name = "muon", .states = 1, .state = {"momentum"}, .tile = tile, .finish = finish};
