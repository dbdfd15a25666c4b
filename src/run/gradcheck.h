/* The gradient of a configuration's model, all segments in this process, against a central difference of its loss
 * along the gradient's direction. Boundaries cross in f32, since a quantizer has no derivative. */
#ifndef RB_RUN_GRADCHECK_H
#define RB_RUN_GRADCHECK_H

#include "run/config.h"

typedef struct rb_gradcheck {
    int64_t params;
    double by_gradient, by_difference; /* directional derivative along g/|g| */
    double apart;                      /* |difference| / |by_gradient| */
} rb_gradcheck;

/* One sequence of the training data on device cfg.pipeline.device. Takes the memory of the whole model. */
resbm_status rb_gradcheck_run(const rb_config *cfg, rb_gradcheck *out, rb_err *err);

#endif
