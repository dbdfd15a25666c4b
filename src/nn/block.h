/* One transformer block (Llama 3's): x + attention(norm(x)), then + SwiGLU(norm(.)).
 *
 * Legend: n = B*T rows, d width, H query heads, G key/value heads, D head width, f feed-forward width,
 * C = (H+2G)*D columns of q, k and v side by side.
 *
 * Backward has two halves. The input half (rb_block_backward_input) makes the gradient of x and leaves in the
 * block's "kept" buffers what the weight half (rb_block_backward_weight) needs: the output gradient of each
 * matrix. Gradients of the norm weights are added by the input half, those of matrices by the weight half.
 * rb_block_backward does both with kept buffers that all blocks share; same operations, same bits.
 */
#ifndef RB_NN_BLOCK_H
#define RB_NN_BLOCK_H

#include "nn/lend.h"
#include "nn/plan.h"
#include "nn/run.h"
#include "nn/tensor.h"

/* A block's halves are x2 = x + attention(norm(x)) and y = x2 + SwiGLU(norm(x2)). One alone is a block of fewer tensors, whose
 * input and output are the half's: what a boundary between them leaves on either side. */
typedef enum rb_block_part { RB_BLOCK_WHOLE, RB_BLOCK_ATTENTION, RB_BLOCK_MLP } rb_block_part;

typedef struct rb_block_dims {
    int64_t d, heads, kv_heads, head, ffn;
    rb_block_part part;
    bool qk_norm;
    bool qkv_bias; /* of queries, keys and values */
    float eps;
} rb_block_dims;

/* Rows a block adds to the table, in this order; without QK-norm the two norms of the heads are missing, and the
 * three biases where there are none. */
int rb_block_tensors(const rb_block_dims *s);
/* prefix "model.layers.3."; std of the matrices, out_std of those that write to the residual stream. */
void rb_block_list(const rb_block_dims *s, const char *prefix, rb_role role, double std, double out_std,
                   rb_tensor_list *l);

/* What the forward pass leaves for the backward one, beside the block's input; of a half its own. */
typedef struct rb_block_saved {
    rb_view rstd1;        /* (n) */
    rb_view qkv;          /* (n,C), q and k rotated; with QK-norm as they came out of the product */
    rb_view rstdq, rstdk; /* (n*H), (n*G), with QK-norm */
    rb_view att;          /* (n,H*D) */
    rb_view lse;          /* (n*H) */
    rb_view x2;           /* (n,d) the stream between the halves; half a block has it as input or output */
    rb_view rstd2;        /* (n) */
    rb_view gu;           /* (n,2f) gate and up; the backward pass may put their gradients in place */
} rb_block_saved;

/* Output gradients of the matrices, and h, for the weight half. */
typedef struct rb_block_kept {
    rb_view dqkv; /* (n,C) */
    rb_view dgu;  /* (n,2f) */
    rb_view h;    /* (n,f) */
    rb_view dx2;  /* (n,d) gradient of x2; may be dy's memory where rb_block_backward is used */
} rb_block_kept;

/* Shared by all blocks of a stage. */
typedef struct rb_block_scratch {
    rb_view norm; /* (n,d) */
    rb_view h;    /* (n,f) */
    rb_view att;  /* (n,H*D) gradient of the attention's output */
    rb_view qk;   /* (n,(H+G)*D) normed and rotated heads, with QK-norm */
    rb_view ones; /* (n,1), with biases */
} rb_block_scratch;

/* A key/value cache: (B, capacity, G*D) each. */
typedef struct rb_block_cache {
    rb_view k, v;
} rb_block_cache;

/* A block bound to memory. w and dw: views of its rows of the table, in order; dw NULL without training. Matrices of dw
 * that are away come from the lender, by their place in the table; its first row is `row`. */
typedef struct rb_block {
    rb_block_dims dims;
    const rb_view *w, *dw;
    const rb_rope_table *rope;
    const rb_lender *lender; /* NULL: everything is in memory */
    int row;
} rb_block;

/* Memory for up to n rows. in_place: kept.dgu is saved.gu (not where activations are computed again). */
void rb_block_plan_saved(const rb_block_dims *s, int64_t n, rb_plan *p, rb_block_saved *out);
void rb_block_plan_kept(const rb_block_dims *s, int64_t n, bool with_dgu, bool with_dx2, rb_plan *p,
                        rb_block_kept *out);
void rb_block_plan_scratch(const rb_block_dims *s, int64_t n, rb_plan *p, rb_block_scratch *out);

/* y (n,d) from x (n,d). With a cache, keys and values go into it at run->offset and attention reads all of it
 * up to the present. y may not be x. */
resbm_status rb_block_forward(const rb_block *b, const rb_run_ctx *run, rb_view y, rb_view x,
                              const rb_block_saved *s, const rb_block_scratch *tmp,
                              const rb_block_cache *cache, rb_err *err);

/* dx (n,d) from dy (n,d). kept->dgu may be saved->gu. dx may be dy only in rb_block_backward. */
resbm_status rb_block_backward_input(const rb_block *b, const rb_run_ctx *run, rb_view dx, rb_view dy,
                                     rb_view x, const rb_block_saved *s, const rb_block_kept *kept,
                                     const rb_block_scratch *tmp, rb_err *err);
resbm_status rb_block_backward_weight(const rb_block *b, const rb_run_ctx *run, rb_view dy, rb_view x,
                                      const rb_block_saved *s, const rb_block_kept *kept,
                                      const rb_block_scratch *tmp, rb_err *err);
/* Both halves; the gradient dx replaces dy in the same memory (kept->dx2 is not used). */
resbm_status rb_block_backward(const rb_block *b, const rb_run_ctx *run, rb_view dx, rb_view x,
                               const rb_block_saved *s, const rb_block_kept *kept,
                               const rb_block_scratch *tmp, rb_err *err);

#endif
