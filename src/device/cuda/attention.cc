/* Which kernels attention takes. */
#include "device/cuda/attention.h"

static bool on_tensor_cores(rb_queue *q, int D) {
    rb_math m = rb_cuda_of(q)->math;
    return (m == RB_MATH_BF16 || m == RB_MATH_F16) && D <= RB_TILE_WIDTH;
}

RB_CUDA_SLOT(attention_forward) {
    bool tiles = on_tensor_cores(q, (int)op->t[2].shape[3]);
    return tiles ? rb_cuda_attention_forward_tiles(q, op, err) : rb_cuda_attention_forward_f32(q, op, err);
}

RB_CUDA_SLOT(attention_backward) {
    bool tiles = on_tensor_cores(q, (int)op->t[6].shape[3]);
    return tiles ? rb_cuda_attention_backward_tiles(q, op, err) : rb_cuda_attention_backward_f32(q, op, err);
}
