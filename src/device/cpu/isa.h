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
#define RB_ISA_PASTE(f, isa) RB_ISA_PASTE2(f, isa)
#define RB_ISA_NAME(f) RB_ISA_PASTE(f, RB_ISA)

/* codec kernels (cpu/isa/pack.c) */
resbm_status RB_ISA_NAME(rb_cpu_pack)(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status RB_ISA_NAME(rb_cpu_unpack)(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status RB_ISA_NAME(rb_cpu_code_stats)(rb_queue *q, const rb_op *op, rb_err *err);

#endif
