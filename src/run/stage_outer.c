/* Local steps (DiLoCo, arXiv 2311.08105): each replica updates its own weights by its own gradients, and every
 * optim.local_steps steps all meet. What the replicas moved by, averaged, is the gradient of an outer update with
 * Nesterov's momentum, as torch.optim.SGD has it:
 *
 *     g = mean over the replicas of (anchor - weights)     b = momentum b + g     anchor = anchor - lr (g + momentum b)
 *
 * and every replica goes on from the anchor. Inner states stay with their replica. What is not trained by gradient, the
 * learned steps of codecs, becomes the mean. All in f32 on the host, piece by piece, the same bits on every replica and
 * at both ends of a boundary. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include "run/stage.h"

static rb_view trained(const rb_stage *s, int row) {
    return rb_role_trained(s->table.rows[row].role) && !s->table.rows[row].like
               ? rb_stage_weight(s->model, row)
               : rb_none();
}

static rb_view steps(const rb_stage *s, int row) {
    return s->table.rows[row].role == RB_ROLE_STEP ? rb_stage_weight(s->model, row) : rb_none();
}

/* The anchor is what the weights are now: at the start, and after a snapshot was read. */
resbm_status rb_stage_begin_round(rb_stage *s, rb_err *err) {
    if (!s->training || !s->cfg.optim.local_steps) return RESBM_OK;
    int64_t n = rb_stage_vector_length(s, trained);
    if (!s->anchor) s->anchor = calloc((size_t)n + 1, sizeof *s->anchor);
    if (!s->outer_momentum) s->outer_momentum = calloc((size_t)n + 1, sizeof *s->outer_momentum);
    if (!s->anchor || !s->outer_momentum)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for the outer update of %lld weights", (long long)n);
    RB_TRY(rb_stage_open_lost(s, n, err));
    return rb_stage_copy_vector(s, trained, s->anchor, 0, n, true, err);
}

static resbm_status moved(void *ctx, float *out, int64_t from, int64_t n, rb_err *err) {
    rb_stage *s = ctx;
    RB_TRY(rb_stage_copy_vector(s, trained, out, from, n, true, err));
    for (int64_t i = 0; i < n; i++) out[i] = s->anchor[from + i] - out[i];
    return RESBM_OK;
}

static resbm_status keep_moved(void *ctx, float *sum, int64_t from, int64_t n, rb_err *err) {
    rb_stage *s = ctx;
    (void)err;
    memcpy(s->meeting.sum + from, sum, (size_t)n * sizeof *sum);
    return RESBM_OK;
}

static resbm_status look_at_steps(void *ctx, float *out, int64_t from, int64_t n, rb_err *err) {
    return rb_stage_copy_vector(ctx, steps, out, from, n, true, err);
}

static resbm_status keep_steps(void *ctx, float *sum, int64_t from, int64_t n, rb_err *err) {
    rb_stage *s = ctx;
    return keep_moved(s, sum, rb_stage_vector_length(s, trained) + from, n, err);
}

/* --- the meeting --- */

static resbm_status add_up(rb_stage *s, int64_t n, int64_t m, rb_err *err) {
    rb_stage_vector weights = {.number = RB_SUM_CHANGES,
                               .length = n,
                               .lost = s->sync_lost,
                               .ctx = s,
                               .load = moved,
                               .store = keep_moved};
    rb_stage_vector codecs = {
        .number = RB_SUM_STEPS, .length = m, .ctx = s, .load = look_at_steps, .store = keep_steps};
    s->meeting.replicas = rb_stage_replicas_left(s);
    RB_TRY(rb_stage_sum(s, &weights, err));
    return rb_stage_sum(s, &codecs, err);
}

/* Weights and momentum stay as they are until all replicas of all stages have their sums: one that is lost before leaves none
 * of them with another sum than the others. */
resbm_status rb_stage_meet(rb_stage *s, json_t **reply, rb_err *err) {
    int64_t n = rb_stage_vector_length(s, trained), m = rb_stage_vector_length(s, steps);
    size_t bytes = (size_t)(n + 1) * sizeof *s->sync_lost;
    bool again = s->meeting.sum != NULL;
    if (!again) s->meeting.sum = calloc((size_t)(n + m) + 1, sizeof *s->meeting.sum);
    if (!again && s->sync_lost) s->meeting.unsent = malloc(bytes);
    if (!s->meeting.sum || (s->sync_lost && !s->meeting.unsent))
        return rb_fail(err, RESBM_E_MEMORY, "no memory for the sum of %lld weights", (long long)n);
    if (s->sync_lost && !again) memcpy(s->meeting.unsent, s->sync_lost, bytes);
    resbm_status st;
    do {
        if (s->sync_lost) memcpy(s->sync_lost, s->meeting.unsent, bytes);
        st = add_up(s, n, m, err);
    } while (st == RESBM_E_CANCELLED && s->cover);
    RB_TRY(st);
    *reply = json_pack("{s:s, s:I}", "t", "met", "redeals", (json_int_t)rb_cover_attempt(s));
    return *reply ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for an answer");
}

static void update(rb_stage *s, int64_t n) {
    float share = 1 / (float)s->meeting.replicas, lr = (float)s->cfg.optim.outer_lr,
          momentum = (float)s->cfg.optim.outer_momentum;
    float *anchor = s->anchor, *b = s->outer_momentum;
    for (int64_t i = 0; i < n; i++) {
        float g = s->meeting.sum[i] * share;
        b[i] = momentum * b[i] + g;
        anchor[i] -= lr * (g + momentum * b[i]);
    }
}

resbm_status rb_stage_end_round(rb_stage *s, rb_err *err) {
    int64_t n = rb_stage_vector_length(s, trained), m = rb_stage_vector_length(s, steps);
    if (!s->meeting.sum)
        return rb_fail(err, RESBM_E_FORMAT, "the coordinator ends a round whose replicas have not met");
    float *mean = s->meeting.sum + n, share = 1 / (float)s->meeting.replicas;
    update(s, n);
    for (int64_t i = 0; i < m; i++) mean[i] *= share;
    RB_TRY(rb_stage_copy_vector(s, trained, s->anchor, 0, n, false, err));
    RB_TRY(rb_stage_copy_vector(s, steps, mean, 0, m, false, err));
    free(s->meeting.sum);
    free(s->meeting.unsent);
    s->meeting.sum = s->meeting.unsent = NULL;
    RB_TRY(rb_stage_constrain(s->model, s->q, err));
    RB_TRY(rb_stage_weights_changed(s->model, s->q, err));
    RB_TRY(rb_queue_sync(s->q, err));
    return rb_stage_copy_vector(s, trained, s->anchor, 0, n, true, err); /* as constrained */
}

/* Where the momentum of a tensor lies; NULL: it has none. */
float *rb_stage_outer_momentum(const rb_stage *s, int row) {
    int64_t at = 0;
    if (!s->outer_momentum || !trained(s, row).data) return NULL;
    for (int i = 0; s->rows[i] != row; i++) {
        rb_view v = trained(s, s->rows[i]);
        at += v.data ? rb_count(v) : 0;
    }
    return s->outer_momentum + at;
}
