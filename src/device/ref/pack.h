/* Reference kernels of the transport codec; contract in device/ops.h. */
#ifndef RB_DEVICE_REF_PACK_H
#define RB_DEVICE_REF_PACK_H

#include "device/device.h"

resbm_status rb_ref_pack(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_unpack(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_code_stats(rb_queue *q, const rb_op *op, rb_err *err);

#endif
