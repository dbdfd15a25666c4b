/* Schedules whose lists update: which version of the weights a microbatch sees, an update, and steps that flow into one
 * another.
 *
 * In a flow a microbatch is counted from the flow's begin; what its step, sequences and place are follows from that
 * number. A flow begins with the first step after a start, a snapshot or an evaluation: before each of those what is
 * in flight is dropped, and begun again afterwards with the weights as they are then. So a snapshot is weights and
 * optimizer states alone, and a resumed run does what an undisturbed one does. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "core/clock.h"
#include "run/control.h"
#include "run/stage.h"

/* Microbatches in an update; 0 where not all take as many. */
static int64_t count_per_update(const rb_stage *s, int *updates) {
    const rb_action_list *l = &s->train.stage[s->self];
    *updates = 0;
    for (int i = 0; i < l->count; i++)
        *updates += l->items[i].kind == RB_ACT_UPDATE && l->items[i].segment == s->host[0];
    int per = s->train.microbatches / *updates;
    for (int i = 0; i < l->count; i++)
        if (l->items[i].kind == RB_ACT_UPDATE && (l->items[i].microbatch + 1) % per) return 0;
    return s->train.microbatches % *updates ? 0 : per;
}

resbm_status rb_stage_open_flow(rb_stage *s, rb_err *err) {
    int updates;
    s->per_update = count_per_update(s, &updates);
    s->version = calloc((size_t)s->hosted, sizeof *s->version);
    s->updated = calloc((size_t)s->hosted, sizeof *s->updated);
    s->update_sums = calloc((size_t)s->row_count + 1, sizeof *s->update_sums);
    if (!s->version || !s->updated || !s->update_sums)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for the versions of %d segments", s->hosted);
    if (!s->per_update)
        return rb_fail(err, RESBM_E_CONFIG, "%s has %d updates for %d microbatches: all must take as many",
                       s->train.name, updates, s->train.microbatches);
    return rb_stage_open_versions(s->model, s->stash, err);
}

void rb_stage_close_flow(rb_stage *s) {
    free(s->stash);
    free(s->version);
    free(s->updated);
    free(s->update_sums);
}

/* Until the next update: actions that add to the segment's gradients. */
static void expect_gradients(rb_stage *s, int i) {
    s->grads_left[i] = (int)s->per_update * (s->trunk_apart[i] ? 2 : 1);
}

void rb_stage_begin_versions(rb_stage *s) {
    for (int i = 0; i < s->hosted; i++) {
        expect_gradients(s, i);
        s->version[i] = 0;
        rb_seat_clear(&s->seat[i]);
    }
}

/* --- versions: number v is kept in copy v % stash until v + stash updates have been made --- */

static resbm_status see(rb_stage *s, int i, int64_t version, rb_err *err) {
    int64_t age = s->version[i] - version;
    if (!age) return rb_optim_await(s->optim, s->host[i], err); /* the host may have updated them */
    if (version >= 0 && age > 0 && age <= s->stash[i])
        return rb_stage_use_version(s->model, s->host[i], (int)(version % s->stash[i]), err);
    return rb_fail(err, RESBM_E_INTERNAL,
                   "version %lld of the weights is asked for, the newest is %lld and %d are kept",
                   (long long)version, (long long)s->version[i], s->stash[i]);
}

resbm_status rb_stage_see_newest(rb_stage *s, int i, rb_berth *b, int behind, rb_err *err) {
    b->version = s->version[i] - behind;
    return see(s, i, b->version, err);
}

resbm_status rb_stage_see_again(rb_stage *s, int i, const rb_berth *b, rb_err *err) {
    s->stale += (double)(s->version[i] - b->version);
    s->graded++;
    return see(s, i, b->version, err);
}

resbm_status rb_stage_see_version(rb_stage *s, int i, const rb_berth *b, rb_err *err) {
    return see(s, i, b->version, err);
}

resbm_status rb_stage_unsee(rb_stage *s, int i, rb_err *err) {
    if (!s->stash[i]) return RESBM_OK;
    RB_TRY(rb_queue_sync(s->q, err)); /* what was enqueued has its views by value, but may not have run */
    return rb_stage_use_version(s->model, s->host[i], -1, err);
}

