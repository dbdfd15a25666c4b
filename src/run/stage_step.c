/* A training step (compute, report, commit) and an evaluation. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include "core/clock.h"
#include "run/control.h"
#include "run/stage.h"

resbm_status rb_stage_upload_ids(rb_stage *s, int place, rb_err *err) {
    int64_t n = s->B * s->T, W = s->T + 1;
    const int32_t *ids = s->ids + place * s->B * W;
    int32_t *in = s->host_tokens + place * n, *out = s->host_tokens + (s->ring + place) * n;
    for (int64_t b = 0; b < s->B; b++) {
        memcpy(in + b * s->T, ids + b * W, (size_t)s->T * sizeof *in);
        memcpy(out + b * s->T, ids + b * W + 1, (size_t)s->T * sizeof *out);
    }
    size_t bytes = (size_t)n * sizeof *in;
    RB_TRY(rb_upload(s->q, (int32_t *)s->tokens.data + place * n, in, bytes, err));
    return rb_upload(s->q, (int32_t *)s->targets.data + place * n, out, bytes, err);
}

/* Does this stage look at token ids that do not come over the wire? */
static bool reads_data(const rb_stage *s) {
    if (s->host[0] == 0) return true;
    if (s->wire_tokens) return false;
    return rb_stage_has_loss(s) || s->cfg.boundary.tokens != RB_TOKENS_NONE ||
           s->cfg.boundary.aux != RB_AUX_NONE;
}

resbm_status rb_stage_load_ids(rb_stage *s, int64_t from, int64_t eval_of, int place, rb_err *err) {
    if (!reads_data(s)) return RESBM_OK;
    if (s->apart) return rb_stage_apart_ids(s, place, err);
    for (int64_t i = 0; i < s->M * s->B; i++) {
        int32_t *out = s->ids + (place * s->B + i) * (s->T + 1);
        if (eval_of)
            RB_TRY(rb_sampler_eval_window(&s->val_sampler, from + i, eval_of, out, err));
        else
            RB_TRY(rb_sampler_window(&s->sampler, (uint64_t)(from + i), out, err));
    }
    for (int m = 0; m < s->M; m++) RB_TRY(rb_stage_upload_ids(s, place + m, err));
    return rb_queue_sync(s->q, err);
}

void rb_stage_add_span(rb_stage *s, rb_stage_span span) {
    if (s->spans == s->span_capacity) return;
    s->span[s->spans++] = span;
}

/* Which steps of the run are kept for the trace. */
static bool traced(const rb_stage *s) {
    return s->step >= 1 && s->step <= RB_TRACE_STEPS && !s->evaluating;
}

int64_t rb_stage_record(rb_stage *s, int actions) {
    int64_t busy = 0;
    for (int i = 0; i < actions; i++) {
        const rb_action_trace *t = &s->trace[i];
        if (rb_action_computes(t->action.kind)) busy += t->end_ns - t->begin_ns;
        if (traced(s))
            rb_stage_add_span(s, (rb_stage_span){.begin_ns = t->begin_ns,
                                                 .end_ns = t->end_ns,
                                                 .step = s->step,
                                                 .kind = (int)t->action.kind,
                                                 .segment = t->action.segment,
                                                 .microbatch = (int)(t->action.microbatch % s->M)});
    }
    rb_link_event e[64];
    for (int n; s->link && (n = rb_link_take_events(s->link, e, 64)) > 0;)
        for (int i = 0; i < n;
             i++) { /* a step's last messages may leave after it; evaluations have bit 63 set */
            if (e[i].head.kind == RB_FRAME_SYNC) continue; /* not a message of the schedule */
            if (e[i].head.step < 1 || e[i].head.step > RB_TRACE_STEPS) continue;
            rb_stage_add_span(
                s, (rb_stage_span){.begin_ns = e[i].started_ns,
                                   .end_ns = e[i].left_ns,
                                   .queued_ns = e[i].queued_ns,
                                   .step = e[i].head.step,
                                   .bytes = e[i].head.payload_bytes + RB_FRAME_HEADER_BYTES,
                                   .kind = e[i].head.direction ? RB_SPAN_LINK_BACKWARD : RB_SPAN_LINK_FORWARD,
                                   .segment = e[i].head.boundary,
                                   .microbatch = (int)e[i].head.microbatch});
        }
    return busy;
}

