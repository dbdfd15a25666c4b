/* The operations, one typed function each: builds the record and runs it on the queue. Shapes after each
 * operand; legend in device.h. "+=" operands are read and written. All numbers f32 unless said. Operands of products, RMSNorm
 * (not w, rstd, dw), rope, attention (not lse) and SwiGLU may each be bf16: computed as in f32 from what they are, results
 * rounded once, to nearest even. Rows may be
 * strided (columns of a wider matrix); the last dimension has stride 1. Returns at once where the device is
 * asynchronous. RESBM_E_ARG names the operation and the operand whose shape or type does not fit. */
#ifndef RB_DEVICE_OPS_H
#define RB_DEVICE_OPS_H

#include "device/device.h"

/* x (any rank, rows may be strided) = value; x f32, f64, i64, i32 or u8. */
resbm_status rb_fill(rb_queue *q, rb_view x, float value, rb_err *err);

/* y = alpha x + beta y; same shape, rank 1..3, either may be strided by rows. beta 0 ignores what y held
 * (NaN included). x and y f32 or bf16 each (conversion: nearest even). y may be x itself. */
resbm_status rb_axpby(rb_queue *q, float alpha, rb_view x, float beta, rb_view y, rb_err *err);

/* C (M,N) = alpha op(A) (M,K) op(B) (K,N) + beta C; op transposes when ta/tb. beta 0 ignores what C held. */
resbm_status rb_gemm(rb_queue *q, bool ta, bool tb, float alpha, rb_view a, rb_view b, float beta, rb_view c,
                     rb_err *err);

/* The same with what is added elsewhere: C = alpha op(A) op(B) + beta E; C is only written, E (M,N) shares no
 * memory with it but may be a factor. An E in f32 beside a C in bf16 may be rounded before it is added. */
resbm_status rb_gemm_plus(rb_queue *q, bool ta, bool tb, float alpha, rb_view a, rb_view b, float beta,
                          rb_view e, rb_view c, rb_err *err);

/* C (M,M) = alpha op(A) op(A)^T + beta C, symmetric to the bit: what is below the diagonal is computed, what is above
 * mirrors it. op(A) is (M,K), A's transpose when ta. Of C only the lower triangle is read; beta 0 ignores it too. */
resbm_status rb_syrk(rb_queue *q, bool ta, float alpha, rb_view a, float beta, rb_view c, rb_err *err);

/* out (n,d) = table (V,d) rows picked by ids (n) i32. An id outside [0,V) is RESBM_E_ARG on host-side
 * devices. */
resbm_status rb_embed_forward(rb_queue *q, rb_view out, rb_view table, rb_view ids, rb_err *err);
/* dtable (V,d) += dout (n,d) by ids (n), tokens in ascending order. */
resbm_status rb_embed_backward(rb_queue *q, rb_view dtable, rb_view dout, rb_view ids, rb_err *err);

/* y = x * rstd * w per row of the last dimension, rstd = 1/sqrt(mean(x^2) + eps) (Zhang & Sennrich 2019).
 * x, y (n,d) or (n,H,D) (rows = the leading dimensions); rstd (rows) out; w (d) or absent. y may be x only if
 * the caller never needs x again. */
resbm_status rb_rmsnorm_forward(rb_queue *q, rb_view y, rb_view rstd, rb_view x, rb_view w, float eps,
                                rb_err *err);
/* dx = beta dx + the input gradient; dx, dy, x as above; dx may be dy. */
resbm_status rb_rmsnorm_backward_x(rb_queue *q, rb_view dx, float beta, rb_view dy, rb_view x, rb_view w,
                                   rb_view rstd, rb_err *err);
/* dw (d) += sum over rows of dy * x * rstd, in pieces of 64 rows combined in order. */
resbm_status rb_rmsnorm_backward_w(rb_queue *q, rb_view dw, rb_view dy, rb_view x, rb_view rstd, rb_err *err);

/* Rotary embedding in place on x (B,T,H,D), pairs (i, i+D/2) as in Hugging Face's Llama; cos, sin (>=
 * offset+T, D/2); row t uses table row offset+t. inverse rotates back (the backward). */