/* --- an update --- */

/* The segment's rows among the hosted ones. */
static void rows_of(const rb_stage *s, int segment, int *first, int *count) {
    *first = *count = 0;
    for (int r = 0; r < s->row_count; r++) {
        if (s->table.rows[s->rows[r]].segment != segment) continue;
        if (!(*count)++) *first = r;
    }
}

static resbm_status sum_squares(rb_stage *s, int segment, int first, int count, rb_err *err) {
    RB_TRY(rb_stage_gather_sums(s, segment, first, count, s->update_sums + first, err));
    for (int r = first; r < first + count; r++)
        if (!isfinite(s->update_sums[r]))
            return rb_fail(err, RESBM_E_NUMERIC,
                           "the gradient of %s is not finite; the update was not applied. Lower optim.lr, "
                           "set optim.clip, or "
                           "go back to an earlier snapshot",
                           s->table.rows[s->rows[r]].name);
    return RESBM_OK;
}

static resbm_status apply(rb_stage *s, int i, int first, int count, uint64_t step, rb_err *err) {
    double sum = 0;
    for (int r = first; r < first + count; r++) sum += s->update_sums[r];
    float *scale = malloc((size_t)(first + count) * sizeof *scale + 1);
    if (!scale) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d factors", count);
    for (int r = 0; r < first + count; r++) scale[r] = (float)rb_clip_factor(sqrt(sum), s->cfg.optim.clip);
    resbm_status st =
        rb_optim_step_some(s->optim, s->q, ++s->updated[i], rb_lr_factor(&s->cfg.optim.rates, (int64_t)step),
                           scale, first, count, err);
    if (!st) st = rb_stage_constrain_segment(s->model, s->q, s->host[i], err);
    if (!st) st = rb_stage_segment_changed(s->model, s->q, s->host[i], err);
    if (!st) st = rb_optim_await_taken(s->optim, err);
    if (!st) st = rb_stage_zero_segment_grads(s->model, s->q, s->host[i], err);
    if (!st) st = rb_queue_sync(s->q, err);
    free(scale);
    return st;
}

resbm_status rb_stage_update(void *ctx, rb_action a, rb_err *err) {
    rb_stage *s = ctx;
    int i = rb_stage_local(s, a.segment), first, count;
    rows_of(s, a.segment, &first, &count);
    /* The newest weights may be on their way up from the host. They are kept before others may come up: the sums wait
     * for the queue. */
    RB_TRY(rb_optim_await(s->optim, a.segment, err));
    if (s->stash[i])
        RB_TRY(rb_stage_keep_version(s->model, s->q, a.segment, (int)(s->version[i] % s->stash[i]), err));
    RB_TRY(sum_squares(s, a.segment, first, count, err));
    RB_TRY(apply(s, i, first, count, s->base_step + (uint64_t)(a.microbatch / s->M), err));
    s->version[i]++;
    expect_gradients(s, i);
    return RESBM_OK;
}

/* --- steps that flow --- */

static resbm_status load_step(rb_stage *s, int64_t n, rb_err *err) {
    int64_t first = n * s->M;
    return rb_stage_load_ids(s, (int64_t)s->base_sequence + first * s->B, 0, rb_stage_place(s, (int)first),
                             err);
}

/* The ids of the steps whose microbatches this one may begin: in the first, all; later, the one that came into reach. */
static resbm_status load_reach(rb_stage *s, rb_err *err) {
    int reach = rb_flow_overlap(&s->flow);
    for (int64_t n = s->flow_step ? s->flow_step + reach : 0; n <= s->flow_step + reach; n++)
        RB_TRY(load_step(s, n, err));
    return RESBM_OK;
}

