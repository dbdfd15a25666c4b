#include <math.h>
#include <string.h>
#include "device/cpu/cpu.h"
#include "device/cpu/isa.h"
#include "device/cpu/isa/math.h"
#include "device/cpu/spans.h"

enum { PIECE = 1024 };

/* sum of e^(x - top), in pieces added in double; stores the exponentials in x where keep is set. */
static double sum_exp(float *x, int64_t V, float top, bool keep) {
    double total = 0;
    for (int64_t from = 0; from < V; from += PIECE) {
        int64_t to = from + PIECE < V ? from + PIECE : V;
        float sum = 0;
        if (keep) {
#pragma omp simd reduction(+ : sum)
            for (int64_t j = from; j < to; j++) sum += x[j] = rb_expf(x[j] - top);
        } else {
#pragma omp simd reduction(+ : sum)
            for (int64_t j = from; j < to; j++) sum += rb_expf(x[j] - top);
        }
        total += (double)sum;
    }
    return total;
}

static float xent_row(float *x, int64_t V, int32_t target, float scale) {
    if (target < 0) {
        for (int64_t j = 0; scale != 0 && j < V; j++) x[j] = 0;
        return 0;
    }
    float top = x[0], at_target = x[target];
#pragma omp simd reduction(max : top)
    for (int64_t j = 1; j < V; j++) top = x[j] > top ? x[j] : top;
    double sum = sum_exp(x, V, top, scale != 0);
    float loss = (float)((double)top - (double)at_target + log(sum)), by = (float)((double)scale / sum);
    if (scale == 0) return loss;
#pragma omp simd
    for (int64_t j = 0; j < V; j++) x[j] *= by;
    x[target] -= scale;
    return loss;
}

resbm_status RB_ISA_NAME(rb_cpu_xent)(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q;
    const rb_view *loss = &op->t[0], *logits = &op->t[1], *grad = op->t[3].data ? &op->t[3] : logits;
    const int32_t *targets = op->t[2].data;
    int64_t n = logits->shape[0], V = logits->shape[1];
    for (int64_t r = 0; r < n; r++)
        if (targets[r] >= V)
            return rb_fail(err, RESBM_E_ARG, "xent: target %lld is %d, there are %lld logits", (long long)r,
                           targets[r], (long long)V);
#pragma omp parallel for num_threads(q->dev->opt.threads) if (n * V > RB_SPAWN_ELEMENTS / 4) schedule(static)
    for (int64_t r = 0; r < n; r++) {
        float *row = rb_row_f32(grad, r);
        if (grad != logits) memcpy(row, rb_row_f32(logits, r), (size_t)V * sizeof *row);
        *rb_at1(loss, r) = xent_row(row, V, targets[r], op->f[0]);
    }
    return RESBM_OK;
}
