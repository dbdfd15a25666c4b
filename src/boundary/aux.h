/* An auxiliary next-token loss at a boundary: help for the segment before it, whose own gradient comes back through
 * k numbers a token. A head of the segment's own is trained on the next token; what it says counts for nothing outside
 * training. n(.) is RMSNorm with a weight.
 *
 *     stream          loss = xent(W_h n(x))                            W_h (V,d)     x the segment's output stream
 *     stream, rank r  loss = xent(W_h n(W_r x))                        W_r (r,d)   W_h (V,r)
 *     latent          loss = xent(W_h (silu(W_1 q) [+ E[tokens]]))     W_1 (r,k)   E (V,r)   W_h (V,r)
 *
 * latent reads q, the latents as the receiver unpacks them, so that the encoder learns to make its k numbers tell what
 * comes next; where receivers have a token path the head has the token too, and the latents are asked for the rest
 * only. There is no norm: it would take the size out of q.
 *
 * Loss and gradients are made in the backward pass, so that nothing that crosses the boundary waits for them.
 *
 * Legend: n rows, d width, k latent width, r rank, V vocabulary.
 */
#ifndef RB_BOUNDARY_AUX_H
#define RB_BOUNDARY_AUX_H

#include "boundary/boundary.h"
#include "nn/head.h"

typedef struct rb_aux {
    const rb_boundary_config *cfg;
    rb_boundary_dims dims;
    const rb_view *w, *dw; /* rows in the order of rb_aux_list */
} rb_aux;

/* What both halves read. */
typedef struct rb_aux_in {
    rb_view from;            /* stream: x (n,d); latent: q (n,k) */
    rb_view tokens, targets; /* (n) i32; tokens where rb_aux_reads_tokens */
} rb_aux_in;

/* What the input half leaves for the weight half. */
typedef struct rb_aux_kept {
    rb_view low, dlow;  /* (n,r) what the head reads and its gradient; absent without a rank */
    rb_view dhidden;    /* (n,r) latent: gradient of W_1 q */
    rb_head_saved head; /* head.grad_scale 0: the pass had no auxiliary loss */
} rb_aux_kept;

typedef struct rb_aux_scratch {
    rb_view hidden; /* (n,r) latent: W_1 q */
    rb_view dz;     /* (n,k) latent: for the caller, a gradient to add to */
    rb_head_scratch head;
} rb_aux_scratch;

/* Fills aux_rank in; RESBM_E_CONFIG names the key. narrows: the boundary's kind has latents. */
resbm_status rb_aux_check(rb_boundary_config *c, const rb_boundary_dims *s, bool narrows, rb_err *err);
bool rb_aux_reads_tokens(const rb_boundary_config *c);
/* prefix "boundary.0.aux." */
void rb_aux_list(const rb_boundary_config *c, const rb_boundary_dims *s, const char *prefix,
                 rb_tensor_list *l);
int rb_aux_rows(const rb_boundary_config *c); /* of the table, with an auxiliary loss */
void rb_aux_plan_kept(const rb_aux *a, int64_t n, rb_plan *p, rb_aux_kept *out);
void rb_aux_plan_scratch(const rb_aux *a, int64_t n, rb_plan *p, rb_aux_scratch *out);

/* dfrom (the shape of from) += scale times the gradient of the loss; kept->head.loss (1) f64 = that loss, summed over
 * the rows, not scaled. scale 0: nothing happens, also in the weight half. */
resbm_status rb_aux_backward_input(const rb_aux *a, rb_queue *q, rb_view dfrom, const rb_aux_in *in,
                                   float scale, rb_aux_kept *kept, const rb_aux_scratch *tmp, rb_err *err);
/* Adds to the gradients of the matrices. */
resbm_status rb_aux_backward_weight(const rb_aux *a, rb_queue *q, const rb_aux_in *in,
                                    const rb_aux_kept *kept, const rb_aux_scratch *tmp, rb_err *err);

#endif