resbm_status rb_stage_narrow(rb_stage *s, int64_t step, rb_err *err) {
    int64_t live = rb_live_width(&s->cfg, step);
    if (!s->cfg.boundary.anneal_from) return RESBM_OK;
    rb_port *ports[] = {s->out_port, s->in_port, s->grad_out_port, s->grad_in_port};
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < s->hosted; i++) RB_TRY(rb_port_narrow(&ports[k][i], live, err));
    return RESBM_OK;
}

/* Who adds to which gradients in this list. Replicas add theirs up behind it. */
static void count_gradients(rb_stage *s) {
    const rb_action_list *l = &s->train.stage[s->self];
    if (s->updates) return; /* counted from update to update */
    memset(s->grads_left, 0, (size_t)s->hosted * sizeof *s->grads_left);
    for (int k = 0; k < l->count && !rb_replicated(&s->cfg); k++) {
        rb_action_kind kind = l->items[k].kind;
        if (kind == RB_ACT_BACKWARD || kind == RB_ACT_BACKWARD_WEIGHT || kind == RB_ACT_TRUNK_BACKWARD)
            s->grads_left[rb_stage_local(s, l->items[k].segment)]++;
    }
}

static resbm_status run_list(rb_stage *s, const rb_schedule *list, int64_t *busy, rb_err *err) {
    rb_executor_hooks hooks = rb_stage_hooks(s);
    int done = 0;
    int64_t begin = rb_now_ns();
    for (int i = 0; i < s->hosted; i++) rb_seat_clear(&s->seat[i]);
    s->wait_ns = 0;
    s->base_step = s->step;
    s->base_sequence = s->sequence;
    s->list = list;
    memset(s->host_losses, 0, (size_t)s->ring * sizeof *s->host_losses);
    memset(s->host_aux, 0, (size_t)(s->hosted * s->ring) * sizeof *s->host_aux);
    RB_TRY(rb_execute(list, s->evaluating ? s->stage : s->self, &hooks, NULL, s->trace, &done, err));
    RB_TRY(rb_stage_settle(s, err));
    *busy = rb_stage_record(s, done);
    if (s->ahead)
        *busy = rb_now_ns() - begin - s->wait_ns; /* actions end before the device is done with them */
    return RESBM_OK;
}

static resbm_status sum_squares(void *ctx, int row, rb_view grad, rb_err *err) {
    rb_stage *s = ctx;
    int i = 0;
    while (s->rows[i] != row) i++;
    return rb_sumsq(s->q, rb_view1((double *)s->sums.data + i, RB_F64, 1), grad, err);
}

resbm_status rb_stage_gather_sums(rb_stage *s, int segment, int first, int count, double *host, rb_err *err) {
    double *sums = (double *)s->sums.data + first;
    RB_TRY(rb_fill(s->q, rb_view1(sums, RB_F64, count), 0, err));
    RB_TRY(segment < 0 ? rb_stage_look_at_grads(s->model, s->q, sum_squares, s, err)
                       : rb_stage_look_at_segment_grads(s->model, s->q, segment, sum_squares, s, err));
    RB_TRY(rb_download(s->q, host, sums, (size_t)count * sizeof *host, err));
    return rb_queue_sync(s->q, err);
}

static bool all_finite(const double *v, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(v[i])) return false;
    return true;
}

json_t *rb_stage_traffic(const rb_stage *s) {
    json_t *a = json_array();
    for (int i = 0; i < RB_TRAFFIC_COUNT; i++)
        json_array_append_new(a, json_integer((json_int_t)s->handed[i]));
    return a;
}

int64_t rb_stage_peak_rss(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (int64_t)u.ru_maxrss * 1024;
}

/* count rows of M values each, out of places from that of microbatch `first` on. */
static json_t *in_order(const rb_stage *s, const double *values, int count, int64_t first) {
    double *v = malloc((size_t)(count * s->M) * sizeof *v + 1);
    if (!v) return NULL;
    for (int i = 0; i < count; i++)
        for (int64_t m = 0; m < s->M; m++) v[i * s->M + m] = values[i * s->ring + (first + m) % s->ring];
    json_t *a = rb_json_doubles(v, (int)(count * s->M));
    free(v);
    return a;
}

