#include <math.h>
#include <string.h>
#include "device/ref/ref.h"
#include "device/view.h"

/* One row of V logits: its loss, and in its place the gradient where scale is not 0. target < 0: none. */
static double xent_row(float *x, int64_t V, int32_t target, double scale) {
    double top = -INFINITY, sum = 0;
    for (int64_t j = 0; j < V; j++)
        if (!((double)x[j] <= top)) top = x[j]; /* a NaN stays on top */
    for (int64_t j = 0; j < V; j++) sum += exp((double)x[j] - top);
    double loss = target < 0 ? 0 : top + log(sum) - (double)x[target];
    for (int64_t j = 0; scale != 0 && j < V; j++) {
        double p = exp((double)x[j] - top) / sum;
        x[j] = target < 0 ? 0 : (float)(scale * (p - (j == target)));
    }
    return loss;
}

resbm_status rb_ref_xent(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q;
    const rb_view *loss = &op->t[0], *logits = &op->t[1], *grad = op->t[3].data ? &op->t[3] : logits;
    const int32_t *targets = op->t[2].data;
    int64_t V = logits->shape[1];
    for (int64_t r = 0; r < logits->shape[0]; r++)
        if (targets[r] >= V)
            return rb_fail(err, RESBM_E_ARG, "xent: target %lld is %d, there are %lld logits", (long long)r,
                           targets[r], (long long)V);
    for (int64_t r = 0; r < logits->shape[0]; r++) {
        float *row = rb_row_f32(grad, r);
        if (grad != logits) memcpy(row, rb_row_f32(logits, r), (size_t)V * sizeof *row);
        *rb_at1(loss, r) = (float)xent_row(row, V, targets[r], (double)op->f[0]);
    }
    return RESBM_OK;
}
