#include "nn/head.h"

#include "nn/linear.h"

int64_t rb_head_chunk_rows(int64_t chunk, int64_t vocab, int64_t n) {
    int64_t rows = (chunk ? chunk : RB_HEAD_CHUNK) / vocab;
    if (rows < 1) rows = 1;
    return rows < n ? rows : n;
}

static int64_t rows_at_once(const rb_head *h, int64_t n) {
    return rb_head_chunk_rows(h->chunk, h->vocab, n);
}

void rb_head_plan_saved(const rb_head *h, int64_t n, bool training, rb_plan *p, rb_head_saved *out) {
    *out = (rb_head_saved){0};
    out->rstd = rb_plan1(p, n);
    out->loss = rb_view1(rb_plan_take(p, sizeof(double)), RB_F64, 1);
    if (training) out->dnormed = rb_plan2(p, n, h->d);
    if (training && rows_at_once(h, n) == n) out->logits = rb_plan2(p, n, h->vocab);
}

void rb_head_plan_scratch(const rb_head *h, int64_t n, bool training, rb_plan *p, rb_head_scratch *out) {
    int64_t rows = rows_at_once(h, n);
    out->norm = rb_plan2(p, n, h->d);
    out->losses = rb_plan1(p, n);
    out->logits = !training || rows < n ? rb_plan2(p, rows, h->vocab) : rb_none();
}

static resbm_status normed_input(const rb_head *h, rb_queue *q, rb_view x, const rb_head_saved *s,
                                 const rb_head_scratch *tmp, rb_view *out, rb_err *err) {
    *out = h->norm.data ? tmp->norm : x;
    if (!h->norm.data) return RESBM_OK;
    return rb_rmsnorm_forward(q, tmp->norm, s->rstd, x, h->norm, h->eps, err);
}

/* One chunk: rows [from, from+count). Leaves the gradient of the logits in the view it returns. */
static resbm_status chunk(const rb_head *h, rb_queue *q, rb_view normed, int64_t from, int64_t count,
                          rb_view targets, const rb_head_saved *s, const rb_head_scratch *tmp,
                          rb_view *logits, rb_err *err) {
    *logits = rb_rows(s->logits.data ? s->logits : tmp->logits, 0, count);
    RB_TRY(rb_linear_forward(q, *logits, 0, rb_rows(normed, from, count), h->head, err));
    return rb_xent(q, rb_rows(tmp->losses, from, count), *logits, rb_rows(targets, from, count),
                   s->grad_scale, err);
}

resbm_status rb_head_forward(const rb_head *h, rb_queue *q, rb_view x, rb_view targets, float grad_scale,
                             rb_head_saved *s, const rb_head_scratch *tmp, rb_err *err) {
    int64_t n = x.shape[0], rows = rows_at_once(h, n);
    rb_view logits, normed;
    s->grad_scale = grad_scale;
    RB_TRY(normed_input(h, q, x, s, tmp, &normed, err));
    for (int64_t r = 0; r < n; r += rows) {
        int64_t count = n - r < rows ? n - r : rows;
        RB_TRY(chunk(h, q, normed, r, count, targets, s, tmp, &logits, err));
        if (grad_scale == 0) continue;
        RB_TRY(rb_linear_backward_x(q, rb_rows(s->dnormed, r, count), 0, logits, h->head, err));
    }
    return rb_sum(q, s->loss, tmp->losses, err);
}

static resbm_status check_gradient(const rb_head_saved *s, rb_err *err) {
    if (s->grad_scale != 0) return RESBM_OK;
    return rb_fail(err, RESBM_E_STATE,
                   "backward of the head, but the forward pass of this slot had grad_scale 0 (evaluation)");
}

resbm_status rb_head_backward_input(const rb_head *h, rb_queue *q, rb_view dx, float beta, rb_view x,
                                    const rb_head_saved *s, rb_err *err) {
    RB_TRY(check_gradient(s, err));
    if (!h->norm.data) return rb_axpby(q, 1, s->dnormed, beta, dx, err);
    RB_TRY(rb_rmsnorm_backward_w(q, h->dnorm, s->dnormed, x, s->rstd, err));
    return rb_rmsnorm_backward_x(q, dx, beta, s->dnormed, x, h->norm, s->rstd, err);
}

static resbm_status add_chunks(const rb_head *h, rb_queue *q, rb_view dhead, rb_view normed, rb_view targets,
                               const rb_head_saved *s, const rb_head_scratch *tmp, rb_err *err) {
    int64_t n = normed.shape[0], rows = rows_at_once(h, n);
    if (s->logits.data) return rb_linear_backward_w(q, dhead, s->logits, normed, err);
    for (int64_t r = 0; r < n; r += rows) {
        rb_view logits;
        int64_t count = n - r < rows ? n - r : rows;
        RB_TRY(chunk(h, q, normed, r, count, targets, s, tmp, &logits, err));
        RB_TRY(rb_linear_backward_w(q, dhead, logits, rb_rows(normed, r, count), err));
    }
    return RESBM_OK;
}

resbm_status rb_head_backward_weight(const rb_head *h, rb_queue *q, rb_view x, rb_view targets,
                                     const rb_head_saved *s, const rb_head_scratch *tmp, rb_err *err) {
    rb_view normed, dhead = h->dhead;
    RB_TRY(check_gradient(s, err));
    RB_TRY(normed_input(h, q, x, s, tmp, &normed, err));
    RB_TRY(rb_lend_borrow(h->lender, q, h->row, &dhead, err));
    RB_TRY(add_chunks(h, q, dhead, normed, targets, s, tmp, err));
    return rb_lend_give(h->lender, q, h->row, h->dhead, true, err);
}

resbm_status rb_head_logits(const rb_head *h, rb_queue *q, rb_view logits, rb_view x, rb_view norm,
                            rb_view rstd, rb_err *err) {
    RB_TRY(rb_rmsnorm_forward(q, norm, rstd, x, h->norm, h->eps, err));
    return rb_linear_forward(q, logits, 0, norm, h->head, err);
}
