/* What a comparison came to, as rows; Markdown, JSON and the page are made of these and of nothing else. */
#ifndef RB_RUN_COMPARE_RESULT_H
#define RB_RUN_COMPARE_RESULT_H

#include "run/compare_study.h"

/* Unknown numbers are NAN. */
typedef struct rb_compare_row {
    const rb_compare_variant *variant;
    const char *point;  /* what its sweep came to, "" without */
    char boundary[200]; /* "residual k 8 int4, identity none, tokens trunk" */
    bool uncompressed;
    int seeds, done, failed;
    const char *fault;                    /* of the first seed that failed; NULL */
    int edge;                             /* of the sweep */
    double sweep_loss[RB_COMPARE_POINTS]; /* (its values) with the first seed; NAN: not trained, or failed */
    int64_t steps, tokens_per_step;
    double loss, deviation; /* final; mean and deviation over the seeds that are done */
    double seed_loss[RB_COMPARE_SEEDS], seed_reach[RB_COMPARE_SEEDS]; /* (seeds) */
    rb_curve mean;                                                    /* over those seeds */
    double *spread;                                                   /* (mean.n) deviation over the seeds */
    double reach; /* steps to the target on the mean curve */
    int reached;  /* seeds that reached it */
    double
        ratio; /* of reach to the reference's; like time_to only where all seeds are done, as the target is of all */
    double params, extra_params; /* of the whole model; of it the boundaries' */
    double compute,
        extra_compute; /* operations of a step, forward and backward; of it the boundaries' share of the rest */
    double bytes_forward, bytes_backward,
        bytes_ids;                        /* per token and boundary, headers, scales and ids in; measured */
    double frame_forward, frame_backward; /* the same on paper */
    double step_measured;                 /* seconds, over the first link; */
    double step_least, step_most;         /* of the steps that this is the median of */
    double step[RB_COMPARE_LINKS];        /* by the timing model */
    double time_to[RB_COMPARE_LINKS];     /* seconds to the target */
    double rss;                           /* bytes of the largest stage */
    const char *time_fault;               /* NULL: none */
    double fitting;                       /* steps of an equal-time twin by the present measurement */
    bool capped;                          /* an equal-time twin that spec.longest cut short */
} rb_compare_row;

typedef struct rb_compare_result {
    const rb_study *study;
    rb_compare_row *row; /* (rows), a variant each */
    int rows;
    double target;
    int reference;     /* the best uncompressed row; -1: none is known */
    bool equal_tokens; /* every variant but those of equal time trains on as many */
} rb_compare_result;

resbm_status rb_compare_gather(const rb_study *t, rb_compare_result *out, rb_err *err);
void rb_compare_result_free(rb_compare_result *r);

/* The sentences that qualify the table, "- ...\\n" each. */
void rb_compare_notes(const rb_compare_result *r, rb_buf *out);
void rb_compare_markdown(const rb_compare_result *r, rb_buf *out);
resbm_status rb_compare_json(const rb_compare_result *r, rb_buf *out, rb_err *err);

/* Gathers, writes compare.md, compare.json and report.html, and gives the Markdown. */
resbm_status rb_compare_write(const rb_study *t, rb_buf *table, rb_err *err);

#endif
