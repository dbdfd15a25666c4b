/* What a step came to, from the answers of its workers: losses, norms, and what may not be. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "run/control.h"
#include "run/training.h"
#include "run/workers.h"

/* Microbatches that those who are there have computed: all, unless a pipeline of local steps was lost within the step. */
static int64_t computed(const training *t) {
    int64_t n = t->cfg->train.microbatches;
    if (t->pipelines == 1 || !t->dealt_again) return n;
    for (int r = 0; r < t->pipelines; r++) {
        int w = rb_worker_of(t->cfg, 0, r);
        if (t->crew->gone[w]) n -= t->share[w];
    }
    return n;
}

static double tokens_computed(const training *t) {
    const rb_train_config *c = &t->cfg->train;
    return (double)(c->batch * t->cfg->model.context) * (double)computed(t) / (double)c->microbatches;
}

/* The stage of the model's last segment. */
int rb_training_loss_stage(const training *t) {
    return rb_stage_of(t->cfg, (int)t->cfg->model.segments - 1);
}

/* What is not finite is told with its place (rb_training_check_finite); what cannot be at all, its sender made up. */
static resbm_status fail_sent(const training *t, int worker, const char *what, double got, const char *of,
                              rb_err *err) {
    char who[RB_WHO_TEXT];
    return rb_fail(err, RESBM_E_FORMAT, "%s sent %s of %g for %s, step %lld; the step was not applied",
                   rb_link_who(t->crew->control, worker, who), what, got, of, (long long)t->step);
}

/* What workers send for every microbatch of a step, n each, added into out: those that a replica was not dealt are 0. */
static resbm_status add_numbers(const training *t, int worker, const char *key, double *out, int n,
                                rb_err *err) {
    double *part = calloc((size_t)n + 1, sizeof *part);
    if (!part) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d losses", n);
    resbm_status st = rb_json_get_doubles(json_object_get(t->reply[worker], key), part, n, key, err);
    for (int i = 0; i < n && !st; i++) {
        if (part[i] < 0) st = fail_sent(t, worker, "a loss", part[i], "a microbatch", err);
        out[i] += part[i];
    }
    rb_crew_accuse(t->crew, worker, st == RESBM_E_FORMAT, st);
    free(part);
    return st;
}

resbm_status rb_training_read_loss(training *t, double *loss, rb_err *err) {
    int M = (int)t->cfg->train.microbatches;
    double *part = calloc((size_t)M, sizeof *part), sum = 0;
    if (!part) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d losses", M);
    resbm_status st = RESBM_OK;
    for (int w = 0; w < t->crew->stages && !st; w++)
        if (t->crew->places[w].stage == rb_training_loss_stage(t) && t->reply[w])
            st = add_numbers(t, w, "loss", part, M, err);
    for (int m = 0; m < M; m++) sum += part[m]; /* in microbatch order */
    free(part);
    *loss = sum / tokens_computed(t);
    return st;
}

/* Auxiliary losses per token, of every boundary; a stage sends those of its segments, (hosted, microbatches). */
resbm_status rb_training_read_aux(training *t, rb_err *err) {
    int M = (int)t->cfg->train.microbatches, n = (int)t->cfg->model.segments;
    double *part = calloc((size_t)(n * M), sizeof *part);
    resbm_status st = part ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for %d losses", n * M);
    for (int s = 0; s < t->cfg->pipeline.stages && !st; s++) {
        const double *next = part;
        int hosted = 0;
        for (int i = 0; i < n; i++) hosted += rb_stage_of(t->cfg, i) == s;
        memset(part, 0, (size_t)(n * M) * sizeof *part);
        for (int w = 0; w < t->crew->stages && !st; w++)
            if (t->crew->places[w].stage == s && t->reply[w])
                st = add_numbers(t, w, "aux", part, hosted * M, err);
        for (int i = 0; i < n && !st; i++) {
            if (rb_stage_of(t->cfg, i) != s) continue;
            t->aux[i] = 0;
            for (int m = 0; m < M; m++) t->aux[i] += *next++; /* in microbatch order */
            t->aux[i] /= tokens_computed(t);
        }
    }
    free(part);
    return st;
}

