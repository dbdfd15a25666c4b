/* Memory by plan: the same function walks a structure twice, once with base NULL to learn how many bytes it
 * needs, once with real memory to hand them out. Nothing is allocated after that. */
#ifndef RB_NN_PLAN_H
#define RB_NN_PLAN_H

#include "device/device.h"

typedef struct rb_plan {
    char *base; /* NULL while counting */
    size_t used;
    rb_dtype acts; /* what rb_plan_acts hands out: RB_F32 or RB_BF16 */
} rb_plan;

/* 64-byte aligned. NULL while counting. */
static inline void *rb_plan_take(rb_plan *p, size_t bytes) {
    size_t at = (p->used + 63) & ~(size_t)63;
    p->used = at + bytes;
    return p->base ? p->base + at : NULL;
}
static inline rb_view rb_plan1(rb_plan *p, int64_t a) {
    return rb_view1(rb_plan_take(p, (size_t)a * 4), RB_F32, a);
}
static inline rb_view rb_plan2(rb_plan *p, int64_t a, int64_t b) {
    return rb_view2(rb_plan_take(p, (size_t)(a * b) * 4), RB_F32, a, b);
}
/* What lies between the operations of a block and goes into products. */
static inline rb_view rb_plan_acts(rb_plan *p, int64_t a, int64_t b) {
    return rb_view2(rb_plan_take(p, (size_t)(a * b) * rb_dtype_size(p->acts)), p->acts, a, b);
}

#endif
