#include "nn/block.h"

#include <math.h>
#include "nn/linear.h"

/* Rows of the table, in order. */
enum { W_NORM1, W_Q, W_K, W_V, W_AFTER_V };
enum { BIAS_Q, BIAS_K, BIAS_V, BIASES };                  /* optional, behind V */
enum { MLP_NORM2, MLP_GATE, MLP_UP, MLP_DOWN, MLP_ROWS }; /* behind W_o, which ends the attention's rows */

static bool has_attention(const rb_block_dims *s) {
    return s->part != RB_BLOCK_MLP;
}
static bool has_mlp(const rb_block_dims *s) {
    return s->part != RB_BLOCK_ATTENTION;
}

/* Where the norms of the heads are, or would be; W_o; and the rows of the second half. */
static int row_of_norms(const rb_block_dims *s) {
    return W_AFTER_V + (s->qkv_bias ? BIASES : 0);
}
static int row_of_o(const rb_block_dims *s) {
    return row_of_norms(s) + (s->qk_norm ? 2 : 0);
}
static int row_of_mlp(const rb_block_dims *s) {
    return has_attention(s) ? row_of_o(s) + 1 : 0;
}

int rb_block_tensors(const rb_block_dims *s) {
    return row_of_mlp(s) + (has_mlp(s) ? MLP_ROWS : 0);
}

static void join(rb_tensor *t) {
    if (t) t->joined = true;
}

static void list_attention(const rb_block_dims *s, const char *prefix, rb_role role, double std,
                           double out_std, rb_tensor_list *l) {
    int64_t q = s->heads * s->head, kv = s->kv_heads * s->head;
    rb_tensor_add(l, prefix, "input_layernorm.weight", s->d, 0, RB_ROLE_NORM, 1, 0);
    rb_tensor_add(l, prefix, "self_attn.q_proj.weight", q, s->d, role, 0, std);
    join(rb_tensor_add(l, prefix, "self_attn.k_proj.weight", kv, s->d, role, 0, std));
    join(rb_tensor_add(l, prefix, "self_attn.v_proj.weight", kv, s->d, role, 0, std));
    if (s->qkv_bias) {
        rb_tensor_add(l, prefix, "self_attn.q_proj.bias", q, 0, RB_ROLE_NORM, 0, 0);
        join(rb_tensor_add(l, prefix, "self_attn.k_proj.bias", kv, 0, RB_ROLE_NORM, 0, 0));
        join(rb_tensor_add(l, prefix, "self_attn.v_proj.bias", kv, 0, RB_ROLE_NORM, 0, 0));
    }
    if (s->qk_norm) {
        rb_tensor_add(l, prefix, "self_attn.q_norm.weight", s->head, 0, RB_ROLE_NORM, 1, 0);
        rb_tensor_add(l, prefix, "self_attn.k_norm.weight", s->head, 0, RB_ROLE_NORM, 1, 0);
    }
    rb_tensor_add(l, prefix, "self_attn.o_proj.weight", s->d, q, role, 0, out_std);
}

static void list_mlp(const rb_block_dims *s, const char *prefix, rb_role role, double std, double out_std,
                     rb_tensor_list *l) {
    rb_tensor_add(l, prefix, "post_attention_layernorm.weight", s->d, 0, RB_ROLE_NORM, 1, 0);
    rb_tensor_add(l, prefix, "mlp.gate_proj.weight", s->ffn, s->d, role, 0, std);
    join(rb_tensor_add(l, prefix, "mlp.up_proj.weight", s->ffn, s->d, role, 0, std));
    rb_tensor_add(l, prefix, "mlp.down_proj.weight", s->d, s->ffn, role, 0, out_std);
}

void rb_block_list(const rb_block_dims *s, const char *prefix, rb_role role, double std, double out_std,
                   rb_tensor_list *l) {
    if (has_attention(s)) list_attention(s, prefix, role, std, out_std, l);
    if (has_mlp(s)) list_mlp(s, prefix, role, std, out_std, l);
}

/* The weights (or gradients) of a block by meaning: qkv and gate/up as one matrix each. */
typedef struct parts {
    rb_view norm1, qkv, bias, qnorm, knorm, o, norm2, gu, down;
} parts;

static int64_t qkv_width(const rb_block_dims *s) {
    return (s->heads + 2 * s->kv_heads) * s->head;
}

