#include "run/compare.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "core/clock.h"
#include "run/compare_measure.h"
#include "run/compare_result.h"
#include "run/compare_study.h"
#include "run/try_lock.h"

enum {
    STOP_SECONDS = 600, /* a child may take so long for its step and snapshot */
    REPORT_SECONDS = 60
};

static void say(const rb_study *t, const char *line) {
    if (t->o->say) t->o->say(t->o->ctx, line);
}

/* One comparison at a time in a folder. The lock goes with the process. */
static resbm_status lock_dir(const char *dir, int *fd, rb_err *err) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/lock", dir);
    RB_TRY(rb_try_lock(path, O_RDWR | O_CREAT, fd, err));
    if (*fd >= 0) return RESBM_OK;
    return rb_fail(err, RESBM_E_STATE, "another resbm compare works in %s", dir);
}

static resbm_status open_study(rb_study *t, const rb_compare_options *o, rb_err *err) {
    *t = (rb_study){.o = o, .s = o->spec};
    t->base = calloc(1, sizeof *t->base);
    t->state = calloc((size_t)o->spec->variants + 1, sizeof *t->state);
    t->time = calloc((size_t)o->spec->variants + 1, sizeof *t->time);
    if (!t->base || !t->state || !t->time) return rb_fail(err, RESBM_E_MEMORY, "no memory for a comparison");
    for (int i = 0; i < o->spec->variants; i++) {
        t->state[i].best = -1;
        for (int l = 0; l < RB_COMPARE_LINKS; l++) t->time[i].step[l] = NAN;
    }
    return rb_compare_base(o->spec, t->base, err);
}

/* What is wrong with a variant's configuration is said before anything is trained. */
static resbm_status check_variants(const rb_study *t, rb_err *err) {
    rb_config *c = malloc(sizeof *c);
    resbm_status st = c ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration");
    for (int v = 0; v < t->s->variants && !st; v++) {
        rb_compare_which w = rb_study_first(t, v);
        st = rb_compare_config(t->s, t->base, &w, c, err);
        if (!st && !*c->data.train)
            st = rb_fail(err, RESBM_E_CONFIG,
                         "%s: variant %s has no data.train: name a run configuration by base, or shards by set",
                         t->s->variant[v].place, t->s->variant[v].name);
    }
    free(c);
    return st;
}

static bool asked(const rb_study *t) {
    return t->o->stop && atomic_load(t->o->stop);
}

/* ---- the children */

static void start(rb_study *t, rb_compare_run *r) {
    char line[1000];
    rb_err err = {0};
    rb_config *c = malloc(sizeof *c);
    bool half = r->state == RB_RUN_HALF;
    resbm_status st =
        c ? rb_study_config(t, r, c, &err) : rb_fail(&err, RESBM_E_MEMORY, "no memory for a configuration");
    if (!st) st = rb_compare_run_start(r, c, t->o->program, &err);
    free(c);
    if (st) {
        r->state = RB_RUN_FAILED;
        snprintf(r->fault, sizeof r->fault, "%.680s", err.text);
        snprintf(line, sizeof line, "%s: failed: %s", r->name, r->fault);
    } else {
        snprintf(line, sizeof line, "%s: %s", r->name,
                 r->state == RB_RUN_BUSY ? "waits for a process of an earlier session"
                 : half                  ? "goes on"
                                         : "started");
    }
    say(t, line);
}

static void tell_end(rb_study *t, const rb_compare_run *r) {
    char line[1000];
    if (r->state == RB_RUN_DONE)
        snprintf(line, sizeof line, "%s: %lld steps, loss %.4f", r->name, (long long)r->steps, r->loss);
    else if (r->state == RB_RUN_FAILED)
        snprintf(line, sizeof line, "%s: failed: %s", r->name, r->fault);
    else
        snprintf(line, sizeof line, "%s: stopped with a snapshot", r->name);
    say(t, line);
}

/* Reaps what has ended; *any says whether something has. */
static resbm_status reap(rb_study *t, bool *any, int *going, rb_err *err) {
    *any = false;
    *going = 0;
    for (int i = 0; i < t->runs; i++) {
        rb_compare_run *r = t->run[i];
        bool ended = false;
        if (r->state != RB_RUN_GOING) continue;
        RB_TRY(rb_compare_run_poll(r, t->o->keep, &ended, err));
        *any |= ended;
        *going += !ended;
        if (ended) tell_end(t, r);
    }
    return RESBM_OK;
}

static void tell_children(const rb_study *t) {
    for (int i = 0; i < t->runs; i++)
        if (t->run[i]->state == RB_RUN_GOING) kill(t->run[i]->child.pid, SIGTERM);
}

/* Asks every child for a snapshot and an end (asked a second time oneself: for an end at once) and waits for it; what is
 * still there after that is killed. */
static resbm_status stop_children(rb_study *t, rb_err *err) {
    int going = 0, told = 0;
    bool any;
    int64_t deadline = rb_now_ns() + STOP_SECONDS * RB_SEC;
    for (;;) {
        RB_TRY(reap(t, &any, &going, err));
        if (!told || (told < 2 && t->o->stop && atomic_load(t->o->stop) > 1)) {
            tell_children(t);
            told++;
        }
        if (!going || rb_now_ns() >= deadline) break;
        rb_sleep_ns(10 * RB_MS);
    }
    for (int i = 0; i < t->runs; i++)
        if (t->run[i]->state == RB_RUN_GOING) rb_children_end(&t->run[i]->child, 1, rb_now_ns());
    return going ? reap(t, &any, &going, err) : RESBM_OK;
}

static bool startable(const rb_compare_run *r) {
    return r->state == RB_RUN_NEW || r->state == RB_RUN_HALF;
}

