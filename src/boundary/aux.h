/* An auxiliary next-token loss at a boundary: help for the segment before it, whose own gradient comes back through
 * k numbers a token. A head of the segment's own reads its output stream x and is trained on the next token; what
 * it says counts for nothing outside training.
 *
 *     stream          loss = xent(W_h n(x))           n with its weight (d), W_h (V,d)
 *     stream, rank r  loss = xent(W_h n(W_r x))       W_r (r,d), n (r), W_h (V,r)
 *
 * Loss and gradients are made in the backward pass, so that nothing that crosses the boundary waits for them.
 *
 * Legend: n rows, d width, r rank, V vocabulary.
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

/* What the input half leaves for the weight half. */
typedef struct rb_aux_kept {
    rb_view low, dlow; /* (n,r) W_r x and its gradient; absent without a rank */
    rb_head_saved head; /* head.grad_scale 0: the pass had no auxiliary loss */
} rb_aux_kept;

typedef struct rb_aux_scratch {
    rb_head_scratch head;
} rb_aux_scratch;

resbm_status rb_aux_check(rb_boundary_config *c, const rb_boundary_dims *s, rb_err *err);
/* prefix "boundary.0.aux." */
void rb_aux_list(const rb_boundary_config *c, const rb_boundary_dims *s, const char *prefix, rb_tensor_list *l);
int rb_aux_rows(const rb_boundary_config *c); /* of the table, with an auxiliary loss */
void rb_aux_plan_kept(const rb_aux *a, int64_t n, rb_plan *p, rb_aux_kept *out);
void rb_aux_plan_scratch(const rb_aux *a, int64_t n, rb_plan *p, rb_aux_scratch *out);

/* dx (n,d) += scale times the gradient of the loss of x (n,d) against targets (n) i32; kept->head.loss (1) f64 = that
 * loss, summed over the rows, not scaled. scale 0: nothing happens, also in the weight half. */
resbm_status rb_aux_backward_input(const rb_aux *a, rb_queue *q, rb_view dx, rb_view x, rb_view targets, float scale,
                                   rb_aux_kept *kept, const rb_aux_scratch *tmp, rb_err *err);
/* Adds to the gradients of the matrices. */
resbm_status rb_aux_backward_weight(const rb_aux *a, rb_queue *q, rb_view x, rb_view targets, const rb_aux_kept *kept,
                                    const rb_aux_scratch *tmp, rb_err *err);

#endif