resbm_status rb_rope(rb_queue *q, rb_view x, rb_view cos, rb_view sin, int64_t offset, bool inverse,
                     rb_err *err);

/* Causal attention, blocked (no B,H,T,T tensor): out (B,T,H,D), lse (B,H,T) out, q (B,T,H,D), k, v (B,S,G,D),
 * H a multiple of G; query t sees keys 0..offset+t, offset + T <= S. scale multiplies the scores. */
resbm_status rb_attention_forward(rb_queue *q, rb_view out, rb_view lse, rb_view qv, rb_view k, rb_view v,
                                  int64_t offset, float scale, rb_err *err);
/* dq, dk, dv (written, not added) from dout; offset is 0 and S = T. */
resbm_status rb_attention_backward(rb_queue *q, rb_view dq, rb_view dk, rb_view dv, rb_view dout, rb_view out,
                                   rb_view lse, rb_view qv, rb_view k, rb_view v, float scale, rb_err *err);

/* h (n,f) = silu(gate (n,f)) * up (n,f) (Shazeer 2020). */
resbm_status rb_swiglu_forward(rb_queue *q, rb_view h, rb_view gate, rb_view up, rb_err *err);
/* dgate, dup, from dh; h (n,f), when present, is computed again in the same pass. dgate/dup may be gate/up
 * and h may be dh (same view exactly). */
resbm_status rb_swiglu_backward(rb_queue *q, rb_view dgate, rb_view dup, rb_view h, rb_view dh, rb_view gate,
                                rb_view up, rb_err *err);
resbm_status rb_silu_forward(rb_queue *q, rb_view y, rb_view x, rb_err *err); /* y may be x */
resbm_status rb_silu_backward(rb_queue *q, rb_view dx, rb_view dy, rb_view x,
                              rb_err *err); /* dx may be dy or x */

/* Softmax cross-entropy on a chunk of logits (n,V): loss (n) = -log softmax(logits)[target]; when grad_scale
 * is not 0, logits become grad_scale * (softmax - onehot). targets (n) i32; a target < 0 gives loss 0,
 * gradient 0. */
resbm_status rb_xent(rb_queue *q, rb_view loss, rb_view logits, rb_view targets, float grad_scale,
                     rb_err *err);
/* The same with the gradient elsewhere: grad (n,V), f32 or bf16, shares no memory with the logits, which are only read;
 * grad_scale is not 0. */
resbm_status rb_xent_apart(rb_queue *q, rb_view loss, rb_view grad, rb_view logits, rb_view targets,
                           float grad_scale, rb_err *err);

/* out (1) f64 = sum of x / of x^2 (x f32, rank 1..2), in pieces of 4096 elements of the flattened tensor
 * combined in order, double accumulation inside and across. */
resbm_status rb_sum(rb_queue *q, rb_view out, rb_view x, rb_err *err);
resbm_status rb_sumsq(rb_queue *q, rb_view out, rb_view x, rb_err *err);
/* y = x / max(sqrt(sumsq (1) f64), eps); y f32 or bf16, and may be x. */
resbm_status rb_normalize(rb_queue *q, rb_view y, rb_view x, rb_view sumsq, float eps, rb_err *err);

/* One AdamW update (Loshchilov & Hutter 2019, PyTorch's order of operations): g is scaled by grad_scale
 * first; p *= 1 - lr*wd; m, v moments; p -= lr/bias1 * m / (sqrt(v)/sqrt(bias2) + eps), bias1 = 1-beta1^t,
 * bias2 = 1-beta2^t. All flat (count) views of the same size. */
typedef struct rb_adamw_args {
    double lr, beta1, beta2, eps, weight_decay, bias1, bias2, grad_scale;
} rb_adamw_args;
resbm_status rb_adamw(rb_queue *q, rb_view p, rb_view m, rb_view v, rb_view g, const rb_adamw_args *a,
                      rb_err *err);
/* buf = momentum*buf + (1-momentum)*g*grad_scale; update = nesterov ? momentum*buf +
 * (1-momentum)*g*grad_scale : buf (torch.optim.Muon's lerp form). Flat or (m,n). update may be g. */