static void look_again(rb_study *t, rb_compare_run *r) {
    rb_err err = {0};
    rb_config *c = malloc(sizeof *c);
    resbm_status st =
        c ? rb_study_config(t, r, c, &err) : rb_fail(&err, RESBM_E_MEMORY, "no memory for a configuration");
    if (!st) st = rb_compare_run_look(r, c, &err);
    free(c);
    if (!st) return;
    r->state = RB_RUN_FAILED;
    snprintf(r->fault, sizeof r->fault, "%.680s", err.text);
}

/* Looks at the runs that a process of an earlier session held; *any: one has come free. Returns how many are left. */
static int look_at_busy(rb_study *t, bool *any) {
    int busy = 0;
    for (int i = 0; i < t->runs; i++) {
        rb_compare_run *r = t->run[i];
        if (r->state != RB_RUN_BUSY) continue;
        if (!rb_compare_run_free_now(r)) {
            busy++;
            continue;
        }
        *any = true;
        look_again(t, r);
    }
    return busy;
}

/* Every REPORT_SECONDS: what runs, and how far it is. */
static void report_progress(const rb_study *t, int64_t *next) {
    rb_buf line = {0};
    int done = 0, others = 0;
    if (rb_now_ns() < *next) return;
    *next = rb_now_ns() + REPORT_SECONDS * RB_SEC;
    for (int i = 0; i < t->runs; i++) {
        const rb_compare_run *r = t->run[i];
        done += r->state == RB_RUN_DONE;
        if (r->state != RB_RUN_GOING || others++ > 7) continue;
        rb_buf_printf(&line, "%s%s %lld/%lld", line.len ? ", " : "", r->name,
                      (long long)rb_compare_run_progress(r), (long long)r->steps);
    }
    rb_buf_printf(&line, "; %d of %d runs done", done, t->runs);
    if (line.data) say(t, line.data);
    rb_buf_free(&line);
}

static int start_some(rb_study *t, const rb_run_list *l, int going) {
    for (int i = 0; i < l->count && going < t->o->jobs; i++) {
        if (!startable(l->run[i])) continue;
        start(t, l->run[i]);
        going += l->run[i]->state == RB_RUN_GOING;
    }
    return going;
}

static bool time_is_over(const rb_study *t, int64_t deadline) {
    return asked(t) || (deadline && rb_now_ns() >= deadline);
}

/* Until nothing is left, or it is time to end. */
static resbm_status train_loop(rb_study *t, rb_run_list *wanted, int64_t deadline, rb_err *err) {
    bool changed = true;
    int going = 0, busy = 0;
    int64_t look = 0, tell = rb_now_ns() + REPORT_SECONDS * RB_SEC;
    while (!time_is_over(t, deadline)) {
        if (changed) {
            RB_TRY(rb_study_wanted(t, wanted, err));
            going = start_some(t, wanted, going);
            bool freed = false;
            busy = look_at_busy(t, &freed);
            if (freed) continue;
            if (!going && !busy) return RESBM_OK;
        }
        rb_sleep_ns(10 * RB_MS);
        RB_TRY(reap(t, &changed, &going, err));
        report_progress(t, &tell);
        if (!busy || rb_now_ns() < look) continue;
        look = rb_now_ns() + RB_SEC / 2;
        busy = look_at_busy(t, &changed);
    }
    return RESBM_OK;
}

static resbm_status train_all(rb_study *t, int64_t deadline, bool *complete, rb_err *err) {
    rb_run_list wanted = {0};
    rb_err late;
    resbm_status st = train_loop(t, &wanted, deadline, err);
    resbm_status stopped = stop_children(t, st ? &late : err);
    if (!st) st = stopped;
    if (!st) st = rb_study_wanted(t, &wanted, err);
    *complete = true;
    for (int i = 0; i < wanted.count; i++)
        *complete &= !startable(wanted.run[i]) && wanted.run[i]->state != RB_RUN_BUSY;
    free(wanted.run);
    return st;
}

/* Before time is spent on anything: every configuration is possible, and the folder is this comparison's. */
static resbm_status refuse_changed(rb_study *t, rb_err *err) {
    rb_run_list wanted = {0};
    resbm_status st = rb_study_wanted(t, &wanted, err);
    free(wanted.run);
    return st;
}

static void count(const rb_study *t, rb_compare_outcome *out) {
    for (int i = 0; i < t->runs; i++) {
        out->runs++;
        out->done += t->run[i]->state == RB_RUN_DONE;
        out->failed += t->run[i]->state == RB_RUN_FAILED;
    }
}

static resbm_status run(rb_study *t, rb_compare_outcome *out, rb_err *err) {
    const rb_compare_options *o = t->o;
    int64_t deadline = o->budget_s > 0 ? rb_now_ns() + (int64_t)(o->budget_s * 1e9) : 0;
    RB_TRY(refuse_changed(t, err));
    RB_TRY(rb_compare_measure(t, deadline, err));
    RB_TRY(train_all(t, deadline, &out->complete, err));
    out->stopped = asked(t);
    count(t, out);
    return rb_compare_write(t, &out->table, err);
}

resbm_status rb_compare(const rb_compare_options *o, rb_compare_outcome *out, rb_err *err) {
    rb_study t = {0};
    int lock = -1;
    *out = (rb_compare_outcome){0};
    RB_TRY(rb_make_dirs(o->dir, err));
    RB_TRY(lock_dir(o->dir, &lock, err));
    resbm_status st = open_study(&t, o, err);
    if (!st) st = check_variants(&t, err);
    if (!st) st = run(&t, out, err);
    rb_study_free(&t);
    close(lock);
    return st;
}
