#include "boundary/aux.h"

#include <math.h>
#include "nn/linear.h"

/* A full head costs V d numbers a boundary; from 2048 tokens on it goes through 64 dimensions. */
enum { LARGE_VOCABULARY = 2048, DEFAULT_RANK = 64 };

resbm_status rb_aux_check(rb_boundary_config *c, const rb_boundary_dims *s, bool narrows, rb_err *err) {
    if (c->aux == RB_AUX_NONE) return RESBM_OK;
    bool latent = c->aux == RB_AUX_LATENT, large = s->vocab >= LARGE_VOCABULARY && s->d > DEFAULT_RANK;
    if (latent && !narrows)
        return rb_fail(err, RESBM_E_CONFIG,
                       "boundary.aux latent: kind %s has no latents; use boundary.aux stream", c->kind);
    if (c->aux_rank < 0) c->aux_rank = latent || large ? DEFAULT_RANK : 0;
    if (latent && c->aux_rank < 1)
        return rb_fail(err, RESBM_E_CONFIG,
                       "boundary.aux_rank 0: a head on the latents needs a width; auto is %d", DEFAULT_RANK);
    if (latent || c->aux_rank < s->d) return RESBM_OK;
    return rb_fail(err, RESBM_E_CONFIG,
                   "boundary.aux_rank %lld: below model.d %lld, or 0 for a head of full width",
                   (long long)c->aux_rank, (long long)s->d);
}

bool rb_aux_reads_tokens(const rb_boundary_config *c) {
    return c->aux == RB_AUX_LATENT && c->tokens != RB_TOKENS_NONE;
}

static bool reads_latents(const rb_aux *a) {
    return a->cfg->aux == RB_AUX_LATENT;
}
static int64_t width_of(const rb_boundary_config *c, const rb_boundary_dims *s) {
    return c->aux_rank ? c->aux_rank : s->d;
}

/* All of the head's role: AdamW's under every optimizer, as the model's own head. */
void rb_aux_list(const rb_boundary_config *c, const rb_boundary_dims *s, const char *prefix,
                 rb_tensor_list *l) {
    int64_t width = width_of(c, s), from = c->aux == RB_AUX_LATENT ? c->k : s->d;
    if (c->aux == RB_AUX_NONE) return;
    if (c->aux_rank)
        rb_tensor_add(l, prefix, "down.weight", c->aux_rank, from, RB_ROLE_HEAD, 0, 1 / sqrt((double)from));
    if (rb_aux_reads_tokens(c))
        rb_tensor_add(l, prefix, "embed_tokens.weight", s->vocab, width, RB_ROLE_EMBEDDING, 0, s->std);
    if (c->aux == RB_AUX_STREAM) rb_tensor_add(l, prefix, "norm.weight", width, 0, RB_ROLE_NORM, 1, 0);
    rb_tensor_add(l, prefix, "head.weight", s->vocab, width, RB_ROLE_HEAD, 0, s->std);
}

int rb_aux_rows(const rb_boundary_config *c) {
    return 1 + (c->aux_rank > 0) + rb_aux_reads_tokens(c) + (c->aux == RB_AUX_STREAM);
}

static rb_head sizes_of_head(const rb_aux *a) {
    return (rb_head){.d = width_of(a->cfg, &a->dims), .vocab = a->dims.vocab, .chunk = a->dims.chunk};
}

void rb_aux_plan_kept(const rb_aux *a, int64_t n, rb_plan *p, rb_aux_kept *out) {
    int64_t r = a->cfg->aux_rank;
    *out = (rb_aux_kept){0};
    if (r) out->low = rb_plan2(p, n, r);
    if (r) out->dlow = rb_plan2(p, n, r);
    if (reads_latents(a)) out->dhidden = rb_plan2(p, n, r);
    rb_head h = sizes_of_head(a);
    rb_head_plan_saved(&h, n, true, p, &out->head);
}

