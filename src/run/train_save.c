/* Snapshots, as the coordinator makes them. Stages that share no folder with it send their files; with a share of the uplink
 * for that (link.snapshot_share) they do so while steps go on, and threads here take them in: one for each stage, so that
 * a slow one keeps no other's messages waiting, and one that waits for them all and makes the folder a checkpoint. */
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "checkpoint/checkpoint.h"
#include "run/apart.h"
#include "run/bases.h"
#include "run/control.h"
#include "run/devices.h"
#include "run/parts.h"
#include "run/training.h"

typedef struct collector {
    rb_snapshot *of;
    int worker;
    pthread_t thread;
    bool runs;
    atomic_bool lost;        /* it will send no more */
    uint64_t bytes, crossed; /* of its files; of messages that brought them */
    int files, based;        /* how many files came; packed against those of the snapshot before */
    resbm_status st;
    rb_err err;
} collector;

struct rb_snapshot {
    training *t;
    int64_t step;
    char folder[PATH_MAX]; /* step-N.tmp */
    rb_manifest m;
    rb_buf config;
    int64_t before;               /* the newest snapshot here, */
    rb_bases *bases;              /* and its files, which this one's are packed against; or NULL */
    json_t *files[RB_MAX_STAGES]; /* of each worker */
    collector *collectors;        /* (workers) */
    pthread_t thread;
    atomic_bool over;
    resbm_status st;
    int worker; /* whose collector has failed; -1: none */
    rb_err err;
};

static resbm_status add_files(rb_snapshot *s, rb_err *err) {
    for (int w = 0; w < s->t->crew->stages; w++) {
        const json_t *f;
        size_t i;
        json_array_foreach(s->files[w], i, f) {
            const char *name = json_string_value(json_array_get(f, 0)),
                       *hash = json_string_value(json_array_get(f, 2));
            rb_part_file *grown = realloc(s->m.files, (size_t)(s->m.file_count + 1) * sizeof *grown);
            if (!grown || !name || !hash) {
                s->m.files = grown ? grown : s->m.files;
                char who[RB_WHO_TEXT];
                if (!grown) return rb_fail(err, RESBM_E_MEMORY, "no memory for a list of files");
                rb_crew_accuse(s->t->crew, w, true, RESBM_E_FORMAT);
                return rb_fail(err, RESBM_E_FORMAT, "%s sent a broken list of files",
                               rb_who_at(who, w, s->t->crew->places));
            }
            s->m.files = grown;
            rb_part_file *p = &s->m.files[s->m.file_count++];
            snprintf(p->name, sizeof p->name, "%s", name);
            snprintf(p->sum.hash, sizeof p->sum.hash, "%s", hash);
            p->sum.bytes = (uint64_t)json_integer_value(json_array_get(f, 1));
        }
    }
    return RESBM_OK;
}

/* The manifest of the present step, from the stages' answers. */
static resbm_status describe(rb_snapshot *s, rb_err *err) {
    training *t = s->t;
    char missing[RB_PART_NAME];
    for (int w = 0; w < t->crew->stages; w++)
        s->files[w] = json_incref(json_object_get(t->reply[w], "files"));
    rb_config_print(t->cfg, &s->config);
    s->m = (rb_manifest){.step = t->step,
                         .epoch = t->epoch,
                         .cursor = (int64_t)t->sequence,
                         .seed = (int64_t)t->cfg->train.seed,
                         .config = s->config.data};
    RB_TRY(rb_buf_status(&s->config, err));
    RB_TRY(add_files(s, err));
    if (rb_parts_missing(&t->table, &s->m, missing))
        return rb_fail(err, RESBM_E_INTERNAL, "no stage has written %s of the snapshot of step %lld", missing,
                       (long long)t->step);
    RB_TRY(rb_manifest_set(&s->m, "tokens", t->step * t->cfg->train.batch * t->cfg->model.context, err));
    RB_TRY(rb_manifest_set(&s->m, "elapsed_ns", (int64_t)(rb_training_elapsed(t) * 1e9), err));
    RB_TRY(rb_manifest_set(&s->m, "updates", t->updates, err));
    if (t->optimizer_from) RB_TRY(rb_manifest_set(&s->m, "optimizer_from", t->optimizer_from, err));
    return rb_manifest_set(&s->m, "evals", (int64_t)t->evals, err);
}