static resbm_status begin_step(rb_stage *s, const json_t *in, rb_err *err) {
    s->step = (uint64_t)json_integer_value(json_object_get(in, "step"));
    s->sequence = (uint64_t)json_integer_value(json_object_get(in, "sequence"));
    s->evaluating = false;
    s->flow_step++;
    if (json_is_true(json_object_get(in, "begins"))) {
        s->flow_step = 0;
        s->attempt++; /* microbatches that were dropped are sent again */
        s->base_step = s->step;
        s->base_sequence = s->sequence;
        rb_stage_begin_versions(s);
        RB_TRY(rb_stage_zero_grads(s->model, s->q, err));
    }
    if (s->flow_step < 0 || (s->flow_step + 2 + rb_flow_overlap(&s->flow)) * s->M > INT32_MAX ||
        s->base_step + (uint64_t)s->flow_step != s->step)
        return rb_fail(err, RESBM_E_FORMAT, "the coordinator sent step %llu in a flow that began with %llu",
                       (unsigned long long)s->step, (unsigned long long)s->base_step);
    double tokens = (double)(s->per_update * s->B * s->T);
    s->grad_scale = (float)(1.0 / tokens);
    s->aux_scale = (float)(rb_aux_weight(&s->cfg, (int64_t)s->step) / tokens);
    s->wait_ns = s->graded = 0;
    s->stale = 0;
    return load_reach(s, err);
}

resbm_status rb_stage_flow_step(rb_stage *s, const json_t *in, json_t **reply, rb_err *err) {
    rb_executor_hooks hooks = rb_stage_hooks(s);
    int from, to, shift, done = 0;
    int64_t begin = rb_now_ns();
    RB_TRY(begin_step(s, in, err));
    rb_flow_part(&s->flow, s->self, (int)s->flow_step, &from, &to, &shift);
    s->list = &s->train;
    RB_TRY(rb_execute_part(&s->train, s->self, from, to, shift, &hooks, NULL, s->trace, &done, err));
    RB_TRY(rb_stage_settle(s, err));
    int64_t busy = rb_stage_record(s, done), first = s->flow_step * s->M;
    if (s->ahead) busy = rb_now_ns() - begin - s->wait_ns;
    *reply = json_pack("{s:s, s:I, s:o, s:o, s:o, s:I, s:I, s:I, s:o, s:s, s:I, s:I, s:f}", "t", "done",
                       "step", (json_int_t)s->step, "loss", rb_stage_losses(s, first), "aux",
                       rb_stage_aux_losses(s, first), "sumsq", rb_json_doubles(s->update_sums, s->row_count),
                       "busy_ns", (json_int_t)busy, "wait_ns", (json_int_t)s->wait_ns, "step_ns",
                       (json_int_t)(rb_now_ns() - begin), "sent", rb_stage_traffic(s), "nonfinite", "", "rss",
                       (json_int_t)rb_stage_peak_rss(), "updates", (json_int_t)(s->M / s->per_update),
                       "staleness", s->graded ? s->stale / (double)s->graded : 0.0);
    return *reply ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for an answer");
}

static resbm_status settle_ports(rb_stage *s, rb_err *err) {
    for (int i = 0; i < s->hosted; i++) {
        RB_TRY(rb_port_settle(&s->out_port[i], s->q, s->step, err));
        RB_TRY(rb_port_settle(&s->in_port[i], s->q, s->step, err));
    }
    return rb_queue_sync(s->q, err);
}

resbm_status rb_stage_drop(rb_stage *s, json_t **reply, rb_err *err) {
    rb_action_list under_way = {0};
    int shift;
    resbm_status st = rb_flow_undelivered(&s->flow, s->self, (int)s->flow_step, &under_way, &shift, err);
    for (int i = 0; i < under_way.count && !st; i++) {
        under_way.items[i].microbatch += shift;
        st = rb_stage_discard(s, under_way.items[i], err);
    }
    free(under_way.items);
    if (!st) st = rb_stage_settle(s, err);
    if (!st) st = settle_ports(s, err);
    if (!st) st = rb_stage_narrow(s, (int64_t)s->step, err);
    if (st) return rb_err_context(err, st, "dropping what is in flight: ");
    rb_stage_begin_versions(s);
    *reply = json_pack("{s:s, s:o}", "t", "dropped", "sent", rb_stage_traffic(s));
    return RESBM_OK;
}
