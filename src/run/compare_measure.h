/* Measures what compare_timing.h describes, one short run at a time, before anything else is trained. */
#ifndef RB_RUN_COMPARE_MEASURE_H
#define RB_RUN_COMPARE_MEASURE_H

#include "run/compare_study.h"

/* Fills t->time of every variant and the length of the equal-time twins. Nothing without links. deadline_ns: when the
 * budget is spent, 0 none; then, or when asked to stop, what is not measured stays unknown. A run that fails is the
 * variant's fault, not one here. */
resbm_status rb_compare_measure(rb_study *t, int64_t deadline_ns, rb_err *err);

#endif