static void free_snapshot(rb_snapshot *s) {
    if (!s) return;
    for (int w = 0; w < RB_MAX_STAGES; w++) json_decref(s->files[w]);
    free(s->m.files);
    free(s->collectors);
    rb_bases_close(s->bases);
    rb_buf_free(&s->config);
    free(s);
}

typedef struct offered {
    collector *c;
    const char *name;
} offered;

static int take_base(void *ctx, const char *hash) {
    const offered *o = ctx;
    int fd = rb_bases_take(o->c->of->bases, o->name, hash);
    o->c->based += fd >= 0;
    return fd;
}

static resbm_status collect_file(collector *c, const json_t *f, rb_err *err) {
    char path[PATH_MAX], who[RB_WHO_TEXT];
    const rb_snapshot *s = c->of;
    const training *t = s->t;
    int worker = c->worker;
    uint64_t crossed = 0;
    rb_file_sum sum = {.bytes = (uint64_t)json_integer_value(json_array_get(f, 1))};
    const char *name = json_string_value(json_array_get(f, 0)),
               *hash = json_string_value(json_array_get(f, 2));
    const rb_place *p = &t->crew->places[worker];
    int replica = rb_parts_replica_of(name);
    rb_who_at(who, worker, t->crew->places);
    if (!name || !hash || rb_parts_stage_of(t->cfg, name) != p->stage || (replica && replica != p->replica))
        return rb_fail(err, RESBM_E_FORMAT, "%s sent the file \"%s\", which is not its own", who,
                       name ? name : "?");
    if (sum.bytes > (uint64_t)t->out->params * 16 + (1 << 20))
        return rb_fail(err, RESBM_E_FORMAT, "%s sent %s with %llu bytes, more than the whole model has", who,
                       name, (unsigned long long)sum.bytes);
    snprintf(sum.hash, sizeof sum.hash, "%s", hash);
    snprintf(path, sizeof path, "%s/%s", s->folder, name);
    offered base = {.c = c, .name = name};
    rb_apart_wait w = {.stop = &c->lost, .base = take_base, .ctx = &base};
    RB_TRY(rb_apart_recv_file(t->crew->control, worker, path, &sum, &w, t->cfg->pipeline.deadline_ns,
                              &crossed, err));
    c->files++;
    c->bytes += sum.bytes;
    c->crossed += crossed;
    char device[RB_DEVICE_NAME];
    bool computed = strcmp(rb_device_of_stage(t->cfg, p->stage, device), "timed") != 0;
    resbm_status st = rb_apart_check_weights(path, computed, err);
    return st ? rb_err_context(err, st, "%s sent a snapshot that cannot be used: ", who) : RESBM_OK;
}

/* Here snapshots are kept: a full disk is this machine's, whoever sent the file. */
static resbm_status own_disk(const rb_snapshot *s, resbm_status st, rb_err *err) {
    if (st != RESBM_E_IO) return st;
    return rb_err_context(err, st,
                          "this machine could not keep the snapshot of step %lld (make room, or see to its "
                          "disk): ",
                          (long long)s->step);
}

/* Stages apart send their files after their answer. */
static resbm_status collect_files(collector *c, rb_err *err) {
    const json_t *files = c->of->files[c->worker];
    for (size_t i = 0; i < json_array_size(files); i++) {
        resbm_status st = collect_file(c, json_array_get(files, i), err);
        char who[RB_WHO_TEXT];
        rb_who_at(who, c->worker, c->of->t->crew->places);
        if (st == RESBM_E_IO) return own_disk(c->of, st, err);
        if (st && err && !strncmp(err->text, who, strlen(who))) return st;
        if (st) return rb_err_context(err, st, "%s: ", who);
    }
    return RESBM_OK;
}

