/* A step in full swing: what one takes where steps follow one another without an end. */
#ifndef RB_PIPELINE_STEADY_H
#define RB_PIPELINE_STEADY_H

#include "pipeline/schedules.h"
#include "pipeline/simulator.h"

/* Of a kind whose lists flow: lists of some steps and of some more are played; out's step, idle and times of each stage
 * are what one more step adds, out's spans those of the longer list, which `list` gets (a->steps is ignored). Of other
 * kinds: rb_simulate of the one step. The lists are not validated. Free list and out in any case. */
resbm_status rb_simulate_steady(const rb_schedule_kind *kind, const rb_schedule_args *a,
                                const rb_sim_options *o, rb_schedule *list, rb_sim_result *out, rb_err *err);

/* Steps of that longer list, and which of them is the first that stands for all later ones; 1 and 0 where lists do not flow. */
int rb_steady_steps(const rb_schedule_kind *kind, const rb_schedule_args *a, int *first);

#endif
