/* Draws a schedule as people draw them: one row per stage, one column per unit of time, from the simulator.
 *
 *     0  0F0 0F1 .   0B0 =   0B1 =
 *     1  .   1F0 1B0 =   1F1 1B1 =          a cell that goes on is "=", one that idles "."
 *
 * Sends and receives take no column. */
#ifndef RB_PIPELINE_PICTURE_H
#define RB_PIPELINE_PICTURE_H

#include "pipeline/simulator.h"

/* Appends to out. Costs and links of o as in rb_simulate; unit is the time of one column. RESBM_E_ARG when
 * that makes more than 100000 columns. */
resbm_status rb_schedule_picture(const rb_schedule *s, const rb_sim_options *o, double unit, rb_buf *out,
                                 rb_err *err);

#endif
