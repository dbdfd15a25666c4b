#include "device/ops.h"

#include <math.h>

resbm_status rb_fill(rb_queue *q, rb_view x, float value, rb_err *err) {
    return rb_run(q, &(rb_op){.kind = RB_OP_FILL, .t = {x}, .f = {value}}, err);
}

resbm_status rb_axpby(rb_queue *q, float alpha, rb_view x, float beta, rb_view y, rb_err *err) {
    return rb_run(q, &(rb_op){.kind = RB_OP_AXPBY, .t = {y, x}, .f = {alpha, beta}}, err);
}

resbm_status rb_gemm(rb_queue *q, bool ta, bool tb, float alpha, rb_view a, rb_view b, float beta, rb_view c,
                     rb_err *err) {
    return rb_run(q, &(rb_op){.kind = RB_OP_GEMM, .t = {c, a, b}, .f = {alpha, beta}, .i = {ta, tb}}, err);
}

resbm_status rb_gemm_plus(rb_queue *q, bool ta, bool tb, float alpha, rb_view a, rb_view b, float beta,
                          rb_view e, rb_view c, rb_err *err) {
    rb_op op = {.kind = RB_OP_GEMM, .t = {c, a, b, e}, .f = {alpha, beta}, .i = {ta, tb}};
    return rb_run(q, &op, err);
}

resbm_status rb_syrk(rb_queue *q, bool ta, float alpha, rb_view a, float beta, rb_view c, rb_err *err) {
    return rb_run(q, &(rb_op){.kind = RB_OP_SYRK, .t = {c, a}, .f = {alpha, beta}, .i = {ta}}, err);
}

resbm_status rb_embed_forward(rb_queue *q, rb_view out, rb_view table, rb_view ids, rb_err *err) {
    return rb_run(q, &(rb_op){.kind = RB_OP_EMBED_FWD, .t = {out, table, ids}}, err);
}

resbm_status rb_embed_backward(rb_queue *q, rb_view dtable, rb_view dout, rb_view ids, rb_err *err) {
    return rb_run(q, &(rb_op){.kind = RB_OP_EMBED_BWD, .t = {dtable, dout, ids}}, err);
}

resbm_status rb_rmsnorm_forward(rb_queue *q, rb_view y, rb_view rstd, rb_view x, rb_view w, float eps,
                                rb_err *err) {
    return rb_run(q, &(rb_op){.kind = RB_OP_RMSNORM_FWD, .t = {y, rstd, x, w}, .f = {eps}}, err);
}

resbm_status rb_rmsnorm_backward_x(rb_queue *q, rb_view dx, float beta, rb_view dy, rb_view x, rb_view w,
                                   rb_view rstd, rb_err *err) {
    return rb_run(q, &(rb_op){.kind = RB_OP_RMSNORM_BWD_X, .t = {dx, dy, x, w, rstd}, .f = {beta}}, err);
}

resbm_status rb_rmsnorm_backward_w(rb_queue *q, rb_view dw, rb_view dy, rb_view x, rb_view rstd,
                                   rb_err *err) {
    return rb_run(q, &(rb_op){.kind = RB_OP_RMSNORM_BWD_W, .t = {dw, dy, x, rstd}}, err);
}

resbm_status rb_rope(rb_queue *q, rb_view x, rb_view cos, rb_view sin, int64_t offset, bool inverse,
                     rb_err *err) {
    return rb_run(q, &(rb_op){.kind = RB_OP_ROPE, .t = {x, cos, sin}, .i = {offset, inverse}}, err);
}

resbm_status rb_attention_forward(rb_queue *q, rb_view out, rb_view lse, rb_view qv, rb_view k, rb_view v,
                                  int64_t offset, float scale, rb_err *err) {
    rb_op op = {.kind = RB_OP_ATTN_FWD, .t = {out, lse, qv, k, v}, .f = {scale}, .i = {offset}};
    return rb_run(q, &op, err);
}

resbm_status rb_attention_backward(rb_queue *q, rb_view dq, rb_view dk, rb_view dv, rb_view dout, rb_view out,
                                   rb_view lse, rb_view qv, rb_view k, rb_view v, float scale, rb_err *err) {
    rb_op op = {.kind = RB_OP_ATTN_BWD, .t = {dq, dk, dv, dout, out, lse, qv, k, v}, .f = {scale}};
    return rb_run(q, &op, err);
}

