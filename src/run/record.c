#include "run/record.h"

#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "core/clock.h"
#include "data/prepare.h"
#include "run/metrics.h"
#include "run/planned.h"
#include "run/progress.h"
#include "run/run_folder.h"
#include "run/summary.h"
#include "run/trace.h"
#include "run/try_lock.h"
#include "run/workers.h"

typedef struct stage_spans {
    rb_stage_span *span;
    int n;
} stage_spans;

struct rb_record {
    const rb_config *cfg;
    char dir[PATH_MAX];
    int folder; /* dir itself, locked */
    FILE *out;
    bool quiet;
    rb_metrics_writer *metrics;
    rb_progress *progress;
    stage_spans *stage; /* (workers) */
    rb_place *place;    /* (workers) */
    char **attention;   /* (workers) what was told of it; NULL: nothing */
    double val_loss;
};

/* Two runs would write into one another's lines. A file system that has no locks goes without. */
static resbm_status lock_folder(const char *dir, int *fd, rb_err *err) {
    rb_err none;
    if (rb_try_lock(dir, O_RDONLY | O_DIRECTORY, fd, &none) || *fd >= 0) return RESBM_OK;
    return rb_fail(err, RESBM_E_STATE, "another run is writing to %s: wait for its end, or choose another --out",
                   dir);
}

static void free_record(rb_record *r) {
    if (r->attention)
        for (int i = 0; i < rb_workers(r->cfg); i++) free(r->attention[i]);
    if (r->stage)
        for (int i = 0; i < rb_workers(r->cfg); i++) free(r->stage[i].span);
    free(r->attention);
    free(r->stage);
    free(r->place);
    if (r->folder >= 0) close(r->folder);
    free(r);
}

static resbm_status write_config(const rb_config *cfg, const char *dir, rb_err *err) {
    rb_buf text = {0};
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/config.yaml", dir);
    rb_config_print(cfg, &text);
    resbm_status st = rb_buf_status(&text, err);
    if (!st) st = rb_write_file_atomic(path, text.data, text.len, err);
    rb_buf_free(&text);
    return st;
}

resbm_status rb_record_open(const rb_config *cfg, const char *dir, FILE *out, bool quiet, rb_record **rec,
                            rb_err *err) {
    rb_record *r = calloc(1, sizeof *r);
    *rec = NULL;
    if (!r) return rb_fail(err, RESBM_E_MEMORY, "no memory to record a run");
    *r = (rb_record){.cfg = cfg, .folder = -1, .out = out, .quiet = quiet, .val_loss = NAN};
    snprintf(r->dir, sizeof r->dir, "%s", dir);
    r->stage = calloc((size_t)rb_workers(cfg), sizeof *r->stage);
    r->place = rb_worker_places(cfg);
    r->attention = calloc((size_t)rb_workers(cfg), sizeof *r->attention);
    resbm_status st = r->stage && r->place && r->attention
                          ? lock_folder(dir, &r->folder, err)
                          : rb_fail(err, RESBM_E_MEMORY, "no memory to record a run");
    if (!st) st = write_config(cfg, dir, err);
    rb_progress_options p = rb_progress_detect(out);
    if (!st && out) st = rb_progress_new(&p, &r->progress, err);
    if (st) {
        free_record(r);
        return st;
    }
    *rec = r;
    return RESBM_OK;
}

static resbm_status in_dir(const rb_record *r, const char *name, char out[PATH_MAX], rb_err *err) {
    if (snprintf(out, PATH_MAX, "%s/%s", r->dir, name) < PATH_MAX) return RESBM_OK;
    return rb_fail(err, RESBM_E_ARG, "path too long: %s/%s", r->dir, name);
}

static resbm_status ready(void *ctx, const char *rules, int64_t params, int64_t from, rb_err *err) {
    rb_record *r = ctx;
    char path[PATH_MAX];
    RB_TRY(in_dir(r, "metrics.jsonl", path, err));
    RB_TRY(rb_metrics_open(path, from > 0 ? from : 0, &r->metrics, err));
    if (!r->out) return RESBM_OK;
    if (!r->quiet) fputs(rules, r->out);
    fprintf(r->out, "%lld parameters, %lld segments on %lld stages, boundary %s, forward %s, backward %s\n",
            (long long)params, (long long)r->cfg->model.segments, (long long)r->cfg->pipeline.stages,
            r->cfg->boundary.kind, r->cfg->boundary.codec_fwd, r->cfg->boundary.codec_bwd);
    if (r->cfg->optim.rule.delay)
        fprintf(r->out, "delayed update: gradients are of weights one update older (optim.delay = %d)\n",
                r->cfg->optim.rule.delay);
    if (from >= 0) fprintf(r->out, "resumed after step %lld\n", (long long)from);
    fflush(r->out);
    return RESBM_OK;
}

