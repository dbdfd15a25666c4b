#include "run/train.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "checkpoint/checkpoint.h"
#include "core/clock.h"
#include "core/hash.h"
#include "data/sampler.h"
#include "run/apart.h"
#include "run/control.h"
#include "run/crew.h"
#include "run/training.h"

/* What each stage has sent since the last look; sums over the stages. */
static void read_traffic(training *t, int64_t delta[RB_TRAFFIC_COUNT]) {
    memset(delta, 0, RB_TRAFFIC_COUNT * sizeof *delta);
    for (int s = 0; s < t->crew->stages; s++) {
        const json_t *a = json_object_get(t->reply[s], "sent");
        if (!a) continue; /* it is lost */
        for (int i = 0; i < RB_TRAFFIC_COUNT; i++) {
            int64_t now = json_integer_value(json_array_get(a, (size_t)i));
            delta[i] += now - t->sent[s][i];
            t->sent[s][i] = now;
        }
    }
}

static resbm_status commit(training *t, double lr, double *norm, rb_err *err) {
    int n = (int)t->cfg->model.segments;
    int first = t->pipelines > 1 ? t->crew->places[rb_crew_lead(t->crew, 0)].replica : 0;
    for (int i = t->pipelines - 1; i >= 0; i--) { /* those of the first one are reported */
        int p = (first + i) % t->pipelines;
        *norm = rb_grad_norm(&t->table, t->sumsq + p * t->table.count, n, t->segment_norm);
        for (int k = 0; k < n; k++)
            t->scale[p * n + k] = (double)rb_clip_factor(
                t->cfg->optim.clip_scope == RB_CLIP_SEGMENT ? t->segment_norm[k] : *norm, t->cfg->optim.clip);
    }
    if (rb_config_flows(t->cfg)) return RESBM_OK; /* applied already */
    return rb_crew_tell(t->crew,
                        json_pack("{s:s, s:I, s:o, s:o}", "t", "commit", "step", (json_int_t)t->step, "lr",
                                  rb_json_doubles(&lr, 1), "scale",
                                  rb_json_doubles(t->scale, t->pipelines * n)),
                        err);
}

/* The fingerprint is of every tensor's gradient, and with it of the weights that the step began with. */
static resbm_status record_commit(training *t, double loss, rb_err *err) {
    char fingerprint[64];
    uint64_t deals = rb_training_deals(t);
    if (!t->o->hooks.commit) return RESBM_OK;
    rb_hash128_hex(t->sumsq, (size_t)(t->pipelines * t->table.count) * sizeof *t->sumsq, fingerprint);
    if (t->dealt) snprintf(fingerprint + 32, sizeof fingerprint - 32, " %016llx", (unsigned long long)deals);
    return t->o->hooks.commit(t->o->hooks.ctx, t->step, loss, fingerprint, err);
}

static double idle_share(const training *t, double step_s) {
    double busy = 0;
    for (int s = 0; s < t->crew->stages; s++)
        busy += (double)json_integer_value(json_object_get(t->reply[s], "busy_ns")) * 1e-9;
    return fmax(0, 1 - busy / (step_s * rb_crew_present(t->crew)));
}

/* --- lists that flow: stages begin the next steps before all have ended this one --- */

static bool due(int64_t step, int64_t every) {
    return every > 0 && step % every == 0;
}

static bool asked_to_stop(const training *t) {
    return t->o->stop && atomic_load(t->o->stop);
}

static bool out_of_time(const training *t) {
    return t->cfg->train.max_seconds > 0 && rb_training_elapsed(t) >= t->cfg->train.max_seconds;
}

/* Does something come after this step that needs the pipeline empty? */
static bool rests_after(const training *t, int64_t step) {
    const rb_train_config *c = &t->cfg->train;
    return step == c->steps || due(step, c->checkpoint_every) ||
           (*t->cfg->data.val && due(step, c->eval_every));
}

