/* Learning rate over a run, as a factor of the peak rate. */
#ifndef RB_OPTIM_LR_SCHEDULE_H
#define RB_OPTIM_LR_SCHEDULE_H

#include <stdint.h>

typedef enum rb_decay {
    RB_DECAY_WSD,     /* warm-up, stable, linear decay over the last share (Hu et al. 2024) */
    RB_DECAY_COSINE,  /* warm-up, then half a cosine (Loshchilov & Hutter 2017) */
    RB_DECAY_CONSTANT /* warm-up, then constant */
} rb_decay;

typedef struct rb_lr_schedule {
    rb_decay decay;
    int64_t warmup, steps; /* of linear warm-up; of the whole run */
    double share;          /* wsd: of the steps that decay, at the end */
    double floor;          /* wsd and cosine end here */
} rb_lr_schedule;

/* Factor of step (from 0). Warm-up step i gets (i + 1) / warmup. wsd and cosine reach the floor at step == steps, one
 * behind the last that is trained, and stay there. */
double rb_lr_factor(const rb_lr_schedule *s, int64_t step);

#endif
