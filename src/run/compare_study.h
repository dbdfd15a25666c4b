/* The inside of a comparison: its runs, what of each variant is decided, and the results. Private to compare_*.c. */
#ifndef RB_RUN_COMPARE_STUDY_H
#define RB_RUN_COMPARE_STUDY_H

#include "run/compare.h"
#include "run/compare_config.h"
#include "run/compare_run.h"
#include "run/compare_timing.h"

/* What is known of a variant as a whole. */
typedef struct rb_compare_state {
    int best;       /* point of its sweep; -1: not decided yet, or none */
    int edge;       /* the best lies at the sweep's lowest (-1) or highest (1) value */
    int extended;   /* points added to it */
    int64_t steps;  /* of ALONE_AS_LONG, once time was measured; 0: not yet */
    double fitting; /* the steps that the present measurement gives; steps may be an earlier one's */
    bool capped;    /* and would have been longer but for spec.longest */
    bool failed;    /* no point of the sweep could be trained */
} rb_compare_state;

/* What is known of a variant's cost and time (compare_measure.h). */
typedef struct rb_compare_time {
    rb_timing measured;
    uint64_t key;                  /* hash of what it was measured with */
    rb_cost cost;                  /* of the deployed configuration */
    double step[RB_COMPARE_LINKS]; /* seconds by the timing model; NAN: unknown */
    char fault[400];
} rb_compare_time;

typedef struct rb_study {
    const rb_compare_options *o;
    rb_compare_spec *s;
    rb_config *base;
    rb_compare_state *state; /* (variants) */
    rb_compare_time *time;   /* (variants) */
    rb_compare_run **run;    /* (runs) pointers that stay */
    int runs, capacity;
    rb_buf changed; /* runs of another configuration, a line each */
} rb_study;

/* A list of runs wanted now, most urgent first. */
typedef struct rb_run_list {
    rb_compare_run **run;
    int count, capacity;
} rb_run_list;

/* Every run that the results so far call for, finished ones included; makes those it has not seen. */
resbm_status rb_study_wanted(rb_study *t, rb_run_list *out, rb_err *err);
/* The run, or NULL when it was never wanted. point "" where nothing is swept. */
rb_compare_run *rb_study_find(const rb_study *t, int variant, const char *point, int seed, double share);
/* The value of the variant's sweep that its seeds train with; "" where nothing is swept or nothing decided. */
const char *rb_study_point(const rb_study *t, int variant);
/* The variant at the first value of its sweep, with the first seed: what its checks and its times are made with. */
rb_compare_which rb_study_first(const rb_study *t, int variant);
/* The runs of a variant's result: one per seed, NULL where there is none. */
void rb_study_seeds(const rb_study *t, int variant, rb_compare_run *run[RB_COMPARE_SEEDS]);
resbm_status rb_study_config(const rb_study *t, const rb_compare_run *r, rb_config *out, rb_err *err);
void rb_study_free(rb_study *t);

#endif