/* Stages apart have no data: the first one's token ids come from here, to each of its replicas all. */
static resbm_status feed(training *t, uint64_t from, int64_t eval_of, rb_err *err) {
    const rb_train_config *c = &t->cfg->train;
    int64_t W = t->cfg->model.context + 1, n = c->batch;
    if (!t->o->outside || !t->o->outside->apart) return RESBM_OK;
    int32_t *ids = malloc((size_t)(n * W) * sizeof *ids);
    resbm_status st =
        ids ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for %lld sequences", (long long)n);
    for (int64_t i = 0; i < n && !st; i++)
        st = eval_of ? rb_sampler_eval_window(&t->val, (int64_t)from + i, eval_of, ids + i * W, err)
                     : rb_sampler_window(&t->data, from + (uint64_t)i, ids + i * W, err);
    for (int w = 0; w < t->crew->stages && !st; w++) {
        const rb_place *p = &t->crew->places[w];
        if (p->stage != rb_stage_of(t->cfg, 0) || t->crew->gone[w]) continue;
        if (eval_of && w != rb_crew_lead(t->crew, p->stage)) continue; /* the first ones evaluate */
        st = rb_apart_send_ids(t->crew->control, w, ids, n * W, t->cfg->pipeline.deadline_ns, err);
        if (st == RESBM_E_PEER && t->dealt) st = RESBM_OK; /* lost, as the crew will find */
        if (st) *t->crew->blame = rb_blame_seen(w, st);
    }
    free(ids);
    return st;
}

static resbm_status open_data(training *t, rb_err *err) {
    const rb_config *c = t->cfg;
    if (!t->o->outside || !t->o->outside->apart) return RESBM_OK;
    if (rb_config_flows(c))
        return rb_fail(
            err, RESBM_E_CONFIG,
            "schedule %s, whose steps flow into one another, needs stages that read the data themselves",
            c->pipeline.schedule);
    RB_TRY(rb_shards_open(c->data.train, c->model.vocab, &t->shards, err));
    RB_TRY(rb_sampler_init(&t->data, t->shards, c->model.context, c->train.seed, err));
    if (!*c->data.val) return RESBM_OK;
    RB_TRY(rb_shards_open(c->data.val, c->model.vocab, &t->val_shards, err));
    return rb_sampler_init(&t->val, t->val_shards, c->model.context, c->train.seed, err);
}

static resbm_status tell_step(training *t, rb_err *err) {
    bool begins = !t->flowing;
    t->flowing = rb_config_flows(t->cfg);
    uint64_t sequence = t->sequence + (uint64_t)((t->told - t->step) * t->cfg->train.batch);
    RB_TRY(feed(t, sequence, 0, err));
    return rb_crew_tell(t->crew,
                        json_pack("{s:s, s:I, s:I, s:b, s:I, s:o*}", "t", "step", "step",
                                  (json_int_t)t->told++, "sequence", (json_int_t)sequence, "begins", begins,
                                  "deadline_ns", (json_int_t)t->crew->held.deadline_ns, "deal",
                                  rb_replicated(t->cfg) ? rb_training_deal_json(t) : NULL),
                        err);
}

/* The present step; with lists that flow also so many ahead that no stage has to wait for the coordinator, up to
 * where the pipeline rests. */
static resbm_status tell_steps(training *t, rb_err *err) {
    int64_t M = t->cfg->train.microbatches, most = t->step + 1;
    if (rb_config_flows(t->cfg)) most += 1 + (t->cfg->pipeline.stages + M - 1) / M;
    if (t->told < t->step) t->told = t->step;
    while (t->told < most) {
        bool first = t->told == t->step;
        if (!first && (rests_after(t, t->told) || asked_to_stop(t) || out_of_time(t))) break;
        RB_TRY(tell_step(t, err));
    }
    return RESBM_OK;
}

