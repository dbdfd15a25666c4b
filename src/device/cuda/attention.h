/* Attention's operands, and what its kernels share. attention.cc takes a library (attention_sdpa.cu) where the device has one
 * and the operation is for it, else the tensor cores (attention_forward.cu, attention_backward.cu) where products are 16-bit
 * and heads not too wide, else the ordinary cores (attention_f32.cu). */
#ifndef RB_DEVICE_CUDA_ATTENTION_H
#define RB_DEVICE_CUDA_ATTENTION_H

#include "device/cuda/cuda.h"

struct rb_attention_shape {
    int64_t B, T, S, H, G, offset;
    int D;
    float scale;
};
struct rb_attention_grads {
    rb_view dq, dk, dv, dout, out, lse, q, k, v;
};

static inline rb_attention_shape rb_attention_forward_shape(const rb_op *op) {
    const rb_view *q = &op->t[2], *k = &op->t[3];
    return {q->shape[0], q->shape[1], k->shape[1],      q->shape[2],
            k->shape[2], op->i[0],    (int)q->shape[3], op->f[0]};
}
static inline rb_attention_shape rb_attention_backward_shape(const rb_op *op) {
    const rb_view *q = &op->t[6], *k = &op->t[7];
    return {q->shape[0], q->shape[1], q->shape[1], q->shape[2], k->shape[2], 0, (int)q->shape[3], op->f[0]};
}
static inline rb_attention_grads rb_attention_grads_of(const rb_op *op) {
    const rb_view *t = op->t;
    return {t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], t[8]};
}

/* delta (B,H,T) = sum over a head's width of dout out, in working memory 0. up (device): of dout times *up as the tensor
 * cores' numbers have it, so that it cancels against products of those; NULL: of dout as it is. */
resbm_status rb_cuda_attention_delta(rb_queue *q, const rb_attention_grads *x, const rb_attention_shape *s,
                                     const float *up, float **delta, rb_err *err);

resbm_status rb_cuda_attention_forward_f32(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_cuda_attention_backward_f32(rb_queue *q, const rb_op *op, rb_err *err);
/* Heads up to this width. */
enum { RB_TILE_WIDTH = 128 };
resbm_status rb_cuda_attention_forward_tiles(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_cuda_attention_backward_tiles(rb_queue *q, const rb_op *op, rb_err *err);
/* By the kernels above. */
resbm_status rb_cuda_attention_own(rb_queue *q, const rb_op *op, rb_err *err);

/* Is the operation for a library: as many keys as queries, more than one of them, lse without gaps? */
bool rb_cuda_attention_for_sdpa(const rb_op *op);
/* By the device's library. RESBM_E_UNSUPPORTED: it does not do this shape, and why. */
resbm_status rb_cuda_attention_sdpa(rb_queue *q, const rb_op *op, rb_err *err);

/* By whichever of the two is faster: timed when a shape is first met, which the host waits for, and kept. */
resbm_status rb_cuda_attention_faster(rb_queue *q, const rb_op *op, rb_err *err);
struct rb_cuda_choices *rb_cuda_choices_new(void); /* NULL: no memory */
void rb_cuda_choices_free(struct rb_cuda_choices *c);
/* What was chosen so far, for people. */
void rb_cuda_choices_say(struct rb_cuda_choices *c, char *text, size_t size);

#endif
