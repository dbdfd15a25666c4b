/* Tensors that are held to something after each update. A subspace, what a boundary of kind subspace asks of the weights that
 * write to the stream: B (k,d) has orthonormal rows, P = B^T B; t is scratch. Or orthonormal rows. */
#include "model/stage.h"

/* Any basis hosted here: all are the same. */
static rb_view basis_of(const rb_stage_model *m) {
    for (int i = 0; i < m->table.count; i++)
        if (m->table.rows[i].values == RB_VALUES_BASIS && m->own[i].data) return m->own[i];
    return rb_none();
}

int64_t rb_constrain_scratch(const rb_stage_model *m) {
    int64_t most = 0;
    for (int i = 0; i < m->table.count; i++) {
        const rb_tensor *t = &m->table.rows[i];
        if (!m->own[i].rank || t->constraint == RB_CONSTRAINT_NONE) continue;
        int64_t other = t->constraint == RB_CONSTRAINT_COLUMNS ? t->shape[1] : t->shape[0];
        if (t->constraint == RB_CONSTRAINT_ORTHONORMAL) other = t->shape[0] + t->shape[1];
        if (other > most) most = other;
    }
    return most * m->boundary.k;
}

/* x (d,c) = P x */
static resbm_status project_columns(const rb_stage_model *m, rb_queue *q, rb_view basis, rb_view x,
                                    rb_err *err) {
    rb_view t = rb_view2(m->scratch.constrain.data, RB_F32, basis.shape[0], x.shape[1]);
    RB_TRY(rb_gemm(q, false, false, 1, basis, x, 0, t, err));
    return rb_gemm(q, true, false, 1, basis, t, 0, x, err);
}

/* x (r,d) = sign x P + beta x, or the rows of `base` + sign x P */
static resbm_status project_rows(const rb_stage_model *m, rb_queue *q, rb_view basis, rb_view x, float sign,
                                 float beta, rb_view base, rb_err *err) {
    rb_view t = rb_view2(m->scratch.constrain.data, RB_F32, x.shape[0], basis.shape[0]);
    RB_TRY(rb_gemm(q, false, true, 1, x, basis, 0, t, err));
    if (base.data) RB_TRY(rb_axpby(q, 1, base, 0, x, err));
    return rb_gemm(q, false, false, sign, t, basis, base.data ? 1 : beta, x, err);
}

/* The nearest matrix with orthonormal rows: x = 3/2 x - 1/2 x x^T x, time and again (Bjorck and Bowie 1971), which doubles
 * the digits each time. An update leaves singular values within a few hundredths of 1; below sqrt 3 any come back. */
enum { RETRACTIONS = 6 };
static resbm_status orthonormal(const rb_stage_model *m, rb_queue *q, rb_view x, rb_err *err) {
    float *t = m->scratch.constrain.data;
    int64_t k = x.shape[0], d = x.shape[1];
    rb_view square = rb_view2(t, RB_F32, k, k), old = rb_view2(t + k * k, RB_F32, k, d);
    for (int i = 0; i < RETRACTIONS; i++) {
        RB_TRY(rb_gemm(q, false, true, 1, x, x, 0, square, err));
        RB_TRY(rb_axpby(q, 1, x, 0, old, err));
        RB_TRY(rb_gemm(q, false, false, -0.5f, square, old, 1.5f, x, err));
    }
    return RESBM_OK;
}

static rb_view outside_of(const rb_stage_model *m, int row) {
    for (int i = 0; i < m->table.count; i++) {
        const rb_tensor *t = &m->table.rows[i];
        if (t->constraint == RB_CONSTRAINT_OUTSIDE && t->part == m->table.rows[row].part && m->own[i].data)
            return m->own[i];
    }
    return rb_none();
}

static resbm_status constrain_row(const rb_stage_model *m, rb_queue *q, rb_view basis, int row, rb_view x,
                                  bool gradient, rb_err *err) {
    switch (m->table.rows[row].constraint) {
    case RB_CONSTRAINT_COLUMNS:
        return project_columns(m, q, basis, x, err);
    case RB_CONSTRAINT_ROWS:
        return project_rows(m, q, basis, x, 1, 0, gradient ? rb_none() : outside_of(m, row), err);
    case RB_CONSTRAINT_ORTHONORMAL:
        return gradient ? RESBM_OK : orthonormal(m, q, x, err);
    default:
        return RESBM_OK;
    }
}

void rb_stage_constrain_there(rb_stage_model *m, int row, rb_view v) {
    m->updated[row] = v;
}

static rb_view updated(const rb_stage_model *m, int row) {
    return m->updated[row].data ? m->updated[row] : m->own[row];
}

resbm_status rb_stage_constrain(rb_stage_model *m, rb_queue *q, rb_err *err) {
    rb_view basis = basis_of(m);
    for (int i = 0; i < m->table.count; i++)
        if (m->own[i].data) RB_TRY(constrain_row(m, q, basis, i, updated(m, i), false, err));
    return RESBM_OK;
}

resbm_status rb_stage_constrain_segment(rb_stage_model *m, rb_queue *q, int segment, rb_err *err) {
    rb_view basis = basis_of(m);
    for (int i = 0; i < m->table.count; i++)
        if (m->table.rows[i].segment == segment && m->own[i].data)
            RB_TRY(constrain_row(m, q, basis, i, m->own[i], false, err));
    return RESBM_OK;
}

resbm_status rb_constrain_grad(const rb_stage_model *m, rb_queue *q, int row, rb_view grad, rb_err *err) {
    if (m->table.rows[row].constraint == RB_CONSTRAINT_NONE) return RESBM_OK;
    return constrain_row(m, q, basis_of(m), row, grad, true, err);
}

resbm_status rb_constrain_begin(rb_stage_model *m, rb_queue *q, rb_err *err) {
    rb_view basis = basis_of(m);
    for (int i = 0; basis.data && i < m->table.count; i++)
        if (m->table.rows[i].constraint == RB_CONSTRAINT_OUTSIDE && m->own[i].data)
            RB_TRY(project_rows(m, q, basis, m->own[i], -1, 1, rb_none(), err));
    return rb_stage_constrain(m, q, err);
}
