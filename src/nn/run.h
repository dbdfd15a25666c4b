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

/* Fills both views (device memory, shapes set); waits for the queue. */
resbm_status rb_rope_fill(rb_queue *q, const rb_rope_table *t, double theta, rb_err *err);

#endif
