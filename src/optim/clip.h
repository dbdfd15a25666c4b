/* Gradient clipping: from per-tensor sums of squares to one factor per tensor. Sums are added in the order of
 * the tensor table, in double, so the norm's bits do not depend on how many stages the sums came from. */
#ifndef RB_OPTIM_CLIP_H
#define RB_OPTIM_CLIP_H

#include "model/model.h"

typedef enum rb_clip_scope {
    RB_CLIP_GLOBAL, /* one norm over the whole model */
    RB_CLIP_SEGMENT /* one norm per segment (boundary parts with the segment that hosts them): no
                       synchronisation */
} rb_clip_scope;

/* sumsq (rows of the table): squares of each gradient; rows that are not trained are ignored. norm_segments
 * (segments), may be NULL. Returns the whole model's norm. */
double rb_grad_norm(const rb_tensor_table *t, const double *sumsq, int segments, double *norm_segments);
/* min(1, limit / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_; limit 0: 1. A norm that is NaN or infinite: 0. */
float rb_clip_factor(double norm, double limit);

#endif