static int hosted_rows(const training *t, int stage, int *rows) {
    int n = 0;
    for (int i = 0; i < t->table.count; i++)
        if (rb_stage_of(t->cfg, t->table.rows[i].segment) == stage) rows[n++] = i;
    return n;
}

/* Replicas have added up the same gradients, so that their norms are the same to the bit; where they are not, their
 * weights would go apart from now on. */
resbm_status rb_training_check_replicas(const training *t, rb_err *err) {
    for (int w = (int)t->cfg->pipeline.stages; w < t->crew->stages && !t->cfg->optim.local_steps; w++) {
        int stage = t->crew->places[w].stage, first = rb_crew_lead(t->crew, stage);
        const char *a = json_string_value(json_object_get(t->reply[first], "sumsq"));
        if (t->crew->gone[w]) continue;
        const char *b = json_string_value(json_object_get(t->reply[w], "sumsq"));
        bool same = a && b && !strcmp(a, b);
        if (!same) rb_crew_accuse(t->crew, w, false, RESBM_E_NUMERIC);
        if (!same)
            return rb_fail(
                err, RESBM_E_NUMERIC,
                "step %lld: replicas %d and %d of stage %d have other gradients after adding them up; the "
                "step was not applied. "
                "Machines that hold the same stage need the same vector instructions and the same build",
                (long long)t->step, t->crew->places[first].replica, t->crew->places[w].replica, stage);
    }
    return RESBM_OK;
}

resbm_status rb_training_read_norms(training *t, rb_err *err) {
    int *rows = calloc((size_t)t->table.count, sizeof *rows);
    double *part = calloc((size_t)t->table.count, sizeof *part);
    resbm_status st = rows && part ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for norms");
    for (int w = 0; w < t->crew->stages && !st; w++) {
        const rb_place *p = &t->crew->places[w];
        int of = t->pipelines > 1 ? p->replica : 0;
        if (t->crew->gone[w] || (t->pipelines == 1 && w != rb_crew_lead(t->crew, p->stage)))
            continue; /* the same as the first one's */
        int n = hosted_rows(t, p->stage, rows);
        st = rb_json_get_doubles(json_object_get(t->reply[w], "sumsq"), part, n, "done.sumsq", err);
        for (int i = 0; i < n && !st; i++) {
            if (part[i] < 0)
                st = fail_sent(t, w, "a sum of squares", part[i], t->table.rows[rows[i]].name, err);
            t->sumsq[of * t->table.count + rows[i]] = part[i];
        }
        rb_crew_accuse(t->crew, w, st == RESBM_E_FORMAT, st);
    }
    free(rows);
    free(part);
    return st;
}

resbm_status rb_training_check_finite(const training *t, double loss, rb_err *err) {
    char who[RB_WHO_TEXT];
    for (int s = 0; s < t->crew->stages; s++) {
        const char *bad = json_string_value(json_object_get(t->reply[s], "nonfinite"));
        if (bad && *bad) rb_crew_accuse(t->crew, s, false, RESBM_E_NUMERIC);
        if (bad && *bad)
            return rb_fail(
                err, RESBM_E_NUMERIC,
                "step %lld is not finite (loss %g): first in %s on %s; the step was not applied. Lower "
                "optim.lr, set optim.clip, or go back to an earlier snapshot",
                (long long)t->step, loss, bad, rb_link_who(t->crew->control, s, who));
    }
    for (int i = 0; i < t->pipelines * t->table.count; i++) {
        const rb_tensor *row = &t->table.rows[i % t->table.count];
        if (!isfinite(t->sumsq[i]))
            return rb_fail(
                err, RESBM_E_NUMERIC,
                "step %lld: the gradient of %s on stage %d is not finite; the step was not applied",
                (long long)t->step, row->name, rb_stage_of(t->cfg, row->segment));
    }
    if (isfinite(loss)) return RESBM_OK;
    return rb_fail(err, RESBM_E_NUMERIC, "step %lld: the loss is %g; the step was not applied",
                   (long long)t->step, loss);
}