static void memory(void *ctx, const rb_planned *p) {
    rb_record *r = ctx;
    rb_buf text = {0};
    if (!r->out || r->quiet) return;
    rb_planned_print(p, r->place, rb_workers(r->cfg), &text);
    if (text.len) fputs(text.data, r->out);
    rb_buf_free(&text);
    fflush(r->out);
}

/* Bytes of the busiest uplink, which are those of the busiest downlink too: a middle stage sends both ways, of two
 * stages each sends one way only. */
static double busiest(const rb_record *r, const rb_step_record *s) {
    int64_t links = r->cfg->pipeline.stages - 1;
    if (links < 2) return fmax((double)s->wire_bytes_fwd, (double)s->wire_bytes_bwd);
    return (double)(s->wire_bytes_fwd + s->wire_bytes_bwd) / (double)links;
}

/* Share of what the rate allows; NaN without links or a rate. */
static double link_use(const rb_record *r, double bytes, double seconds, double bits) {
    if (bits <= 0 || r->cfg->pipeline.stages < 2 || seconds <= 0) return NAN;
    return bytes * 8 / seconds / bits;
}

static double time_left(const rb_record *r, const rb_step_record *s) {
    double by_steps = (double)(r->cfg->train.steps - s->step) * s->step_s;
    double by_time = r->cfg->train.max_seconds - s->elapsed_s;
    return r->cfg->train.max_seconds > 0 && by_time < by_steps ? by_time : by_steps;
}

static resbm_status step(void *ctx, const rb_step_record *s, rb_err *err) {
    rb_record *r = ctx;
    if (s->evaluated) r->val_loss = s->val_loss;
    rb_step_metrics m = {.step = s->step,
                         .tokens = s->tokens,
                         .loss = s->loss,
                         .val_loss = s->evaluated ? s->val_loss : NAN,
                         .lr = s->lr,
                         .grad_norm = s->grad_norm,
                         .grad_norm_segments = s->grad_norm_segments,
                         .segments = s->segments,
                         .aux_loss = s->aux_loss,
                         .step_s = s->step_s,
                         .tokens_per_s = s->tokens_per_s,
                         .wire_bytes_fwd = (uint64_t)s->wire_bytes_fwd,
                         .wire_bytes_bwd = (uint64_t)s->wire_bytes_bwd,
                         .time_s = s->elapsed_s,
                         .staleness = s->staleness,
                         .stages = s->stages,
                         .deal = s->deal,
                         .workers = s->stages};
    RB_TRY(rb_metrics_write(r->metrics, &m, err));
    if (!r->progress) return RESBM_OK;
    double bytes = busiest(r, s);
    rb_progress_state p = {.step = s->step,
                           .steps = r->cfg->train.steps,
                           .loss = s->loss,
                           .val_loss = r->val_loss,
                           .tokens_per_s = s->tokens_per_s,
                           .up_use = link_use(r, bytes, s->step_s, r->cfg->link.up_bits),
                           .down_use = link_use(r, bytes, s->step_s, r->cfg->link.down_bits),
                           .left_s = time_left(r, s),
                           .evaluated = s->evaluated};
    rb_progress_update(r->progress, &p, rb_now_ns());
    return RESBM_OK;
}

static void note(void *ctx, const char *text) {
    rb_record *r = ctx;
    if (r->progress) rb_progress_note(r->progress, text);
}

static void attention(void *ctx, int stage, const char *text) {
    rb_record *r = ctx;
    char line[600];
    free(r->attention[stage]);
    r->attention[stage] = strdup(text);
    snprintf(line, sizeof line, "stage %d: %s", stage, text);
    note(r, line);
}

static resbm_status keep_spans(void *ctx, int stage, const rb_stage_span *span, int n, rb_err *err) {
    rb_record *r = ctx;
    stage_spans *s = &r->stage[stage];
    s->span = malloc((size_t)n * sizeof *span + 1);
    if (!s->span) return rb_fail(err, RESBM_E_MEMORY, "no memory for the trace of stage %d", stage);
    memcpy(s->span, span, (size_t)n * sizeof *span);
    s->n = n;
    return RESBM_OK;
}

rb_train_hooks rb_record_hooks(rb_record *rec) {
    return (rb_train_hooks){.ctx = rec,
                            .ready = ready,
                            .memory = memory,
                            .step = step,
                            .note = note,
                            .attention = attention,
                            .spans = keep_spans};
}

