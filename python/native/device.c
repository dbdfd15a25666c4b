/* The device layer as the codec alone needs it: one processor, two operations, no oneDNN. Takes the place of
 * src/device/device.c and cpu/table.c in the Python package's library (python/CMakeLists.txt). */
#include <stdlib.h>
#include "device/check.h"
#include "device/device.h"

#ifdef RB_PORTABLE_X86
#define KERNELS(isa)                                                                                         \
    resbm_status rb_cpu_pack_##isa(rb_queue *q, const rb_op *op, rb_err *err);                               \
    resbm_status rb_cpu_unpack_##isa(rb_queue *q, const rb_op *op, rb_err *err);                             \
    resbm_status rb_cpu_code_stats_##isa(rb_queue *q, const rb_op *op, rb_err *err);
KERNELS(v2)
KERNELS(v3)
KERNELS(v4)
#define TABLE(isa)                                                                                           \
    {                                                                                                        \
        [RB_OP_PACK] = rb_cpu_pack_##isa, [RB_OP_UNPACK] = rb_cpu_unpack_##isa,                              \
        [RB_OP_CODE_STATS] = rb_cpu_code_stats_##isa                                                         \
    }
static const rb_device_table tables[] = {{.name = "v2", .kernel = TABLE(v2)},
                                         {.name = "v3", .kernel = TABLE(v3)},
                                         {.name = "v4", .kernel = TABLE(v4)}};

static const rb_device_table *best(void) {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512cd"))
        return &tables[2];
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")
               ? &tables[1]
               : &tables[0];
}
#else
resbm_status rb_ref_pack(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_unpack(rb_queue *q, const rb_op *op, rb_err *err);
resbm_status rb_ref_code_stats(rb_queue *q, const rb_op *op, rb_err *err);
static const rb_device_table table = {
    .name = "ref",
    .kernel = {
        [RB_OP_PACK] = rb_ref_pack, [RB_OP_UNPACK] = rb_ref_unpack, [RB_OP_CODE_STATS] = rb_ref_code_stats}};

static const rb_device_table *best(void) {
    return &table;
}
#endif

resbm_status rb_device_open(const char *name, const rb_device_options *opt, rb_device **out, rb_err *err) {
    (void)name;
    rb_device *d = calloc(1, sizeof *d);
    if (!d) return rb_fail(err, RESBM_E_MEMORY, "no memory for a codec");
    d->table = best();
    d->opt = *opt;
    *out = d;
    return RESBM_OK;
}

void rb_device_close(rb_device *d) {
    free(d);
}

resbm_status rb_queue_open(rb_device *d, rb_queue **out, rb_err *err) {
    rb_queue *q = calloc(1, sizeof *q);
    if (!q) return rb_fail(err, RESBM_E_MEMORY, "no memory for a codec");
    q->dev = d;
    *out = q;
    return RESBM_OK;
}

void rb_queue_close(rb_queue *q) {
    free(q);
}

resbm_status rb_queue_sync(rb_queue *q, rb_err *err) {
    (void)q, (void)err; /* kernels here are done when they return */
    return RESBM_OK;
}

resbm_status rb_run(rb_queue *q, const rb_op *op, rb_err *err) {
    RB_TRY(rb_check_op(op, err));
    rb_kernel kernel = q->dev->table->kernel[op->kind];
    return kernel ? kernel(q, op, err)
                  : rb_fail(err, RESBM_E_INTERNAL, "operation %d is not in the codec's library", op->kind);
}
