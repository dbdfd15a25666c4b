/* Where a device's time goes, operation by operation: RESBM_CUDA_PROFILE=FILE when it opens. Every operation is put between two
 * events of its queue; nothing waits for them before there are thousands, or the device closes. Its table is then added to FILE:
 * operations by kind and shapes, how often, the device's time, and the host's for queueing them. Events cost some microseconds an
 * operation, and a device that waits for the host counts the wait. */
#ifndef RB_DEVICE_CUDA_PROFILE_H
#define RB_DEVICE_CUDA_PROFILE_H

#include "device/cuda/cuda.h"

struct rb_cuda_profile;

/* Takes the place of every kernel in d's table, where the profile is asked for. */
resbm_status rb_cuda_profile_open(rb_cuda_device *d, rb_err *err);
/* Reads what queue still has to tell, before its stream goes. */
void rb_cuda_profile_queue_closes(rb_cuda_queue *q);
/* Adds the table to the file. NULL is fine. */
void rb_cuda_profile_close(rb_cuda_device *d);

#endif
