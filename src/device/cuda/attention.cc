/* Which kernels attention takes. */
#include "device/cuda/attention.h"

static bool on_tensor_cores(rb_queue *q, int D, float scale) {
    rb_math m = rb_cuda_of(q)->math;
    return (m == RB_MATH_BF16 || m == RB_MATH_F16) && D <= RB_TILE_WIDTH && scale > 0;
}

resbm_status rb_cuda_attention_own(rb_queue *q, const rb_op *op, rb_err *err) {
    bool back = op->kind == RB_OP_ATTN_BWD,
         tiles = on_tensor_cores(q, (int)op->t[back ? 6 : 2].shape[3], op->f[0]);
    if (back)
        return tiles ? rb_cuda_attention_backward_tiles(q, op, err)
                     : rb_cuda_attention_backward_f32(q, op, err);
    return tiles ? rb_cuda_attention_forward_tiles(q, op, err) : rb_cuda_attention_forward_f32(q, op, err);
}

RB_CUDA_SLOT(attention) {
    const rb_cuda_device *d = rb_cuda_of(q);
    if (!d->sdpa || !rb_cuda_attention_for_sdpa(op)) return rb_cuda_attention_own(q, op, err);
    return d->choices ? rb_cuda_attention_faster(q, op, err) : rb_cuda_attention_sdpa(q, op, err);
}
