#include "boundary/tokens.h"

#include <math.h>
#include <stdio.h>
#include "nn/linear.h"

static int64_t round_up(int64_t v, int64_t to) {
    return (v + to - 1) / to * to;
}

/* A quarter of the model's width, 64 to 512, in heads of up to 64: at V = 128k and d = 4096 a table of 65M
 * numbers where the full one has 525M. */
static void defaults(rb_boundary_config *c, int64_t d) {
    if (!c->trunk_blocks) c->trunk_blocks = 2;
    if (!c->trunk_width) {
        int64_t u = round_up(d / 4, 64);
        c->trunk_width = u < 64 ? 64 : u > 512 ? 512 : u;
    }
    if (!c->trunk_heads) c->trunk_heads = c->trunk_width % 64 ? 1 : c->trunk_width / 64;
    if (!c->trunk_ffn) c->trunk_ffn = round_up(c->trunk_width * 8 / 3, 16);
}

bool rb_tokens_offset(const rb_boundary_config *c) {
    const rb_boundary_kind *kind = rb_boundary_find(c->kind);
    if (c->offset != RB_OFFSET_AUTO) return c->offset == RB_OFFSET_LEARNED;
    return c->tokens == RB_TOKENS_NONE && kind->may_vanish && kind->may_vanish(c);
}

bool rb_tokens_start(const rb_boundary_config *c) {
    return c->tokens != RB_TOKENS_NONE || rb_tokens_offset(c);
}

resbm_status rb_tokens_check(rb_boundary_config *c, const rb_boundary_dims *s, rb_err *err) {
    if (c->offset == RB_OFFSET_LEARNED && c->tokens != RB_TOKENS_NONE)
        return rb_fail(
            err, RESBM_E_CONFIG,
            "boundary.offset learned: a token path already starts the stream; use auto or none, or "
            "boundary.tokens none");
    if (c->tokens != RB_TOKENS_TRUNK) return RESBM_OK;
    defaults(c, s->d);
    if (c->trunk_blocks < 1 || c->trunk_blocks > RB_MAX_TRUNK_BLOCKS)
        return rb_fail(err, RESBM_E_CONFIG, "boundary.trunk_blocks %lld: 1 to %d", (long long)c->trunk_blocks,
                       RB_MAX_TRUNK_BLOCKS);
    if (c->trunk_width < 2 || c->trunk_width > 1 << 20 || c->trunk_ffn < 1 || c->trunk_ffn > 1 << 22)
        return rb_fail(err, RESBM_E_CONFIG, "boundary.trunk_width %lld, trunk_ffn %lld: out of range",
                       (long long)c->trunk_width, (long long)c->trunk_ffn);
    if (c->trunk_heads < 1 || c->trunk_width % c->trunk_heads || c->trunk_width / c->trunk_heads % 2)
        return rb_fail(err, RESBM_E_CONFIG,
                       "boundary.trunk_width %lld is not boundary.trunk_heads %lld times an even head width",
                       (long long)c->trunk_width, (long long)c->trunk_heads);
    return RESBM_OK;
}

rb_block_dims rb_tokens_block_dims(const rb_boundary_config *c, const rb_boundary_dims *s) {
    int64_t h = c->trunk_heads ? c->trunk_heads : 1;
    return (rb_block_dims){.d = c->trunk_width,
                           .heads = h,
                           .kv_heads = h,
                           .head = c->trunk_width / h,
                           .ffn = c->trunk_ffn,
                           .eps = (float)s->eps};
}

/* A trunk as wide as the model writes the stream itself. */
static bool has_up(const rb_boundary_config *c, const rb_boundary_dims *s) {
    return c->trunk_width != s->d;
}

static void list_trunk(const rb_boundary_config *c, const rb_boundary_dims *s, const char *prefix,
                       rb_tensor_list *l) {
    rb_block_dims b = rb_tokens_block_dims(c, s);
    double out_std = s->std / sqrt(2.0 * (double)c->trunk_blocks);
    char name[80];
    rb_tensor_add(l, prefix, "trunk.embed_tokens.weight", s->vocab, b.d, RB_ROLE_EMBEDDING, 0, s->std);
    for (int64_t i = 0; i < c->trunk_blocks; i++) {
        snprintf(name, sizeof name, "%strunk.layers.%lld.", prefix, (long long)i);
        rb_block_list(&b, name, RB_ROLE_BOUNDARY_MATRIX, s->std, out_std, l);
    }
    if (!has_up(c, s)) return;
    rb_tensor_add(l, prefix, "trunk.norm.weight", b.d, 0, RB_ROLE_NORM, 1, 0);
    rb_tensor_add(l, prefix, "trunk.up.weight", s->d, b.d, RB_ROLE_BOUNDARY_MATRIX, 0, s->std);
}

