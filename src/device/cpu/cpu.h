/* The cpu device: starts as a copy of the reference's table and overrides slots. */
#ifndef RB_DEVICE_CPU_CPU_H
#define RB_DEVICE_CPU_CPU_H

#include "device/device.h"

typedef struct rb_cpu_device {
    rb_device base;
    rb_device_table table; /* base.table points here */
} rb_cpu_device;

#endif
