#include <math.h>
#include "device/cpu/cpu.h"
#include "device/cpu/isa.h"
#include "device/cpu/spans.h"

static void forward_row(float *y, const float *x, const float *w, int64_t d, float eps, float *rstd) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < d; i++) sum += x[i] * x[i];
    float s = 1 / sqrtf(sum / (float)d + eps);
    *rstd = s;
    if (w) {
#pragma omp simd
        for (int64_t i = 0; i < d; i++) y[i] = x[i] * s * w[i];
    } else {
#pragma omp simd
        for (int64_t i = 0; i < d; i++) y[i] = x[i] * s;
    }
}

resbm_status RB_ISA_NAME(rb_cpu_rmsnorm_forward)(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    const rb_view *y = &op->t[0], *rstd = &op->t[1], *x = &op->t[2];
    int64_t d = rb_row_width(x), rows = rb_row_count(x);
#pragma omp parallel for num_threads(q->dev->opt.threads) if (rows * d > RB_SPAWN_ELEMENTS) schedule(static)
    for (int64_t r = 0; r < rows; r++)
        forward_row(rb_row_f32(y, r), rb_row_f32(x, r), op->t[3].data, d, op->f[0], rb_at1(rstd, r));
    return RESBM_OK;
}

/* dx = s (w dy) - x s^3/d sum(w dy x), plus beta dx; dx may be dy. */
static void backward_row(float *dx, const float *dy, const float *x, const float *w, int64_t d, float s,
                         float beta) {
    float dot = 0;
    if (w) {
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < d; i++) dot += dy[i] * w[i] * x[i];
    } else {
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < d; i++) dot += dy[i] * x[i];
    }
    float c = dot * s * s * s / (float)d;
#pragma omp simd
    for (int64_t i = 0; i < d; i++) {
        float g = s * (w ? dy[i] * w[i] : dy[i]) - c * x[i];
        dx[i] = beta == 0 ? g : g + beta * dx[i];
    }
}

resbm_status RB_ISA_NAME(rb_cpu_rmsnorm_backward_x)(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    const rb_view *dx = &op->t[0], *dy = &op->t[1], *x = &op->t[2], *rstd = &op->t[4];
    int64_t d = rb_row_width(x), rows = rb_row_count(x);
#pragma omp parallel for num_threads(q->dev->opt.threads) if (rows * d > RB_SPAWN_ELEMENTS) schedule(static)
    for (int64_t r = 0; r < rows; r++)
        backward_row(rb_row_f32(dx, r), rb_row_f32(dy, r), rb_row_f32(x, r), op->t[3].data, d,
                     *rb_at1(rstd, r), op->f[0]);
    return RESBM_OK;
}

enum { COLUMNS = 64, ROWS = 64 };

/* Columns [from, from + n) of dw: pieces of ROWS rows, added in order. */
static void weight_columns(const rb_op *op, int64_t from, int64_t n) {
    const rb_view *dy = &op->t[1], *x = &op->t[2], *rstd = &op->t[3];
    int64_t rows = rb_row_count(x);
    double total[COLUMNS] = {0};
    for (int64_t r0 = 0; r0 < rows; r0 += ROWS) {
        float sum[COLUMNS] = {0};
        for (int64_t r = r0; r < rows && r < r0 + ROWS; r++) {
            const float *pdy = rb_row_f32(dy, r) + from, *px = rb_row_f32(x, r) + from;
            float s = *rb_at1(rstd, r);
#pragma omp simd
            for (int64_t i = 0; i < n; i++) sum[i] += pdy[i] * px[i] * s;
        }
        for (int64_t i = 0; i < n; i++) total[i] += (double)sum[i];
    }
    float *dw = (float *)op->t[0].data + from;
    for (int64_t i = 0; i < n; i++) dw[i] += (float)total[i];
}

resbm_status RB_ISA_NAME(rb_cpu_rmsnorm_backward_w)(rb_queue *q, const rb_op *op, rb_err *err) {
    int64_t d = op->t[0].shape[0], rows = rb_row_count(&op->t[2]), pieces = (d + COLUMNS - 1) / COLUMNS;
    (void)q, (void)err, (void)rows;
#pragma omp parallel for num_threads(q->dev->opt.threads) if (rows * d > RB_SPAWN_ELEMENTS) schedule(static)
    for (int64_t i = 0; i < pieces; i++)
        weight_columns(op, i * COLUMNS, i == pieces - 1 ? d - i * COLUMNS : COLUMNS);
    return RESBM_OK;
}