json_t *rb_stage_losses(const rb_stage *s, int64_t first) {
    return in_order(s, s->host_losses, 1, first);
}

json_t *rb_stage_aux_losses(const rb_stage *s, int64_t first) {
    return in_order(s, s->host_aux, s->hosted, first);
}

/* "deal": microbatches of each worker. */
static resbm_status take_deal(rb_stage *s, const json_t *deal, rb_err *err) {
    int count[RB_MAX_STAGES];
    if (!s->share) return RESBM_OK;
    if (json_array_size(deal) != (size_t)s->workers)
        return rb_fail(err, RESBM_E_FORMAT, "a deal for %zu processes, there are %d", json_array_size(deal),
                       s->workers);
    for (int i = 0; i < s->workers; i++) {
        count[i] = (int)json_integer_value(json_array_get(deal, (size_t)i));
        if (count[i] < !rb_cover_is_lost(s, i) || count[i] > s->M)
            return rb_fail(err, RESBM_E_FORMAT, "a deal of %d microbatches out of %lld for worker %d",
                           count[i], (long long)s->M, i);
    }
    return rb_stage_deal(s, count, err);
}

/* What a step came to here: losses, norms, times. */
static resbm_status report(rb_stage *s, int64_t busy, int64_t begin, json_t **reply, rb_err *err) {
    char bad[256] = "";
    double *sums = calloc((size_t)s->row_count + 1, sizeof *sums);
    if (!sums) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d norms", s->row_count);
    resbm_status st = RESBM_OK;
    if (s->updates)
        memcpy(sums, s->update_sums, (size_t)s->row_count * sizeof *sums);
    else
        st = rb_stage_gather_sums(s, -1, 0, s->row_count, sums, err);
    if (!st && !(all_finite(sums, s->row_count) && all_finite(s->host_losses, s->M)))
        st = rb_stage_find_nonfinite(s->model, s->q, bad, sizeof bad, err);
    rb_carrier_counts n = {0};
    if (s->carrier) s->carrier->module->count(s->carrier->state, &n);
    if (!st)
        *reply =
            json_pack("{s:s, s:I, s:I, s:o, s:o, s:o, s:I, s:I, s:I, s:o, s:s, s:I, s:I, s:f, s:[I, I]}", "t",
                      "done", "redeals", (json_int_t)rb_cover_attempt(s), "step", (json_int_t)s->step, "loss",
                      rb_stage_losses(s, 0), "aux", rb_stage_aux_losses(s, 0), "sumsq",
                      rb_json_doubles(sums, s->row_count), "busy_ns", (json_int_t)busy, "wait_ns",
                      (json_int_t)s->wait_ns, "step_ns", (json_int_t)(rb_now_ns() - begin), "sent",
                      rb_stage_traffic(s), "nonfinite", bad, "rss", (json_int_t)rb_stage_peak_rss(),
                      "updates", (json_int_t)(s->updates ? s->M / s->per_update : 1), "staleness",
                      s->graded ? s->stale / (double)s->graded : 0.0, "packets", (json_int_t)n.bytes_out,
                      (json_int_t)n.bytes_in);
    free(sums);
    return st;
}

/* Microbatches whose gradients go into this replica's update: with local steps its own alone. */
static int64_t own_share(const rb_stage *s) {
    return s->cfg.optim.local_steps && s->share ? s->share[s->self] : s->M;
}

resbm_status rb_stage_step(rb_stage *s, const json_t *in, json_t **reply, rb_err *err) {
    int64_t busy = 0, begin = rb_now_ns();
    s->step = (uint64_t)json_integer_value(json_object_get(in, "step"));
    s->sequence = (uint64_t)json_integer_value(json_object_get(in, "sequence"));
    int64_t deadline = json_integer_value(json_object_get(in, "deadline_ns"));
    s->late_ns = deadline > 0 && deadline < s->cfg.pipeline.deadline_ns ? begin + deadline : 0;
    s->evaluating = false;
    rb_cover_begin_step(s);
    RB_TRY(rb_stage_narrow(s, (int64_t)s->step, err));
    RB_TRY(take_deal(s, json_object_get(in, "deal"), err));
    double tokens = (double)((s->updates ? s->per_update : own_share(s)) * s->B * s->T);
    s->graded = 0;
    s->stale = 0;
    if (s->updates) rb_stage_begin_versions(s);
    s->grad_scale = (float)(1.0 / tokens);
    s->aux_scale = (float)(rb_aux_weight(&s->cfg, (int64_t)s->step) / tokens);
    RB_TRY(rb_stage_load_ids(s, (int64_t)s->sequence, 0, 0, err));
    RB_TRY(rb_optim_await_taken(s->optim, err));
    RB_TRY(rb_stage_zero_grads(s->model, s->q, err));
    count_gradients(s);
    RB_TRY(run_list(s, &s->train, &busy, err));
    RB_TRY(rb_cover_reduce(s, err));
    return report(s, busy, begin, reply, err);
}

