/* Files in cpu/isa/ hold vector code. A native build compiles each once; a portable build compiles each once
 * per instruction set, with RB_ISA naming it, and the cpu device picks a table when it opens. Every function
 * with external linkage in such a file is named through RB_ISA_NAME. */
#ifndef RB_DEVICE_CPU_ISA_H
#define RB_DEVICE_CPU_ISA_H

#include "device/device.h"

#ifndef RB_ISA
#define RB_ISA native
#endif
#define RB_ISA_PASTE2(f, isa) f##_##isa
#define RB_ISA_PASTE(f, isa)  RB_ISA_PASTE2(f, isa)
#define RB_ISA_NAME(f)        RB_ISA_PASTE(f, RB_ISA)

/* Puts this instruction set's kernels into a table (cpu/isa/slots.c). */
void RB_ISA_NAME(rb_cpu_slots)(rb_device_table *t);

resbm_status RB_ISA_NAME(rb_cpu_fill)(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status RB_ISA_NAME(rb_cpu_axpby)(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status RB_ISA_NAME(rb_cpu_embed_forward)(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status RB_ISA_NAME(rb_cpu_embed_backward)(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status RB_ISA_NAME(rb_cpu_rmsnorm_forward)(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status RB_ISA_NAME(rb_cpu_rmsnorm_backward_x)(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status RB_ISA_NAME(rb_cpu_rmsnorm_backward_w)(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status RB_ISA_NAME(rb_cpu_rope)(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status RB_ISA_NAME(rb_cpu_attention_forward)(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status RB_ISA_NAME(rb_cpu_attention_backward)(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status RB_ISA_NAME(rb_cpu_swiglu_forward)(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status RB_ISA_NAME(rb_cpu_swiglu_backward)(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status RB_ISA_NAME(rb_cpu_silu_forward)(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status RB_ISA_NAME(rb_cpu_silu_backward)(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status RB_ISA_NAME(rb_cpu_xent)(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status RB_ISA_NAME(rb_cpu_sum)(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status RB_ISA_NAME(rb_cpu_sumsq)(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status RB_ISA_NAME(rb_cpu_normalize)(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status RB_ISA_NAME(rb_cpu_adamw)(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status RB_ISA_NAME(rb_cpu_muon_momentum)(rb_queue *q, const rb_op *op, rb_err *err);

/* codec kernels (cpu/isa/pack.c) */
resbm_status RB_ISA_NAME(rb_cpu_pack)(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status RB_ISA_NAME(rb_cpu_unpack)(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status RB_ISA_NAME(rb_cpu_code_stats)(rb_queue *q, const rb_op *op, rb_err *err);

#endif
