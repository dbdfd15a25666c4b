#include <string.h>
#include "device/cpu/cpu.h"
#include "device/cpu/isa.h"
#include "device/cpu/spans.h"

static resbm_status check_ids(const char *name, const rb_view *ids, int64_t V, rb_err *err) {
    const int32_t *id = ids->data;
    for (int64_t i = 0; i < ids->shape[0]; i++)
        if (id[i] < 0 || id[i] >= V)
            return rb_fail(err, RESBM_E_ARG, "%s: token %lld is %d, the table has %lld rows", name,
                           (long long)i, id[i], (long long)V);
    return RESBM_OK;
}

resbm_status RB_ISA_NAME(rb_cpu_embed_forward)(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q;
    const rb_view *out = &op->t[0], *table = &op->t[1];
    const int32_t *ids = op->t[2].data;
    RB_TRY(check_ids("embed_forward", &op->t[2], table->shape[0], err));
    size_t bytes = (size_t)out->shape[1] * sizeof(float);
#pragma omp parallel for num_threads(q->dev->opt.threads) if (rb_count(*out) > RB_SPAWN_ELEMENTS)            \
    schedule(static)
    for (int64_t i = 0; i < out->shape[0]; i++) memcpy(rb_row_f32(out, i), rb_row_f32(table, ids[i]), bytes);
    return RESBM_OK;
}

enum { COLUMNS = 64 };

/* Columns are shared out, not tokens: each sum then runs over the tokens in ascending order. */
resbm_status RB_ISA_NAME(rb_cpu_embed_backward)(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q;
    const rb_view *dtable = &op->t[0], *dout = &op->t[1];
    const int32_t *ids = op->t[2].data;
    RB_TRY(check_ids("embed_backward", &op->t[2], dtable->shape[0], err));
    int64_t d = dout->shape[1], pieces = (d + COLUMNS - 1) / COLUMNS;
#pragma omp parallel for num_threads(q->dev->opt.threads) if (rb_count(*dout) > RB_SPAWN_ELEMENTS)           \
    schedule(static)
    for (int64_t c = 0; c < pieces; c++) {
        int64_t from = c * COLUMNS, n = c == pieces - 1 ? d - from : COLUMNS;
        for (int64_t i = 0; i < dout->shape[0]; i++) {
            float *to = rb_row_f32(dtable, ids[i]) + from;
            const float *g = rb_row_f32(dout, i) + from;
#pragma omp simd
            for (int64_t j = 0; j < n; j++) to[j] += g[j];
        }
    }
    return RESBM_OK;
}
