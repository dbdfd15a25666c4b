#include <stdlib.h>
#include <string.h>
#include "device/cpu/cpu.h"
#include "device/cpu/isa.h"
#include "device/host.h"
#include "device/tables.h"

/* One set of vector code. supported() asks this processor. */
typedef struct isa {
    const char *name;
    bool (*supported)(void);
    void (*slots)(rb_device_table *t);
} isa;

#ifdef RB_PORTABLE_X86
/* cmake/portable.cmake compiled cpu/isa/ three times. */
void rb_cpu_slots_v2(rb_device_table *t);
void rb_cpu_slots_v3(rb_device_table *t);
void rb_cpu_slots_v4(rb_device_table *t);

static bool has_v2(void) {
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
}
static bool has_v3(void) {
    return has_v2() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}
static bool has_v4(void) {
    return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
static const isa isas[] = {
    {"v4", has_v4, rb_cpu_slots_v4}, {"v3", has_v3, rb_cpu_slots_v3}, {"v2", has_v2, rb_cpu_slots_v2}};
#else
#define STRING2(x) #x
#define STRING(x)  STRING2(x)
static bool always(void) {
    return true;
}
static const isa isas[] = {{STRING(RB_ISA), always, RB_ISA_NAME(rb_cpu_slots)}};
#endif

/* The best this processor has, or the one asked for. */
static resbm_status choose(const char *variant, const isa **out, rb_err *err) {
    bool any = !variant || !*variant;
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        if (!any && strcmp(variant, isas[i].name)) continue;
        *out = &isas[i];
        if (isas[i].supported()) return RESBM_OK;
        if (!any)
            return rb_fail(err, RESBM_E_UNSUPPORTED, "device cpu: this processor lacks instruction set %s",
                           variant);
    }
    if (any)
        return rb_fail(err, RESBM_E_UNSUPPORTED,
                       "device cpu: this processor has none of the instruction sets built in");
    return rb_fail(err, RESBM_E_ARG,
                   "device cpu: instruction set \"%s\" is not built in; the best one here is %s", variant,
                   isas[0].name);
}

typedef struct cpu_queue {
    rb_queue base;
    void *scratch;
    size_t bytes;
} cpu_queue;

static resbm_status queue_open(rb_device *dev, rb_queue **out, rb_err *err) {
    cpu_queue *q = calloc(1, sizeof *q);
    if (!q) return rb_fail(err, RESBM_E_MEMORY, "device cpu: no memory for a queue");
    q->base.dev = dev;
    *out = &q->base;
    return RESBM_OK;
}

static void queue_close(rb_queue *base) {
    free(((cpu_queue *)base)->scratch);
    free(base);
}

resbm_status rb_cpu_scratch(rb_queue *base, size_t bytes, void **out, rb_err *err) {
    cpu_queue *q = (cpu_queue *)base;
    if (bytes > q->bytes) {
        free(q->scratch);
        q->scratch = NULL;
        q->bytes = 0;
        RB_TRY(rb_host_alloc(base->dev, bytes, &q->scratch, err));
        q->bytes = bytes;
    }
    *out = q->scratch;
    return RESBM_OK;
}

static void cpu_close(rb_device *dev) {
    free(dev);
}

static resbm_status cpu_open(const rb_device_options *opt, rb_device **out, rb_err *err) {
    const isa *set = NULL;
    RB_TRY(choose(opt->variant, &set, err));
    rb_cpu_device *dev = calloc(1, sizeof *dev);
    if (!dev) return rb_fail(err, RESBM_E_MEMORY, "device cpu: no memory");
    dev->table = rb_ref_table;
    dev->table.name = rb_cpu_table.name;
    dev->table.summary = rb_cpu_table.summary;
    dev->table.open = cpu_open;
    dev->table.close = cpu_close;
    dev->table.queue_open = queue_open;
    dev->table.queue_close = queue_close;
    dev->table.kernel[RB_OP_GEMM] = rb_cpu_gemm;
    dev->table.kernel[RB_OP_SYRK] = rb_cpu_syrk;
    set->slots(&dev->table);
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
