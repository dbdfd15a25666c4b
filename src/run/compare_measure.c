#include "run/compare_measure.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "core/clock.h"
#include "core/hash.h"
#include "run/summary.h"

enum { PATIENCE_SECONDS = 60 };
#define LIKENESS 1.5 /* measured on a busy machine, the same time may differ by so much */

typedef struct probe {
    rb_study *t;
    int64_t deadline;
    int variant;
    rb_config *one, *deployed; /* validated */
} probe;

static bool asked(const rb_study *t) {
    return t->o->stop && atomic_load(t->o->stop);
}

static bool over(const rb_study *t, int64_t deadline) {
    return asked(t) || (deadline && rb_now_ns() >= deadline);
}

/* One run to its end; *whole false: it was stopped or failed (then the variant's fault is filled). The budget does not cut
 * it: it is short, and half of it is worth nothing. */
static resbm_status run_to_end(probe *p, const char *what, const rb_config *c, rb_compare_run *r, bool *whole,
                               rb_err *err) {
    bool ended = false;
    *whole = false;
    *r = (rb_compare_run){.variant = p->variant, .share = 1, .steps = c->train.steps};
    snprintf(r->dir, sizeof r->dir, "%s/timing/%s/%s", p->t->o->dir, p->t->s->variant[p->variant].name, what);
    RB_TRY(rb_compare_run_clear(r, err));
    RB_TRY(rb_compare_run_start(r, c, p->t->o->program, err));
    if (r->state == RB_RUN_BUSY)
        return rb_fail(err, RESBM_E_STATE,
                       "a process of an earlier session still works in %s: wait for it, or end it", r->dir);
    while (!ended && !asked(p->t)) {
        rb_sleep_ns(5 * RB_MS);
        RB_TRY(rb_compare_run_poll(r, true, &ended, err));
    }
    if (!ended) {
        kill(r->child.pid, SIGTERM);
        rb_children_end(&r->child, 1, rb_now_ns() + PATIENCE_SECONDS * RB_SEC);
        return rb_compare_run_poll(r, true, &ended, err);
    }
    *whole = r->state == RB_RUN_DONE;
    if (r->state == RB_RUN_FAILED)
        snprintf(p->t->time[p->variant].fault, sizeof p->t->time->fault, "%.380s", r->fault);
    return RESBM_OK;
}

static resbm_status read_summary(const rb_compare_run *r, rb_summary *s, rb_err *err) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/summary.json", r->dir);
    return rb_summary_read(path, s, err);
}

/* The shortest step and the longest, but the first. */
static resbm_status step_range(const rb_compare_run *r, double *least, double *most, rb_err *err) {
    char path[PATH_MAX];
    rb_metrics m;
    snprintf(path, sizeof path, "%s/metrics.jsonl", r->dir);
    RB_TRY(rb_metrics_read(path, &m, err));
    *least = INFINITY;
    *most = 0;
    for (size_t i = 1; i < m.count; i++) {
        *least = fmin(*least, m.steps[i].step_s);
        *most = fmax(*most, m.steps[i].step_s);
    }
    rb_metrics_free(&m);
    return RESBM_OK;
}

static void take_deployed(const rb_summary *s, rb_timing *m) {
    m->step = s->step_s;
    m->stages = s->stages;
    m->rss = 0;
    for (int i = 0; i < s->stages; i++) m->rss = fmax(m->rss, (double)s->peak_rss_bytes[i]);
    m->bytes_forward = s->bytes_per_token_fwd + s->token_bytes_per_token;
    m->bytes_backward = s->bytes_per_token_bwd;
    m->bytes_ids = s->token_bytes_per_token;
}

/* On one stage: the costs of the segments. */
static resbm_status measure_one(probe *p, rb_timing *m, bool *whole, rb_err *err) {
    rb_compare_run r;
    rb_summary s;
    char path[PATH_MAX];
    RB_TRY(run_to_end(p, "one", p->one, &r, whole, err));
    rb_compare_run_free(&r);
    if (!*whole) return RESBM_OK;
    snprintf(path, sizeof path, "%s/trace.json", r.dir);
    RB_TRY(rb_timing_take_trace(path, (int)p->one->model.segments, m, err));
    double busy = m->optimizer;
    RB_TRY(step_range(&r, &m->least, &m->most, err));
    RB_TRY(read_summary(&r, &s, err));
    for (int i = 0; i < m->segments; i++)
        busy += (double)p->one->train.microbatches * (m->segment[i].forward + m->segment[i].backward);
    m->rest = fmax(0, m->least - busy);
    if (m->segments == 1) take_deployed(&s, m);
    rb_summary_free(&s);
    return rb_compare_run_clear(&r, err);
}

