#include "device/cpu/isa.h"

void RB_ISA_NAME(rb_cpu_slots)(rb_device_table *t) {
    t->kernel[RB_OP_FILL] = RB_ISA_NAME(rb_cpu_fill);
    t->kernel[RB_OP_AXPBY] = RB_ISA_NAME(rb_cpu_axpby);
    t->kernel[RB_OP_EMBED_FWD] = RB_ISA_NAME(rb_cpu_embed_forward);
    t->kernel[RB_OP_EMBED_BWD] = RB_ISA_NAME(rb_cpu_embed_backward);
    t->kernel[RB_OP_RMSNORM_FWD] = RB_ISA_NAME(rb_cpu_rmsnorm_forward);
    t->kernel[RB_OP_RMSNORM_BWD_X] = RB_ISA_NAME(rb_cpu_rmsnorm_backward_x);
    t->kernel[RB_OP_RMSNORM_BWD_W] = RB_ISA_NAME(rb_cpu_rmsnorm_backward_w);
    t->kernel[RB_OP_ROPE] = RB_ISA_NAME(rb_cpu_rope);
    t->kernel[RB_OP_ATTN_FWD] = RB_ISA_NAME(rb_cpu_attention_forward);
    t->kernel[RB_OP_ATTN_BWD] = RB_ISA_NAME(rb_cpu_attention_backward);
    t->kernel[RB_OP_SWIGLU_FWD] = RB_ISA_NAME(rb_cpu_swiglu_forward);
    t->kernel[RB_OP_SWIGLU_BWD] = RB_ISA_NAME(rb_cpu_swiglu_backward);
    t->kernel[RB_OP_SILU_FWD] = RB_ISA_NAME(rb_cpu_silu_forward);
    t->kernel[RB_OP_SILU_BWD] = RB_ISA_NAME(rb_cpu_silu_backward);
    t->kernel[RB_OP_XENT] = RB_ISA_NAME(rb_cpu_xent);
    t->kernel[RB_OP_SUM] = RB_ISA_NAME(rb_cpu_sum);
    t->kernel[RB_OP_SUMSQ] = RB_ISA_NAME(rb_cpu_sumsq);
    t->kernel[RB_OP_NORMALIZE] = RB_ISA_NAME(rb_cpu_normalize);
    t->kernel[RB_OP_ADAMW] = RB_ISA_NAME(rb_cpu_adamw);
    t->kernel[RB_OP_MUON_MOMENTUM] = RB_ISA_NAME(rb_cpu_muon_momentum);
    t->kernel[RB_OP_PACK] = RB_ISA_NAME(rb_cpu_pack);
    t->kernel[RB_OP_UNPACK] = RB_ISA_NAME(rb_cpu_unpack);
    t->kernel[RB_OP_CODE_STATS] = RB_ISA_NAME(rb_cpu_code_stats);
}
