/* The registry's entries, one per kind of device. */
#ifndef RB_DEVICE_TABLES_H
#define RB_DEVICE_TABLES_H

#include "device/device.h"

extern const rb_device_table rb_ref_table; /* ref/table.c: plain C, double accumulation, one thread */
extern const rb_device_table rb_cpu_table; /* cpu/table.c: oneDNN, OpenMP, vector code */
extern const rb_device_table
    rb_cuda_table; /* cuda/load.c: an NVIDIA GPU, by a plugin loaded when it is opened */
extern const rb_device_table rb_late_table;  /* late/table.c: completes late, memory hidden from the host */
extern const rb_device_table rb_timed_table; /* timed/table.c: computes nothing, takes its time */

#endif
