#include "nn/head.h"

#include "nn/linear.h"

/* Rows of f32 logits that a chunk holds. */
static int64_t rows_that_fit(int64_t chunk, int64_t vocab) {
    int64_t rows = (chunk ? chunk : RB_HEAD_CHUNK) / vocab;
    return rows > 1 ? rows : 1;
}

int64_t rb_head_chunk_rows(int64_t chunk, int64_t vocab, int64_t n, rb_dtype acts) {
    int64_t fit = rows_that_fit(chunk, vocab), rows = fit, enough = rows_that_fit(RB_HEAD_CHUNK_APART, vocab);
    if (acts == RB_BF16) rows = n <= fit ? fit - n / 2 : fit * 2 / 3;
    if (acts == RB_BF16 && rows > enough) rows = enough;
    if (rows < 1) rows = 1;
    return rows < n ? rows : n;
}

static bool keeps(const rb_head *h, int64_t n) {
    return n <= rows_that_fit(h->chunk, h->vocab);
}

void rb_head_plan_saved(const rb_head *h, int64_t n, bool training, rb_plan *p, rb_head_saved *out) {
    *out = (rb_head_saved){0};
    out->rstd = rb_plan1(p, n);
    out->loss = rb_view1(rb_plan_take(p, sizeof(double)), RB_F64, 1);
    if (training) out->dnormed = rb_plan2(p, n, h->d);
    if (training && keeps(h, n)) out->dlogits = rb_plan_acts(p, n, h->vocab);
}

void rb_head_plan_scratch(const rb_head *h, int64_t n, bool training, rb_plan *p, rb_head_scratch *out) {
    bool half = p->acts == RB_BF16, kept = training && keeps(h, n);
    int64_t rows = rb_head_chunk_rows(h->chunk, h->vocab, n, training ? p->acts : RB_F32);
    out->norm = rb_plan_acts(p, n, h->d);
    out->losses = rb_plan1(p, n);
    out->logits = half || !kept ? rb_plan2(p, rows, h->vocab) : rb_none();
    out->dlogits = half && training && !kept ? rb_plan_acts(p, rows, h->vocab) : rb_none();
}

/* Rows of n that are done together. */
static int64_t rows_at_once(const rb_head_scratch *tmp, int64_t n) {
    return tmp->logits.data && tmp->logits.shape[0] < n ? tmp->logits.shape[0] : n;
}

static resbm_status normed_input(const rb_head *h, rb_queue *q, rb_view x, const rb_head_saved *s,
                                 const rb_head_scratch *tmp, rb_view *out, rb_err *err) {
    *out = h->norm.data ? tmp->norm : x;
    if (!h->norm.data) return RESBM_OK;
    return rb_rmsnorm_forward(q, tmp->norm, s->rstd, x, h->norm, h->eps, err);
}

/* Where the gradient of rows [from, from+count) of the logits is made. */
static rb_view gradient_of(const rb_head_saved *s, const rb_head_scratch *tmp, int64_t from, int64_t count) {
    if (s->dlogits.data) return rb_rows(s->dlogits, from, count);
    return rb_rows(tmp->dlogits.data ? tmp->dlogits : tmp->logits, 0, count);
}

/* One chunk: rows [from, from+count). Leaves the gradient of the logits in the view it returns. */
static resbm_status chunk(const rb_head *h, rb_queue *q, rb_view normed, int64_t from, int64_t count,
                          rb_view targets, const rb_head_saved *s, const rb_head_scratch *tmp, rb_view *grad,
                          rb_err *err) {
    *grad = gradient_of(s, tmp, from, count);
    rb_view logits = tmp->logits.data ? rb_rows(tmp->logits, 0, count) : *grad,
            loss = rb_rows(tmp->losses, from, count), ids = rb_rows(targets, from, count);
    RB_TRY(rb_linear_forward(q, logits, 0, rb_rows(normed, from, count), h->head, err));
    if (grad->data == logits.data || s->grad_scale == 0)
        return rb_xent(q, loss, logits, ids, s->grad_scale, err);
    return rb_xent_apart(q, loss, *grad, logits, ids, s->grad_scale, err);
}

resbm_status rb_head_forward(const rb_head *h, rb_queue *q, rb_view x, rb_view targets, float grad_scale,
                             rb_head_saved *s, const rb_head_scratch *tmp, rb_err *err) {
    int64_t n = x.shape[0], rows = rows_at_once(tmp, n);
    rb_view grad, normed;
    s->grad_scale = grad_scale;
    RB_TRY(normed_input(h, q, x, s, tmp, &normed, err));
    for (int64_t r = 0; r < n; r += rows) {
        int64_t count = n - r < rows ? n - r : rows;
        RB_TRY(chunk(h, q, normed, r, count, targets, s, tmp, &grad, err));
        if (grad_scale == 0) continue;
        RB_TRY(rb_linear_backward_x(q, rb_rows(s->dnormed, r, count), 0, grad, h->head, err));
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
    int64_t n = normed.shape[0], rows = rows_at_once(tmp, n);
    if (s->dlogits.data) return rb_linear_backward_w(q, dhead, rb_rows(s->dlogits, 0, n), normed, err);
    for (int64_t r = 0; r < n; r += rows) {
        rb_view grad;
        int64_t count = n - r < rows ? n - r : rows;
        RB_TRY(chunk(h, q, normed, r, count, targets, s, tmp, &grad, err));
        RB_TRY(rb_linear_backward_w(q, dhead, grad, rb_rows(normed, r, count), err));
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
