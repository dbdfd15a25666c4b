/* Copies of matrices in what products round their factors to. Rounded once after each update instead of at each use: a step of M
 * microbatches uses a weight 2 M times (3 M with recomputation). Biases, norms and tables are read as they are. */
#include "model/stage.h"

enum { WIDTH = 8 /* rows of 16-bit factors begin at 16 bytes, as products are fastest with */ };

bool rb_has_copy(const rb_stage_model *m, int row) {
    const rb_tensor *t = &m->table.rows[row];
    if (!m->opt.weight_copies || m->dev->factor != RB_BF16 || m->local[t->segment] < 0) return false;
    bool matrix = t->role == RB_ROLE_MATRIX || t->role == RB_ROLE_HEAD || t->role == RB_ROLE_BOUNDARY_MATRIX;
    return matrix && t->rank == 2 && t->shape[1] % WIDTH == 0;
}

/* As plan_tensors lays the weights: joined rows straight behind the row before. */
static void plan_copies(const rb_stage_model *m, rb_plan *p) {
    for (int i = 0; i < m->table.count; i++) {
        const rb_tensor *t = &m->table.rows[i];
        if (!rb_has_copy(m, i)) continue;
        size_t bytes = (size_t)rb_tensor_count(t) * rb_dtype_size(RB_BF16);
        void *at = t->joined && p->base ? p->base + p->used : NULL;
        if (t->joined)
            p->used += bytes;
        else
            at = rb_plan_take(p, bytes);
        m->half[i] = rb_view2(at, RB_BF16, t->shape[0], t->shape[1]);
    }
}

resbm_status rb_stage_open_copies(rb_stage_model *m, rb_err *err) {
    rb_plan p = {0};
    plan_copies(m, &p);
    if (!p.used) return RESBM_OK;
    resbm_status st = rb_alloc(m->dev, p.used, &m->halves, err);
    if (st)
        return rb_err_context(
            err, st, "copies of the weights in bf16, %.3g GB (pipeline.weight_copies: false does without): ",
            (double)p.used * 1e-9);
    m->weight_bytes += p.used;
    p = (rb_plan){.base = m->halves};
    plan_copies(m, &p);
    for (int i = 0; i < m->table.count; i++)
        if (m->half[i].data) m->weight[i] = m->half[i];
    return RESBM_OK;
}

static resbm_status round_row(const rb_stage_model *m, rb_queue *q, int row, rb_err *err) {
    if (!m->half[row].data || !m->own[row].data) return RESBM_OK;
    return rb_axpby(q, 1, m->own[row], 0, m->half[row], err);
}

resbm_status rb_stage_weights_changed(rb_stage_model *m, rb_queue *q, rb_err *err) {
    for (int i = 0; i < m->table.count; i++) RB_TRY(round_row(m, q, i, err));
    return RESBM_OK;
}

resbm_status rb_stage_segment_changed(rb_stage_model *m, rb_queue *q, int segment, rb_err *err) {
    for (int i = 0; i < m->table.count; i++)
        if (m->table.rows[i].segment == segment) RB_TRY(round_row(m, q, i, err));
    return RESBM_OK;
}
