#include "codec/steps.h"

#include <math.h>

void rb_steps_update(float *steps, const int64_t *sums, int64_t k, int64_t tokens, rb_code code, uint64_t updates) {
    double target = code == RB_CODE_INT4 ? 8.9 : 1050.0;
    double eta = fmax(0.02, 1.0 / (1.0 + (double)updates / 4.0));
    for (int64_t i = 0; i < k; i++) {
        double ratio = (double)sums[i] / (double)tokens / target;
        double factor = fmin(fmax(pow(ratio, eta / 2), 0.25), 4.0);
        steps[i] = (float)fmin(fmax((double)steps[i] * factor, 1e-8), 1e8);
    }
}
