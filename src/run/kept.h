/* What the stages of a run keep for its lists, learned from the very code with which a stage process opens
 * them. */
#ifndef RB_RUN_KEPT_H
#define RB_RUN_KEPT_H

#include "run/config.h"

typedef struct rb_kept {
    int slots[RB_MAX_SEGMENTS]; /* microbatches alive in each segment, */
    int stash[RB_MAX_SEGMENTS]; /* older versions of its weights */
    bool halves[RB_MAX_STAGES]; /* each stage calls its backward pass in halves */
    int ring;                   /* microbatches whose token ids a stage has */
} rb_kept;

/* cfg is validated; extra: microbatches in flight beyond the schedule's own, whatever pipeline.inflight says.
 * Builds and validates the lists of all stages. */
resbm_status rb_kept_of(const rb_config *cfg, int extra, rb_kept *out, rb_err *err);

#endif
