#include <stdlib.h>
#include "device/host.h"
#include "device/ref/pack.h"
#include "device/ref/ref.h"
#include "device/tables.h"

static resbm_status ref_open(const rb_device_options *opt, rb_device **out, rb_err *err) {
    if (opt->variant && *opt->variant)
        return rb_fail(err, RESBM_E_ARG, "device ref has no variant \"%s\"", opt->variant);
    rb_device *dev = malloc(sizeof *dev);
    if (!dev) return rb_fail(err, RESBM_E_MEMORY, "device ref: no memory");
    *dev = (rb_device){.table = &rb_ref_table, .opt = *opt};
    *out = dev;
    return RESBM_OK;
}

static void ref_close(rb_device *dev) {
    free(dev);
}

const rb_device_table rb_ref_table = {
    .name = "ref",
    .summary = "plain C, one thread, double accumulation: what the others are compared with",
    .open = ref_open,
    .close = ref_close,
    RB_HOST_SLOTS,
    .kernel =
        {
            [RB_OP_FILL] = rb_ref_fill,
            [RB_OP_AXPBY] = rb_ref_axpby,
            [RB_OP_GEMM] = rb_ref_gemm,
            [RB_OP_SYRK] = rb_ref_syrk,
            [RB_OP_EMBED_FWD] = rb_ref_embed_forward,
            [RB_OP_EMBED_BWD] = rb_ref_embed_backward,
            [RB_OP_RMSNORM_FWD] = rb_ref_rmsnorm_forward,
            [RB_OP_RMSNORM_BWD_X] = rb_ref_rmsnorm_backward_x,
            [RB_OP_RMSNORM_BWD_W] = rb_ref_rmsnorm_backward_w,
            [RB_OP_ROPE] = rb_ref_rope,
            [RB_OP_ATTN_FWD] = rb_ref_attention_forward,
            [RB_OP_ATTN_BWD] = rb_ref_attention_backward,
            [RB_OP_SWIGLU_FWD] = rb_ref_swiglu_forward,
            [RB_OP_SWIGLU_BWD] = rb_ref_swiglu_backward,
            [RB_OP_SILU_FWD] = rb_ref_silu_forward,
            [RB_OP_SILU_BWD] = rb_ref_silu_backward,
            [RB_OP_XENT] = rb_ref_xent,
            [RB_OP_SUM] = rb_ref_sum,
            [RB_OP_SUMSQ] = rb_ref_sumsq,
            [RB_OP_NORMALIZE] = rb_ref_normalize,
            [RB_OP_ADAMW] = rb_ref_adamw,
            [RB_OP_MUON_MOMENTUM] = rb_ref_muon_momentum,
            [RB_OP_PACK] = rb_ref_pack,
            [RB_OP_UNPACK] = rb_ref_unpack,
            [RB_OP_CODE_STATS] = rb_ref_code_stats,
            [RB_OP_TOPK] = rb_ref_topk,
            [RB_OP_SCATTER] = rb_ref_scatter,
        },
};