static resbm_status complete(rb_snapshot *s, rb_err *err) {
    char path[PATH_MAX];
    const rb_train_options *o = s->t->o;
    resbm_status st = rb_checkpoint_commit(o->dir, &s->m, s->t->cfg->train.keep, err);
    if (st) return own_disk(s, st, err);
    if (!o->hooks.saved) return RESBM_OK;
    RB_TRY(rb_checkpoint_path(o->dir, s->step, path, err));
    return o->hooks.saved(o->hooks.ctx, s->step, path, err);
}

/* --- while steps go on --- */

static void *collect(void *arg) {
    collector *c = arg;
    c->st = collect_files(c, &c->err);
    return NULL;
}

static void *wait_for_all(void *arg) {
    rb_snapshot *s = arg;
    for (int w = 0; w < s->t->crew->stages; w++) {
        collector *c = &s->collectors[w];
        if (c->runs) pthread_join(c->thread, NULL);
        if (!c->st || s->st) continue;
        s->st = c->st;
        s->worker = w;
        s->err = c->err;
    }
    if (!s->st) s->st = complete(s, &s->err);
    atomic_store(&s->over, true);
    return NULL;
}

static resbm_status go_on(rb_snapshot *s, rb_err *err) {
    int n = s->t->crew->stages;
    s->collectors = calloc((size_t)n, sizeof *s->collectors);
    if (!s->collectors) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d collectors", n);
    for (int w = 0; w < n; w++) {
        collector *c = &s->collectors[w];
        c->of = s;
        c->worker = w;
        if (!json_array_size(s->files[w])) continue;
        int bad = pthread_create(&c->thread, NULL, collect, c);
        c->runs = !bad;
        if (bad) c->st = rb_fail_errno(&c->err, bad, "cannot start a thread");
    }
    int bad = pthread_create(&s->thread, NULL, wait_for_all, s);
    if (!bad) return RESBM_OK;
    rb_link_close(s->t->crew->control); /* ends the others */
    for (int w = 0; w < n; w++)
        if (s->collectors[w].runs) pthread_join(s->collectors[w].thread, NULL);
    return rb_fail_errno(err, bad, "cannot start a thread");
}

static void tell_cost(const rb_snapshot *s) {
    const training *t = s->t;
    collector all = {0};
    char text[240];
    for (int w = 0; w < t->crew->stages; w++) {
        const collector *c = &s->collectors[w];
        all.bytes += c->bytes;
        all.crossed += c->crossed;
        all.files += c->files;
        all.based += c->based;
    }
    int n = snprintf(text, sizeof text,
                     "the snapshot of step %lld is here: %d files of %.1f MB, for which %.1f MB crossed",
                     (long long)s->step, all.files, (double)all.bytes / 1e6, (double)all.crossed / 1e6);
    if (all.based)
        snprintf(text + n, sizeof text - (size_t)n, "; %d are packed against those of step %lld", all.based,
                 (long long)s->before);
    if (t->o->hooks.note) t->o->hooks.note(t->o->hooks.ctx, text);
}

resbm_status rb_training_await_snapshot(training *t, bool wait, rb_err *err) {
    rb_snapshot *s = t->snapshot;
    if (!s || (!wait && !atomic_load(&s->over))) return RESBM_OK;
    while (!atomic_load(&s->over)) {
        snprintf(t->crew->doing, sizeof t->crew->doing, "while the snapshot of step %lld was on its way",
                 (long long)s->step);
        RB_TRY(rb_crew_look(t->crew, err));
        rb_sleep_ns(20 * RB_MS);
    }
    pthread_join(s->thread, NULL);
    resbm_status st = s->st;
    bool bad = st == RESBM_E_CORRUPT || st == RESBM_E_FORMAT || st == RESBM_E_NUMERIC;
    if (bad || st == RESBM_E_PEER || st == RESBM_E_TIMEOUT)
        rb_crew_accuse(t->crew, s->worker, bad && s->worker >= 0, st); /* it has sent what was checked */
    if (err) *err = s->err;
    if (!st) t->saved = s->step;
    if (!st) tell_cost(s);
    free_snapshot(s);
    t->snapshot = NULL;
    if ((st != RESBM_E_PEER && st != RESBM_E_CANCELLED) || !t->dealt || !t->o->hooks.note) return st;
    char text
        [700]; /* a stage that has others went in the middle of it, and one of them sends the next one's */
    t->save_again = true;
    snprintf(text, sizeof text, "a snapshot was not completed, another one follows: %.500s",
             err ? err->text : "");
    t->o->hooks.note(t->o->hooks.ctx, text);
    return RESBM_OK;
}

