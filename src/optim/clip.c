#include "optim/clip.h"

#include <math.h>

double rb_grad_norm(const rb_tensor_table *t, const double *sumsq, int segments, double *norm_segments) {
    double all = 0;
    for (int s = 0; norm_segments && s < segments; s++) norm_segments[s] = 0;
    for (int i = 0; i < t->count; i++) {
        if (!rb_role_trained(t->rows[i].role)) continue;
        all += sumsq[i];
        if (norm_segments && t->rows[i].segment < segments) norm_segments[t->rows[i].segment] += sumsq[i];
    }
    for (int s = 0; norm_segments && s < segments; s++) norm_segments[s] = sqrt(norm_segments[s]);
    return sqrt(all);
}

float rb_clip_factor(double norm, double limit) {
    if (limit <= 0) return 1;
    if (isnan(norm)) return 0; /* which fmin would take for no norm at all */
    return (float)fmin(1, limit / (norm + 1e-6));
}