static parts parts_of(const rb_block_dims *s, const rb_view *w) {
    parts p = {0};
    if (has_mlp(s)) {
        const rb_view *mlp = w + row_of_mlp(s);
        p.norm2 = mlp[MLP_NORM2];
        p.gu = rb_view2(mlp[MLP_GATE].data, mlp[MLP_GATE].dtype, 2 * s->ffn, s->d);
        p.down = mlp[MLP_DOWN];
    }
    if (!has_attention(s)) return p;
    p.norm1 = w[W_NORM1];
    p.qkv = rb_view2(w[W_Q].data, w[W_Q].dtype, qkv_width(s), s->d);
    p.o = w[row_of_o(s)];
    if (s->qkv_bias) p.bias = rb_view2(w[W_AFTER_V].data, RB_F32, 1, qkv_width(s));
    if (s->qk_norm) {
        p.qnorm = w[row_of_norms(s)];
        p.knorm = w[row_of_norms(s) + 1];
    }
    return p;
}

void rb_block_plan_saved(const rb_block_dims *s, int64_t n, rb_plan *p, rb_block_saved *out) {
    bool att = has_attention(s), mlp = has_mlp(s), norms = att && s->qk_norm;
    out->rstd1 = att ? rb_plan1(p, n) : rb_none();
    out->qkv = att ? rb_plan_acts(p, n, qkv_width(s)) : rb_none();
    out->att = att ? rb_plan_acts(p, n, s->heads * s->head) : rb_none();
    out->lse = att ? rb_plan1(p, n * s->heads) : rb_none();
    out->x2 = att && mlp ? rb_plan2(p, n, s->d) : rb_none();
    out->rstd2 = mlp ? rb_plan1(p, n) : rb_none();
    out->gu = mlp ? rb_plan_acts(p, n, 2 * s->ffn) : rb_none();
    out->rstdq = norms ? rb_plan1(p, n * s->heads) : rb_none();
    out->rstdk = norms ? rb_plan1(p, n * s->kv_heads) : rb_none();
}

void rb_block_plan_kept(const rb_block_dims *s, int64_t n, bool with_dgu, bool with_dx2, rb_plan *p,
                        rb_block_kept *out) {
    bool att = has_attention(s), mlp = has_mlp(s);
    out->dqkv = att ? rb_plan_acts(p, n, qkv_width(s)) : rb_none();
    out->h = mlp ? rb_plan_acts(p, n, s->ffn) : rb_none();
    out->dgu = mlp && with_dgu ? rb_plan_acts(p, n, 2 * s->ffn) : rb_none();
    out->dx2 = att && mlp && with_dx2 ? rb_plan2(p, n, s->d) : rb_none();
}

void rb_block_plan_scratch(const rb_block_dims *s, int64_t n, rb_plan *p, rb_block_scratch *out) {
    out->norm = rb_plan_acts(p, n, s->d);
    out->h = rb_plan_acts(p, n, s->ffn);
    out->att = rb_plan_acts(p, n, s->heads * s->head);
    out->qk = s->qk_norm ? rb_plan_acts(p, n, (s->heads + s->kv_heads) * s->head) : rb_none();
    out->ones = s->qkv_bias ? rb_plan2(p, n, 1) : rb_none();
}

/* Heads [from, from+count) of width D of a matrix (n, columns), as (n,count,D) and as (B,T,count,D). */
static rb_view rows_of_heads(rb_view m, int64_t from, int64_t count, int64_t D) {
    return (rb_view){rb_columns(m, from * D, count * D).data,
                     m.dtype,
                     3,
                     {m.shape[0], count, D, 1},
                     {m.stride[0], D, 1, 1}};
}
static rb_view heads_of(const rb_run_ctx *run, rb_view m, int64_t from, int64_t count, int64_t D) {
    return (rb_view){rb_columns(m, from * D, count * D).data,
                     m.dtype,
                     4,
                     {run->B, run->T, count, D},
                     {run->T * m.stride[0], m.stride[0], D, 1}};
}

/* The first n rows of every saved and scratch buffer (planned for at least as many). */
static rb_block_saved first_rows(const rb_block_dims *s, const rb_block_saved *v, int64_t n) {
    rb_block_saved r = {0};
    if (has_mlp(s)) {
        r.rstd2 = rb_rows(v->rstd2, 0, n);
        r.gu = rb_rows(v->gu, 0, n);
    }
    if (!has_attention(s)) return r;
    r.rstd1 = rb_rows(v->rstd1, 0, n);
    r.qkv = rb_rows(v->qkv, 0, n);
    r.att = rb_rows(v->att, 0, n);
    r.lse = rb_rows(v->lse, 0, n * s->heads);
    if (has_mlp(s)) r.x2 = rb_rows(v->x2, 0, n);
    if (s->qk_norm) {
        r.rstdq = rb_rows(v->rstdq, 0, n * s->heads);
        r.rstdk = rb_rows(v->rstdk, 0, n * s->kv_heads);
    }
    return r;
}

