/* Runs side by side in plain text, and the question the demo ends with: how long did each take to get as far? */
#ifndef RB_RUN_COMPARE_TABLE_H
#define RB_RUN_COMPARE_TABLE_H

#include "run/run_folder.h"

/* The lowest validation loss that every one of the runs reached: the highest of their best. NAN when a run was never
 * evaluated. */
double rb_compare_common_loss(const rb_run_folder *run, int count);
/* Seconds of training (time_s) after which a run first reached a validation loss; between two evaluations it is taken
 * to fall along a straight line. NAN when it never did. */
double rb_compare_time_to(const rb_metrics *m, double loss);

/* A row per figure, a column per run. */
void rb_compare_table(const rb_run_folder *run, int count, rb_buf *out);

#endif
