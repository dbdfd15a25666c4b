/* Every kernel's place in the table. */
#include "device/cuda/cuda.h"

void rb_cuda_slots(rb_device_table *t) {
    rb_kernel *k = t->kernel;
    k[RB_OP_FILL] = rb_cuda_fill;
    k[RB_OP_AXPBY] = rb_cuda_axpby;
    k[RB_OP_GEMM] = rb_cuda_gemm;
    k[RB_OP_SYRK] = rb_cuda_syrk;
    k[RB_OP_EMBED_FWD] = rb_cuda_embed_forward;
    k[RB_OP_EMBED_BWD] = rb_cuda_embed_backward;
    k[RB_OP_RMSNORM_FWD] = rb_cuda_rmsnorm_forward;
    k[RB_OP_RMSNORM_BWD_X] = rb_cuda_rmsnorm_backward_x;
    k[RB_OP_RMSNORM_BWD_W] = rb_cuda_rmsnorm_backward_w;
    k[RB_OP_ROPE] = rb_cuda_rope;
    k[RB_OP_ATTN_FWD] = rb_cuda_attention;
    k[RB_OP_ATTN_BWD] = rb_cuda_attention;
    k[RB_OP_SWIGLU_FWD] = rb_cuda_swiglu_forward;
    k[RB_OP_SWIGLU_BWD] = rb_cuda_swiglu_backward;
    k[RB_OP_SILU_FWD] = rb_cuda_silu_forward;
    k[RB_OP_SILU_BWD] = rb_cuda_silu_backward;
    k[RB_OP_XENT] = rb_cuda_xent;
    k[RB_OP_SUM] = rb_cuda_sum;
    k[RB_OP_SUMSQ] = rb_cuda_sumsq;
    k[RB_OP_NORMALIZE] = rb_cuda_normalize;
    k[RB_OP_ADAMW] = rb_cuda_adamw;
    k[RB_OP_MUON_MOMENTUM] = rb_cuda_muon_momentum;
    k[RB_OP_PACK] = rb_cuda_pack;
    k[RB_OP_UNPACK] = rb_cuda_unpack;
    k[RB_OP_CODE_STATS] = rb_cuda_code_stats;
    k[RB_OP_TOPK] = rb_cuda_topk;
    k[RB_OP_SCATTER] = rb_cuda_scatter;
}