/* As deployed, over the first link. */
static resbm_status measure_deployed(probe *p, rb_timing *m, bool *whole, rb_err *err) {
    rb_compare_run r;
    rb_summary s;
    RB_TRY(run_to_end(p, "deployed", p->deployed, &r, whole, err));
    rb_compare_run_free(&r);
    if (!*whole) return RESBM_OK;
    RB_TRY(step_range(&r, &m->least, &m->most, err));
    RB_TRY(read_summary(&r, &s, err));
    take_deployed(&s, m);
    rb_summary_free(&s);
    return rb_compare_run_clear(&r, err);
}

static resbm_status measure(probe *p, rb_timing *m, rb_err *err) {
    rb_study *t = p->t;
    bool whole = true, pipelined = p->deployed->pipeline.stages > 1;
    rb_timing_free(m);
    *m = (rb_timing){.step = NAN, .least = NAN, .most = NAN, .bytes_forward = NAN, .bytes_backward = NAN, .bytes_ids = NAN, .rss = NAN};
    if (!(t->s->flops > 0 && pipelined)) RB_TRY(measure_one(p, m, &whole, err));
    if (whole && pipelined) RB_TRY(measure_deployed(p, m, &whole, err));
    m->known = whole;
    return RESBM_OK;
}

/* What was measured holds for this text. */
static resbm_status key_of(const probe *p, rb_buf *key, rb_err *err) {
    rb_config_print(p->one, key);
    rb_config_print(p->deployed, key);
    rb_buf_printf(key, "compute: %.9g\n", p->t->s->flops);
    return rb_buf_status(key, err);
}

/* What it owns stays with whoever it is a copy of. */
static rb_timing without_parts(rb_timing t) {
    t.segment = NULL;
    t.trunk = NULL;
    t.update = NULL;
    return t;
}

/* A variant of the same key, measured already: its figures are this one's. */
static resbm_status borrow(probe *p, rb_err *err) {
    rb_compare_time *mine = &p->t->time[p->variant];
    for (int i = 0; i < p->variant && !mine->measured.known; i++) {
        const rb_timing *other = &p->t->time[i].measured;
        if (p->t->time[i].key != mine->key || !other->known) continue;
        rb_timing_free(&mine->measured);
        mine->measured = without_parts(*other); /* what is counted is counted for each */
        mine->measured.segment = malloc((size_t)(other->segments + 1) * sizeof *other->segment);
        if (!mine->measured.segment)
            return rb_fail(err, RESBM_E_MEMORY, "no memory for %d segments", other->segments);
        memcpy(mine->measured.segment, other->segment, (size_t)other->segments * sizeof *other->segment);
    }
    return RESBM_OK;
}

static resbm_status load_or_measure(probe *p, rb_err *err) {
    rb_study *t = p->t;
    char path[PATH_MAX], line[700];
    rb_buf key = {0};
    const char *name = t->s->variant[p->variant].name;
    rb_timing *m = &t->time[p->variant].measured;
    snprintf(path, sizeof path, "%s/timing/%s.json", t->o->dir, name);
    resbm_status st = key_of(p, &key, err);
    if (!st) t->time[p->variant].key = rb_hash64(key.data, key.len);
    if (!st) st = rb_timing_read(path, key.data, m, err);
    if (!st) st = borrow(p, err);
    if (!st && !m->known && !over(t, p->deadline)) {
        snprintf(line, sizeof line, "%s: measuring time", name);
        if (t->o->say) t->o->say(t->o->ctx, line);
        st = measure(p, m, err);
        if (!st && m->known) st = rb_timing_write(path, key.data, m, err);
        if (*t->time[p->variant].fault) {
            snprintf(line, sizeof line, "%s: its time cannot be measured: %s", name,
                     t->time[p->variant].fault);
            if (t->o->say) t->o->say(t->o->ctx, line);
        }
    }
    rb_buf_free(&key);
    return st;
}

