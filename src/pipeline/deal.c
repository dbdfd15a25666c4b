#include "pipeline/deal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "pipeline/validate.h"

static int most_of(const int *replicas, int stages) {
    int most = 1;
    for (int i = 0; i < stages; i++)
        if (replicas[i] > most) most = replicas[i];
    return most;
}

int rb_deal_lists(const int *replicas, int stages) {
    int n = 0;
    for (int i = 0; i < stages; i++) n += replicas[i];
    return n;
}

int rb_deal_list(const int *replicas, int stages, int stage, int replica) {
    int before = 0;
    for (int r = 0; r < replica; r++)
        for (int i = 0; i < stages; i++) before += replicas[i] > r;
    for (int i = 0; i < stage; i++) before += replicas[i] > replica;
    return before;
}

void rb_deal_place(const int *replicas, int stages, int list, int *stage, int *replica) {
    for (*replica = 0;; ++*replica)
        for (*stage = 0; *stage < stages; ++*stage)
            if (replicas[*stage] > *replica && list-- == 0) return;
}

void rb_deal_share(int microbatches, int n, const double *speed, int *count) {
    double sum = 0;
    int least = microbatches >= n, left = microbatches;
    for (int i = 0; i < n; i++) sum += speed[i];
    for (int i = 0; i < n; i++) {
        count[i] = (int)(microbatches * speed[i] / sum);
        if (count[i] < least) count[i] = least;
        left -= count[i];
    }
    while (left) { /* to whom most is missing, from whom has most too much */
        int best = -1;
        double most = 0;
        for (int i = 0; i < n; i++) {
            double missing = (microbatches * speed[i] / sum - count[i]) * (left > 0 ? 1 : -1);
            if ((left < 0 && count[i] <= least) || (best >= 0 && missing <= most)) continue;
            best = i;
            most = missing;
        }
        count[best] += left > 0 ? 1 : -1;
        left -= left > 0 ? 1 : -1;
    }
}

void rb_deal_spread(int microbatches, int n, const int *count, int *replica) {
    int *given = calloc((size_t)n, sizeof *given);
    for (int m = 0; m < microbatches; m++) {
        int best = 0;
        int64_t most = INT64_MIN;
        for (int i = 0; i < n; i++) {
            int64_t done = given ? given[i] : 0;
            int64_t due = (int64_t)count[i] * (m + 1) - done * microbatches;
            if (done >= count[i] || due <= most) continue;
            best = i;
            most = due;
        }
        replica[m] = best;
        if (given) given[best]++;
    }
    free(given);
}

/* --- lists --- */

static const int *row_of(const rb_deal *d, int stage) {
    return d->replica + (size_t)stage * (size_t)d->microbatches;
}

static bool alike(const rb_deal *d) {
    for (int i = 1; i < d->stages; i++)
        if (d->replicas[i] != d->replicas[0] ||
            memcmp(row_of(d, i), row_of(d, 0), (size_t)d->microbatches * sizeof(int)))
            return false;
    return true;
}

static resbm_status check_deal(const rb_schedule_kind *kind, const rb_schedule_args *a, const rb_deal *d,
                               rb_err *err) {
    if (kind->flows)
        return rb_fail(
            err, RESBM_E_CONFIG,
            "%s updates without waiting, and has no replicas: set pipeline.replicas: 1, or another "
            "pipeline.schedule",
            kind->name);
    if (d->stages != a->stages || d->microbatches != a->microbatches)
        return rb_fail(err, RESBM_E_ARG, "a deal of %d stages and %d microbatches for %d and %d", d->stages,
                       d->microbatches, a->stages, a->microbatches);
    for (int i = 0; i < d->stages; i++)
        for (int m = 0; m < d->microbatches; m++)
            if (row_of(d, i)[m] < 0 || row_of(d, i)[m] >= d->replicas[i])
                return rb_fail(err, RESBM_E_ARG,
                               "microbatch %d is dealt to replica %d of stage %d, which has %d", m,
                               row_of(d, i)[m], i, d->replicas[i]);
    return RESBM_OK;
}