static rb_view lse_of(const rb_run_ctx *run, const rb_block_dims *s, rb_view lse) {
    return rb_view3(lse.data, RB_F32, run->B, s->heads, run->T);
}
static float score_scale(const rb_block_dims *s) {
    return (float)(1.0 / sqrt((double)s->head));
}

/* Where rotated q and k are: in qkv itself, or in scratch where QK-norm made them. */
static void q_and_k(const rb_block *b, const rb_run_ctx *run, const rb_block_saved *s,
                    const rb_block_scratch *tmp, rb_view *qv, rb_view *k) {
    rb_view m = b->dims.qk_norm ? rb_rows(tmp->qk, 0, s->qkv.shape[0]) : s->qkv;
    *qv = heads_of(run, m, 0, b->dims.heads, b->dims.head);
    *k = heads_of(run, m, b->dims.heads, b->dims.kv_heads, b->dims.head);
}

/* Normed heads into scratch (QK-norm), not yet rotated. */
static resbm_status norm_heads(const rb_block *b, const rb_run_ctx *run, const rb_block_saved *s,
                               const rb_block_scratch *tmp, rb_err *err) {
    const rb_block_dims *z = &b->dims;
    parts w = parts_of(z, b->w);
    rb_view m = rb_rows(tmp->qk, 0, s->qkv.shape[0]);
    RB_TRY(rb_rmsnorm_forward(run->q, rows_of_heads(m, 0, z->heads, z->head), s->rstdq,
                              rows_of_heads(s->qkv, 0, z->heads, z->head), w.qnorm, z->eps, err));
    return rb_rmsnorm_forward(run->q, rows_of_heads(m, z->heads, z->kv_heads, z->head), s->rstdk,
                              rows_of_heads(s->qkv, z->heads, z->kv_heads, z->head), w.knorm, z->eps, err);
}

static resbm_status rotate(const rb_block *b, const rb_run_ctx *run, rb_view qv, rb_view k, bool inverse,
                           rb_err *err) {
    RB_TRY(rb_rope(run->q, qv, b->rope->cos, b->rope->sin, run->offset, inverse, err));
    return rb_rope(run->q, k, b->rope->cos, b->rope->sin, run->offset, inverse, err);
}

/* (B,S,G,D) of cache rows [0,S) after the new ones were put behind the old. */
static resbm_status into_cache(const rb_run_ctx *run, const rb_block_dims *s, rb_view cache, rb_view fresh,
                               rb_view *all, rb_err *err) {
    int64_t w = s->kv_heads * s->head, S = run->offset + run->T;
    rb_view dst = cache, src = fresh;
    src.rank = 3;
    src.shape[2] = w;
    src.stride[2] = 1;
    dst.data = (float *)cache.data + run->offset * w;
    dst.shape[1] = run->T;
    RB_TRY(rb_copy(run->q, dst, src, err));
    *all =
        (rb_view){cache.data, RB_F32, 4, {run->B, S, s->kv_heads, s->head}, {cache.stride[0], w, s->head, 1}};
    return RESBM_OK;
}

static resbm_status attention(const rb_block *b, const rb_run_ctx *run, const rb_block_saved *s,
                              const rb_block_scratch *tmp, const rb_block_cache *cache, rb_err *err) {
    const rb_block_dims *z = &b->dims;
    rb_view qv, k, v = heads_of(run, s->qkv, z->heads + z->kv_heads, z->kv_heads, z->head);
    if (z->qk_norm) RB_TRY(norm_heads(b, run, s, tmp, err));
    q_and_k(b, run, s, tmp, &qv, &k);
    RB_TRY(rotate(b, run, qv, k, false, err));
    if (cache) {
        RB_TRY(into_cache(run, z, cache->k, k, &k, err));
        RB_TRY(into_cache(run, z, cache->v, v, &v, err));
    }
    return rb_attention_forward(run->q, heads_of(run, s->att, 0, z->heads, z->head), lse_of(run, z, s->lse),
                                qv, k, v, run->offset, score_scale(z), err);
}

