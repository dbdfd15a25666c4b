#include <stdlib.h>
#include "device/cpu/cpu.h"
#include "device/host.h"
#include "device/tables.h"

static void cpu_close(rb_device *dev) { free(dev); }

static resbm_status cpu_open(const rb_device_options *opt, rb_device **out, rb_err *err) {
    rb_cpu_device *dev = malloc(sizeof *dev);
    if (!dev) return rb_fail(err, RESBM_E_MEMORY, "device cpu: no memory");
    dev->table = rb_ref_table;
    dev->table.name = rb_cpu_table.name;
    dev->table.summary = rb_cpu_table.summary;
    dev->table.open = cpu_open;
    dev->table.close = cpu_close;
    dev->base.table = &dev->table;
    dev->base.opt = *opt;
    *out = &dev->base;
    return RESBM_OK;
}

const rb_device_table rb_cpu_table = {
    .name = "cpu",
    .summary = "oneDNN, OpenMP and vector code",
    .open = cpu_open,
};