/* An empty schedule of one list per replica, with everybody's microbatches. */
static resbm_status lay_out(const rb_schedule *base, const rb_deal *d, rb_schedule *out, rb_err *err) {
    size_t g = (size_t)base->segments, M = (size_t)d->microbatches;
    int lists = rb_deal_lists(d->replicas, d->stages);
    *out = (rb_schedule){.segments = base->segments, .microbatches = d->microbatches};
    memcpy(out->name, base->name, sizeof out->name);
    out->stage_of = calloc(g, sizeof *out->stage_of);
    out->dealt = calloc(g * M, sizeof *out->dealt);
    out->twin_of = calloc((size_t)lists, sizeof *out->twin_of);
    out->stage = calloc((size_t)lists, sizeof *out->stage);
    if (!out->stage_of || !out->dealt || !out->twin_of || !out->stage)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for a schedule of %d lists", lists);
    out->stages = lists;
    for (int i = 0, replica; i < lists; i++)
        rb_deal_place(d->replicas, d->stages, i, &out->twin_of[i], &replica);
    for (size_t i = 0; i < g; i++) {
        int stage = out->stage_of[i] = base->stage_of[i];
        for (size_t m = 0; m < M; m++)
            out->dealt[i * M + m] = rb_deal_list(d->replicas, d->stages, stage, row_of(d, stage)[m]);
    }
    return RESBM_OK;
}

/* Appends the lists of `from`, whose microbatch j is number `of` (NULL: itself). */
static resbm_status take_over(const rb_schedule *from, const int *of, rb_schedule *out, rb_err *err) {
    for (int i = 0; i < from->stages; i++) {
        for (int j = 0; j < from->stage[i].count; j++) {
            rb_action a = from->stage[i].items[j];
            if (of) a.microbatch = of[a.microbatch];
            RB_TRY(rb_action_push(&out->stage[rb_schedule_host(out, a.segment, a.microbatch)], a, err));
        }
    }
    return RESBM_OK;
}

/* Pipelines side by side. */
static resbm_status side_by_side(const rb_schedule_kind *kind, const rb_schedule_args *a, const rb_deal *d,
                                 rb_schedule *out, rb_err *err) {
    int *mine = calloc((size_t)d->microbatches, sizeof *mine);
    resbm_status st =
        mine ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for %d microbatches", d->microbatches);
    for (int r = 0; r < d->replicas[0] && !st; r++) {
        rb_schedule_args lane = *a;
        rb_schedule one;
        lane.microbatches = 0;
        for (int m = 0; m < d->microbatches; m++)
            if (d->replica[m] == r) mine[lane.microbatches++] = m;
        if (!lane.microbatches) continue;
        st = rb_schedule_generate(kind, &lane, &one, err);
        if (!st) st = take_over(&one, mine, out, err);
        rb_schedule_free(&one);
    }
    free(mine);
    return st;
}

/* Can the kind make a list for as many microbatches as each replica has? */
static bool suits_lanes(const rb_schedule_kind *kind, const rb_schedule_args *a, const rb_deal *d) {
    rb_err ignored;
    for (int r = 0; r < d->replicas[0] && kind->check; r++) {
        rb_schedule_args lane = *a;
        lane.microbatches = 0;
        for (int m = 0; m < d->microbatches; m++) lane.microbatches += d->replica[m] == r;
        if (lane.microbatches && kind->check(&lane, &ignored)) return false;
    }
    return true;
}

resbm_status rb_schedule_build_dealt(const rb_schedule_kind *kind, const rb_schedule_args *a,
                                     const rb_deal *d, rb_schedule *out, int *in_flight, rb_err *err) {
    rb_schedule base = {0};
    rb_schedule_args deep = *a;
    *out = (rb_schedule){0};
    RB_TRY(check_deal(kind, a, d, err));
    bool lanes = alike(d) && suits_lanes(kind, a, d);
    if (!lanes && kind->takes_extra) deep.extra += (most_of(d->replicas, d->stages) - 1) * a->stages;
    resbm_status st = rb_schedule_generate(kind, &deep, &base, err);
    if (!st) st = lay_out(&base, d, out, err);
    if (!st) st = lanes ? side_by_side(kind, a, d, out, err) : take_over(&base, NULL, out, err);
    rb_schedule_free(&base);
    if (!st) st = rb_schedule_communicate(out, err);
    if (!st && !kind->forward_only) st = rb_schedule_trunks(out, a->trunks, err);
    rb_validate_options o = {.queue_bound = st ? 1 : kind->queue_bound(&deep),
                             .forward_only = kind->forward_only};
    return st ? st : rb_schedule_validate(out, &o, in_flight, NULL, err);
}