resbm_status rb_stage_redeal(rb_stage *s, const json_t *in, json_t **reply, rb_err *err) {
    bool anew;
    int64_t begin = rb_now_ns();
    RB_TRY(rb_cover_redeal(s, in, &anew, err));
    if (s->meeting.sum) return rb_stage_meet(s, reply, err);
    return anew ? report(s, 0, begin, reply, err) : RESBM_OK;
}

static resbm_status update(rb_stage *s, const json_t *in, const double *by_segment, rb_err *err) {
    float *scale = calloc((size_t)s->row_count + 1, sizeof *scale);
    double lr;
    if (!scale) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d factors", s->row_count);
    for (int i = 0; i < s->row_count; i++) scale[i] = (float)by_segment[s->table.rows[s->rows[i]].segment];
    resbm_status st = rb_json_get_doubles(json_object_get(in, "lr"), &lr, 1, "commit.lr", err);
    if (!st) st = rb_optim_step(s->optim, s->q, lr, scale, err);
    if (!st) st = rb_stage_constrain(s->model, s->q, err);
    if (!st) st = rb_stage_weights_changed(s->model, s->q, err);
    if (!st) st = rb_queue_sync(s->q, err);
    free(scale);
    return st;
}

resbm_status rb_stage_commit(rb_stage *s, const json_t *in, rb_err *err) {
    int64_t begin = rb_now_ns(), tokens = own_share(s) * s->B * s->T;
    int pipelines = s->cfg.optim.local_steps ? rb_replicas(&s->cfg, 0) : 1; /* each clipped by its own norm */
    double *factor = calloc((size_t)(s->segments * pipelines), sizeof *factor);
    if (!factor) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d factors", s->segments);
    resbm_status st = rb_json_get_doubles(json_object_get(in, "scale"), factor, s->segments * pipelines,
                                          "commit.scale", err);
    if (!st && !s->updates) st = update(s, in, factor + (pipelines > 1 ? s->replica * s->segments : 0), err);
    free(factor);
    for (int i = 0; i < s->hosted && !st; i++) {
        st = rb_port_update_steps(&s->out_port[i], s->q, s->step, tokens, err);
        if (!st) st = rb_port_update_steps(&s->in_port[i], s->q, s->step, tokens, err);
    }
    if (traced(s))
        rb_stage_add_span(s, (rb_stage_span){.begin_ns = begin,
                                             .end_ns = rb_now_ns(),
                                             .step = s->step,
                                             .kind = RB_SPAN_OPTIMIZER,
                                             .segment = -1,
                                             .microbatch = -1});
    return st;
}

/* With a delayed update: evaluations are of what a snapshot of now would hold. */
static resbm_status exchange(rb_stage *s, rb_err *err) {
    if (!s->training || !s->cfg.optim.rule.delay) return RESBM_OK;
    RB_TRY(rb_optim_exchange(s->optim, s->q, err));
    return rb_stage_weights_changed(s->model, s->q, err);
}

static resbm_status evaluate(rb_stage *s, int64_t n, double *sum, rb_err *err) {
    int64_t per = s->M * s->B, busy;
    for (int64_t from = 0; from < n; from += per) {
        s->sequence = (uint64_t)from;
        RB_TRY(rb_stage_load_ids(s, from, n, 0, err));
        if (rb_cover_in_vain(s))
            continue; /* ids that are on their way are taken, so that the next ones follow */
        resbm_status st = run_list(s, &s->eval, &busy, err);
        if (st && !(st == RESBM_E_CANCELLED && rb_cover_in_vain(s))) return st;
        for (int64_t m = 0; m < s->M; m++) *sum += s->host_losses[m];
        s->step++;
    }
    return RESBM_OK;
}

