#include "boundary/aux.h"

#include <math.h>
#include "nn/linear.h"

/* A full head costs V d numbers a boundary; from 2048 tokens on it goes through 64 dimensions. */
enum { LARGE_VOCABULARY = 2048, DEFAULT_RANK = 64 };

resbm_status rb_aux_check(rb_boundary_config *c, const rb_boundary_dims *s, rb_err *err) {
    if (c->aux == RB_AUX_NONE) return RESBM_OK;
    if (c->aux_rank < 0) c->aux_rank = s->vocab >= LARGE_VOCABULARY && s->d > DEFAULT_RANK ? DEFAULT_RANK : 0;
    if (c->aux_rank < s->d) return RESBM_OK;
    return rb_fail(err, RESBM_E_CONFIG, "boundary.aux_rank %lld: below model.d %lld, or 0 for a head of full width",
                   (long long)c->aux_rank, (long long)s->d);
}

static int64_t width_of(const rb_boundary_config *c, const rb_boundary_dims *s) {
    return c->aux_rank ? c->aux_rank : s->d;
}

/* All of the head's role: AdamW's under every optimizer, as the model's own head. */
void rb_aux_list(const rb_boundary_config *c, const rb_boundary_dims *s, const char *prefix, rb_tensor_list *l) {
    int64_t width = width_of(c, s);
    if (c->aux == RB_AUX_NONE) return;
    if (c->aux_rank)
        rb_tensor_add(l, prefix, "down.weight", c->aux_rank, s->d, RB_ROLE_HEAD, 0, 1 / sqrt((double)s->d));
    rb_tensor_add(l, prefix, "norm.weight", width, 0, RB_ROLE_NORM, 1, 0);
    rb_tensor_add(l, prefix, "head.weight", s->vocab, width, RB_ROLE_HEAD, 0, s->std);
}

int rb_aux_rows(const rb_boundary_config *c) {
    return c->aux_rank ? 3 : 2;
}

void rb_aux_plan_kept(const rb_aux *a, int64_t n, rb_plan *p, rb_aux_kept *out) {
    *out = (rb_aux_kept){0};
    if (a->cfg->aux_rank) out->low = rb_plan2(p, n, a->cfg->aux_rank);
    if (a->cfg->aux_rank) out->dlow = rb_plan2(p, n, a->cfg->aux_rank);
    rb_head_plan_saved(width_of(a->cfg, &a->dims), a->dims.vocab, n, true, p, &out->head);
}

void rb_aux_plan_scratch(const rb_aux *a, int64_t n, rb_plan *p, rb_aux_scratch *out) {
    rb_head_plan_scratch(width_of(a->cfg, &a->dims), a->dims.vocab, n, true, p, &out->head);
}

static rb_head head_of(const rb_aux *a) {
    int norm = a->cfg->aux_rank ? 1 : 0;
    return (rb_head){.d = width_of(a->cfg, &a->dims), .vocab = a->dims.vocab, .eps = (float)a->dims.eps,
                     .norm = a->w[norm], .head = a->w[norm + 1], .dnorm = a->dw[norm], .dhead = a->dw[norm + 1]};
}

resbm_status rb_aux_backward_input(const rb_aux *a, rb_queue *q, rb_view dx, rb_view x, rb_view targets, float scale,
                                   rb_aux_kept *kept, const rb_aux_scratch *tmp, rb_err *err) {
    rb_head head = head_of(a);
    kept->head.grad_scale = scale;
    if (scale == 0) return RESBM_OK;
    if (!a->cfg->aux_rank) {
        RB_TRY(rb_head_forward(&head, q, x, targets, scale, &kept->head, &tmp->head, err));
        return rb_head_backward_input(&head, q, dx, 1, x, &kept->head, err);
    }
    RB_TRY(rb_linear_forward(q, kept->low, 0, x, a->w[0], err));
    RB_TRY(rb_head_forward(&head, q, kept->low, targets, scale, &kept->head, &tmp->head, err));
    RB_TRY(rb_head_backward_input(&head, q, kept->dlow, 0, kept->low, &kept->head, err));
    return rb_linear_backward_x(q, dx, 1, kept->dlow, a->w[0], err);
}

resbm_status rb_aux_backward_weight(const rb_aux *a, rb_queue *q, rb_view x, rb_view targets, const rb_aux_kept *kept,
                                    const rb_aux_scratch *tmp, rb_err *err) {
    rb_head head = head_of(a);
    if (kept->head.grad_scale == 0) return RESBM_OK;
    if (!a->cfg->aux_rank) return rb_head_backward_weight(&head, q, x, targets, &kept->head, &tmp->head, err);
    RB_TRY(rb_linear_backward_w(q, a->dw[0], kept->dlow, x, err));
    return rb_head_backward_weight(&head, q, kept->low, targets, &kept->head, &tmp->head, err);
}
