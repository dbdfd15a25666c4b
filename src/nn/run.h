/* Where a pass runs: queue, shape of the microbatch, rotary tables. Legend as in device.h. */
#ifndef RB_NN_RUN_H
#define RB_NN_RUN_H

#include "device/ops.h"

typedef struct rb_run_ctx {
    rb_queue *q;
    int64_t B, T;
    int64_t offset; /* positions before this one (generation); 0 in training */
} rb_run_ctx;

/* cos, sin of the rotary embedding (Su et al. 2021): position p, pair j: p / theta^(2j/D). */
typedef struct rb_rope_table {
    rb_view cos, sin; /* (positions, D/2) */
} rb_rope_table;

/* For contexts longer than those of pretraining. An angle f a position makes `turns` = original f / (2 pi) turns in a
 * context of pretraining:
 *
 *     linear    f / factor
 *     llama3    f where turns >= high,  f / factor where turns <= low,  between them in proportion (Llama 3.1) */
typedef enum rb_rope_kind { RB_ROPE_NONE, RB_ROPE_LINEAR, RB_ROPE_LLAMA3 } rb_rope_kind;
typedef struct rb_rope_scaling {
    rb_rope_kind kind;
    double factor, low, high;
    int64_t original;
} rb_rope_scaling;

/* Fills both views (device memory, shapes set); waits for the queue. scaling NULL: none. */
resbm_status rb_rope_fill(rb_queue *q, const rb_rope_table *t, double theta, const rb_rope_scaling *scaling,
                          rb_err *err);

#endif
