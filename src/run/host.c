#include "run/host.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include "checkpoint/checkpoint.h"
#include "core/clock.h"
#include "data/utf8.h"
#include "run/invitation.h"
#include "run/record.h"

resbm_status rb_host_write(const char *dir, const char *name, const char *text, rb_err *err) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    mode_t old = umask(077);
    resbm_status st = rb_write_file_atomic(path, text, strlen(text), err);
    umask(old);
    return st;
}

resbm_status rb_host_read_access(const char *dir, const char *name, rb_access *out, rb_err *err) {
    char path[PATH_MAX];
    rb_buf text = {0};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    resbm_status st = rb_read_file(path, RB_INVITATION_LIMIT, &text, err);
    if (!st) st = rb_access_parse(text.data ? text.data : "", out, err);
    if (text.data) explicit_bzero(text.data, text.len);
    rb_buf_free(&text);
    return st;
}

/* What the run's server is, as rb_host_keep has written it. */
resbm_status rb_host_read_server(const char *server_dir, rb_host_server *out, rb_err *err) {
    char path[PATH_MAX];
    rb_buf text = {0};
    snprintf(path, sizeof path, "%s/server.json", server_dir);
    RB_TRY(rb_read_file(path, 65536, &text, err));
    json_t *j = json_loads(text.data ? text.data : "", 0, NULL);
    rb_buf_free(&text);
    const char *host = json_string_value(json_object_get(j, "host")),
               *load = json_string_value(json_object_get(j, "load"));
    json_int_t port = json_integer_value(json_object_get(j, "port"));
    bool good = host && strlen(host) < sizeof out->host && port >= 0 && port <= 65535 &&
                (!load || strlen(load) < sizeof out->load);
    *out = (rb_host_server){.port = (int)port, .foreign = load != NULL};
    if (good) snprintf(out->host, sizeof out->host, "%s", host);
    if (good && load) snprintf(out->load, sizeof out->load, "%s", load);
    json_decref(j);
    return good ? RESBM_OK
                : rb_fail(
                      err, RESBM_E_FORMAT,
                      "%s does not say where the run's server is: take it from a copy of the run's folder, "
                      "or begin a new run in another --out",
                      path);
}

static resbm_status read_server(rb_host *h, rb_err *err) {
    rb_access invited;
    RB_TRY(rb_host_read_server(h->server_dir, &h->at, err));
    h->server = (rb_server_config){.dir = h->server_dir,
                                   .load = h->at.load,
                                   .host = h->at.host,
                                   .port = h->at.port,
                                   .run = h->access.run,
                                   .tls = true,
                                   .store = true};
    RB_TRY(rb_host_read_access(h->server_dir, "invited.json", &invited, err));
    const rb_carrier_module *m;
    RB_TRY(rb_carrier_module_load("nats", &m, err));
    h->fixed[0].role = RB_ROLE_COORDINATOR;
    h->fixed[1].role = RB_ROLE_INVITATION;
    snprintf(h->fixed[0].name, sizeof h->fixed[0].name, "%s", h->access.name);
    snprintf(h->fixed[1].name, sizeof h->fixed[1].name, "%s", RB_INVITED);
    RB_TRY(m->public_key(h->access.seed, h->fixed[0].public_key, err));
    resbm_status st = m->public_key(invited.seed, h->fixed[1].public_key, err);
    explicit_bzero(&invited, sizeof invited);
    return st;
}

