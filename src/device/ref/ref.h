/* The reference device: plain C that can be read beside the formula, accumulating in double. Contracts of the
 * operations are in device/ops.h; a kernel takes its operands in the order ops.h's function puts them into the
 * record (outputs first). */
#ifndef RB_DEVICE_REF_REF_H
#define RB_DEVICE_REF_REF_H

#include "device/device.h"

resbm_status rb_ref_fill(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_axpby(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_gemm(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_syrk(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_embed_forward(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_embed_backward(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_rmsnorm_forward(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_rmsnorm_backward_x(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_rmsnorm_backward_w(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_rope(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_attention_forward(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_attention_backward(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_swiglu_forward(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_swiglu_backward(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_silu_forward(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_silu_backward(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_xent(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_sum(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_sumsq(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_normalize(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_adamw(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_topk(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_scatter(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_muon_momentum(rb_queue *q, const rb_op *op, rb_err *err);

#endif