resbm_status rb_muon_momentum(rb_queue *q, rb_view buf, rb_view update, rb_view g, float momentum,
                              float grad_scale, bool nesterov, rb_err *err);

/* values (n,k) = the k coordinates of each row of x (n,d) of largest size, largest first (equal ones: in the order of
 * their places), index (n,k) = their places as whole numbers in f32; k <= d <= 2^24. NaN counts as the largest. */
resbm_status rb_topk(rb_queue *q, rb_view values, rb_view index, rb_view x, rb_err *err);
/* y (n,d) = beta y, then y[index] += alpha values, pick by pick; beta 0 ignores what y held. RESBM_E_ARG on host-side
 * devices names an index outside [0,d): they may come from a stranger. */
resbm_status rb_scatter(rb_queue *q, float alpha, rb_view values, rb_view index, float beta, rb_view y,
                        rb_err *err);

/* Transport codec: latents to bytes and back (DESIGN of formats: codec/codec.h). */
typedef enum rb_code {
    RB_CODE_F32,
    RB_CODE_BF16,
    RB_CODE_INT8,
    RB_CODE_INT4,
    RB_CODE_INT2,
    RB_CODE_INT1,
    RB_CODEC_COUNT,                  /* those before are what latents may be packed with; */
    RB_CODE_INDEX8 = RB_CODEC_COUNT, /* whole numbers up to 255 */
    RB_CODE_INDEX16,                 /* and 65535, unsigned */
    RB_CODE_COUNT
} rb_code;
typedef enum rb_scale {
    RB_SCALE_NONE,  /* f32, bf16 */
    RB_SCALE_STEP,  /* one given step per latent coordinate: steps (k); nothing on the wire */
    RB_SCALE_TOKEN, /* one bf16 scale per token */
    RB_SCALE_GROUP, /* one bf16 scale per group of up to 64 consecutive values of one sequence */
    RB_SCALE_GROUP_32,
    RB_SCALE_GROUP_16,
    RB_SCALE_GROUP_8,
    RB_SCALE_GROUP_4,
    RB_SCALE_GROUP_2,
    RB_SCALE_COUNT
} rb_scale;
/* Values of a group; 0 where the scale is no group's. */
static inline int64_t rb_group_of(rb_scale s) {
    return s >= RB_SCALE_GROUP ? 64 >> (s - RB_SCALE_GROUP) : 0;
}
typedef struct rb_pack_args {
    rb_code code;
    rb_scale scale;
    bool stochastic;     /* stochastic rounding, else to nearest even */
    uint64_t seed, step; /* with boundary and direction: the key of the random bits */
    uint64_t sequence;   /* number of the first sequence in the run's whole order; row b is sequence + b */
    uint32_t boundary, direction; /* direction 0 forward, 1 backward */
} rb_pack_args;
/* Bytes of a packed (B,T,k) tensor: exact, and a multiple of nothing. -1 for an impossible combination. */
int64_t rb_packed_bytes(const rb_pack_args *a, int64_t B, int64_t T, int64_t k);
/* bytes (u8, rb_packed_bytes) from x (B,T,k); steps (k) or absent. RESBM_E_NUMERIC: int2 or int1 with learned
 * steps, whose codes are all taken, met a value that is not finite. */
resbm_status rb_pack(rb_queue *q, rb_view bytes, rb_view x, rb_view steps, const rb_pack_args *a,
                     rb_err *err);
/* x (B,T,k) from bytes; the exact inverse map of the codes. */
resbm_status rb_unpack(rb_queue *q, rb_view x, rb_view bytes, rb_view steps, const rb_pack_args *a,
                       rb_err *err);
/* stats (k) i64 += sum over tokens of code^2 (int2, int1: (2 code + 1)^2) per coordinate, from packed bytes of
 * RB_SCALE_STEP:
 * what both ends of a link can see alike, from which the learned steps are updated. shape gives (B,T,k). */
resbm_status rb_code_stats(rb_queue *q, rb_view stats, rb_view bytes, int64_t B, int64_t T,
                           const rb_pack_args *a, rb_err *err);

#endif
