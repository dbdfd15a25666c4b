#include "optim/lr_schedule.h"

#include <math.h>

/* Share of a stretch of `length` steps that lies behind, 0..1. */
static double progress(double done, double length) {
    if (length <= 0) return done >= 0 ? 1 : 0;
    return fmin(1, fmax(0, done / length));
}

double rb_lr_factor(const rb_lr_schedule *s, int64_t step) {
    if (step < s->warmup) return (double)(step + 1) / (double)s->warmup;
    double steps = (double)s->steps, warmup = (double)s->warmup, stretch = s->share * steps;
    switch (s->decay) {
    case RB_DECAY_WSD:
        return 1 - (1 - s->floor) * progress((double)step - (steps - stretch), stretch);
    case RB_DECAY_COSINE: {
        double done = progress((double)step - warmup, steps - warmup);
        return s->floor + (1 - s->floor) * 0.5 * (1 + cos(M_PI * done));
    }
    default:
        return 1;
    }
}
