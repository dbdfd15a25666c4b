/* One training run of a comparison: its folder, and a child process `resbm train` that fills it.
 *
 * DIR/runs/VARIANT[/KEY-VALUE]/seed-N/ holds run.yaml (the resolved configuration, written before the start), train.log
 * and what every run leaves. A folder whose run.yaml differs in a key that bears on the loss is another run: it is named,
 * never continued. */
#ifndef RB_RUN_COMPARE_RUN_H
#define RB_RUN_COMPARE_RUN_H

#include <limits.h>
#include "core/buf.h"
#include "run/compare_stats.h"
#include "run/config.h"
#include "run/spawn.h"

typedef enum rb_run_state {
    RB_RUN_NEW,
    RB_RUN_HALF,  /* a snapshot to go on from */
    RB_RUN_BUSY,  /* a process that an earlier session left behind still works in the folder */
    RB_RUN_GOING, /* its child runs */
    RB_RUN_DONE,
    RB_RUN_FAILED, /* in this session; the next one tries it again */
    RB_RUN_CHANGED /* the folder holds a run of another configuration */
} rb_run_state;

typedef struct rb_compare_run {
    int variant, seed; /* numbers in the specification */
    char point[64];    /* value of the variant's sweep; empty: none */
    double share;      /* of train.steps; below 1 for the runs of a sweep */
    char name[200];    /* "narrow optim.lr-0.01 seed 1" */
    char dir[PATH_MAX];
    rb_run_state state;
    int64_t steps;   /* of the whole run */
    char fault[700]; /* FAILED, CHANGED */
    rb_child child;
    /* DONE: */
    rb_curve curve;
    double loss; /* of the last evaluation */
} rb_compare_run;

/* Looks into r->dir and fills state and, of a finished run, the results. cfg: what it is to be trained with. */
resbm_status rb_compare_run_look(rb_compare_run *r, const rb_config *cfg, rb_err *err);
/* Empties the folder of a run that is not the one wanted. */
resbm_status rb_compare_run_clear(const rb_compare_run *r, rb_err *err);
/* Starts or continues the child; state is then GOING, or BUSY without a fault. */
resbm_status rb_compare_run_start(rb_compare_run *r, const rb_config *cfg, const char *program, rb_err *err);
/* Of a BUSY run: is the folder free now? Look into it again then. */
bool rb_compare_run_free_now(const rb_compare_run *r);
/* Has the child ended? Then state is DONE, HALF (stopped), or FAILED with the child's own sentence. keep: snapshots
 * of a finished run stay. */
resbm_status rb_compare_run_poll(rb_compare_run *r, bool keep, bool *ended, rb_err *err);
/* Steps done so far by metrics.jsonl, for progress; 0 when there is none. */
int64_t rb_compare_run_progress(const rb_compare_run *r);
void rb_compare_run_free(rb_compare_run *r);

#endif