/* When the message a receive waited for was queued by its sender; 0 when no trace of it was kept. */
static int64_t queued_at(const rb_record *r, const rb_stage_span *recv) {
    int backward = recv->kind == RB_ACT_RECV_BACKWARD,
        boundary = backward ? recv->segment : recv->segment - 1;
    int from = rb_stage_of(r->cfg, backward ? recv->segment + 1 : recv->segment - 1);
    for (int w = 0; w < rb_workers(r->cfg); w++) { /* whichever replica had the microbatch */
        const stage_spans *s = &r->stage[w];
        for (int i = 0; i < s->n && r->place[w].stage == from; i++)
            if (s->span[i].kind == (backward ? RB_SPAN_LINK_BACKWARD : RB_SPAN_LINK_FORWARD) &&
                s->span[i].step == recv->step && s->span[i].segment == boundary &&
                s->span[i].microbatch == recv->microbatch)
                return s->span[i].queued_ns;
    }
    return 0;
}

static void name_event(const rb_stage_span *s, rb_trace_event *e) {
    if (s->kind == RB_SPAN_OPTIMIZER)
        snprintf(e->name, sizeof e->name, "optimizer");
    else if (s->kind < RB_ACT_COUNT)
        rb_action_print(e->name, sizeof e->name,
                        rb_action_of((rb_action_kind)s->kind, s->segment, s->microbatch));
    else
        snprintf(e->name, sizeof e->name, "%d%s%d", s->segment, s->kind == RB_SPAN_LINK_FORWARD ? ">" : "<",
                 s->microbatch);
}

static resbm_status add_span(const rb_record *r, rb_trace *t, int stage, const rb_stage_span *s,
                             rb_err *err) {
    rb_trace_event e = {.track = RB_TRACK_COMPUTE,
                        .category = RB_TRACE_COMPUTE,
                        .stage = stage,
                        .segment = s->segment,
                        .microbatch = s->microbatch,
                        .step = (int64_t)s->step,
                        .begin_ns = s->begin_ns,
                        .end_ns = s->end_ns,
                        .bytes = s->bytes};
    name_event(s, &e);
    if (s->kind == RB_SPAN_OPTIMIZER) e.category = RB_TRACE_OPTIMIZER;
    if (s->kind == RB_SPAN_LINK_FORWARD || s->kind == RB_SPAN_LINK_BACKWARD) {
        e.track = RB_TRACK_SEND;
        e.category = RB_TRACE_SEND;
    }
    if (s->kind == RB_ACT_SEND_FORWARD || s->kind == RB_ACT_SEND_BACKWARD)
        return RESBM_OK; /* the link's span tells */
    if (s->kind != RB_ACT_RECV_FORWARD && s->kind != RB_ACT_RECV_BACKWARD)
        return rb_trace_add(t, &e, 1, 0, err);
    rb_trace_event split[2];
    int n = rb_trace_split_wait(&e, queued_at(r, s), split);
    return rb_trace_add(t, split, (size_t)n, 0, err);
}

static resbm_status write_trace(const rb_record *r, rb_err *err) {
    char path[PATH_MAX];
    rb_trace *t;
    RB_TRY(in_dir(r, "trace.json", path, err));
    RB_TRY(rb_trace_new(RB_TRACE_STEPS, &t, err));
    resbm_status st = RESBM_OK;
    for (int s = 0; s < rb_workers(r->cfg); s++)
        for (int i = 0; i < r->stage[s].n && !st; i++) st = add_span(r, t, s, &r->stage[s].span[i], err);
    if (!st) st = rb_trace_write(t, path, err);
    rb_trace_free(t);
    return st;
}

/* The line of a link, made when it is first asked for; NULL when there are more than a summary takes. */
static rb_link_bytes *link_of(const rb_record *r, rb_summary *out, int from, int to) {
    for (int i = 0; i < out->links; i++)
        if (out->link[i].from == from && out->link[i].to == to) return &out->link[i];
    if (out->links == RB_SUMMARY_MAX_LINKS) return NULL;
    out->link[out->links] = (rb_link_bytes){.from = from, .to = to, .up_bits = r->cfg->link.up_bits};
    return &out->link[out->links++];
}