resbm_status rb_stage_eval(rb_stage *s, const json_t *in, json_t **reply, rb_err *err) {
    int64_t n = json_integer_value(json_object_get(in, "sequences")), per = s->M * s->B,
            redeals = json_integer_value(json_object_get(in, "redeals"));
    uint64_t step = s->step;
    double sum = 0;
    s->step = (uint64_t)json_integer_value(json_object_get(in, "number"));
    s->evaluating = true;
    s->late_ns = 0;
    rb_cover_begin_eval(s);
    if (s->cover) s->attempt = (uint16_t)redeals;
    if (rb_stage_lead(s, s->stage) != s->self) n = 0; /* the first replicas evaluate */
    RB_TRY(exchange(s, err));
    RB_TRY(evaluate(s, n, &sum, err));
    if (rb_cover_in_vain(s)) RB_TRY(rb_stage_settle(s, err));
    s->evaluating = s->half_forward = false;
    s->step = step;
    if (s->cover) s->attempt = 0;
    RB_TRY(exchange(s, err));
    if (rb_cover_in_vain(s)) return RESBM_OK;
    int64_t tokens = (n + per - 1) / per * per * s->T;
    *reply = json_pack("{s:s, s:o, s:I, s:o, s:I}", "t", "evaled", "loss", rb_json_doubles(&sum, 1), "tokens",
                       (json_int_t)tokens, "sent", rb_stage_traffic(s), "redeals", (json_int_t)redeals);
    return RESBM_OK;
}

static json_t *span_json(const rb_stage_span *p) {
    return json_pack("[I,I,I,I,I,i,i,i]", (json_int_t)p->begin_ns, (json_int_t)p->end_ns,
                     (json_int_t)p->queued_ns, (json_int_t)p->step, (json_int_t)p->bytes, p->kind, p->segment,
                     p->microbatch);
}

resbm_status rb_stage_stats(rb_stage *s, json_t **reply, rb_err *err) {
    rb_link_stats sent = {0};
    rb_err gone;
    int64_t patience =
        rb_cover_lost_any(s) ? RB_SEC : s->cfg.pipeline.deadline_ns; /* for a lost one something may wait */
    resbm_status st = rb_link_stop(s->link, rb_now_ns() + patience, &gone);
    if (st && !rb_cover_lost_any(s)) return rb_fail(err, st, "%s", gone.text);
    rb_link_get_stats(s->link, RB_PEER_ANY, &sent);
    for (int i = RB_TRAFFIC_ACTIVATION; i <= RB_TRAFFIC_TOKENS; i++)
        if (sent.sent[i] != s->handed[i] && !rb_cover_lost_any(s))
            return rb_fail(err, RESBM_E_INTERNAL,
                           "%llu bytes of traffic class %d were handed over, %llu have left",
                           (unsigned long long)s->handed[i], i, (unsigned long long)sent.sent[i]);
    s->handed[RB_TRAFFIC_CONTROL] = sent.sent[RB_TRAFFIC_CONTROL];
    json_t *spans = json_array();
    for (int i = 0; i < s->spans; i++) json_array_append_new(spans, span_json(&s->span[i]));
    rb_memory_bytes m = rb_stage_memory_of(s);
    const uint64_t v[] = {m.weights,     m.gradients, m.states,  m.windows,        m.scratch,
                          m.activations, m.read,      m.written, m.waited_ns,      m.host,
                          m.down,        m.up,        m.early,   m.host_waited_ns, m.taken};
    json_t *memory = json_array();
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        json_array_append_new(memory, json_integer((json_int_t)v[i]));
    char chosen[RB_CHOICES];
    rb_choices(s->dev, chosen, sizeof chosen);
    *reply = json_pack("{s:s, s:I, s:o, s:o, s:o, s:s}", "t", "stats", "rss", (json_int_t)rb_stage_peak_rss(),
                       "memory", memory, "sent", rb_stage_traffic(s), "spans", spans, "attention", chosen);
    return *reply ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for this stage's trace");
}
