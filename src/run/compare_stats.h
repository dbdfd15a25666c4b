/* The arithmetic of a comparison: means over seeds, when a loss was reached, which point of a sweep is best. */
#ifndef RB_RUN_COMPARE_STATS_H
#define RB_RUN_COMPARE_STATS_H

#include <stdbool.h>
#include <stddef.h>
#include "core/err.h"
#include "run/metrics.h"

typedef struct rb_curve {
    int n;
    double *step, *loss; /* (n) evaluations, ascending by step */
} rb_curve;

/* The evaluations of a run. The caller frees. */
resbm_status rb_curve_of(const rb_metrics *m, rb_curve *out, rb_err *err);
/* Mean over `count` curves at the steps that all of them have. The caller frees. */
resbm_status rb_curve_mean(const rb_curve *c, int count, rb_curve *out, rb_err *err);
void rb_curve_free(rb_curve *c);
/* The step at which the loss first came down to `loss`; between two evaluations it is taken to fall along a straight
 * line, before the first one nothing is known (a curve that begins below gives its first step). NAN: never. */
double rb_curve_reach(const rb_curve *c, double loss);

/* Mean, and the standard deviation over n - 1 (NAN for fewer than two). Values that are not finite make both NAN. */
void rb_mean_deviation(const double *x, int n, double *mean, double *deviation);

/* Index of the lowest loss; NAN and infinite ones lose. -1: none is finite. */
int rb_sweep_best(const double *loss, int n);
/* Where the best value lies among the swept ones: -1 it is the lowest, 1 the highest, 0 between or not numbers. */
int rb_sweep_edge(char (*value)[64], int n, int best);
/* The next value by a factor of two beyond the edge. */
void rb_sweep_beyond(const char *value, int edge, char out[64]);

#endif
