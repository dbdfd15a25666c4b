/* Initial values, keyed by (seed, name): the same on any number of stages. */
#include <stdlib.h>
#include <string.h>
#include "core/hash.h"
#include "core/rng.h"
#include "model/stage.h"

static resbm_status init_one(const rb_stage_model *m, rb_queue *q, int row, float *host, rb_err *err) {
    const rb_tensor *t = &m->table.rows[row];
    int64_t n = rb_tensor_count(t);
    if (t->init_std == 0) return rb_fill(q, m->weight[row], t->init_mean, err);
    rb_normal_fill(rb_mix64(m->model.seed, rb_hash64(t->name, strlen(t->name))), host, n, t->init_mean,
                   t->init_std);
    RB_TRY(rb_upload(q, m->weight[row].data, host, (size_t)n * sizeof *host, err));
    return rb_queue_sync(q, err); /* host is used again */
}

resbm_status rb_stage_init_weights(rb_stage_model *m, rb_queue *q, rb_err *err) {
    int64_t most = 1;
    resbm_status st = RESBM_OK;
    for (int i = 0; i < m->table.count; i++)
        if (m->weight[i].data && rb_tensor_count(&m->table.rows[i]) > most)
            most = rb_tensor_count(&m->table.rows[i]);
    float *host = malloc((size_t)most * sizeof *host);
    if (!host)
        return rb_fail(err, RESBM_E_MEMORY, "initial weights: %lld bytes",
                       (long long)most * (long long)sizeof *host);
    for (int i = 0; st == RESBM_OK && i < m->table.count; i++)
        if (m->weight[i].data) st = init_one(m, q, i, host, err);
    if (st == RESBM_OK) st = rb_queue_sync(q, err);
    free(host);
    return st;
}
