/* Initial values, keyed by (seed, name): the same on any number of stages. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "core/hash.h"
#include "core/rng.h"
#include "model/stage.h"

/* Rows of x (k,d), one after the other: each less what lies along those before (twice, against rounding), then of length
 * one. In double, in one order. */
static resbm_status orthonormalise(float *x, int64_t k, int64_t d, rb_err *err) {
    double *r = malloc((size_t)(k * d) * sizeof *r);
    if (!r)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for a basis of %lldx%lld", (long long)k, (long long)d);
    for (int64_t i = 0; i < k; i++) {
        double *row = r + i * d, square = 0;
        for (int64_t j = 0; j < d; j++) row[j] = (double)x[i * d + j];
        for (int64_t b = 0; b < 2 * i; b++) {
            const double *other = r + b % i * d;
            double along = 0;
            for (int64_t j = 0; j < d; j++) along += row[j] * other[j];
            for (int64_t j = 0; j < d; j++) row[j] -= along * other[j];
        }
        for (int64_t j = 0; j < d; j++) square += row[j] * row[j];
        for (int64_t j = 0; j < d; j++) row[j] /= sqrt(square);
    }
    for (int64_t i = 0; i < k * d; i++) x[i] = (float)r[i];
    free(r);
    return RESBM_OK;
}

/* On all of the stage's threads: a billion normal numbers are most of the time a large model takes to start. */
static void fill_normal(uint64_t key, float *out, int64_t n, float mean, float std, int threads) {
    enum { PIECE = 1 << 14 };
    (void)threads;
#pragma omp parallel for num_threads(threads) if (n > PIECE)
    for (int64_t i = 0; i < n; i += PIECE)
        rb_normal_fill_from(key, i, out + i, n - i < PIECE ? n - i : PIECE, mean, std);
}

resbm_status rb_stage_initial(const rb_stage_model *m, int row, float *host, rb_err *err) {
    const rb_tensor *t = &m->table.rows[row];
    int64_t n = rb_tensor_count(t);
    const char *name = t->like ? t->like : t->name;
    bool same = t->values == RB_VALUES_IDENTITY || t->init_std == 0;
    for (int64_t i = 0; same && i < n; i++) host[i] = t->values == RB_VALUES_IDENTITY ? 0 : t->init_mean;
    for (int64_t i = 0; t->values == RB_VALUES_IDENTITY && i < t->shape[0] && i < t->shape[1]; i++)
        host[i * t->shape[1] + i] = 1;
    if (same) return RESBM_OK;
    fill_normal(rb_mix64(m->model.seed, rb_hash64(name, strlen(name))), host, n, t->init_mean, t->init_std,
                m->dev->opt.threads);
    return t->values == RB_VALUES_BASIS ? orthonormalise(host, t->shape[0], t->shape[1], err) : RESBM_OK;
}

static resbm_status init_one(const rb_stage_model *m, rb_queue *q, int row, float *host, rb_err *err) {
    const rb_tensor *t = &m->table.rows[row];
    if (t->init_std == 0 && t->values != RB_VALUES_IDENTITY)
        return rb_fill(q, m->own[row], t->init_mean, err);
    RB_TRY(rb_stage_initial(m, row, host, err));
    RB_TRY(rb_upload(q, m->own[row].data, host, (size_t)rb_tensor_count(t) * sizeof *host, err));
    return rb_queue_sync(q, err); /* host is used again */
}

resbm_status rb_stage_init_weights(rb_stage_model *m, rb_queue *q, rb_err *err) {
    int64_t most = 1;
    resbm_status st = RESBM_OK;
    for (int i = 0; i < m->table.count; i++)
        if (m->own[i].data && rb_tensor_count(&m->table.rows[i]) > most)
            most = rb_tensor_count(&m->table.rows[i]);
    float *host = malloc((size_t)most * sizeof *host);
    if (!host)
        return rb_fail(err, RESBM_E_MEMORY, "initial weights: %lld bytes",
                       (long long)most * (long long)sizeof *host);
    for (int i = 0; st == RESBM_OK && i < m->table.count; i++)
        if (m->own[i].data) st = init_one(m, q, i, host, err);
    if (st == RESBM_OK) st = rb_queue_sync(q, err);
    free(host);
    return st;
}