/* Empties the pipeline: what is in flight is dropped, and begun again with the weights of then. */
static resbm_status rest(training *t, rb_err *err) {
    if (!t->flowing) return RESBM_OK;
    snprintf(t->crew->doing, sizeof t->crew->doing, "in emptying the pipeline after step %lld",
             (long long)t->step);
    t->flowing = false;
    RB_TRY(rb_crew_tell(t->crew, json_pack("{s:s}", "t", "drop"), err));
    RB_TRY(rb_crew_gather(t->crew, "dropped", -1, rb_training_deadline(t), t->reply, err));
    rb_crew_drop(t->crew, t->reply);
    return RESBM_OK;
}

/* Updates that were made inside the lists; how old the weights in their gradients were. */
static void read_updates(training *t) {
    t->updates += json_integer_value(json_object_get(t->reply[rb_crew_lead(t->crew, 0)], "updates"));
    for (int s = 0; s < t->crew->stages; s++) {
        t->staleness[s] = json_number_value(json_object_get(t->reply[s], "staleness"));
        t->stale_sum[s] += t->staleness[s];
    }
}

static resbm_status one_step(training *t, rb_step_record *r, rb_err *err) {
    int64_t begin = rb_now_ns(), moved[RB_TRAFFIC_COUNT];
    snprintf(t->crew->doing, sizeof t->crew->doing, "in step %lld", (long long)t->step);
    r->lr = rb_lr_factor(&t->cfg->optim.rates, t->step);
    rb_training_deal(t);
    rb_training_spread(t);
    t->computing = true;
    rb_training_set_pace(t);
    RB_TRY(tell_steps(t, err));
    RB_TRY(rb_crew_gather(t->crew, "done", -1, rb_training_deadline(t) + 3600 * RB_SEC, t->reply, err));
    t->computing = false;
    rb_training_note_pace(t, rb_now_ns() - begin);
    RB_TRY(rb_training_read_loss(t, &r->loss, err));
    RB_TRY(rb_training_read_norms(t, err));
    RB_TRY(rb_training_read_aux(t, err));
    if (rb_aux_weight(t->cfg, t->step) > 0) r->aux_loss = t->aux;
    RB_TRY(rb_training_check_finite(t, r->loss, err));
    RB_TRY(rb_training_check_replicas(t, err));
    rb_training_measure(t);
    read_updates(t);
    RB_TRY(record_commit(t, r->loss, err));
    RB_TRY(commit(t, r->lr, &r->grad_norm, err));
    read_traffic(t, moved);
    t->step++;
    t->sequence += (uint64_t)t->cfg->train.batch;
    int64_t tokens = t->cfg->train.batch * t->cfg->model.context;
    r->step_s = (double)(rb_now_ns() - begin) * 1e-9;
    r->bubble = idle_share(t, r->step_s);
    rb_crew_drop(t->crew, t->reply);
    r->step = t->step;
    r->tokens = t->step * tokens;
    r->lr *= t->cfg->optim.rule.lr;
    r->tokens_per_s = (double)tokens / r->step_s;
    r->elapsed_s = rb_training_elapsed(t);
    r->grad_norm_segments = t->segment_norm;
    r->segments = (int)t->cfg->model.segments;
    r->staleness = t->cfg->pipeline.updates ? t->staleness : NULL;
    r->stages = t->crew->stages;
    r->speed = t->pace;
    r->packets = t->packets;
    r->busy_s = t->busy_s;
    r->deal = rb_replicated(t->cfg) ? t->share : NULL;
    r->wire_bytes_fwd = moved[RB_TRAFFIC_ACTIVATION] + moved[RB_TRAFFIC_TOKENS];
    r->wire_bytes_bwd = moved[RB_TRAFFIC_GRADIENT];
    t->fwd += moved[RB_TRAFFIC_ACTIVATION];
    t->ids += moved[RB_TRAFFIC_TOKENS];
    t->bwd += moved[RB_TRAFFIC_GRADIENT];
    t->bytes_tokens += tokens;
    t->busy += (1 - r->bubble) * r->step_s;
    t->spent += r->step_s;
    t->step_s[t->timed++] = r->step_s;
    return RESBM_OK;
}

