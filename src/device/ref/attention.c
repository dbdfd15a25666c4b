#include <math.h>
#include <stdlib.h>
#include "device/ref/ref.h"
#include "device/view.h"

static double dot(const float *a, const float *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

/* fma into a row of doubles, and the row rounded to f32. */
static void add_scaled(double *to, double s, const float *from, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] += s * (double)from[i];
}
static void store(float *to, const double *from, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = (float)from[i];
}

/* Query (b,t,h) against keys 0..last of head g: softmax in two passes. p: last+1 scores; acc: D. */
static void forward_row(const rb_op *op, int64_t b, int64_t t, int64_t h, int64_t last, double *p,
                        double *acc) {
    const rb_view *out = &op->t[0], *lse = &op->t[1], *q = &op->t[2], *k = &op->t[3], *v = &op->t[4];
    int64_t D = q->shape[3], g = h / (q->shape[2] / k->shape[2]);
    double top = -INFINITY, sum = 0;
    for (int64_t s = 0; s <= last; s++) {
        p[s] = (double)op->f[0] * dot(rb_head_row(q, b, t, h), rb_head_row(k, b, s, g), D);
        if (!(p[s] <= top)) top = p[s]; /* a NaN stays on top */
    }
    for (int64_t s = 0; s <= last; s++) sum += p[s] = exp(p[s] - top);
    for (int64_t i = 0; i < D; i++) acc[i] = 0;
    for (int64_t s = 0; s <= last; s++) add_scaled(acc, p[s] / sum, rb_head_row(v, b, s, g), D);
    store(rb_head_row(out, b, t, h), acc, D);
    ((float *)lse->data)[b * lse->stride[0] + h * lse->stride[1] + t] = (float)(top + log(sum));
}

resbm_status rb_ref_attention_forward(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q;
    const rb_view *qv = &op->t[2];
    int64_t B = qv->shape[0], T = qv->shape[1], H = qv->shape[2], D = qv->shape[3];
    double *p = malloc((size_t)(op->t[3].shape[1] + D) * sizeof *p);
    if (!p) return rb_fail(err, RESBM_E_MEMORY, "attention_forward: no memory for one row of scores");
    for (int64_t b = 0; b < B; b++)
        for (int64_t h = 0; h < H; h++)
            for (int64_t t = 0; t < T; t++) forward_row(op, b, t, h, op->i[0] + t, p, p + op->t[3].shape[1]);
    free(p);
    return RESBM_OK;
}

/* All queries of head h into dq and, added in double, dk and dv (T,D) of its key/value head. row: D. */
static void backward_head(const rb_op *op, int64_t b, int64_t h, double *dk, double *dv, double *row) {
    const rb_view *dout = &op->t[3], *out = &op->t[4], *lse = &op->t[5], *q = &op->t[6], *k = &op->t[7],
                  *v = &op->t[8];
    int64_t T = q->shape[1], D = q->shape[3], g = h / (q->shape[2] / k->shape[2]);
    double scale = op->f[0];
    for (int64_t t = 0; t < T; t++) {
        const float *go = rb_head_row(dout, b, t, h), *pq = rb_head_row(q, b, t, h);
        double delta = dot(go, rb_head_row(out, b, t, h), D);
        double l = ((const float *)lse->data)[b * lse->stride[0] + h * lse->stride[1] + t];
        for (int64_t i = 0; i < D; i++) row[i] = 0;
        for (int64_t s = 0; s <= t; s++) {
            const float *pk = rb_head_row(k, b, s, g);
            double p = exp(scale * dot(pq, pk, D) - l);
            double ds = p * (dot(go, rb_head_row(v, b, s, g), D) - delta) * scale;
            add_scaled(dv + s * D, p, go, D);
            add_scaled(dk + s * D, ds, pq, D);
            add_scaled(row, ds, pk, D);
        }
        store(rb_head_row(&op->t[0], b, t, h), row, D);
    }
}

resbm_status rb_ref_attention_backward(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q;
    const rb_view *qv = &op->t[6], *k = &op->t[7];
    int64_t T = qv->shape[1], H = qv->shape[2], D = qv->shape[3], G = k->shape[2];
    double *sums = malloc((size_t)((2 * T + 1) * D) * sizeof *sums);
    if (!sums) return rb_fail(err, RESBM_E_MEMORY, "attention_backward: no memory for two heads' gradients");
    double *dk = sums, *dv = sums + T * D, *row = sums + 2 * T * D;
    for (int64_t b = 0; b < qv->shape[0]; b++)
        for (int64_t g = 0; g < G; g++) {
            for (int64_t i = 0; i < 2 * T * D; i++) sums[i] = 0;
            for (int64_t h = g * (H / G); h < (g + 1) * (H / G); h++) backward_head(op, b, h, dk, dv, row);
            for (int64_t t = 0; t < T; t++) {
                store(rb_head_row(&op->t[1], b, t, g), dk + t * D, D);
                store(rb_head_row(&op->t[2], b, t, g), dv + t * D, D);
            }
        }
    free(sums);
    return RESBM_OK;
}