void rb_training_snapshot_loses(training *t, int worker) {
    if (t->snapshot) atomic_store(&t->snapshot->collectors[worker].lost, true);
}

void rb_training_abandon_snapshot(training *t) {
    if (!t->snapshot) return;
    rb_link_close(t->crew->control);
    pthread_join(t->snapshot->thread, NULL);
    free_snapshot(t->snapshot);
    t->snapshot = NULL;
}

/* What this run's newest snapshot has, whoever made it: a stage that has the same file packs against it. */
static void open_bases(rb_snapshot *s) {
    char path[PATH_MAX];
    rb_err why;
    const training *t = s->t;
    s->before = t->saved;
    if (t->saved >= 0 && t->saved != t->step && !rb_checkpoint_path(t->o->dir, t->saved, path, &why))
        s->bases = rb_bases_open(path);
}

static resbm_status ask(training *t, rb_snapshot *s, bool spread, rb_err *err) {
    snprintf(t->crew->doing, sizeof t->crew->doing, "while writing the snapshot of step %lld",
             (long long)t->step);
    resbm_status st = rb_checkpoint_begin(t->o->dir, t->step, s->folder, err);
    if (st) return own_disk(s, st, err);
    if (t->o->outside && t->o->outside->apart) open_bases(s);
    memset(t->crew->redeals, 0, sizeof t->crew->redeals);
    t->saving = json_pack("{s:s, s:I, s:s, s:b, s:o}", "t", "save", "step", (json_int_t)t->step, "dir",
                          s->folder, "spread", spread, "bases", rb_bases_offer(s->bases));
    st = rb_crew_tell(t->crew, json_incref(t->saving), err);
    if (!st) st = rb_crew_gather(t->crew, "saved", -1, rb_training_deadline(t) + 600 * RB_SEC, t->reply, err);
    json_decref(t->saving);
    t->saving = NULL;
    RB_TRY(st);
    st = describe(s, err);
    rb_crew_drop(t->crew, t->reply);
    return st;
}

static resbm_status save(training *t, bool last, rb_err *err) {
    bool apart = t->o->outside && t->o->outside->apart, spread = apart && !last && t->cfg->snapshot_share < 1;
    RB_TRY(rb_training_await_snapshot(t, true, err));
    t->save_again = false;
    rb_snapshot *s = calloc(1, sizeof *s);
    if (!s) return rb_fail(err, RESBM_E_MEMORY, "no memory for a snapshot");
    s->t = t;
    s->worker = -1;
    s->step = t->step;
    resbm_status st = ask(t, s, spread, err);
    if (!st) st = apart ? go_on(s, err) : complete(s, err);
    t->deals = 0;
    if (!st && apart) {
        t->snapshot = s;
        return spread ? RESBM_OK : rb_training_await_snapshot(t, true, err);
    }
    if (!st) t->saved = t->step;
    free_snapshot(s);
    return st;
}

resbm_status rb_training_save(training *t, bool last, rb_err *err) {
    RB_TRY(save(t, last, err));
    for (int i = 0; i < 3 && last && t->saved != t->step;
         i++) /* who sent it was lost: another replica does */
        RB_TRY(save(t, last, err));
    if (!last || t->saved == t->step) return RESBM_OK;
    return rb_fail(err, RESBM_E_PEER,
                   "the last snapshot was not completed: replicas were lost four times in a row");
}
