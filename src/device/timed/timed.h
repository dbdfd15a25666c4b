/* Device "timed": computes nothing and takes the time computing would take. Its memory is addresses only, its
 * downloads are zeros. Opened on it, a stage tells what it needs without needing it: bytes taken and
 * floating-point operations asked for (resbm plan); with a speed, a run of real processes over real links takes
 * as long as on machines of that speed (pipeline.device: timed).
 *
 * Time stands on an absolute clock: an operation that is queued when the one before it is due begins at that
 * very moment, however late the host woke, so that errors do not add up. */
#ifndef RB_DEVICE_TIMED_TIMED_H
#define RB_DEVICE_TIMED_TIMED_H

#include "device/device.h"

/* Multiplications and additions of matrix products and attention (a causal one is counted at half); 0 for kinds
 * that only move and scale. */
double rb_op_flops(const rb_op *op);

/* What was asked for on this queue of a timed device so far; 0 for any other device. */
double rb_timed_flops(const rb_queue *q);
/* Bytes this timed device has handed out and not got back. */
size_t rb_timed_bytes(const rb_device *dev);

#endif
