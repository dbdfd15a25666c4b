/* What a stage takes of its device's memory by its plan, and which settings would make it fit: what is said where memory runs
 * out, and where a plan finds that nothing fits. */
#ifndef RB_RUN_FIT_H
#define RB_RUN_FIT_H

#include "core/buf.h"
#include "run/kept.h"
#include "run/measure.h"

typedef struct rb_fit_need {
    rb_stage_need part;
    size_t activations, stashes; /* of all microbatches alive; older versions of weights */
    size_t rounded; /* on a GPU: what factors of products are rounded into, about; and what cuDNN works in */
    size_t total;   /* everything */
    int slots;      /* microbatches alive at once, in the segment with most */
} rb_fit_need;

/* cfg is validated; extra: microbatches in flight beyond the schedule's own. */
resbm_status rb_fit_stage(const rb_config *cfg, int stage, int extra, rb_fit_need *out, rb_err *err);
/* The same where one asks for several stages: what all of them keep is found once. */
resbm_status rb_fit_kept(const rb_config *cfg, int stage, const rb_kept *k, rb_fit_need *out, rb_err *err);

/* Appends what the stage takes, by parts, and which settings make that fit `room` bytes (0: not known), beside `kernels` that
 * the device takes for itself, each with what it
 * comes to; where no single one does, the smallest and what all of them come to. Nothing where it cannot be planned. */
void rb_fit_advise(const rb_config *cfg, int stage, int extra, size_t room, size_t kernels, rb_buf *out);

#endif
