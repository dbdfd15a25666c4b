#include <string.h>
#include "device/ref/ref.h"
#include "device/view.h"

static resbm_status check_id(const char *name, int64_t i, int32_t id, int64_t V, rb_err *err) {
    if (id >= 0 && id < V) return RESBM_OK;
    return rb_fail(err, RESBM_E_ARG, "%s: token %lld is %d, the table has %lld rows", name, (long long)i, id,
                   (long long)V);
}

resbm_status rb_ref_embed_forward(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q;
    const rb_view *out = &op->t[0], *table = &op->t[1];
    const int32_t *ids = op->t[2].data;
    for (int64_t i = 0; i < out->shape[0]; i++) {
        RB_TRY(check_id("embed_forward", i, ids[i], table->shape[0], err));
        memcpy(rb_row_f32(out, i), rb_row_f32(table, ids[i]), (size_t)out->shape[1] * sizeof(float));
    }
    return RESBM_OK;
}

resbm_status rb_ref_embed_backward(rb_queue *q, const rb_op *op, rb_err *err) {
    (void)q;
    const rb_view *dtable = &op->t[0], *dout = &op->t[1];
    const int32_t *ids = op->t[2].data;
    for (int64_t i = 0; i < dout->shape[0]; i++) {
        RB_TRY(check_id("embed_backward", i, ids[i], dtable->shape[0], err));
        float *to = rb_row_f32(dtable, ids[i]);
        const float *from = rb_row_f32(dout, i);
        for (int64_t j = 0; j < dout->shape[1]; j++) to[j] += from[j];
    }
    return RESBM_OK;
}
