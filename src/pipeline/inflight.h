/* pipeline.inflight: auto. How many microbatches to keep in flight so that links' latency is hidden. */
#ifndef RB_PIPELINE_INFLIGHT_H
#define RB_PIPELINE_INFLIGHT_H

#include "pipeline/schedules.h"
#include "pipeline/simulator.h"

typedef struct rb_inflight_limits {
    const size_t *slot_bytes; /* (segments) activations of one microbatch in one segment */
    const size_t *memory;     /* (stages) bytes all slots of a stage may take; NULL: no limit */
} rb_inflight_limits;

/* *extra: the a->extra (the field itself is ignored) with the shortest simulated step that memory allows, a larger one
 * only where it gains more than 0.5%; 0 for schedules that take none, or whose
 * result it would change. Costs and links of o in seconds, as measured.
 * Tries every depth up to 8, then ever wider apart. RESBM_E_CONFIG when not even extra = 0 fits, with
 * stage, bytes and remedy. */
resbm_status rb_schedule_auto_inflight(const rb_schedule_kind *kind, const rb_schedule_args *a,
                                       const rb_sim_options *o, const rb_inflight_limits *limits, int *extra,
                                       rb_err *err);

#endif