/* With local steps: the outer update, where a round is over or has to be. */
static resbm_status meet(training *t, rb_err *err) {
    int64_t n = t->cfg->optim.local_steps;
    if (!n || t->met == t->step) return RESBM_OK;
    if (t->step % n && t->step < t->cfg->train.steps && t->o->hooks.note)
        t->o->hooks.note(
            t->o->hooks.ctx,
            "stopped within a round of local steps: the outer update was made here, which a run that goes on "
            "undisturbed does not do; with --resume its losses will differ a little from such a one's");
    t->met = t->step;
    snprintf(t->crew->doing, sizeof t->crew->doing, "while the replicas met after step %lld",
             (long long)t->step);
    t->meeting = true;
    for (int w = 0; w < t->crew->stages; w++) t->crew->redeals[w] = t->losses;
    RB_TRY(rb_crew_tell(t->crew, json_pack("{s:s, s:I}", "t", "meet", "step", (json_int_t)t->step), err));
    RB_TRY(rb_crew_gather(t->crew, "met", -1, rb_training_deadline(t) + 600 * RB_SEC, t->reply, err));
    rb_crew_drop(t->crew, t->reply);
    t->meeting = false;
    return rb_crew_tell(t->crew, json_pack("{s:s}", "t", "outer"), err);
}

/* Token ids before the order that reads them: an order that is given anew finds its own behind those of the one before. */
resbm_status rb_training_ask_eval(training *t, rb_err *err) {
    int64_t n = t->evaluating;
    for (int w = 0; w < t->crew->stages; w++) t->crew->redeals[w] = t->eval_attempt;
    for (int64_t from = 0; from < n; from += t->cfg->train.batch) RB_TRY(feed(t, (uint64_t)from, n, err));
    return rb_crew_tell(t->crew,
                        json_pack("{s:s, s:I, s:I, s:i}", "t", "eval", "sequences", (json_int_t)n, "number",
                                  (json_int_t)t->evals, "redeals", t->eval_attempt),
                        err);
}

static resbm_status evaluate(training *t, int64_t sequences, double *loss, int64_t *tokens, rb_err *err) {
    int64_t moved[RB_TRAFFIC_COUNT];
    double sum;
    RB_TRY(rest(t, err));
    RB_TRY(meet(t, err));
    snprintf(t->crew->doing, sizeof t->crew->doing, "in the evaluation after step %lld", (long long)t->step);
    t->evaluating = sequences;
    t->eval_attempt = 0;
    RB_TRY(rb_training_ask_eval(t, err));
    RB_TRY(rb_crew_gather(t->crew, "evaled", -1, rb_training_deadline(t) + 3600 * RB_SEC, t->reply, err));
    t->evaluating = 0;
    t->evals += (uint64_t)sequences + 1;
    const json_t *last = t->reply[rb_crew_lead(t->crew, rb_training_loss_stage(t))];
    resbm_status st = rb_json_get_doubles(json_object_get(last, "loss"), &sum, 1, "evaled.loss", err);
    rb_crew_accuse(t->crew, rb_crew_lead(t->crew, rb_training_loss_stage(t)), st == RESBM_E_FORMAT, st);
    *tokens = json_integer_value(json_object_get(last, "tokens"));
    *loss = *tokens ? sum / (double)*tokens : NAN;
    read_traffic(t, moved);
    rb_crew_drop(t->crew, t->reply);
    return st;
}

static resbm_status save(training *t, bool last, rb_err *err) {
    if (last) RB_TRY(rb_training_await_snapshot(t, true, err));
    if (t->saved == t->step) return RESBM_OK;
    RB_TRY(rest(t, err));
    RB_TRY(meet(t, err));
    return t->cfg->train.save ? rb_training_save(t, last, err) : RESBM_OK;
}

/* Is there one model now, which all replicas hold? */
static bool between_rounds(const training *t) {
    return !t->cfg->optim.local_steps || t->met == t->step;
}