/* Every row of qkv = bias. */
static resbm_status start_with_bias(const rb_block_dims *z, rb_queue *q, rb_view qkv, rb_view bias,
                                    const rb_block_scratch *tmp, rb_err *err) {
    if (!z->qkv_bias) return RESBM_OK;
    rb_view ones = rb_rows(tmp->ones, 0, qkv.shape[0]);
    RB_TRY(rb_fill(q, ones, 1, err));
    return rb_gemm(q, false, false, 1, ones, bias, 0, qkv, err);
}

/* x2 = x + attention(norm(x)) */
static resbm_status attention_forward(const rb_block *b, const rb_run_ctx *run, rb_view x2, rb_view x,
                                      const rb_block_saved *s, const rb_block_scratch *tmp,
                                      const rb_block_cache *cache, rb_err *err) {
    const rb_block_dims *z = &b->dims;
    parts w = parts_of(z, b->w);
    rb_view norm = rb_rows(tmp->norm, 0, run->B * run->T);
    RB_TRY(rb_rmsnorm_forward(run->q, norm, s->rstd1, x, w.norm1, z->eps, err));
    RB_TRY(start_with_bias(z, run->q, s->qkv, w.bias, tmp, err));
    RB_TRY(rb_linear_forward(run->q, s->qkv, z->qkv_bias ? 1 : 0, norm, w.qkv, err));
    RB_TRY(attention(b, run, s, tmp, cache, err));
    return rb_linear_plus(run->q, x2, x, s->att, w.o, err);
}

/* y = x2 + SwiGLU(norm(x2)) */
static resbm_status mlp_forward(const rb_block *b, const rb_run_ctx *run, rb_view y, rb_view x2,
                                const rb_block_saved *s, const rb_block_scratch *tmp, rb_err *err) {
    const rb_block_dims *z = &b->dims;
    parts w = parts_of(z, b->w);
    int64_t n = run->B * run->T, f = z->ffn;
    rb_view norm = rb_rows(tmp->norm, 0, n), h = rb_rows(tmp->h, 0, n);
    RB_TRY(rb_rmsnorm_forward(run->q, norm, s->rstd2, x2, w.norm2, z->eps, err));
    RB_TRY(rb_linear_forward(run->q, s->gu, 0, norm, w.gu, err));
    RB_TRY(rb_swiglu_forward(run->q, h, rb_columns(s->gu, 0, f), rb_columns(s->gu, f, f), err));
    return rb_linear_plus(run->q, y, x2, h, w.down, err);
}

/* Where the stream between the halves is, or its gradient: in a buffer of its own, or a half's input or output. */
static rb_view between(const rb_block *b, rb_view own, rb_view x, rb_view y) {
    return b->dims.part == RB_BLOCK_WHOLE ? own : b->dims.part == RB_BLOCK_MLP ? x : y;
}

resbm_status rb_block_forward(const rb_block *b, const rb_run_ctx *run, rb_view y, rb_view x,
                              const rb_block_saved *saved, const rb_block_scratch *tmp,
                              const rb_block_cache *cache, rb_err *err) {
    rb_block_saved s = first_rows(&b->dims, saved, run->B * run->T);
    rb_view x2 = between(b, s.x2, x, y);
    if (has_attention(&b->dims)) RB_TRY(attention_forward(b, run, x2, x, &s, tmp, cache, err));
    return has_mlp(&b->dims) ? mlp_forward(b, run, y, x2, &s, tmp, err) : RESBM_OK;
}

/* The backward pass in four pieces, from the end of the block to its start; the whole backward pass puts each
 * half's weight gradients between its two pieces, so that the gradient of the stream can change in place. */

/* kept.h and kept.dgu from dy. */
static resbm_status mlp_products(const rb_block *b, rb_queue *q, rb_view dy, const rb_block_saved *s,
                                 const rb_block_kept *kept, rb_err *err) {
    int64_t f = b->dims.ffn;
    parts w = parts_of(&b->dims, b->w);
    RB_TRY(rb_linear_backward_x(q, kept->h, 0, dy, w.down, err));
    return rb_swiglu_backward(q, rb_columns(kept->dgu, 0, f), rb_columns(kept->dgu, f, f), kept->h, kept->h,
                              rb_columns(s->gu, 0, f), rb_columns(s->gu, f, f), err);
}

