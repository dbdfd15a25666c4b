/* Rows of a few coordinates: picking the largest and putting them back. */
#include <string.h>
#include "device/ref/ref.h"
#include "device/view.h"

/* Size by bits: NaN is above infinity, so it is picked and seen. */
static uint32_t size_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u & 0x7fffffffu;
}

/* x[at] joins the `have` picks so far, which are in order; the last of k falls out. Equal sizes stay behind. */
static int64_t insert(float *values, float *index, int64_t have, int64_t k, float x, int64_t at) {
    int64_t place = have;
    while (place > 0 && size_of(values[place - 1]) < size_of(x)) place--;
    if (place == k) return have;
    int64_t moved = (have < k ? have : k - 1) - place;
    memmove(values + place + 1, values + place, (size_t)moved * sizeof *values);
    memmove(index + place + 1, index + place, (size_t)moved * sizeof *index);
    values[place] = x;
    index[place] = (float)at;
    return have < k ? have + 1 : k;
}

resbm_status rb_ref_topk(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q, (void)err;
    const rb_view *values = &op->t[0], *index = &op->t[1], *x = &op->t[2];
    int64_t k = values->shape[1];
    for (int64_t i = 0; i < x->shape[0]; i++) {
        float *v = rb_row_f32(values, i), *at = rb_row_f32(index, i);
        const float *row = rb_row_f32(x, i);
        int64_t have = 0;
        for (int64_t j = 0; j < x->shape[1]; j++)
            if (have < k || size_of(row[j]) > size_of(v[k - 1])) have = insert(v, at, have, k, row[j], j);
    }
    return RESBM_OK;
}

static resbm_status add_row(float *y, int64_t d, const float *values, const float *index, int64_t k,
                            float alpha, int64_t row, rb_err *err) {
    for (int64_t j = 0; j < k; j++) {
        if (!(index[j] >= 0 && index[j] < (float)d))
            return rb_fail(err, RESBM_E_ARG, "scatter: pick %lld of row %lld is coordinate %g of %lld",
                           (long long)j, (long long)row, (double)index[j], (long long)d);
        y[(int64_t)index[j]] += alpha * values[j];
    }
    return RESBM_OK;
}

resbm_status rb_ref_scatter(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q;
    const rb_view *y = &op->t[0], *values = &op->t[1], *index = &op->t[2];
    int64_t d = y->shape[1];
    for (int64_t i = 0; i < y->shape[0]; i++) {
        float *to = rb_row_f32(y, i);
        for (int64_t j = 0; j < d; j++) to[j] = op->f[1] == 0 ? 0 : op->f[1] * to[j];
        RB_TRY(
            add_row(to, d, rb_row_f32(values, i), rb_row_f32(index, i), values->shape[1], op->f[0], i, err));
    }
    return RESBM_OK;
}