resbm_status rb_swiglu_forward(rb_queue *q, rb_view h, rb_view gate, rb_view up, rb_err *err) {
    return rb_run(q, &(rb_op){.kind = RB_OP_SWIGLU_FWD, .t = {h, gate, up}}, err);
}

resbm_status rb_swiglu_backward(rb_queue *q, rb_view dgate, rb_view dup, rb_view h, rb_view dh, rb_view gate,
                                rb_view up, rb_err *err) {
    return rb_run(q, &(rb_op){.kind = RB_OP_SWIGLU_BWD, .t = {dgate, dup, h, dh, gate, up}}, err);
}

resbm_status rb_silu_forward(rb_queue *q, rb_view y, rb_view x, rb_err *err) {
    return rb_run(q, &(rb_op){.kind = RB_OP_SILU_FWD, .t = {y, x}}, err);
}

resbm_status rb_silu_backward(rb_queue *q, rb_view dx, rb_view dy, rb_view x, rb_err *err) {
    return rb_run(q, &(rb_op){.kind = RB_OP_SILU_BWD, .t = {dx, dy, x}}, err);
}

resbm_status rb_xent(rb_queue *q, rb_view loss, rb_view logits, rb_view targets, float grad_scale,
                     rb_err *err) {
    return rb_run(q, &(rb_op){.kind = RB_OP_XENT, .t = {loss, logits, targets}, .f = {grad_scale}}, err);
}

resbm_status rb_xent_apart(rb_queue *q, rb_view loss, rb_view grad, rb_view logits, rb_view targets,
                           float grad_scale, rb_err *err) {
    return rb_run(q, &(rb_op){.kind = RB_OP_XENT, .t = {loss, logits, targets, grad}, .f = {grad_scale}},
                  err);
}

resbm_status rb_sum(rb_queue *q, rb_view out, rb_view x, rb_err *err) {
    return rb_run(q, &(rb_op){.kind = RB_OP_SUM, .t = {out, x}}, err);
}

resbm_status rb_sumsq(rb_queue *q, rb_view out, rb_view x, rb_err *err) {
    return rb_run(q, &(rb_op){.kind = RB_OP_SUMSQ, .t = {out, x}}, err);
}

resbm_status rb_normalize(rb_queue *q, rb_view y, rb_view x, rb_view sumsq, float eps, rb_err *err) {
    return rb_run(q, &(rb_op){.kind = RB_OP_NORMALIZE, .t = {y, x, sumsq}, .f = {eps}}, err);
}

resbm_status rb_topk(rb_queue *q, rb_view values, rb_view index, rb_view x, rb_err *err) {
    return rb_run(q, &(rb_op){.kind = RB_OP_TOPK, .t = {values, index, x}}, err);
}

resbm_status rb_scatter(rb_queue *q, float alpha, rb_view values, rb_view index, float beta, rb_view y,
                        rb_err *err) {
    return rb_run(q, &(rb_op){.kind = RB_OP_SCATTER, .t = {y, values, index}, .f = {alpha, beta}}, err);
}

/* PyTorch derives these factors in double and rounds each to f32 once; so do we. */
resbm_status rb_adamw(rb_queue *q, rb_view p, rb_view m, rb_view v, rb_view g, const rb_adamw_args *a,
                      rb_err *err) {
    rb_op op = {.kind = RB_OP_ADAMW,
                .t = {p, m, v, g},
                .f = {(float)(1 - a->lr * a->weight_decay), (float)(1 - a->beta1), (float)a->beta2,
                      (float)(1 - a->beta2), (float)(a->lr / a->bias1), (float)sqrt(a->bias2), (float)a->eps,
                      (float)a->grad_scale}};
    return rb_run(q, &op, err);
}

resbm_status rb_muon_momentum(rb_queue *q, rb_view buf, rb_view update, rb_view g, float momentum,
                              float grad_scale, bool nesterov, rb_err *err) {
    rb_op op = {
        .kind = RB_OP_MUON_MOMENTUM, .t = {buf, update, g}, .f = {momentum, grad_scale}, .i = {nesterov}};
    return rb_run(q, &op, err);
}
