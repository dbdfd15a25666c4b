/* What a comparison came to, as rows; Markdown, JSON and the page are made of these and of nothing else. */
#ifndef RB_RUN_COMPARE_RESULT_H
#define RB_RUN_COMPARE_RESULT_H

#include "run/compare_study.h"

/* Unknown numbers are NAN. */
typedef struct rb_compare_row {
    const rb_compare_variant *variant;
    const char *point;    /* what its sweep came to, "" without */
    char boundary[200];   /* "residual none d/32 int4, trunk" */
    bool uncompressed;
    int seeds, done, failed;
    const char *fault;    /* of the first seed that failed; NULL */
    int edge;             /* of the sweep */
    int64_t steps, tokens_per_step;
    double loss, deviation;   /* final; mean and deviation over the seeds that are done */
    double seed_loss[RB_COMPARE_SEEDS], seed_reach[RB_COMPARE_SEEDS]; /* (seeds) */
    rb_curve mean;            /* over those seeds */
    double *spread;           /* (mean.n) deviation over the seeds */
    double reach;             /* steps to the target on the mean curve */
    int reached;              /* seeds that reached it */
    double ratio;             /* of reach to the reference's */
    uint64_t params;
} rb_compare_row;

typedef struct rb_compare_result {
    const rb_study *study;
    rb_compare_row *row; /* (rows), a variant each */
    int rows;
    double target;
    int reference; /* the best uncompressed row; -1: none is known */
    bool equal_tokens; /* every variant but those of equal time trains on as many */
} rb_compare_result;

resbm_status rb_compare_gather(const rb_study *t, rb_compare_result *out, rb_err *err);
void rb_compare_result_free(rb_compare_result *r);

void rb_compare_markdown(const rb_compare_result *r, rb_buf *out);
resbm_status rb_compare_json(const rb_compare_result *r, rb_buf *out, rb_err *err);

/* Gathers, writes compare.md, compare.json and report.html, and gives the Markdown. */
resbm_status rb_compare_write(const rb_study *t, rb_buf *table, rb_err *err);

#endif