void rb_tokens_list_fixed(const rb_boundary_dims *s, const char *prefix, rb_tensor_list *l) {
    rb_tensor *t = rb_tensor_add(l, prefix, "embed_tokens.fixed", s->vocab, s->d, RB_ROLE_STATE, 0, s->std);
    if (!t) return;
    t->like = "model.embed_tokens.weight";
    t->constraint = RB_CONSTRAINT_OUTSIDE;
}

void rb_tokens_list(const rb_boundary_config *c, const rb_boundary_dims *s, const char *prefix,
                    rb_tensor_list *l) {
    if (c->tokens == RB_TOKENS_TRUNK) list_trunk(c, s, prefix, l);
    if (rb_tokens_offset(c)) rb_tensor_add(l, prefix, "offset", s->d, 0, RB_ROLE_EMBEDDING, 0, s->std);
    if (c->tokens == RB_TOKENS_FIXED) rb_tokens_list_fixed(s, prefix, l);
    if (c->tokens == RB_TOKENS_EMBEDDING)
        rb_tensor_add(l, prefix, "tokens.embed_tokens.weight", s->vocab, s->d, RB_ROLE_EMBEDDING, 0, s->std);
}

void rb_tokens_plan_saved(const rb_tokens *t, int64_t n, rb_plan *p, rb_tokens_saved *out) {
    rb_block_dims b = rb_tokens_block_dims(t->cfg, &t->dims);
    if (t->cfg->tokens != RB_TOKENS_TRUNK) return;
    for (int64_t i = 0; i <= t->cfg->trunk_blocks; i++) out->x[i] = rb_plan2(p, n, b.d);
    for (int64_t i = 0; i < t->cfg->trunk_blocks; i++) rb_block_plan_saved(&b, n, p, &out->block[i]);
    out->rstd = rb_plan1(p, n);
}

void rb_tokens_plan_scratch(const rb_tokens *t, int64_t n, bool training, rb_plan *p,
                            rb_tokens_scratch *out) {
    rb_block_dims b = rb_tokens_block_dims(t->cfg, &t->dims);
    if (rb_tokens_offset(t->cfg)) out->ones = rb_plan2(p, n, 1);
    if (t->cfg->tokens != RB_TOKENS_TRUNK) return;
    rb_block_plan_scratch(&b, n, p, &out->block);
    if (has_up(t->cfg, &t->dims)) out->norm = rb_plan2(p, n, b.d);
    if (!training) return;
    rb_block_plan_kept(&b, n, false, false, p, &out->kept);
    out->dx = rb_plan2(p, n, b.d);
}

static rb_block block_of(const rb_tokens *t, int64_t i) {
    rb_block b = {.dims = rb_tokens_block_dims(t->cfg, &t->dims), .rope = t->rope};
    int64_t row = 1 + i * rb_block_tensors(&b.dims);
    b.w = t->w + row;
    b.dw = t->dw ? t->dw + row : NULL;
    return b;
}

/* Row of the norm; the map up follows. */
static int64_t norm_row(const rb_tokens *t) {
    rb_block_dims b = rb_tokens_block_dims(t->cfg, &t->dims);
    return 1 + t->cfg->trunk_blocks * rb_block_tensors(&b);
}

/* Every row of y = b. */
static resbm_status offset_forward(const rb_tokens *t, rb_queue *q, rb_view y, const rb_tokens_scratch *tmp,
                                   rb_err *err) {
    rb_view ones = rb_rows(tmp->ones, 0, y.shape[0]);
    RB_TRY(rb_fill(q, ones, 1, err));
    return rb_gemm(q, false, false, 1, ones, rb_as2(t->w[0], 1, t->dims.d), 0, y, err);
}

static resbm_status offset_backward(const rb_tokens *t, rb_queue *q, rb_view dy, const rb_tokens_scratch *tmp,
                                    rb_err *err) {
    rb_view ones = rb_rows(tmp->ones, 0, dy.shape[0]);
    RB_TRY(rb_fill(q, ones, 1, err));
    return rb_linear_backward_w(q, rb_as2(t->dw[0], 1, t->dims.d), ones, dy, err);
}