static double since_start(const training *t) {
    return (double)(rb_now_ns() - t->called_ns) * 1e-9;
}

static resbm_status loop(training *t, rb_err *err) {
    const rb_train_config *c = &t->cfg->train;
    bool has_val = *t->cfg->data.val != 0;
    while (t->step < c->steps && (t->told > t->step || (!asked_to_stop(t) && !out_of_time(t)))) {
        rb_step_record r = {0};
        bool first = isnan(t->out->start_s);
        if (first) t->out->start_s = since_start(t);
        RB_TRY(one_step(t, &r, err));
        if (first) t->out->first_step_s = since_start(t);
        if (t->cfg->optim.local_steps && t->step % t->cfg->optim.local_steps == 0) RB_TRY(meet(t, err));
        bool last = t->step == c->steps || (out_of_time(t) && t->told <= t->step);
        if (has_val && (due(t->step, c->eval_every) || last)) {
            int64_t pause = rb_now_ns(), tokens;
            RB_TRY(evaluate(t, c->eval_sequences, &r.val_loss, &tokens, err));
            t->begin_ns += rb_now_ns() - pause; /* training time does not count evaluations */
            r.evaluated = true;
            t->out->has_val = true;
            t->out->val_loss = r.val_loss;
            t->out->eval_tokens = tokens;
        }
        RB_TRY(t->o->hooks.step(t->o->hooks.ctx, &r, err));
        if (due(t->step, c->checkpoint_every) || (t->save_again && between_rounds(t)))
            RB_TRY(save(t, t->step == c->steps, err));
        RB_TRY(rb_training_await_snapshot(t, false, err));
    }
    RB_TRY(save(t, true, err));
    if (rb_config_flows(t->cfg) && !rests_after(t, t->step) && t->o->hooks.note)
        t->o->hooks.note(
            t->o->hooks.ctx,
            "stopped between snapshots: microbatches in flight were dropped, which a run that goes on "
            "undisturbed does not do here; with --resume its losses will differ a little from such a one's");
    return RESBM_OK;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static resbm_status hand_spans(training *t, int stage, rb_err *err) {
    const json_t *a = json_object_get(t->reply[stage], "spans"), *e;
    size_t n = json_array_size(a), i;
    rb_stage_span *span = calloc(n + 1, sizeof *span);
    if (!span) return rb_fail(err, RESBM_E_MEMORY, "no memory for the trace of stage %d", stage);
    json_array_foreach((json_t *)a, i, e) {
        int64_t v[8];
        for (size_t k = 0; k < 8; k++) v[k] = json_integer_value(json_array_get(e, k));
        span[i] = (rb_stage_span){v[0],           v[1],      v[2],      (uint64_t)v[3],
                                  (uint64_t)v[4], (int)v[5], (int)v[6], (int)v[7]};
    }
    resbm_status st = t->o->hooks.spans(t->o->hooks.ctx, stage, span, (int)n, err);
    free(span);
    return st;
}

static int borders(const rb_config *c) {
    int n = 0;
    for (int i = 0; i + 1 < (int)c->model.segments; i++) n += rb_stage_of(c, i) != rb_stage_of(c, i + 1);
    return n;
}

static void sum_up(training *t) {
    rb_train_summary *o = t->out;
    o->steps = t->step;
    o->tokens = t->step * t->cfg->train.batch * t->cfg->model.context;
    o->elapsed_s = rb_training_elapsed(t);
    qsort(t->step_s, (size_t)t->timed, sizeof *t->step_s, by_value);
    o->step_s = t->timed ? t->step_s[t->timed / 2] : 0;
    o->tokens_per_s = o->step_s > 0 ? (double)(t->cfg->train.batch * t->cfg->model.context) / o->step_s : 0;
    for (int s = 0; s < o->stages; s++)
        o->staleness[s] = t->cfg->pipeline.updates && t->timed ? t->stale_sum[s] / (double)t->timed : NAN;
    o->bubble = t->spent > 0 ? 1 - t->busy / t->spent : 0;
    double crossings = (double)t->bytes_tokens * borders(t->cfg);
    o->ratio = t->cfg->boundary.k > 0
                   ? (double)t->cfg->model.d / (double)rb_live_width(t->cfg, t->cfg->train.steps)
                   : 1;
    if (crossings <= 0) return;
    o->bytes_per_token_fwd = (double)t->fwd / crossings;
    o->bytes_per_token_bwd = (double)t->bwd / crossings;
    o->token_bytes_per_token = (double)t->ids / crossings;
    o->wire_ratio = 4.0 * (double)t->cfg->model.d /
                    (o->bytes_per_token_fwd + o->bytes_per_token_bwd + o->token_bytes_per_token);
}

static rb_memory_bytes read_memory(const json_t *j) {
    uint64_t v[15];
    for (size_t i = 0; i < 15; i++) v[i] = (uint64_t)json_integer_value(json_array_get(j, i));
    return (rb_memory_bytes){v[0], v[1], v[2],  v[3],  v[4],  v[5],  v[6], v[7],
                             v[8], v[9], v[10], v[11], v[12], v[13], v[14]};
}

static resbm_status finish(training *t, rb_err *err) {
    snprintf(t->crew->doing, sizeof t->crew->doing, "while finishing");
    RB_TRY(rb_crew_tell(t->crew, json_pack("{s:s}", "t", "finish"), err));
    RB_TRY(rb_crew_gather(t->crew, "stats", -1, rb_training_deadline(t), t->reply, err));
    resbm_status st = RESBM_OK;
    for (int s = 0; s < t->crew->stages && !st; s++) {
        t->out->peak_rss[s] = json_integer_value(json_object_get(t->reply[s], "rss"));
        t->out->memory[s] = read_memory(json_object_get(t->reply[s], "memory"));
        const char *chosen = json_string_value(json_object_get(t->reply[s], "attention"));
        if (chosen && *chosen && t->o->hooks.attention) t->o->hooks.attention(t->o->hooks.ctx, s, chosen);
        st = hand_spans(t, s, err);
    }
    int64_t moved[RB_TRAFFIC_COUNT];
    read_traffic(t, moved);
    memcpy(t->out->sent, t->sent, sizeof t->sent);
    rb_crew_drop(t->crew, t->reply);
    return st;
}

/* What changes nothing under a synchronous schedule, but the result under one that is not. */
static void warn_of_staleness(const rb_config *was, const rb_config *now, rb_buf *warnings) {
    if (!was->pipeline.updates && !now->pipeline.updates) return;
    if (strcmp(was->pipeline.schedule, now->pipeline.schedule) ||
        was->pipeline.stages != now->pipeline.stages || was->pipeline.inflight != now->pipeline.inflight ||
        was->pipeline.vertical_sync != now->pipeline.vertical_sync)
        rb_buf_printf(warnings,
                      "the snapshot was made with %s on %lld stages and goes on with %s on %lld: it begins "
                      "with nothing "
                      "in flight, and with other staleness than it would have had\n",
                      was->pipeline.schedule, (long long)was->pipeline.stages, now->pipeline.schedule,
                      (long long)now->pipeline.stages);
    if (was->train.eval_every != now->train.eval_every ||
        was->train.checkpoint_every != now->train.checkpoint_every)
        rb_buf_puts(warnings, "train.eval_every or train.checkpoint_every is another: the pipeline rests at "
                              "other steps, and an "
                              "asynchronous schedule's losses differ a little\n");
}

/* Where to go on: fills the cursor from the newest whole checkpoint. */
static resbm_status find_start(training *t, char load[PATH_MAX], rb_err *err) {
    rb_buf why = {0};
    rb_checkpoint *c = NULL;
    rb_config *saved = calloc(1, sizeof *saved);
    int64_t step = -1;
    resbm_status st = saved ? rb_checkpoint_find_latest(t->o->dir, &step, &why, err)
                            : rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration");
    if (why.len && t->o->hooks.note) t->o->hooks.note(t->o->hooks.ctx, why.data);
    rb_buf_free(&why);
    if (!st && step < 0)
        st = rb_fail(err, RESBM_E_CONFIG, "--resume: %s holds no snapshot; start it without --resume",
                     t->o->dir);
    if (!st) st = rb_checkpoint_path(t->o->dir, step, load, err);
    if (!st) st = rb_checkpoint_open(load, &c, err);
    if (!st) {
        const rb_manifest *m = rb_checkpoint_manifest(c);
        t->step = t->saved = t->met = m->step;
        t->sequence = (uint64_t)m->cursor;
        t->epoch = m->epoch + 1;
        t->before_s = (double)rb_manifest_get(m, "elapsed_ns") * 1e-9;
        t->evals = (uint64_t)rb_manifest_get(m, "evals");
        t->updates = rb_manifest_get(m, "updates");
        if (!t->updates) t->updates = t->step;
        t->optimizer_from = rb_manifest_get(m, "optimizer_from");
        st = rb_config_defaults(saved, err);
        if (!st) st = rb_config_load_text(saved, load, m->config, strlen(m->config), err);
        saved->pipeline.placed =
            true; /* where it put its segments does not matter, and its file may be gone */
        if (!st) st = rb_config_validate(saved, err);
        rb_buf warnings = {0};
        if (!st) st = rb_config_resume_check(saved, t->cfg, &warnings, err);
        if (!st) warn_of_staleness(saved, t->cfg, &warnings);
        if (warnings.len && t->o->hooks.note) t->o->hooks.note(t->o->hooks.ctx, warnings.data);
        rb_buf_free(&warnings);
    }
    rb_checkpoint_close(c);
    free(saved);
    return st;
}

static resbm_status refuse_old_run(training *t, rb_err *err) {
    int64_t step = -1;
    rb_err ignored;
    rb_checkpoint_find_latest(t->o->dir, &step, NULL, &ignored);
    if (step < 0) return RESBM_OK;
    return rb_fail(err, RESBM_E_STATE,
                   "%s already holds a run (step %lld): go on with --resume, or choose another --out",
                   t->o->dir, (long long)step);
}

static resbm_status announce(training *t, rb_err *err) {
    rb_buf rules = {0};
    t->out->params = 0;
    for (int i = 0; i < t->table.count; i++)
        if (rb_role_trained(t->table.rows[i].role)) t->out->params += rb_tensor_count(&t->table.rows[i]);
    rb_optim_describe(&t->cfg->optim.rule, &t->table, &rules);
    resbm_status st = rb_buf_status(&rules, err);
    if (!st)
        st = t->o->hooks.ready(t->o->hooks.ctx, rules.data, t->out->params, t->o->resume ? t->step : -1, err);
    rb_buf_free(&rules);
    if (!st && t->o->hooks.memory) t->o->hooks.memory(t->o->hooks.ctx, t->crew->planned);
    return st;
}

static resbm_status prepare(training *t, rb_err *err) {
    size_t rows = 0;
    RB_TRY(rb_tensor_table_build(&t->cfg->model, &t->cfg->boundary, &t->table, err));
    RB_TRY(rb_optim_check(&t->cfg->optim.rule, &t->table, err));
    rows = (size_t)t->table.count;
    t->pipelines = t->cfg->optim.local_steps ? rb_replicas(t->cfg, 0) : 1;
    t->sumsq = calloc(rows * (size_t)t->pipelines + 1, sizeof *t->sumsq);
    t->segment_norm = calloc((size_t)t->cfg->model.segments, sizeof *t->segment_norm);
    t->scale = calloc((size_t)(t->cfg->model.segments * t->pipelines), sizeof *t->scale);
    t->aux = calloc((size_t)t->cfg->model.segments, sizeof *t->aux);
    t->step_s = calloc((size_t)t->cfg->train.steps + 1, sizeof *t->step_s);
    if (!t->sumsq || !t->segment_norm || !t->scale || !t->step_s || !t->aux)
        return rb_fail(err, RESBM_E_MEMORY,
                       "no memory for the norms of %zu tensors and the times of train.steps = %lld steps",
                       rows, (long long)t->cfg->train.steps);
    return RESBM_OK;
}

static resbm_status run(training *t, rb_err *err) {
    char load[PATH_MAX] = "";
    RB_TRY(prepare(t, err));
    RB_TRY(t->o->resume ? find_start(t, load, err) : refuse_old_run(t, err));
    if (t->o->resume && t->step >= t->cfg->train.steps) {
        char text[PATH_MAX + 100];
        snprintf(text, sizeof text, "%s has done all of its train.steps = %lld: raise it to go on", t->o->dir,
                 (long long)t->cfg->train.steps);
        if (t->o->hooks.note) t->o->hooks.note(t->o->hooks.ctx, text);
        t->out->nothing_left = true;
        return RESBM_OK;
    }
    if (t->epoch < t->o->least_epoch) t->epoch = t->o->least_epoch;
    RB_TRY(open_data(t, err));
    rb_crew_options o = {.cfg = t->cfg,
                         .program = t->o->program,
                         .load = *load ? load : NULL,
                         .epoch = (uint32_t)t->epoch,
                         .training = true,
                         .announce = t->o->announce,
                         .everywhere = t->o->everywhere,
                         .blame = &t->out->blame,
                         .scratch = t->o->dir,
                         .stop = t->o->stop};
    if (rb_covers(t->cfg) && !o.announce) {
        o.lose = rb_training_lose;
        o.ctx = t;
        t->dealt = calloc((size_t)(t->cfg->pipeline.stages * t->cfg->train.microbatches), sizeof *t->dealt);
        if (!t->dealt) return rb_fail(err, RESBM_E_MEMORY, "no memory for a deal");
    }
    o.outside = t->o->outside;
    if (!o.outside && !strcmp(t->cfg->engine, "nats"))
        RB_TRY(rb_engine_nats_open(t->cfg, t->o->program, t->o->dir, &t->nats, &o.outside, err));
    RB_TRY(rb_crew_open(&o, &t->crew, err));
    t->crew->ahead = rb_config_flows(t->cfg);
    RB_TRY(announce(t, err));
    t->begin_ns = rb_now_ns();
    RB_TRY(loop(t, err));
    sum_up(t);
    t->out->stopped_early = t->step < t->cfg->train.steps;
    RB_TRY(finish(t, err));
    if (!asked_to_stop(t) || t->step >= t->cfg->train.steps) return RESBM_OK;
    return rb_fail(err, RESBM_E_CANCELLED, "stopped on request after step %lld", (long long)t->step);
}

resbm_status rb_train(const rb_train_options *o, rb_train_summary *out, rb_err *err) {
    training t = {
        .o = o, .cfg = o->cfg, .out = out, .saved = -1, .called_ns = o->begun_ns ? o->begun_ns : rb_now_ns()};
    *out = (rb_train_summary){
        .stages = rb_workers(o->cfg), .start_s = NAN, .first_step_s = NAN, .blame = rb_blame_nobody()};
    resbm_status st = run(&t, err);
    rb_training_abandon_snapshot(&t);
    if (t.crew) rb_crew_drop(t.crew, t.reply); /* of a step that failed behind its answers */
    rb_crew_close(t.crew);
    rb_engine_nats_close(t.nats);
    rb_tensor_table_free(&t.table);
    rb_shards_close(t.shards);
    rb_shards_close(t.val_shards);
    free(t.sumsq);
    free(t.segment_norm);
    free(t.scale);
    free(t.aux);
    free(t.step_s);
    free(t.dealt);
    if (st && err && t.saved >= 0 && !o->throwaway) {
        size_t n = strlen(err->text);
        snprintf(err->text + n, sizeof err->text - n,
                 ". The last snapshot is %s/step-%lld: go on with --resume", o->dir, (long long)t.saved);
    }
    return st;
}
