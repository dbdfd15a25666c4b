/* Muon (Jordan et al. 2024): momentum, then the update's nearest semi-orthogonal matrix by Newton-Schulz
 * iteration,
 *
 *     X <- a X + (b G + c G^2) X,  G = X X^T        on the smaller side; for tall X:  X <- a X + X (b G + c
 * G^2), G = X^T X, which is the same with everything transposed.
 *
 * Where products round their factors to bf16, the iteration's matrices lie in memory as that (Jordan's own
 * computes the whole of it in bf16): no factor is rounded on its way into a product, and what is added is added in
 * f32 where a product ends. Momentum, norm and weight stay f32. */
#include <math.h>
#include "device/ops.h"
#include "optim/rule.h"

static const float A = 3.4445f, B = -4.7750f, C = 2.0315f, NORM_EPS = 1e-7f;

/* One step makes next (m,n) of x (m,n); gram, poly (min,min). */
typedef struct iteration {
    rb_view x, next, gram, poly;
} iteration;

static resbm_status iterate(rb_queue *q, const iteration *n, rb_err *err) {
    bool tall = n->x.shape[0] > n->x.shape[1];
    RB_TRY(rb_syrk(q, tall, 1, n->x, 0, n->gram, err));
    RB_TRY(rb_syrk(q, false, C, n->gram, 0, n->poly, err));
    RB_TRY(rb_axpby(q, B, n->gram, 1, n->poly, err));
    RB_TRY(tall ? rb_gemm(q, false, false, 1, n->x, n->poly, 0, n->next, err)
                : rb_gemm(q, false, false, 1, n->poly, n->x, 0, n->next, err));
    return rb_axpby(q, A, n->x, 1, n->next, err);
}

/* The same in three products. G is not mirrored: its halves may differ by the order of a sum in f32, by no more
 * than what rounding it to bf16 does to either. */
static resbm_status iterate_halves(rb_queue *q, const iteration *n, rb_err *err) {
    bool tall = n->x.shape[0] > n->x.shape[1];
    RB_TRY(rb_gemm(q, tall, !tall, 1, n->x, n->x, 0, n->gram, err));
    RB_TRY(rb_gemm_plus(q, false, true, C, n->gram, n->gram, B, n->gram, n->poly, err));
    return tall ? rb_gemm_plus(q, false, false, 1, n->x, n->poly, A, n->x, n->next, err)
                : rb_gemm_plus(q, false, false, 1, n->poly, n->x, A, n->x, n->next, err);
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

/* In bf16 in memory for f32. Rows begin at 16 bytes, so that products take them as they lie, where there is room. */
static rb_view half(float *memory, int64_t rows, int64_t columns) {
    rb_view v = rb_view2(memory, RB_BF16, rows, columns);
    int64_t padded = (columns + 7) / 8 * 8;
    if (padded <= 2 * columns) v.stride[0] = padded;
    return v;
}

/* The update lies in matrix[0] until x is made of it: where that is not in place, x begins in matrix[1]. */
static iteration iteration_of(const rb_rule_scratch *s, bool halves, int64_t rows, int64_t columns) {
    int64_t side = rows < columns ? rows : columns;
    if (halves)
        return (iteration){half(s->matrix[1], rows, columns), half(s->matrix[0], rows, columns),
                           half(s->square[0], side, side), half(s->square[1], side, side)};
    return (iteration){
        rb_view2(s->matrix[0], RB_F32, rows, columns), rb_view2(s->matrix[1], RB_F32, rows, columns),
        rb_view2(s->square[0], RB_F32, side, side), rb_view2(s->square[1], RB_F32, side, side)};
}

static resbm_status finish(rb_queue *q, const rb_rule_call *c, rb_err *err) {
    const rb_optim_config *k = c->config;
    const rb_rule_scratch *s = c->scratch;
    int64_t rows = c->weight.shape[0], columns = c->weight.shape[1];
    rb_view update = rb_view2(s->matrix[0], RB_F32, rows, columns), sum = rb_view1(s->sum, RB_F64, 1);
    bool halves = q->dev->factor == RB_BF16;
    iteration n = iteration_of(s, halves, rows, columns);
    RB_TRY(rb_sumsq(q, sum, update, err));
    RB_TRY(rb_normalize(q, n.x, update, sum, NORM_EPS, err));
    for (int i = 0; i < k->ns_steps; i++) {
        RB_TRY(halves ? iterate_halves(q, &n, err) : iterate(q, &n, err));
        rb_view t = n.x;
        n.x = n.next;
        n.next = t;
    }
    double step = c->lr * scaling(k, (double)rows, (double)columns);
    return rb_axpby(q, (float)-step, n.x, (float)(1 - c->lr * rb_decay_of(c)), c->weight, err);
}

const rb_rule_table rb_rule_muon = {
    .name = "muon", .states = 1, .state = {"momentum"}, .tile = tile, .finish = finish};
