/* Replicas of a stage: after a step's list each holds the gradients of its own microbatches, accumulated in ascending
 * order, and what its ends of the boundaries have counted. Here they become those of the whole batch, the same bits on
 * every replica (stage_sum.c). The gradients are one long vector, in the order of the tensor table. */
#include <stdlib.h>
#include <string.h>
#include "run/stage.h"

/* Copies values [from, from + n) of the vector that the views of all hosted rows make between them and host memory. */
resbm_status rb_stage_copy_vector(rb_stage *s, rb_stage_view_of view_of, float *host, int64_t from, int64_t n,
                                  bool out, rb_err *err) {
    int64_t at = 0;
    for (int i = 0; i < s->row_count && n > 0; i++) {
        rb_view g = view_of(s, s->rows[i]);
        int64_t size = g.data ? rb_count(g) : 0, skip = from - at, take;
        at += size;
        if (skip >= size || !size) continue;
        if (skip < 0) skip = 0;
        take = size - skip < n ? size - skip : n;
        float *there = (float *)g.data + skip;
        if (out)
            RB_TRY(rb_download(s->q, host, there, (size_t)take * sizeof *host, err));
        else
            RB_TRY(rb_upload(s->q, there, host, (size_t)take * sizeof *host, err));
        host += take;
        from += take;
        n -= take;
    }
    return rb_queue_sync(s->q, err);
}

int64_t rb_stage_vector_length(const rb_stage *s, rb_stage_view_of view_of) {
    int64_t n = 0;
    for (int i = 0; i < s->row_count; i++) {
        rb_view g = view_of(s, s->rows[i]);
        n += g.data ? rb_count(g) : 0;
    }
    return n;
}

static rb_view gradient(const rb_stage *s, int row) {
    return rb_stage_grad(s->model, row);
}

static resbm_status load(void *ctx, float *out, int64_t from, int64_t n, rb_err *err) {
    return rb_stage_copy_vector(ctx, gradient, out, from, n, true, err);
}

static resbm_status store(void *ctx, float *sum, int64_t from, int64_t n, rb_err *err) {
    return rb_stage_copy_vector(ctx, gradient, sum, from, n, false, err);
}

resbm_status rb_stage_open_lost(rb_stage *s, int64_t length, rb_err *err) {
    if (s->sync_lost || strcmp(s->cfg.pipeline.replica_codec, "int8")) return RESBM_OK;
    s->sync_lost = calloc((size_t)length + 1, sizeof *s->sync_lost);
    return s->sync_lost ? RESBM_OK
                        : rb_fail(err, RESBM_E_MEMORY, "no memory for %lld values", (long long)length);
}

static resbm_status reduce_gradients(rb_stage *s, rb_err *err) {
    rb_stage_vector v = {.number = RB_SUM_GRADIENTS,
                         .length = rb_stage_vector_length(s, gradient),
                         .ctx = s,
                         .load = load,
                         .store = store};
    RB_TRY(rb_stage_open_lost(s, v.length, err));
    v.lost = s->sync_lost;
    return rb_stage_sum(s, &v, err);
}

/* --- what the ends of boundaries have counted --- */

static resbm_status copy_counts(rb_stage *s, int64_t *host, bool out, int64_t *total, rb_err *err) {
    *total = 0;
    for (int i = 0; i < s->hosted; i++) {
        rb_port *ports[] = {&s->out_port[i], &s->in_port[i]};
        for (int k = 0; k < 2; k++) {
            int64_t n = rb_count(ports[k]->stats);
            if (!ports[k]->stats.data) continue;
            if (host && out)
                RB_TRY(rb_download(s->q, host + *total, ports[k]->stats.data, (size_t)n * sizeof *host, err));
            if (host && !out)
                RB_TRY(rb_upload(s->q, ports[k]->stats.data, host + *total, (size_t)n * sizeof *host, err));
            *total += n;
        }
    }
    return rb_queue_sync(s->q, err);
}

static resbm_status reduce_counts(rb_stage *s, rb_err *err) {
    int64_t n;
    RB_TRY(copy_counts(s, NULL, true, &n, err));
    if (!n) return RESBM_OK;
    int64_t *host = malloc((size_t)n * sizeof *host);
    if (!host) return rb_fail(err, RESBM_E_MEMORY, "no memory for %lld counts", (long long)n);
    resbm_status st = copy_counts(s, host, true, &n, err);
    if (!st) st = rb_stage_sum_numbers(s, RB_SUM_COUNTS, host, n, err);
    if (!st) st = copy_counts(s, host, false, &n, err);
    free(host);
    return st;
}

resbm_status rb_stage_keep_gradients(rb_stage *s, float **own, int64_t **counts, float **unsent,
                                     rb_err *err) {
    int64_t length = rb_stage_vector_length(s, gradient), n;
    size_t bytes = (size_t)(length + 1) * sizeof **own;
    RB_TRY(rb_stage_open_lost(s, length, err));
    RB_TRY(copy_counts(s, NULL, true, &n, err));
    if (!*own) *own = malloc(bytes);
    if (!*counts) *counts = malloc((size_t)(n + 1) * sizeof **counts);
    if (!*unsent && s->sync_lost) *unsent = malloc(bytes);
    if (!*own || !*counts || (!*unsent && s->sync_lost))
        return rb_fail(err, RESBM_E_MEMORY, "no memory to keep %lld gradients", (long long)length);
    if (s->sync_lost) memcpy(*unsent, s->sync_lost, bytes);
    RB_TRY(copy_counts(s, *counts, true, &n, err));
    return rb_stage_copy_vector(s, gradient, *own, 0, length, true, err);
}

resbm_status rb_stage_put_back_gradients(rb_stage *s, const float *own, const int64_t *counts,
                                         const float *unsent, rb_err *err) {
    int64_t length = rb_stage_vector_length(s, gradient), n;
    if (unsent && s->sync_lost) memcpy(s->sync_lost, unsent, (size_t)(length + 1) * sizeof *unsent);
    RB_TRY(copy_counts(s, (int64_t *)counts, false, &n, err));
    return rb_stage_copy_vector(s, gradient, (float *)own, 0, length, false, err);
}

resbm_status rb_stage_reduce(rb_stage *s, rb_err *err) {
    if (rb_replicas(&s->cfg, s->stage) == 1 || s->cfg.optim.local_steps) return RESBM_OK;
    RB_TRY(reduce_counts(s, err));
    return reduce_gradients(s, err);
}