/* Every message of a direction is as long, so a stage's bytes belong to its crossings in equal parts. */
static void fill_stage_links(const rb_record *r, const int64_t *sent, int stage, rb_summary *out) {
    int n = (int)r->cfg->model.segments, ahead = 0, back = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int g = 0; g < n; g++) {
            int up = g + 1 < n ? rb_stage_of(r->cfg, g + 1) : stage,
                down = g ? rb_stage_of(r->cfg, g - 1) : stage;
            if (rb_stage_of(r->cfg, g) != stage) continue;
            if (!pass) {
                ahead += up != stage;
                back += down != stage;
                continue;
            }
            rb_link_bytes *forward = up != stage ? link_of(r, out, stage, up) : NULL;
            rb_link_bytes *backward = down != stage ? link_of(r, out, stage, down) : NULL;
            if (forward) {
                forward->activations += (uint64_t)(sent[RB_TRAFFIC_ACTIVATION] / ahead);
                forward->tokens += (uint64_t)(sent[RB_TRAFFIC_TOKENS] / ahead);
            }
            if (backward) backward->gradients += (uint64_t)(sent[RB_TRAFFIC_GRADIENT] / back);
        }
}

/* Each stage's control bytes stand on its last line. */
static void fill_links(const rb_record *r, const rb_train_summary *s, rb_summary *out) {
    for (int a = 0; a < s->stages && s->stages > 1; a++) {
        int stage = r->place[a].stage; /* the lines are of stages, the sums over their replicas */
        fill_stage_links(r, s->sent[a], stage, out);
        rb_link_bytes *among = s->sent[a][RB_TRAFFIC_SYNC] ? link_of(r, out, stage, stage) : NULL;
        if (among) among->sync += (uint64_t)s->sent[a][RB_TRAFFIC_SYNC];
        for (int i = out->links - 1; i >= 0; i--) {
            if (out->link[i].from != stage) continue;
            out->link[i].control += (uint64_t)s->sent[a][RB_TRAFFIC_CONTROL];
            break;
        }
    }
}

static resbm_status write_summary(const rb_record *r, const rb_train_summary *s, rb_err *err) {
    uint64_t rss[RB_MAX_STAGES];
    char path[PATH_MAX];
    rb_link_bytes *link = calloc(RB_SUMMARY_MAX_LINKS, sizeof *link);
    if (!link) return rb_fail(err, RESBM_E_MEMORY, "no memory for a summary");
    for (int i = 0; i < s->stages; i++) rss[i] = (uint64_t)s->peak_rss[i];
    rb_summary o = {.val_loss = s->has_val ? s->val_loss : NAN,
                    .steps = s->steps,
                    .tokens = s->tokens,
                    .tokens_per_s = s->tokens_per_s,
                    .step_s = s->step_s,
                    .bytes_per_token_fwd = s->bytes_per_token_fwd,
                    .bytes_per_token_bwd = s->bytes_per_token_bwd,
                    .token_bytes_per_token = s->token_bytes_per_token,
                    .ratio = s->ratio,
                    .wire_ratio = s->wire_ratio > 0 ? s->wire_ratio : NAN,
                    .bubble = s->bubble,
                    .params = (uint64_t)s->params,
                    .delay = r->cfg->optim.rule.delay,
                    .time_s = s->elapsed_s,
                    .start_s = s->start_s,
                    .first_step_s = s->first_step_s,
                    .stages = s->stages,
                    .peak_rss_bytes = rss,
                    .memory = s->memory,
                    .attention = r->attention,
                    .link = link};
    o.val_bpb = o.val_loss / log(2) / rb_data_bytes_per_token(r->cfg->data.tokenizer, r->cfg->data.val);
    snprintf(o.boundary, sizeof o.boundary, "%s", r->cfg->boundary.kind);
    snprintf(o.codec_fwd, sizeof o.codec_fwd, "%s", r->cfg->boundary.codec_fwd);
    snprintf(o.codec_bwd, sizeof o.codec_bwd, "%s", r->cfg->boundary.codec_bwd);
    if (s->stages && !isnan(s->staleness[0])) o.staleness = s->staleness;
    fill_links(r, s, &o);
    resbm_status st = in_dir(r, "summary.json", path, err);
    if (!st) st = rb_summary_write(path, &o, err);
    free(link);
    return st;
}

static resbm_status write_report(const rb_record *r, rb_err *err) {
    char path[PATH_MAX];
    const char *dir = r->dir;
    RB_TRY(in_dir(r, "report.html", path, err));
    return rb_run_folders_report(&dir, 1, path, NULL, err);
}

resbm_status rb_record_close(rb_record *r, const rb_train_summary *s, bool finished, rb_err *err) {
    if (!r) return RESBM_OK;
    rb_progress_end(r->progress);
    resbm_status st = rb_metrics_close(r->metrics, err);
    if (!st && finished) st = write_summary(r, s, err);
    if (!st && finished) st = write_trace(r, err);
    if (!st && finished) st = write_report(r, err);
    free_record(r);
    return st;
}