void rb_aux_plan_scratch(const rb_aux *a, int64_t n, rb_plan *p, rb_aux_scratch *out) {
    if (reads_latents(a)) out->hidden = rb_plan2(p, n, a->cfg->aux_rank);
    if (reads_latents(a)) out->dz = rb_plan2(p, n, a->cfg->k);
    rb_head h = sizes_of_head(a);
    rb_head_plan_scratch(&h, n, true, p, &out->head);
}

/* The head's rows are the last ones. */
static rb_head head_of(const rb_aux *a) {
    int last = rb_aux_rows(a->cfg) - 1;
    rb_head h = sizes_of_head(a);
    h.eps = (float)a->dims.eps;
    h.head = a->w[last];
    h.dhead = a->dw[last];
    if (reads_latents(a)) return h;
    h.norm = a->w[last - 1];
    h.dnorm = a->dw[last - 1];
    return h;
}

/* What the head reads, into kept->low. */
static resbm_status lower(const rb_aux *a, rb_queue *q, const rb_aux_in *in, rb_aux_kept *kept,
                          const rb_aux_scratch *tmp, rb_err *err) {
    if (!reads_latents(a)) return rb_linear_forward(q, kept->low, 0, in->from, a->w[0], err);
    RB_TRY(rb_linear_forward(q, tmp->hidden, 0, in->from, a->w[0], err));
    if (!rb_aux_reads_tokens(a->cfg)) return rb_silu_forward(q, kept->low, tmp->hidden, err);
    RB_TRY(rb_embed_forward(q, kept->low, a->w[1], in->tokens, err));
    RB_TRY(rb_silu_forward(q, kept->dlow, tmp->hidden, err)); /* not yet needed for its own */
    return rb_add(q, kept->low, kept->dlow, err);
}

resbm_status rb_aux_backward_input(const rb_aux *a, rb_queue *q, rb_view dfrom, const rb_aux_in *in,
                                   float scale, rb_aux_kept *kept, const rb_aux_scratch *tmp, rb_err *err) {
    rb_head head = head_of(a);
    kept->head.grad_scale = scale;
    if (scale == 0) return RESBM_OK;
    if (!a->cfg->aux_rank) {
        RB_TRY(rb_head_forward(&head, q, in->from, in->targets, scale, &kept->head, &tmp->head, err));
        return rb_head_backward_input(&head, q, dfrom, 1, in->from, &kept->head, err);
    }
    RB_TRY(lower(a, q, in, kept, tmp, err));
    RB_TRY(rb_head_forward(&head, q, kept->low, in->targets, scale, &kept->head, &tmp->head, err));
    RB_TRY(rb_head_backward_input(&head, q, kept->dlow, 0, kept->low, &kept->head, err));
    if (!reads_latents(a)) return rb_linear_backward_x(q, dfrom, 1, kept->dlow, a->w[0], err);
    RB_TRY(rb_silu_backward(q, kept->dhidden, kept->dlow, tmp->hidden, err));
    return rb_linear_backward_x(q, dfrom, 1, kept->dhidden, a->w[0], err);
}

resbm_status rb_aux_backward_weight(const rb_aux *a, rb_queue *q, const rb_aux_in *in,
                                    const rb_aux_kept *kept, const rb_aux_scratch *tmp, rb_err *err) {
    rb_head head = head_of(a);
    rb_view dlow = reads_latents(a) ? kept->dhidden : kept->dlow;
    if (kept->head.grad_scale == 0) return RESBM_OK;
    if (!a->cfg->aux_rank)
        return rb_head_backward_weight(&head, q, in->from, in->targets, &kept->head, &tmp->head, err);
    RB_TRY(rb_linear_backward_w(q, a->dw[0], dlow, in->from, err));
    if (rb_aux_reads_tokens(a->cfg)) RB_TRY(rb_embed_backward(q, a->dw[1], kept->dlow, in->tokens, err));
    return rb_head_backward_weight(&head, q, kept->low, in->targets, &kept->head, &tmp->head, err);
}