/* For status, and for participants that have nothing to do. */
static void say_doing(rb_host *h, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say_doing(rb_host *h, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    pthread_mutex_lock(&h->lock);
    vsnprintf(h->doing, sizeof h->doing, fmt, ap);
    pthread_mutex_unlock(&h->lock);
    va_end(ap);
}

static void on_note(void *ctx, const char *text) {
    rb_host_note(ctx, "%s", text);
}

static resbm_status open_host(rb_host *h, rb_err *err) {
    char path[PATH_MAX];
    uint64_t number;
    if (getrandom(&number, sizeof number, 0) != sizeof number) return rb_fail(err, RESBM_E_IO, "getrandom");
    if (!*h->id) snprintf(h->id, sizeof h->id, "%016llx", (unsigned long long)number);
    RB_TRY(rb_host_read_access(h->server_dir, "access.json", &h->access, err));
    RB_TRY(rb_config_defaults(h->cfg, err));
    snprintf(path, sizeof path, "%s/run.yaml", h->server_dir);
    RB_TRY(rb_config_load_file(h->cfg, path, err));
    RB_TRY(rb_config_validate(h->cfg, err));
    h->workers = rb_workers(h->cfg);
    h->place = rb_worker_places(h->cfg);
    if (!h->place) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d places", h->workers);
    RB_TRY(rb_host_measure_stages(h, err));
    RB_TRY(read_server(h, err));
    h->access.catch_all = true;
    h->access.malformed = rb_host_malformed;
    RB_TRY(rb_access_connect(&h->access, rb_now_ns() + 30 * RB_SEC, on_note, h, &h->carrier, err));
    char bucket[100];
    snprintf(bucket, sizeof bucket, "resbm-%s", h->access.run);
    RB_TRY(h->carrier->module->store_open(h->carrier->state, bucket, -1, err));
    RB_TRY(rb_host_claim(h, err));
    RB_TRY(rb_host_restore_snapshot(h, err));
    return rb_host_members_open(h, err);
}

/* --- one attempt: an epoch, from the newest snapshot until the run is done or a participant is lost --- */

static const char *who(void *ctx, int stage) {
    rb_host *h = ctx;
    pthread_mutex_lock(&h->lock); /* a thread that ends a snapshot may be at it */
    const char *name = h->seat[stage] >= 0 ? h->member[h->seat[stage]].name : "nobody";
    pthread_mutex_unlock(&h->lock);
    return name;
}

static resbm_status start_stage(void *ctx, int stage, const char *control, uint64_t token, rb_child *out,
                                rb_err *err) {
    rb_host *h = ctx;
    (void)err;
    *out = (rb_child){0};
    pthread_mutex_lock(&h->lock);
    snprintf(h->control, sizeof h->control, "%s", control);
    h->token = token;
    rb_member *m = &h->member[h->seat[stage]];
    m->epoch = h->epoch;
    m->stage = stage;
    m->taken = false;
    *m->ended = 0;
    h->running = true;
    pthread_mutex_unlock(&h->lock);
    return RESBM_OK;
}

static void on_loading(void *ctx, int worker, uint64_t have, uint64_t of) {
    rb_host *h = ctx;
    double all[2] = {0};
    int64_t now = rb_now_ns();
    pthread_mutex_lock(&h->lock);
    h->loading[worker][0] = have;
    h->loading[worker][1] = of;
    for (int w = 0; w < h->workers; w++)
        for (int k = 0; k < 2; k++) all[k] += (double)h->loading[w][k] * 1e-6;
    pthread_mutex_unlock(&h->lock);
    say_doing(h, "stages download %.1f MB of weights: %.1f are there", all[1], all[0]);
    if (now - h->loading_told_ns < 5 * RB_SEC) return;
    h->loading_told_ns = now;
    rb_host_note(h, "stages download %.1f MB of weights: %.1f are there", all[1], all[0]);
}

typedef struct attempt {
    rb_host *h;
    rb_record *rec;
    rb_train_hooks to; /* the record's own */
} attempt;

static resbm_status on_ready(void *ctx, const char *rules, int64_t params, int64_t from, rb_err *err) {
    attempt *a = ctx;
    a->h->step = from > 0 ? from : 0;
    return a->to.ready(a->to.ctx, rules, params, from, err);
}

static resbm_status on_step(void *ctx, const rb_step_record *r, rb_err *err) {
    attempt *a = ctx;
    say_doing(a->h, "trains: step %lld, loss %.4f", (long long)r->step, r->loss);
    if (a->h->asked && atomic_load(a->h->asked)) atomic_store(&a->h->stop, atomic_load(a->h->asked));
    rb_host_check_leases(a->h);
    rb_host_note_speeds(a->h, r);
    return a->to.step(a->to.ctx, r, err);
}

static void on_text(void *ctx, const char *text) {
    attempt *a = ctx;
    if (a->to.note) a->to.note(a->to.ctx, text);
}

static resbm_status on_commit(void *ctx, int64_t step, double loss, const char *fingerprint, rb_err *err) {
    return rb_host_record_commit(((attempt *)ctx)->h, step, loss, fingerprint, err);
}

static resbm_status on_saved(void *ctx, int64_t step, const char *folder, rb_err *err) {
    rb_host *h = ((attempt *)ctx)->h;
    RB_TRY(rb_host_keep_snapshot(h, step, folder, err));
    h->held_up = 0;
    if (step < h->cfg->train.steps) rb_host_regroup(h);
    return RESBM_OK;
}

static resbm_status on_spans(void *ctx, int stage, const rb_stage_span *span, int n, rb_err *err) {
    attempt *a = ctx;
    return a->to.spans(a->to.ctx, stage, span, n, err);
}

static void on_attention(void *ctx, int stage, const char *text) {
    attempt *a = ctx;
    a->to.attention(a->to.ctx, stage, text);
}

static void stand_down(rb_host *h) {
    pthread_mutex_lock(&h->lock);
    h->running = false;
    for (int i = 0; i < h->members; i++) h->member[i].stage = -1;
    pthread_mutex_unlock(&h->lock);
}

/* Twice as long for each epoch that a learned deadline has ended, from the second one on since the last snapshot. */
static int slack(const rb_host *h) {
    int doublings = h->held_up > 1 ? h->held_up - 1 : 0;
    return 1 << (doublings < 6 ? doublings : 6);
}

/* Of single waits; a step has no other before some are known. */
static int64_t wait_deadline(rb_host *h) {
    pthread_mutex_lock(&h->lock);
    int64_t stated = h->cfg->pipeline.deadline_ns, ns = rb_host_wait_ns(h, slack(h));
    pthread_mutex_unlock(&h->lock);
    if (ns > stated)
        rb_host_note(h, "a wait of this epoch may take %.3g s (pipeline.deadline is %.3g s): %s",
                     (double)ns * 1e-9, (double)stated * 1e-9,
                     slack(h) > 1 ? "epochs before were held up" : "a step of these machines is long");
    return ns;
}

/* 0: as the schedule is. */
static int depth(rb_host *h) {
    rb_err err;
    int extra, stated = (int)h->cfg->pipeline.inflight;
    if (rb_host_plan_depth(h, &extra, &err)) {
        rb_host_note(h, "how deep the pipeline is to be could not be planned: %s", err.text);
        return stated;
    }
    if (extra > stated && extra != h->depth_told)
        rb_host_note(h,
                     "pipeline.inflight=%d for the links of these machines: stages compute while messages "
                     "are under way",
                     extra);
    h->depth_told = extra;
    return extra;
}

static resbm_status try_once(rb_host *h, rb_train_summary *sum, rb_err *err) {
    attempt a = {.h = h};
    int64_t step = -1;
    rb_err late;
    h->timed = 0;
    memset(h->speed, 0, sizeof h->speed);
    memset(h->packets, 0, sizeof h->packets);
    memset(h->loading, 0, sizeof h->loading);
    rb_checkpoint_find_latest(h->dir, &step, NULL, &late);
    RB_TRY(rb_record_open(h->cfg, h->dir, h->out, true, &a.rec, err));
    a.to = rb_record_hooks(a.rec);
    rb_crew_outside crew = {.ctx = h,
                            .carrier = h->carrier,
                            .self = h->access.name,
                            .who = who,
                            .start = start_stage,
                            .lost = rb_host_lost,
                            .dropped = rb_host_dropped,
                            .spare = rb_host_spare,
                            .loading = on_loading,
                            .note = on_note,
                            .apart = true};
    rb_config c = *h->cfg; /* what it points to stays h's */
    rb_train_options o = {.cfg = &c,
                          .dir = h->dir,
                          .program = h->program,
                          .resume = step >= 0,
                          .least_epoch = h->epoch,
                          .slack = slack(h),
                          .outside = &crew,
                          .stop = &h->stop,
                          .throwaway = true,
                          .hooks = {.ctx = &a,
                                    .ready = on_ready,
                                    .step = on_step,
                                    .note = on_text,
                                    .attention = on_attention,
                                    .spans = on_spans,
                                    .commit = on_commit,
                                    .saved = on_saved}};
    c.pipeline.deadline_ns = wait_deadline(h);
    c.pipeline.inflight = depth(h);
    resbm_status st = rb_train(&o, sum, err);
    stand_down(h);
    bool whole = (st == RESBM_OK && !sum->nothing_left) || (st == RESBM_E_CANCELLED && sum->stopped_early);
    resbm_status closed = rb_record_close(a.rec, sum, whole, st ? &late : err);
    return st ? st : closed;
}

static void set_aside(rb_host *h, int worker, bool at_once) {
    if (worker < 0 || worker >= h->workers || h->seat[worker] < 0) return;
    pthread_mutex_lock(&h->lock);
    rb_member *m = &h->member[h->seat[worker]];
    rb_member_set_aside(m, at_once);
    pthread_mutex_unlock(&h->lock);
}

static void blame(rb_host *h, const rb_blame *b, const rb_err *fault) {
    rb_sentence s = rb_blame_judge(b);
    rb_err err;
    for (int i = 0; i < 2; i++) set_aside(h, s.aside[i], s.at_once);
    if (s.revoke < 0 || s.revoke >= h->workers || h->seat[s.revoke] < 0) return;
    const char *name = h->member[h->seat[s.revoke]].name;
    char why[200];
    rb_utf8_cut(why, sizeof why, fault->text);
    if (rb_host_revoke(h, name, why, &err)) rb_host_note(h, "could not cut %s off: %s", name, err.text);
}

static resbm_status wait_members(rb_host *h, rb_err *err) {
    char text[200], said[200] = "";
    while (!rb_host_assign(h, text, sizeof text)) {
        say_doing(h, "%s", text);
        if (strcmp(text, said)) rb_host_note(h, "%s", text);
        snprintf(said, sizeof said, "%s", text);
        if ((h->asked && atomic_load(h->asked)) || atomic_load(&h->stop))
            return rb_fail(err, RESBM_E_CANCELLED, "stopped on request while waiting for participants");
        rb_sleep_ns(50 * RB_MS);
        rb_host_check_leases(h);
    }
    return RESBM_OK;
}

static resbm_status train(rb_host *h, rb_err *err) {
    rb_host_vain v = {.member = -1, .stage = -1};
    for (;;) {
        rb_train_summary sum = {.blame = rb_blame_nobody()};
        int64_t farthest = h->step;
        RB_TRY(wait_members(h, err));
        rb_host_note_try(h, &v);
        resbm_status st = rb_host_next_epoch(h, err);
        if (st && st != RESBM_E_IO) return st; /* a disk that is full may have room again */
        say_doing(h, "starts epoch %u", h->epoch);
        if (!st) st = try_once(h, &sum, err);
        bool regroups = h->regroup && !(h->asked && atomic_load(h->asked)) && !h->lost_claim;
        if (regroups) rb_host_swap(h);
        if (regroups && st == RESBM_E_CANCELLED) {
            v = (rb_host_vain){.member = -1, .stage = -1};
            continue;
        }
        h->held_up += sum.blame.holds_up;
        bool own = sum.blame.by < 0; /* a participant's word ends no run */
        if (!st || (own && (st == RESBM_E_CANCELLED || st == RESBM_E_CONFIG))) return st;
        rb_host_note(h, "epoch %u ended: %s; going on", h->epoch, err->text);
        bool numbers = st == RESBM_E_NUMERIC || st == RESBM_E_FORMAT || st == RESBM_E_CORRUPT;
        int worker = numbers ? sum.blame.worker : -1;
        bool disk = own && st == RESBM_E_IO && sum.blame.worker < 0;
        rb_host_note_vain(h, &v, h->step > farthest, worker, disk, err->text);
        if (rb_host_is_hopeless(h, &v))
            return rb_err_context(err, st, "%d times in a row without a step: ", v.epochs);
        blame(h, &sum.blame, err);
        rb_host_back_off(h, &v);
    }
}

/* Participants hear that it is over with their next beat. */
static void say_done(rb_host *h) {
    pthread_mutex_lock(&h->lock);
    h->finished = true;
    snprintf(h->doing, sizeof h->doing, "is done");
    pthread_mutex_unlock(&h->lock);
    rb_sleep_ns(1500 * RB_MS);
}

resbm_status rb_host_coordinate(const rb_coordinate_options *o, bool *again, rb_err *err) {
    rb_host *h = calloc(1, sizeof *h);
    *again = false;
    if (h) h->cfg = calloc(1, sizeof *h->cfg);
    if (h) h->member = calloc(RB_MOST_MEMBERS, sizeof *h->member);
    if (!h || !h->cfg || !h->member)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for a coordinator"); /* the process ends */
    pthread_mutex_init(&h->lock, NULL);
    pthread_mutex_init(&h->changing, NULL);
    pthread_mutex_init(&h->telling, NULL);
    pthread_mutex_init(&h->notes.lock, NULL);
    pthread_mutex_init(&h->enrol_notes.lock, NULL);
    char *whole = realpath(o->dir, NULL);
    snprintf(h->dir, sizeof h->dir, "%s", whole ? whole : o->dir);
    free(whole);
    snprintf(h->server_dir, sizeof h->server_dir, "%.4000s/host", h->dir);
    snprintf(h->id, sizeof h->id, "%s", o->id ? o->id : "");
    snprintf(h->before, sizeof h->before, "%s", o->before ? o->before : "");
    h->program = o->program;
    h->build = o->build;
    h->asked = o->asked;
    h->out = o->out;
    h->slow = h->swap_member = -1;
    for (int i = 0; i < RB_MAX_STAGES; i++) h->seat[i] = -1;
    resbm_status st = open_host(h, err);
    if (!st) st = train(h, err);
    if (!st) say_done(h);
    /* A lost claim stops the training as a request would; but nobody has asked, and the keeper is to start another one. */
    if (st == RESBM_E_CANCELLED && h->lost_claim && !(o->asked && atomic_load(o->asked)))
        st = rb_fail(err, RESBM_E_PEER,
                     "this process is no longer the coordinator: its claim was not renewed in time");
    *again = h->lost_claim || st == RESBM_E_PEER || st == RESBM_E_TIMEOUT;
    rb_err ignored;
    rb_host_roll_close(h);
    if (h->claiming && !h->lost_claim) rb_host_keep_members(h, &ignored);
    rb_host_unclaim(h);
    rb_carrier_close(h->carrier, rb_now_ns() + RB_SEC);
    explicit_bzero(&h->access, sizeof h->access);
    pthread_mutex_destroy(&h->lock);
    pthread_mutex_destroy(&h->changing);
    pthread_mutex_destroy(&h->telling);
    pthread_mutex_destroy(&h->notes.lock);
    pthread_mutex_destroy(&h->enrol_notes.lock);
    free(h->member);
    free(h->place);
    free(h->cfg);
    free(h);
    return st;
}
