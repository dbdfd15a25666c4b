/* The end of the model: final RMSNorm, head, cross-entropy, never holding more than one chunk of logits.
 *
 * Legend: n rows, d width, V vocabulary, c rows of a chunk (chunk / V, at least 1, at most n; a GPU's are larger, since
 * products of few rows leave most of it idle).
 *
 * A training step's forward makes the loss and the gradient of its input chunk by chunk. The weight half
 * needs the gradient of the logits once more: where those of the whole microbatch fit into a chunk it was kept, else each
 * chunk is computed again by the same operations, with the same bits.
 *
 * In f32 the gradient takes the place of the logits. Where activations are in bf16 it is rounded when it is made, which
 * products would do anyway, to a place of its own: the loss is still that of logits in f32.
 */
#ifndef RB_NN_HEAD_H
#define RB_NN_HEAD_H

#include "nn/lend.h"
#include "nn/plan.h"
#include "nn/run.h"
#include "nn/tensor.h"

/* Elements of logits in memory at once, by default: where memory is the host's, and on a device with its own. */
enum { RB_HEAD_CHUNK = 4 << 20, RB_HEAD_CHUNK_APART = 128 << 20 };

typedef struct rb_head {
    int64_t d, vocab, chunk; /* chunk: elements of logits in memory at once; 0: RB_HEAD_CHUNK */
    float eps;
    rb_view norm, head;      /* (d), (V,d); without a norm x is taken as it is */
    rb_view dnorm, dhead;    /* absent without training */
    const rb_lender *lender; /* of dhead, where it is away */
    int row;                 /* of the table: head */
} rb_head;

/* Per microbatch. */
typedef struct rb_head_saved {
    rb_view rstd;     /* (n) */
    rb_view loss;     /* (1) f64 */
    rb_view dnormed;  /* (n,d) gradient of the normed input, made by the forward pass of training */
    rb_view dlogits;  /* (n,V) gradient of the logits, where it is kept; else absent */
    float grad_scale; /* of the last forward pass; 0 = evaluation, no gradient was made */
} rb_head_saved;

/* Shared. */
typedef struct rb_head_scratch {
    rb_view norm;    /* (n,d) */
    rb_view logits;  /* (c,V); absent where they are made in saved->dlogits */
    rb_view dlogits; /* (c,V) in bf16, unless kept; absent in f32, where it is made in logits */
    rb_view losses;  /* (n) */
} rb_head_scratch;

/* c. A chunk's elements are those of f32; kept, where they fit, gradients in bf16 take half of them from the logits. */
int64_t rb_head_chunk_rows(int64_t chunk, int64_t vocab, int64_t n, rb_dtype acts);
/* Of h its sizes alone. */
void rb_head_plan_saved(const rb_head *h, int64_t n, bool training, rb_plan *p, rb_head_saved *out);
void rb_head_plan_scratch(const rb_head *h, int64_t n, bool training, rb_plan *p, rb_head_scratch *out);

/* loss (saved) = sum over rows of the cross-entropy against targets (n) i32; with a grad_scale that is not 0,
 * saved->dnormed as well. Gradient buffers are not touched. */
resbm_status rb_head_forward(const rb_head *h, rb_queue *q, rb_view x, rb_view targets, float grad_scale,
                             rb_head_saved *s, const rb_head_scratch *tmp, rb_err *err);
/* dx (n,d) = beta dx + the gradient; adds to dnorm. RESBM_E_STATE after a forward pass without grad_scale. */
resbm_status rb_head_backward_input(const rb_head *h, rb_queue *q, rb_view dx, float beta, rb_view x,
                                    const rb_head_saved *s, rb_err *err);
/* Adds to dhead. */
resbm_status rb_head_backward_weight(const rb_head *h, rb_queue *q, rb_view x, rb_view targets,
                                     const rb_head_saved *s, const rb_head_scratch *tmp, rb_err *err);
/* logits (m,V) of rows x (m,d); norm (m,d) and rstd (m) are scratch. */
resbm_status rb_head_logits(const rb_head *h, rb_queue *q, rb_view logits, rb_view x, rb_view norm,
                            rb_view rstd, rb_err *err);

#endif
