/* Workers: the processes of a run. Worker n is the first replica of stage n for n < pipeline.stages; the others follow
 * (pipeline/deal.h). Without replicas a worker is a stage. Coordinator and every worker come to the same numbers. */
#ifndef RB_RUN_WORKERS_H
#define RB_RUN_WORKERS_H

#include "link/link.h"
#include "pipeline/deal.h"
#include "run/config.h"

int rb_replicas(const rb_config *c, int stage);
bool rb_replicated(const rb_config *c); /* has any stage more than one? */
int rb_workers(const rb_config *c);
int rb_worker_of(const rb_config *c, int stage, int replica);
/* Stage and replica of every worker; (rb_workers), the caller frees. NULL: no memory. */
rb_place *rb_worker_places(const rb_config *c);
/* One process per stage from now on. */
void rb_config_alone(rb_config *c);

/* How many microbatches each worker takes: even, or in proportion to speeds (rb_workers), NULL: even. count
 * (rb_workers). Those that are gone (rb_workers; NULL: nobody) take none. */
void rb_workers_share(const rb_config *c, const double *speed, const bool *gone, int *count);
/* The training lists for that deal. in_flight (segments) may be NULL. */
resbm_status rb_workers_schedule(const rb_config *c, const rb_schedule_kind *kind, const rb_schedule_args *a,
                                 const int *count, rb_schedule *out, int *in_flight, rb_err *err);
/* Does the run go on within the step when a replica is lost whose stage has others? With local steps the replica's whole
 * pipeline is lost then. */
bool rb_covers(const rb_config *c);
/* What replicas cannot go together with. For rb_config_validate. */
resbm_status rb_config_check_replicas(const rb_config *c, rb_err *err);

#endif
