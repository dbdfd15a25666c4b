/* A stage's gradients that are kept in a spill, as the rest of the model and its caller see them. */
#include <stdlib.h>
#include "model/stage.h"

resbm_status rb_stage_open_pager(rb_stage_model *m, rb_err *err) {
    bool *rows = calloc((size_t)m->table.count + 1, sizeof *rows);
    for (int i = 0; rows && i < m->table.count; i++) rows[i] = m->local[m->table.rows[i].segment] >= 0;
    if (!rows) return rb_fail(err, RESBM_E_MEMORY, "no memory for a list of gradients");
    resbm_status st = rb_pager_open(m->dev, m->opt.spill, m->opt.spill_at, &m->table, rows, m->opt.bare,
                                    &m->pager, err);
    free(rows);
    if (!st) m->lender = rb_pager_lender(m->pager);
    return st;
}

resbm_status rb_stage_grads_away(const rb_device *dev, const rb_stage_options *o, rb_grads_away *out,
                                 rb_err *err) {
    bool *rows = calloc((size_t)o->table->count + 1, sizeof *rows);
    if (!rows) return rb_fail(err, RESBM_E_MEMORY, "no memory for a list of gradients");
    for (int i = 0; i < o->table->count; i++)
        for (int k = 0; k < o->segments && !rows[i]; k++)
            rows[i] = o->table->rows[i].segment == rb_hosted_at(o, k);
    out->spill = rb_pager_spill_bytes(o->table, rows);
    rb_pager_measure(dev, o->table, rows, &out->saved, &out->windows);
    free(rows);
    return RESBM_OK;
}

uint64_t rb_stage_grad_at(const rb_stage_model *m, int row) {
    return m->pager && rb_pager_unit_row(m->pager, row) >= 0 ? rb_pager_at(m->pager, row) : 0;
}

/* Rows are looked at one by one, but borrowed with what they are joined to. */
static resbm_status look_away(rb_stage_model *m, rb_queue *q, int row, rb_grad_look look, void *ctx,
                              rb_err *err) {
    rb_view all = rb_none();
    bool changed = false;
    int first = rb_pager_unit_row(m->pager, row);
    RB_TRY(m->lender.borrow(m->lender.ctx, q, first, &all.data, err));
    for (int i = first; i < m->table.count && (i == first || m->table.rows[i].joined); i++) {
        rb_view g = m->grad[i];
        g.data = (char *)all.data + (rb_pager_at(m->pager, i) - rb_pager_at(m->pager, first));
        RB_TRY(rb_constrain_grad(m, q, i, g, err));
        RB_TRY(look(ctx, i, g, err));
        changed |= m->table.rows[i].constraint != RB_CONSTRAINT_NONE;
    }
    return m->lender.give(m->lender.ctx, q, first, changed, err);
}

static resbm_status look_at_rows(rb_stage_model *m, rb_queue *q, int first, int end, rb_grad_look look,
                                 void *ctx, rb_err *err) {
    if (m->pager) rb_pager_walk(m->pager, first, end);
    for (int i = first; m->grad && i < end; i++) {
        if (!m->grad[i].rank) continue;
        int unit = m->pager ? rb_pager_unit_row(m->pager, i) : -1;
        if (unit < 0) RB_TRY(rb_constrain_grad(m, q, i, m->grad[i], err));
        if (unit < 0)
            RB_TRY(look(ctx, i, m->grad[i], err));
        else if (unit == i)
            RB_TRY(look_away(m, q, i, look, ctx, err));
    }
    return RESBM_OK;
}

resbm_status rb_stage_look_at_grads(rb_stage_model *m, rb_queue *q, rb_grad_look look, void *ctx,
                                    rb_err *err) {
    return look_at_rows(m, q, 0, m->table.count, look, ctx, err);
}

resbm_status rb_stage_look_at_segment_grads(rb_stage_model *m, rb_queue *q, int segment, rb_grad_look look,
                                            void *ctx, rb_err *err) {
    rb_segment *s = NULL;
    RB_TRY(rb_find_segment(m, segment, &s, err));
    return look_at_rows(m, q, s->first_row, s->first_row + s->rows, look, ctx, err);
}
