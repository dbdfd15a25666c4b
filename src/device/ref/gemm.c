#include "device/ref/ref.h"

resbm_status rb_ref_gemm(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    const rb_view *c = &op->t[0], *a = &op->t[1], *b = &op->t[2], *e = op->t[3].data ? &op->t[3] : c;
    int ta = op->i[0] != 0, tb = op->i[1] != 0;
    int64_t M = c->shape[0], N = c->shape[1], K = a->shape[!ta];
    int64_t a_row = ta ? 1 : a->stride[0], a_col = ta ? a->stride[0] : 1;
    int64_t b_row = tb ? 1 : b->stride[0], b_col = tb ? b->stride[0] : 1;
    double alpha = op->f[0], beta = op->f[1];
    for (int64_t i = 0; i < M; i++)
        for (int64_t j = 0; j < N; j++) {
            const float *pa = (const float *)a->data + i * a_row, *pb = (const float *)b->data + j * b_col;
            float *out = (float *)c->data + i * c->stride[0] + j;
            const float *plus = (const float *)e->data + i * e->stride[0] + j;
            double sum = 0;
            for (int64_t k = 0; k < K; k++) sum += (double)pa[k * a_col] * (double)pb[k * b_row];
            *out = (float)(alpha * sum + (beta == 0 ? 0 : beta * (double)*plus));
        }
    return RESBM_OK;
}

resbm_status rb_ref_syrk(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    const rb_view *c = &op->t[0], *a = &op->t[1];
    bool ta = op->i[0] != 0;
    int64_t M = c->shape[0], K = a->shape[!ta], row = ta ? 1 : a->stride[0], col = ta ? a->stride[0] : 1;
    double alpha = op->f[0], beta = op->f[1];
    for (int64_t i = 0; i < M; i++)
        for (int64_t j = 0; j <= i; j++) {
            const float *x = (const float *)a->data + i * row, *y = (const float *)a->data + j * row;
            float *out = (float *)c->data + i * c->stride[0] + j;
            double sum = 0;
            for (int64_t k = 0; k < K; k++) sum += (double)x[k * col] * (double)y[k * col];
            *out = (float)(alpha * sum + (beta == 0 ? 0 : beta * (double)*out));
            ((float *)c->data)[j * c->stride[0] + i] = *out;
        }
    return RESBM_OK;
}
