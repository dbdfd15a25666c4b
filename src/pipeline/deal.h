/* Replicas: several processes hold the same stage and share out its microbatches. The deal says which replica takes a
 * microbatch on each stage; it is part of the schedule, whose lists then are one per replica.
 *
 *     2 stages, replicas 2 and 1, 4 microbatches, dealt 1:1       list 0 = stage 0, first replica    0F0 0F2 0B0 0B2
 *                                                                 list 1 = stage 1                   1F0 1B0 1F1 1B1 ...
 *                                                                 list 2 = stage 0, second replica   0F1 0F3 0B1 0B3
 *
 * Lists are numbered: the first replicas of all stages (so that a stage and its first replica have the same number), then
 * the second ones of the stages that have one, and so on. */
#ifndef RB_PIPELINE_DEAL_H
#define RB_PIPELINE_DEAL_H

#include "pipeline/schedules.h"

typedef struct rb_deal {
    int stages, microbatches;
    const int *replicas; /* (stages) processes that hold each, from 1 */
    const int *replica;  /* (stages, microbatches) which of them takes a microbatch */
} rb_deal;

/* How many lists there are; the list of a stage's nth replica; and back. */
int rb_deal_lists(const int *replicas, int stages);
int rb_deal_list(const int *replicas, int stages, int stage, int replica);
void rb_deal_place(const int *replicas, int stages, int list, int *stage, int *replica);

/* Shares `microbatches` out in proportion to `speed` (n), each > 0: largest remainders, the first among equals; with
 * microbatches >= n everybody gets one at least. */
void rb_deal_share(int microbatches, int n, const double *speed, int *count);
/* replica (microbatches): as many for each as `count` says, spread evenly over the step and never in blocks, so that no
 * replica waits for its turn. */
void rb_deal_spread(int microbatches, int n, const int *count, int *replica);

/* rb_schedule_build for replicas. Where every stage has the same deal, the replicas are pipelines side by side, each with
 * the kind's own list for as many microbatches as it has; else each replica takes its part of the kind's list, made so deep
 * (where the kind can) that every replica has as much in flight as it would have alone. in_flight (segments): the most on
 * any replica. Kinds that flow have no replicas (RESBM_E_CONFIG). */
resbm_status rb_schedule_build_dealt(const rb_schedule_kind *kind, const rb_schedule_args *a,
                                     const rb_deal *d, rb_schedule *out, int *in_flight, rb_err *err);

#endif
