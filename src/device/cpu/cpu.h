/* The cpu device: starts as a copy of the reference's table and overrides slots. Its kernels run in OpenMP
 * teams of opt.threads threads, on pieces fixed by the tensors' shapes; a queue serves one host thread. */
#ifndef RB_DEVICE_CPU_CPU_H
#define RB_DEVICE_CPU_CPU_H

#include "device/device.h"

#ifdef _OPENMP
#include <omp.h>
#define rb_thread_number omp_get_thread_num
#else
static inline int rb_thread_number(void) {
    return 0;
}
#endif

typedef struct rb_cpu_device {
    rb_device base;
    rb_device_table table; /* base.table points here */
} rb_cpu_device;

/* Working memory of the queue's kernels, 64-byte aligned; its contents last until the next call. */
resbm_status rb_cpu_scratch(rb_queue *q, size_t bytes, void **out, rb_err *err);

resbm_status rb_cpu_gemm(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_cpu_syrk(rb_queue *q, const rb_op *op, rb_err *err);

#endif
