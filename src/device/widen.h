/* Activations in bf16 on devices that compute in f32 alone: operands are widened into memory of the call, outputs rounded from it.
 * What the meaning of such an operation is on every device: as in f32 from the widened operands, outputs rounded once, to the
 * nearest even. For devices whose memory the host may use. */
#ifndef RB_DEVICE_WIDEN_H
#define RB_DEVICE_WIDEN_H

#include "device/device.h"

/* It has a view in bf16 that is not the kernel's own affair. */
bool rb_wants_widening(const rb_op *op);
/* RESBM_E_MEMORY: none for the f32 copies. */
resbm_status rb_run_widened(rb_queue *q, const rb_op *op, rb_err *err);

#endif