/* dw += dy^T x; dw is row `row` of the block and what is joined to it. */
static resbm_status add_gradient(const rb_block *b, rb_queue *q, int row, rb_view dw, rb_view dy, rb_view x,
                                 rb_err *err) {
    return rb_lend_backward_w(b->lender, q, b->row + row, dw, dy, x, err);
}

static resbm_status mlp_weights(const rb_block *b, rb_queue *q, rb_view dy, rb_view x2,
                                const rb_block_saved *s, const rb_block_kept *kept,
                                const rb_block_scratch *tmp, rb_err *err) {
    parts w = parts_of(&b->dims, b->w), dw = parts_of(&b->dims, b->dw);
    int row = row_of_mlp(&b->dims);
    RB_TRY(add_gradient(b, q, row + MLP_DOWN, dw.down, dy, kept->h, err));
    RB_TRY(rb_rmsnorm_forward(q, tmp->norm, s->rstd2, x2, w.norm2, b->dims.eps, err));
    return add_gradient(b, q, row + MLP_GATE, dw.gu, kept->dgu, tmp->norm, err);
}

/* dx2 (holding dy, or another buffer) = gradient of x2. */
static resbm_status mlp_input(const rb_block *b, rb_queue *q, rb_view dx2, rb_view dy, rb_view x2,
                              const rb_block_saved *s, const rb_block_kept *kept, const rb_block_scratch *tmp,
                              rb_err *err) {
    parts w = parts_of(&b->dims, b->w), dw = parts_of(&b->dims, b->dw);
    if (dx2.data != dy.data) RB_TRY(rb_copy(q, dx2, dy, err));
    RB_TRY(rb_linear_backward_x(q, tmp->norm, 0, kept->dgu, w.gu, err));
    RB_TRY(rb_rmsnorm_backward_w(q, dw.norm2, tmp->norm, x2, s->rstd2, err));
    return rb_rmsnorm_backward_x(q, dx2, 1, tmp->norm, x2, w.norm2, s->rstd2, err);
}

static resbm_status unnorm_heads(const rb_block *b, const rb_run_ctx *run, const rb_block_saved *s,
                                 const rb_block_kept *kept, rb_err *err) {
    const rb_block_dims *z = &b->dims;
    parts w = parts_of(z, b->w), dw = parts_of(z, b->dw);
    rb_view dq = rows_of_heads(kept->dqkv, 0, z->heads, z->head);
    rb_view dk = rows_of_heads(kept->dqkv, z->heads, z->kv_heads, z->head);
    rb_view xq = rows_of_heads(s->qkv, 0, z->heads, z->head);
    rb_view xk = rows_of_heads(s->qkv, z->heads, z->kv_heads, z->head);
    RB_TRY(rb_rmsnorm_backward_w(run->q, dw.qnorm, dq, xq, s->rstdq, err));
    RB_TRY(rb_rmsnorm_backward_w(run->q, dw.knorm, dk, xk, s->rstdk, err));
    RB_TRY(rb_rmsnorm_backward_x(run->q, dq, 0, dq, xq, w.qnorm, s->rstdq, err));
    return rb_rmsnorm_backward_x(run->q, dk, 0, dk, xk, w.knorm, s->rstdk, err);
}

/* kept.dqkv from dx2. */
static resbm_status attention_products(const rb_block *b, const rb_run_ctx *run, rb_view dx2,
                                       const rb_block_saved *s, const rb_block_kept *kept,
                                       const rb_block_scratch *tmp, rb_err *err) {
    const rb_block_dims *z = &b->dims;
    int64_t H = z->heads, G = z->kv_heads, D = z->head;
    parts w = parts_of(z, b->w);
    rb_view qv, k, dq = heads_of(run, kept->dqkv, 0, H, D), dk = heads_of(run, kept->dqkv, H, G, D);
    RB_TRY(rb_linear_backward_x(run->q, tmp->att, 0, dx2, w.o, err));
    q_and_k(b, run, s, tmp, &qv, &k);
    if (z->qk_norm) {
        RB_TRY(norm_heads(b, run, s, tmp, err));
        RB_TRY(rotate(b, run, qv, k, false, err));
    }
    RB_TRY(rb_attention_backward(run->q, dq, dk, heads_of(run, kept->dqkv, H + G, G, D),
                                 heads_of(run, tmp->att, 0, H, D), heads_of(run, s->att, 0, H, D),
                                 lse_of(run, z, s->lse), qv, k, heads_of(run, s->qkv, H + G, G, D),
                                 score_scale(z), err));
    RB_TRY(rotate(b, run, dq, dk, true, err));
    return z->qk_norm ? unnorm_heads(b, run, s, kept, err) : RESBM_OK;
}

