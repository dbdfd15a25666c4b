#include "codec/steps.h"

#include <math.h>

double rb_steps_target(rb_code code) {
    return code == RB_CODE_INT2 ? 3.5552 : code == RB_CODE_INT4 ? 7.9032 : 1049.27;
}

double rb_steps_start(rb_code code, double sigma) {
    if (code == RB_CODE_INT1) return 2;
    return sigma * (code == RB_CODE_INT2 ? 0.99569 : code == RB_CODE_INT4 ? 0.35341 : 0.030870);
}

/* eta = 2^-halvings */
static int halvings_of(double ratio, uint64_t updates) {
    if (updates < 8 || ratio < 0.25 || ratio > 4) return 0;
    return updates < 32 || ratio < 0.5 || ratio > 2 ? 1 : updates < 128 ? 2 : 3;
}

void rb_steps_update(float *steps, const int64_t *sums, int64_t k, int64_t tokens, rb_code code,
                     uint64_t updates) {
    double all = (double)tokens * rb_steps_target(code);
    if (code == RB_CODE_INT1) return;
    for (int64_t i = 0; i < k && tokens > 0; i++) {
        double ratio = (double)sums[i] / all;
        if (code == RB_CODE_INT2) ratio *= ratio;
        ratio = fmin(fmax(ratio, 1.0 / 16), 16);
        double factor = sqrt(ratio);
        for (int n = halvings_of(ratio, updates); n > 0; n--) factor = sqrt(factor);
        steps[i] = (float)fmin(fmax((double)steps[i] * factor, 1e-8), 1e8);
    }
}
