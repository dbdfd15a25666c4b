/* The token path S of a receiver: what the token ids alone say about the stream, added to what the boundary
 * decoded. Token ids cross losslessly and cost next to nothing.
 *
 *     none        S = b, or nothing                 b (d), the offset
 *     embedding   S = E[tokens]                     E (V,d)
 *     trunk       S = W_up n(blocks(E[tokens]))     E (V,u), W_up (d,u), blocks causal, width u
 *                 S = blocks(E[tokens])             where u is d
 *
 * The offset gives the stream somewhere to start: of two int4 latents both are zero for one token in fifty, and in a
 * stream of zeros the norm of each block multiplies the gradient by 1 / sqrt(eps) = 316, at a sequence's first token
 * (which attends to itself alone) through all blocks and boundaries.
 *
 *     fixed       S = F[tokens]                                    F (V,d) of the run's seed, boundary/subspace.c
 *
 * S needs nothing from the sender and gives no gradient to it, so its whole backward pass is weight half.
 */
#ifndef RB_BOUNDARY_TOKENS_H
#define RB_BOUNDARY_TOKENS_H

#include "boundary/boundary.h"
#include "nn/block.h"

enum { RB_MAX_TRUNK_BLOCKS = 16 };

typedef struct rb_tokens_saved {
    rb_view x[RB_MAX_TRUNK_BLOCKS + 1]; /* (n,u) input of each block, and the last one's output */
    rb_block_saved block[RB_MAX_TRUNK_BLOCKS];
    rb_view rstd; /* (n) */
} rb_tokens_saved;

typedef struct rb_tokens_scratch {
    rb_block_scratch block;
    rb_block_kept kept;
    rb_view norm; /* (n,u), where there is a W_up */
    rb_view dx;   /* (n,u) */
    rb_view ones; /* (n,1), with an offset */
} rb_tokens_scratch;

typedef struct rb_tokens {
    const rb_boundary_config *cfg;
    rb_boundary_dims dims;
    const rb_rope_table *rope; /* trunk; head width of rb_tokens_block_dims */
    const rb_view *w, *dw;     /* rows in order: offset; or embedding; or embedding, blocks, norm, up */
} rb_tokens;

/* Is there an offset? */
bool rb_tokens_offset(const rb_boundary_config *c);
/* Does the receiver's stream begin with an S, so that decode adds to it? */
bool rb_tokens_start(const rb_boundary_config *c);
/* Fills in trunk_* that are 0 and checks them; RESBM_E_CONFIG names the key. */
resbm_status rb_tokens_check(rb_boundary_config *c, const rb_boundary_dims *s, rb_err *err);
rb_block_dims rb_tokens_block_dims(const rb_boundary_config *c, const rb_boundary_dims *s);
/* prefix "boundary.0.decoder." */
void rb_tokens_list(const rb_boundary_config *c, const rb_boundary_dims *s, const char *prefix,
                    rb_tensor_list *l);
/* The row of the fixed part alone: the embedding as it began, outside the subspace. */
void rb_tokens_list_fixed(const rb_boundary_dims *s, const char *prefix, rb_tensor_list *l);
void rb_tokens_plan_saved(const rb_tokens *t, int64_t n, rb_plan *p, rb_tokens_saved *out);
void rb_tokens_plan_scratch(const rb_tokens *t, int64_t n, bool training, rb_plan *p, rb_tokens_scratch *out);

/* y (n,d) = S(tokens), tokens (n) i32 (absent with an offset); cache: one per trunk block, or NULL. */
resbm_status rb_tokens_forward(const rb_tokens *t, const rb_run_ctx *run, rb_view y, rb_view tokens,
                               const rb_tokens_saved *s, const rb_tokens_scratch *tmp,
                               const rb_block_cache *cache, rb_err *err);
/* Adds to all of its gradients from dy (n,d). */
resbm_status rb_tokens_backward(const rb_tokens *t, const rb_run_ctx *run, rb_view dy, rb_view tokens,
                                const rb_tokens_saved *s, const rb_tokens_scratch *tmp, rb_err *err);

#endif
