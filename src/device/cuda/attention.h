/* Attention's operands, and what its kernels share. attention.cc takes a library (attention_sdpa.cu) where the device has one
 * and the operation is for it, else the tensor cores (attention_forward.cu, attention_backward.cu) where products are 16-bit
 * and heads not too wide, else the ordinary cores (attention_f32.cu). */
#ifndef RB_DEVICE_CUDA_ATTENTION_H
#define RB_DEVICE_CUDA_ATTENTION_H

#include "device/cuda/cuda.h"
#ifdef RB_FOR_KERNELS
#include "device/cuda/wide.h"
#endif

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

/* Heads as the tensor cores' kernels read them: row (b,t,h) begins b*per_b + t*per_t + h*per_h elements behind `at`, at a multiple
 * of 16 bytes, and is `width` wide, a multiple of 8 (attention_halves.cu). */
struct rb_half_heads {
    const uint16_t *at;
    int64_t per_b, per_t, per_h;
    int width;
};
/* Working memory that the first `rows` rows of each of v's sequences need to be such, if they are not; a multiple of 16. */
size_t rb_cuda_half_bytes(rb_queue *q, const rb_view *v, int64_t rows);
/* Those rows, each number times *factor (device; NULL: 1): where they lie, or rounded at *room, which moves on. */
rb_half_heads rb_cuda_halves(rb_queue *q, const rb_view *v, int64_t rows, const float *factor, char **room);

#ifdef RB_FOR_KERNELS
struct alignas(8) rb_two {
    float x, y;
};
/* Columns [col, col + 8) of a row of `width`, 0 behind it; in whole words of memory where they begin at 16 bytes. */
static __device__ __forceinline__ void rb_eight(float *v, const rb_cells &row, int col, int width) {
    const char *at = (const char *)row.at + col * (row.half ? 2 : 4);
    if (col + 8 > width || (uintptr_t)at % sizeof(rb_chunk)) {
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = col + i < width ? row.get(col + i) : 0.0f;
        return;
    }
    if (row.half) {
        rb_wide<uint16_t, 8> x = rb_take<8>((const uint16_t *)at);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = x[i];
    } else {
        rb_wide<float, 8> x = rb_take<8>((const float *)at);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = x[i];
    }
}
#endif

resbm_status rb_cuda_attention_forward_f32(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_cuda_attention_backward_f32(rb_queue *q, const rb_op *op, rb_err *err);
/* Heads up to this width, and scores times a factor above 0. */
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
