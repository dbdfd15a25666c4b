/* `resbm compare`: trains every variant of a specification with every seed, in child processes beside each other, and
 * says what each came to. All state is in the folder: an interrupted comparison goes on where it was, inside a run too.
 *
 *     DIR/compare.md, compare.json, report.html     the result, written at the end of every session
 *     DIR/runs/...                                  a folder per run (compare_run.h)
 *     DIR/timing/...                                what the times come from (compare_timing.h) */
#ifndef RB_RUN_COMPARE_H
#define RB_RUN_COMPARE_H

#include <stdatomic.h>
#include "core/buf.h"
#include "run/compare_spec.h"

typedef struct rb_compare_options {
    rb_compare_spec *spec; /* finished; sweeps may grow */
    const char *dir, *program;
    int jobs;               /* children at once, 1 or more */
    double budget_s;        /* of this session; 0: none. Spent: children stop with a snapshot */
    bool keep;              /* snapshots of finished runs stay */
    bool replace;           /* runs of another configuration are trained anew instead of refused */
    const atomic_int *stop; /* becomes 1: as if the budget were spent; may be NULL */
    void (*say)(void *ctx, const char *line); /* progress, a line at a time */
    void *ctx;
} rb_compare_options;

typedef struct rb_compare_outcome {
    int runs, done, failed; /* as far as they are known: a sweep's outcome decides on more */
    bool complete;          /* nothing left to train */
    bool stopped;           /* by request */
    rb_buf table;           /* Markdown; the caller frees */
} rb_compare_outcome;

/* Blocks until all is trained, the budget is spent or stop is set. A child's fault is a row of the result, not a fault
 * here. RESBM_E_STATE: runs in the folder belong to another configuration, each named with the keys that differ. */
resbm_status rb_compare(const rb_compare_options *o, rb_compare_outcome *out, rb_err *err);

#endif
