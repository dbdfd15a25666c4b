/* What the generators of schedules without an end share. */
#ifndef RB_PIPELINE_ENDLESS_H
#define RB_PIPELINE_ENDLESS_H

#include "pipeline/schedules.h"

/* Microbatches of all steps. */
int rb_endless_total(const rb_schedule_args *a);
/* Updates that come before forward m on a stage that runs `ahead` forwards ahead and updates every `each`. */
int rb_endless_updates(int m, int ahead, int each);
/* The list of one stage: each = microbatches per update; version = that of microbatch m's forward, by the caller's rule. */
resbm_status rb_endless_stage(const rb_schedule_args *a, rb_schedule *out, int stage, int ahead, int each,
                              int (*version)(const rb_schedule_args *a, int stage, int m), rb_err *err);

#endif
