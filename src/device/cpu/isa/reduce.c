#include <math.h>
#include "device/cpu/cpu.h"
#include "device/cpu/isa.h"
#include "device/cpu/spans.h"

enum { PIECE = 4096, BATCH = 256 };

static double add_run(const float *x, int64_t n, bool squared) {
    double sum = 0;
    if (squared) {
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    } else {
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++) sum += (double)x[i];
    }
    return sum;
}

/* Elements [from, to) of the flattened view, row by row. */
static double add_piece(const rb_view *x, int64_t from, int64_t to, bool squared) {
    if (rb_is_flat(x)) return add_run((const float *)x->data + from, to - from, squared);
    int64_t width = rb_row_width(x);
    double sum = 0;
    while (from < to) {
        int64_t row = from / width, col = from % width, n = width - col < to - from ? width - col : to - from;
        sum += add_run(rb_row_f32(x, row) + col, n, squared);
        from += n;
    }
    return sum;
}

static void reduce(rb_queue *q, const rb_op *op, bool squared) {
    (void)q;
    const rb_view *x = &op->t[1];
    int64_t total = rb_count(*x), pieces = (total + PIECE - 1) / PIECE;
    double sum = 0;
    for (int64_t first = 0; first < pieces; first += BATCH) {
        double part[BATCH];
        int64_t n = pieces - first < BATCH ? pieces - first : BATCH;
#pragma omp parallel for num_threads(q->dev->opt.threads) if (n > RB_SPAWN_ELEMENTS / PIECE) schedule(static)
        for (int64_t i = 0; i < n; i++) {
            int64_t from = (first + i) * PIECE;
            part[i] = add_piece(x, from, from + PIECE < total ? from + PIECE : total, squared);
        }
        for (int64_t i = 0; i < n; i++) sum += part[i];
    }
    *(double *)op->t[0].data = sum;
}

resbm_status RB_ISA_NAME(rb_cpu_sum)(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)err;
    reduce(q, op, false);
    return RESBM_OK;
}

resbm_status RB_ISA_NAME(rb_cpu_sumsq)(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)err;
    reduce(q, op, true);
    return RESBM_OK;
}

resbm_status RB_ISA_NAME(rb_cpu_normalize)(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    double norm = sqrt(*(const double *)op->t[2].data);
    if (norm < (double)op->f[0]) norm = (double)op->f[0];
    float by = (float)(1 / norm);
    rb_spans s = rb_spans_of(op->t, 2);
#pragma omp parallel for num_threads(q->dev->opt.threads) if (s.total > RB_SPAWN_ELEMENTS) schedule(static)
    for (int64_t i = 0; i < s.count; i++) {
        float *y = rb_span_f32(&s, &op->t[0], i);
        const float *x = rb_span_f32(&s, &op->t[1], i);
        int64_t n = rb_span_length(&s, i);
#pragma omp simd
        for (int64_t j = 0; j < n; j++) y[j] = x[j] * by;
    }
    return RESBM_OK;
}