static resbm_status attention_weights(const rb_block *b, rb_queue *q, rb_view dx2, rb_view x,
                                      const rb_block_saved *s, const rb_block_kept *kept,
                                      const rb_block_scratch *tmp, rb_err *err) {
    parts w = parts_of(&b->dims, b->w), dw = parts_of(&b->dims, b->dw);
    RB_TRY(add_gradient(b, q, row_of_o(&b->dims), dw.o, dx2, s->att, err));
    RB_TRY(rb_rmsnorm_forward(q, tmp->norm, s->rstd1, x, w.norm1, b->dims.eps, err));
    if (b->dims.qkv_bias) { /* sums of the columns */
        rb_view ones = rb_rows(tmp->ones, 0, kept->dqkv.shape[0]);
        RB_TRY(rb_fill(q, ones, 1, err));
        RB_TRY(rb_linear_backward_w(q, dw.bias, ones, kept->dqkv, err));
    }
    return add_gradient(b, q, W_Q, dw.qkv, kept->dqkv, tmp->norm, err);
}

static resbm_status attention_input(const rb_block *b, rb_queue *q, rb_view dx, rb_view dx2, rb_view x,
                                    const rb_block_saved *s, const rb_block_kept *kept,
                                    const rb_block_scratch *tmp, rb_err *err) {
    parts w = parts_of(&b->dims, b->w), dw = parts_of(&b->dims, b->dw);
    if (dx.data != dx2.data) RB_TRY(rb_copy(q, dx, dx2, err));
    RB_TRY(rb_linear_backward_x(q, tmp->norm, 0, kept->dqkv, w.qkv, err));
    RB_TRY(rb_rmsnorm_backward_w(q, dw.norm1, tmp->norm, x, s->rstd1, err));
    return rb_rmsnorm_backward_x(q, dx, 1, tmp->norm, x, w.norm1, s->rstd1, err);
}

resbm_status rb_block_backward_input(const rb_block *b, const rb_run_ctx *run, rb_view dx, rb_view dy,
                                     rb_view x, const rb_block_saved *s, const rb_block_kept *kept,
                                     const rb_block_scratch *tmp, rb_err *err) {
    bool att = has_attention(&b->dims);
    rb_view dx2 = between(b, kept->dx2, dx, dy);
    if (has_mlp(&b->dims)) {
        RB_TRY(mlp_products(b, run->q, dy, s, kept, err));
        RB_TRY(mlp_input(b, run->q, dx2, dy, att ? s->x2 : x, s, kept, tmp, err));
    }
    if (!att) return RESBM_OK;
    RB_TRY(attention_products(b, run, dx2, s, kept, tmp, err));
    return attention_input(b, run->q, dx, dx2, x, s, kept, tmp, err);
}

resbm_status rb_block_backward_weight(const rb_block *b, const rb_run_ctx *run, rb_view dy, rb_view x,
                                      const rb_block_saved *s, const rb_block_kept *kept,
                                      const rb_block_scratch *tmp, rb_err *err) {
    bool att = has_attention(&b->dims), mlp = has_mlp(&b->dims);
    if (mlp) RB_TRY(mlp_weights(b, run->q, dy, att ? s->x2 : x, s, kept, tmp, err));
    return att ? attention_weights(b, run->q, mlp ? kept->dx2 : dy, x, s, kept, tmp, err) : RESBM_OK;
}

resbm_status rb_block_backward(const rb_block *b, const rb_run_ctx *run, rb_view dx, rb_view x,
                               const rb_block_saved *s, const rb_block_kept *kept,
                               const rb_block_scratch *tmp, rb_err *err) {
    bool att = has_attention(&b->dims);
    if (has_mlp(&b->dims)) {
        rb_view x2 = att ? s->x2 : x;
        RB_TRY(mlp_products(b, run->q, dx, s, kept, err));
        RB_TRY(mlp_weights(b, run->q, dx, x2, s, kept, tmp, err));
        RB_TRY(mlp_input(b, run->q, dx, dx, x2, s, kept, tmp, err));
    }
    if (!att) return RESBM_OK;
    RB_TRY(attention_products(b, run, dx, s, kept, tmp, err));
    RB_TRY(attention_weights(b, run->q, dx, x, s, kept, tmp, err));
    return attention_input(b, run->q, dx, dx, x, s, kept, tmp, err);
}
