/* Older versions of weights. A version is put in use by pointing the segment's views to it. */
#include <stdlib.h>
#include <string.h>
#include "model/stage.h"

static bool versioned(const rb_stage_model *m, int row) {
    return rb_role_trained(m->table.rows[row].role);
}

/* What computes with the newest weights of a row reads: the copy in what products round their factors to, where there is one, else
 * the weights themselves. An older version holds no more than that: the same bits, and nothing to round at each use. */
static rb_view newest(const rb_stage_model *m, int row) {
    return m->half[row].data ? m->half[row] : m->own[row];
}

/* One version, into copy (s->rows; NULL: it is only measured). As plan_tensors lays the weights: joined rows straight behind
 * the row before. */
static void plan_copy(const rb_stage_model *m, const rb_segment *s, rb_plan *p, rb_view *copy) {
    for (int i = 0; i < s->rows; i++) {
        const rb_tensor *t = &m->table.rows[s->first_row + i];
        if (!versioned(m, s->first_row + i)) continue;
        rb_view v = newest(m, s->first_row + i);
        size_t bytes = (size_t)rb_tensor_count(t) * rb_dtype_size(v.dtype);
        void *at = t->joined && p->base ? p->base + p->used : NULL;
        if (t->joined)
            p->used += bytes;
        else
            at = rb_plan_take(p, bytes);
        v.data = at;
        if (copy) copy[i] = v;
    }
}

static void plan_copies(const rb_stage_model *m, const rb_segment *s, rb_plan *p) {
    for (int c = 0; c < s->copies; c++) plan_copy(m, s, p, s->copy + c * s->rows);
}

size_t rb_stage_version_bytes(const rb_stage_model *m) {
    rb_plan p = {0};
    for (int i = 0; i < m->opt.segments; i++) plan_copy(m, &m->segment[i], &p, NULL);
    return p.used;
}

static resbm_status zero_all(rb_stage_model *m, size_t bytes, rb_err *err) {
    rb_queue *q;
    RB_TRY(rb_queue_open(m->dev, &q, err));
    resbm_status st = rb_fill(q, rb_view1(m->versions, RB_F32, (int64_t)(bytes / 4)), 0, err);
    if (st == RESBM_OK) st = rb_queue_sync(q, err);
    rb_queue_close(q);
    return st;
}

resbm_status rb_stage_open_versions(rb_stage_model *m, const int *copies, rb_err *err) {
    rb_plan p = {0};
    for (int i = 0; i < m->opt.segments; i++) {
        rb_segment *s = &m->segment[i];
        s->copies = copies[i];
        s->copy = calloc((size_t)(s->copies * s->rows) + 1, sizeof *s->copy);
        if (!s->copy)
            return rb_fail(err, RESBM_E_MEMORY, "no memory for %d versions of segment %d", s->copies,
                           s->index);
        plan_copies(m, s, &p);
    }
    if (!p.used) return RESBM_OK;
    size_t bytes = p.used;
    resbm_status st = rb_alloc(m->dev, bytes, &m->versions, err);
    if (st) return rb_err_context(err, st, "older versions of the weights: ");
    m->weight_bytes += bytes;
    p = (rb_plan){.base = m->versions};
    for (int i = 0; i < m->opt.segments; i++) plan_copies(m, &m->segment[i], &p);
    return zero_all(m, bytes, err);
}

void rb_stage_close_versions(rb_stage_model *m) {
    for (int i = 0; m->segment && i < m->opt.segments; i++) free(m->segment[i].copy);
    if (m->versions) rb_free(m->dev, m->versions);
}

static resbm_status find_copy(rb_stage_model *m, int segment, int copy, rb_segment **out, rb_err *err) {
    RB_TRY(rb_find_segment(m, segment, out, err));
    if (copy < (*out)->copies) return RESBM_OK;
    return rb_fail(err, RESBM_E_ARG, "version %d of segment %d's weights: there is room for %d", copy,
                   segment, (*out)->copies);
}

resbm_status rb_stage_keep_version(rb_stage_model *m, rb_queue *q, int segment, int copy, rb_err *err) {
    rb_segment *s = NULL;
    RB_TRY(find_copy(m, segment, copy, &s, err));
    if (copy < 0) return rb_fail(err, RESBM_E_ARG, "version %d of segment %d's weights", copy, segment);
    for (int i = 0; i < s->rows; i++)
        if (versioned(m, s->first_row + i))
            RB_TRY(rb_axpby(q, 1, newest(m, s->first_row + i), 0, s->copy[copy * s->rows + i], err));
    return RESBM_OK;
}

resbm_status rb_stage_use_version(rb_stage_model *m, int segment, int copy, rb_err *err) {
    rb_segment *s = NULL;
    RB_TRY(find_copy(m, segment, copy, &s, err));
    for (int i = 0; i < s->rows; i++) {
        int row = s->first_row + i;
        if (versioned(m, row))
            m->weight[row] = copy >= 0 ? s->copy[copy * s->rows + i] : newest(m, row);
    }
    return rb_bind_segment(m, s, err);
}

resbm_status rb_stage_zero_segment_grads(rb_stage_model *m, rb_queue *q, int segment, rb_err *err) {
    rb_segment *s = NULL;
    RB_TRY(rb_find_segment(m, segment, &s, err));
    if (m->pager) rb_pager_zero(m->pager, s->first_row, s->first_row + s->rows);
    for (int i = s->first_row; i < s->first_row + s->rows; i++)
        if (m->grad[i].data) RB_TRY(rb_fill(q, m->grad[i], 0, err));
    return RESBM_OK;
}
