#include "run/compare_stats.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static resbm_status take(rb_curve *c, size_t n, rb_err *err) {
    *c = (rb_curve){0, malloc((n + 1) * sizeof(double)), malloc((n + 1) * sizeof(double))};
    if (c->step && c->loss) return RESBM_OK;
    rb_curve_free(c);
    return rb_fail(err, RESBM_E_MEMORY, "no memory for a curve of %zu points", n);
}

void rb_curve_free(rb_curve *c) {
    free(c->step);
    free(c->loss);
    *c = (rb_curve){0};
}

resbm_status rb_curve_of(const rb_metrics *m, rb_curve *out, rb_err *err) {
    RB_TRY(take(out, m->count, err));
    for (size_t i = 0; i < m->count; i++) {
        if (isnan(m->steps[i].val_loss)) continue;
        out->step[out->n] = (double)m->steps[i].step;
        out->loss[out->n++] = m->steps[i].val_loss;
    }
    return RESBM_OK;
}

/* NAN where the curve has no such step; *from moves on. */
static double at_step(const rb_curve *c, double step, int *from) {
    while (*from < c->n && c->step[*from] < step) ++*from;
    return *from < c->n && c->step[*from] == step ? c->loss[*from] : NAN;
}

resbm_status rb_curve_mean(const rb_curve *c, int count, rb_curve *out, rb_err *err) {
    int *from = calloc((size_t)count + 1, sizeof *from);
    if (!from) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d curves", count);
    resbm_status st = take(out, count ? (size_t)c[0].n : 0, err);
    for (int i = 0; !st && count && i < c[0].n; i++) {
        double sum = 0;
        for (int j = 0; j < count; j++) sum += at_step(&c[j], c[0].step[i], &from[j]);
        if (isnan(sum)) continue;
        out->step[out->n] = c[0].step[i];
        out->loss[out->n++] = sum / count;
    }
    free(from);
    return st;
}

double rb_curve_reach(const rb_curve *c, double loss) {
    for (int i = 0; i < c->n; i++) {
        if (!(c->loss[i] <= loss)) continue;
        if (!i) return c->step[0];
        double part = (c->loss[i - 1] - loss) / (c->loss[i - 1] - c->loss[i]);
        return c->step[i - 1] + (c->step[i] - c->step[i - 1]) * part;
    }
    return NAN;
}

void rb_mean_deviation(const double *x, int n, double *mean, double *deviation) {
    double sum = 0, squares = 0;
    for (int i = 0; i < n; i++) sum += x[i];
    *mean = n && isfinite(sum) ? sum / n : NAN;
    for (int i = 0; i < n; i++) squares += (x[i] - *mean) * (x[i] - *mean);
    *deviation = n > 1 ? sqrt(squares / (n - 1)) : NAN;
}

int rb_sweep_best(const double *loss, int n) {
    int best = -1;
    for (int i = 0; i < n; i++)
        if (isfinite(loss[i]) && (best < 0 || loss[i] < loss[best])) best = i;
    return best;
}

static bool number(const char *text, double *out) {
    char *end;
    *out = strtod(text, &end);
    return *text && !*end && isfinite(*out);
}

int rb_sweep_edge(char (*value)[64], int n, int best) {
    double at, other;
    int lower = 0, higher = 0;
    if (best < 0 || !number(value[best], &at)) return 0;
    for (int i = 0; i < n; i++) {
        if (!number(value[i], &other)) return 0;
        lower += other < at;
        higher += other > at;
    }
    return !lower ? -1 : !higher ? 1 : 0;
}

void rb_sweep_beyond(const char *value, int edge, char out[64]) {
    double at = strtod(value, NULL);
    snprintf(out, 64, "%.9g", edge < 0 ? at / 2 : at * 2);
}