static resbm_status time_variant(probe *p, rb_err *err) {
    rb_study *t = p->t;
    rb_compare_time *time = &t->time[p->variant];
    rb_compare_which w = rb_study_first(t, p->variant);
    RB_TRY(rb_compare_deployed(t->s, t->base, &w, NULL, p->one, err));
    RB_TRY(rb_compare_deployed(t->s, t->base, &w, &t->s->link[0], p->deployed, err));
    RB_TRY(rb_cost_of(p->deployed, &time->cost, err));
    RB_TRY(load_or_measure(p, err));
    if (t->s->flops > 0 && time->measured.known)
        RB_TRY(rb_timing_by_rate(p->one, t->s->flops, &time->measured, err));
    for (int l = 0; l < t->s->links && time->measured.known; l++)
        RB_TRY(rb_timing_step(&time->measured, &time->cost, p->deployed, &t->s->link[l].shape, &time->step[l],
                              err));
    return RESBM_OK;
}

/* Steps that a run of an earlier session was given; 0: there is none. */
static int64_t given_steps(const rb_study *t, int variant, rb_config *scratch) {
    char path[PATH_MAX];
    rb_err none;
    snprintf(path, sizeof path, "%s/runs/%s/seed-%llu/run.yaml", t->o->dir, t->s->variant[variant].name,
             (unsigned long long)t->s->seed[0]);
    bool there = !access(path, F_OK) && !rb_config_defaults(scratch, &none) &&
                 !rb_config_load_file(scratch, path, &none);
    return there ? scratch->train.steps : 0;
}

/* As many steps as fit in the time that the pipeline takes over the first link. A measurement that came out a little
 * different does not make another run of one that has begun. */
static resbm_status size_twin(rb_study *t, int variant, rb_config *scratch, rb_err *err) {
    int alone = rb_compare_find(t->s, t->s->variant[variant].of),
        of = rb_compare_find(t->s, t->s->variant[alone].of);
    t->time[variant] = t->time[alone];
    t->time[variant].measured = without_parts(t->time[alone].measured);
    rb_compare_which w = {.variant = of, .share = 1, .seed = t->s->seed[0]};
    RB_TRY(rb_compare_config(t->s, t->base, &w, scratch, err));
    double wall = (double)scratch->train.steps * t->time[of].step[0];
    w.variant = alone;
    RB_TRY(rb_compare_config(t->s, t->base, &w, scratch, err));
    double most = t->s->longest * (double)scratch->train.steps, steps = floor(wall / t->time[alone].step[0]);
    if (!(steps > 0)) return RESBM_OK; /* not measured */
    t->state[variant].capped = steps > most;
    double least =
        fmax(1, (double)scratch->optim.rates.warmup / fmax(0.1, 1 - scratch->optim.rates.share) + 1);
    steps = fmin(most, fmax(steps, least));
    double before = (double)given_steps(t, variant, scratch);
    t->state[variant].fitting = steps;
    t->state[variant].steps =
        (int64_t)(before > steps / LIKENESS && before < steps * LIKENESS ? before : steps);
    return RESBM_OK;
}

resbm_status rb_compare_measure(rb_study *t, int64_t deadline_ns, rb_err *err) {
    char dir[PATH_MAX];
    if (!t->s->links) return RESBM_OK;
    snprintf(dir, sizeof dir, "%s/timing", t->o->dir);
    RB_TRY(rb_make_dirs(dir, err));
    probe p = {.t = t,
               .deadline = deadline_ns,
               .one = malloc(sizeof *p.one),
               .deployed = malloc(sizeof *p.deployed)};
    resbm_status st =
        p.one && p.deployed ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for configurations");
    for (p.variant = 0; p.variant < t->s->variants && !st; p.variant++)
        if (t->s->variant[p.variant].control != RB_CONTROL_ALONE_AS_LONG) st = time_variant(&p, err);
    for (int v = 0; v < t->s->variants && !st; v++)
        if (t->s->variant[v].control == RB_CONTROL_ALONE_AS_LONG) st = size_twin(t, v, p.one, err);
    free(p.one);
    free(p.deployed);
    return st;
}
