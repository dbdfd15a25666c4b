/* What every operation asks of its views; rb_run calls it before any kernel. */
#ifndef RB_DEVICE_CHECK_H
#define RB_DEVICE_CHECK_H

#include "device/device.h"

/* RESBM_E_ARG naming the operation, the operand, what it has and what was asked. */
resbm_status rb_check_op(const rb_op *op, rb_err *err);

#endif
