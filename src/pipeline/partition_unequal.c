/* Unequal stages: PipeDream's split (Narayanan et al. 2019, section 3.1) without replication, with memory as a limit. */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include "pipeline/partition.h"

typedef struct table {
    const rb_partition_load *load;
    const rb_partition_stage *stage;
    int count, parts;
    double *work, *fixed, *slot; /* (count+1) sums up to each thing */
    double limit;                /* what no stage may take longer than; INFINITY until that is known */
    double
        *best; /* (parts+1, count+1) of the first n things on the first p stages: the slowest one's time, or
                                    under a limit the sum of squares */
    int *from; /* (parts+1, count+1) where the last of them begins */
} table;

static double *best_of(const table *t, int p, int n) {
    return &t->best[(size_t)p * ((size_t)t->count + 1) + (size_t)n];
}
static int *from_of(const table *t, int p, int n) {
    return &t->from[(size_t)p * ((size_t)t->count + 1) + (size_t)n];
}

static double bytes_of(const table *t, int stage, int from, int to) {
    return t->fixed[to] - t->fixed[from] + t->stage[stage].alive * (t->slot[to] - t->slot[from]);
}

static double time_of(const table *t, int stage, int from, int to) {
    double room = t->stage[stage].room;
    if (room > 0 && bytes_of(t, stage, from, to) > room) return INFINITY;
    return (t->work[to] - t->work[from]) / t->stage[stage].speed;
}

/* Every beginning of the last stage's share is tried: with stages of different speeds fewer things can be worse for those
 * before, because each must have one. */
static void fill_cell(const table *t, int p, int n) {
    double *best = best_of(t, p, n);
    *best = INFINITY;
    for (int i = p - 1; i < n; i++) {
        double mine = time_of(t, p - 1, i, n), before = *best_of(t, p - 1, i);
        if (mine > t->limit) continue;
        double all = t->limit < INFINITY ? before + mine * mine : fmax(mine, before);
        if (all > *best) continue;
        *best = all;
        *from_of(t, p, n) = i;
    }
}

static void fill_table(const table *t) {
    for (int n = 0; n <= t->count; n++) *best_of(t, 0, n) = n ? INFINITY : 0;
    for (int p = 1; p <= t->parts; p++)
        for (int n = 0; n <= t->count; n++)
            if (n < p)
                *best_of(t, p, n) = INFINITY;
            else
                fill_cell(t, p, n);
}

/* Each stage takes what it can hold, in order: what is left has no place in any cut. */
static resbm_status refuse(const table *t, rb_err *err) {
    int at = 0;
    for (int p = 0; p < t->parts; p++) {
        int to = at, most = t->count - (t->parts - 1 - p);
        while (to < most && time_of(t, p, at, to + 1) < INFINITY) to++;
        if (to == at)
            return rb_fail(
                err, RESBM_E_CONFIG,
                "stage %d cannot hold even one: number %d takes %.0f bytes, %.0f more than it has room for",
                p, at, bytes_of(t, p, at, at + 1), bytes_of(t, p, at, at + 1) - t->stage[p].room);
        at = to;
    }
    double left = 0;
    for (int i = at; i < t->count; i++) left += bytes_of(t, t->parts - 1, i, i + 1);
    return rb_fail(err, RESBM_E_CONFIG,
                   "%d stages hold %d of %d: from number %d on, %.0f bytes have no place; more stages or "
                   "more memory are "
                   "needed from stage %d on",
                   t->parts, at, t->count, at, left, t->parts - 1);
}

static bool open_table(table *t) {
    size_t n = (size_t)t->count + 1;
    t->work = calloc(n, sizeof *t->work);
    t->fixed = calloc(n, sizeof *t->fixed);
    t->slot = calloc(n, sizeof *t->slot);
    t->best = calloc(n * ((size_t)t->parts + 1), sizeof *t->best);
    t->from = calloc(n * ((size_t)t->parts + 1), sizeof *t->from);
    if (!t->work || !t->fixed || !t->slot || !t->best || !t->from) return false;
    for (int i = 0; i < t->count; i++) {
        t->work[i + 1] = t->work[i] + t->load[i].work;
        t->fixed[i + 1] = t->fixed[i] + t->load[i].bytes;
        t->slot[i + 1] = t->slot[i] + t->load[i].slot;
    }
    return true;
}

static resbm_status check_unequal(const rb_partition_load *load, int count, const rb_partition_stage *stage,
                                  int parts, rb_err *err) {
    if (parts < 1 || parts > count)
        return rb_fail(err, RESBM_E_ARG,
                       "%d things cannot be cut into %d parts of at least one; use 1 to %d parts", count,
                       parts, count);
    for (int i = 0; i < count; i++)
        if (!(load[i].work >= 0 && load[i].bytes >= 0 && load[i].slot >= 0) ||
            isinf(load[i].work + load[i].bytes + load[i].slot))
            return rb_fail(err, RESBM_E_ARG, "thing %d of a partition has work %g, %g bytes and %g a slot", i,
                           load[i].work, load[i].bytes, load[i].slot);
    for (int i = 0; i < parts; i++)
        if (!(stage[i].speed > 0) || isinf(stage[i].speed) || !(stage[i].room >= 0) || stage[i].alive < 0)
            return rb_fail(err, RESBM_E_ARG, "stage %d of a partition has speed %g, room %g and %d slots", i,
                           stage[i].speed, stage[i].room, stage[i].alive);
    return RESBM_OK;
}

resbm_status rb_partition_unequal(const rb_partition_load *load, int count, const rb_partition_stage *stage,
                                  int parts, int *sizes, rb_err *err) {
    table t = {.load = load, .stage = stage, .count = count, .parts = parts, .limit = INFINITY};
    RB_TRY(check_unequal(load, count, stage, parts, err));
    resbm_status st = RESBM_OK;
    if (open_table(&t)) {
        fill_table(&t);
        bool fits = *best_of(&t, parts, count) < INFINITY;
        t.limit = *best_of(&t, parts, count);
        if (fits) fill_table(&t); /* of the cuts that are as fast, the most even one */
        if (fits)
            for (int p = parts, n = count; p > 0; n = *from_of(&t, p, n), p--)
                sizes[p - 1] = n - *from_of(&t, p, n);
        else
            st = refuse(&t, err);
    } else {
        st = rb_fail(err, RESBM_E_MEMORY, "no memory to cut %d things into %d parts", count, parts);
    }
    free(t.work);
    free(t.fixed);
    free(t.slot);
    free(t.best);
    free(t.from);
    return st;
}