resbm_status rb_tokens_forward(const rb_tokens *t, const rb_run_ctx *run, rb_view y, rb_view tokens,
                               const rb_tokens_saved *s, const rb_tokens_scratch *tmp,
                               const rb_block_cache *cache, rb_err *err) {
    int64_t n = run->B * run->T, L = t->cfg->trunk_blocks, norm = norm_row(t);
    if (t->cfg->tokens == RB_TOKENS_NONE) return offset_forward(t, run->q, y, tmp, err);
    if (t->cfg->tokens != RB_TOKENS_TRUNK) return rb_embed_forward(run->q, y, t->w[0], tokens, err);
    RB_TRY(rb_embed_forward(run->q, rb_rows(s->x[0], 0, n), t->w[0], tokens, err));
    for (int64_t i = 0; i < L; i++) {
        rb_block b = block_of(t, i);
        RB_TRY(rb_block_forward(&b, run, rb_rows(s->x[i + 1], 0, n), rb_rows(s->x[i], 0, n), &s->block[i],
                                &tmp->block, cache ? cache + i : NULL, err));
    }
    if (!has_up(t->cfg, &t->dims)) return rb_copy(run->q, y, rb_rows(s->x[L], 0, n), err);
    rb_view normed = rb_rows(tmp->norm, 0, n);
    RB_TRY(rb_rmsnorm_forward(run->q, normed, rb_rows(s->rstd, 0, n), rb_rows(s->x[L], 0, n), t->w[norm],
                              (float)t->dims.eps, err));
    return rb_linear_forward(run->q, y, 0, normed, t->w[norm + 1], err);
}

/* tmp->dx = gradient of the last block's output. */
static resbm_status up_backward(const rb_tokens *t, rb_queue *q, rb_view dy, const rb_tokens_saved *s,
                                const rb_tokens_scratch *tmp, rb_err *err) {
    int64_t L = t->cfg->trunk_blocks, norm = norm_row(t);
    if (!has_up(t->cfg, &t->dims)) return rb_copy(q, tmp->dx, dy, err);
    RB_TRY(rb_rmsnorm_forward(q, tmp->norm, s->rstd, s->x[L], t->w[norm], (float)t->dims.eps, err));
    RB_TRY(rb_linear_backward_w(q, t->dw[norm + 1], dy, tmp->norm, err));
    RB_TRY(rb_linear_backward_x(q, tmp->norm, 0, dy, t->w[norm + 1], err));
    RB_TRY(rb_rmsnorm_backward_w(q, t->dw[norm], tmp->norm, s->x[L], s->rstd, err));
    return rb_rmsnorm_backward_x(q, tmp->dx, 0, tmp->norm, s->x[L], t->w[norm], s->rstd, err);
}

static resbm_status trunk_backward(const rb_tokens *t, const rb_run_ctx *run, rb_view dy, rb_view tokens,
                                   const rb_tokens_saved *s, const rb_tokens_scratch *tmp, rb_err *err) {
    int64_t L = t->cfg->trunk_blocks;
    RB_TRY(up_backward(t, run->q, dy, s, tmp, err));
    for (int64_t i = L - 1; i >= 0; i--) {
        rb_block b = block_of(t, i);
        rb_block_kept kept = tmp->kept;
        kept.dgu = s->block[i].gu;
        RB_TRY(rb_block_backward(&b, run, tmp->dx, s->x[i], &s->block[i], &kept, &tmp->block, err));
    }
    return rb_embed_backward(run->q, t->dw[0], tmp->dx, tokens, err);
}

resbm_status rb_tokens_backward(const rb_tokens *t, const rb_run_ctx *run, rb_view dy, rb_view tokens,
                                const rb_tokens_saved *s, const rb_tokens_scratch *tmp, rb_err *err) {
    if (t->cfg->tokens == RB_TOKENS_NONE) return offset_backward(t, run->q, dy, tmp, err);
    if (t->cfg->tokens == RB_TOKENS_EMBEDDING) return rb_embed_backward(run->q, t->dw[0], dy, tokens, err);
    if (t->cfg->tokens == RB_TOKENS_FIXED) return RESBM_OK;
    return trunk_backward(t, run, dy, tokens, s, tmp, err);
}
