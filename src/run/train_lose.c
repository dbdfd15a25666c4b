/* A replica that is lost: what it had to do in this step goes to the others of its stage (run/stage_cover.c). */
#include <stdlib.h>
#include <string.h>
#include "core/hash.h"
#include "run/training.h"
#include "run/workers.h"

void rb_training_spread(training *t) {
    int M = (int)t->cfg->train.microbatches, own[RB_MAX_STAGES];
    for (int s = 0; t->dealt && s < t->cfg->pipeline.stages; s++) {
        int n = rb_replicas(t->cfg, s), *row = t->dealt + (size_t)s * (size_t)M;
        for (int r = 0; r < n; r++) own[r] = t->share[rb_worker_of(t->cfg, s, r)];
        rb_deal_spread(M, n, own, row);
        for (int m = 0; m < M; m++) row[m] = rb_worker_of(t->cfg, s, row[m]);
    }
    t->dealt_again = false;
    memset(t->crew->redeals, 0, sizeof t->crew->redeals);
}

/* Its microbatches go to the others by speed. to (M): who has them now, -1: as before. */
static resbm_status deal_again(training *t, int lost, int *to, rb_err *err) {
    int M = (int)t->cfg->train.microbatches, stage = t->crew->places[lost].stage, n = 0, left = 0,
        *row = t->dealt + (size_t)stage * (size_t)M, worker[RB_MAX_STAGES], count[RB_MAX_STAGES];
    double speed[RB_MAX_STAGES];
    for (int w = 0; w < t->crew->stages; w++) {
        if (t->crew->places[w].stage != stage || t->crew->gone[w]) continue;
        speed[n] = t->cfg->pipeline.deal == RB_DEAL_MEASURED && t->speed[w] > 0 ? t->speed[w] : 1;
        worker[n++] = w;
    }
    for (int m = 0; m < M; m++) left += row[m] == lost;
    int *turn = calloc((size_t)left + 1, sizeof *turn);
    if (!turn) return rb_fail(err, RESBM_E_MEMORY, "no memory to deal %d microbatches again", left);
    if (left) rb_deal_share(left, n, speed, count);
    if (left) rb_deal_spread(left, n, count, turn);
    for (int m = 0, i = 0; m < M; m++) {
        to[m] = -1;
        if (row[m] != lost) continue;
        row[m] = to[m] = worker[turn[i++]];
        t->share[lost]--;
        t->share[to[m]]++;
    }
    free(turn);
    t->dealt_again = true;
    return RESBM_OK;
}

/* Have all of its stage answered, it too? Then what it did is in their sums. */
static bool all_answered(const training *t, int lost) {
    for (int w = 0; w < t->crew->stages; w++)
        if (t->crew->places[w].stage == t->crew->places[lost].stage && !t->reply[w] &&
            (w == lost || !t->crew->gone[w]))
            return false;
    return true;
}

static void forget_answers(training *t, int stage) {
    for (int w = 0; w < t->crew->stages; w++) {
        if (t->crew->places[w].stage != stage) continue;
        json_decref(t->reply[w]);
        t->reply[w] = NULL;
        t->crew->redeals[w]++;
    }
}

static resbm_status tell(training *t, int lost, bool within, const int *to, rb_err *err) {
    json_t *list = json_array();
    for (int m = 0; m < t->cfg->train.microbatches; m++) json_array_append_new(list, json_integer(to[m]));
    return rb_crew_tell(
        t->crew, json_pack("{s:s, s:i, s:b, s:o}", "t", "redeal", "lost", lost, "within", within, "to", list),
        err);
}

resbm_status rb_training_lose(void *ctx, int worker, const char *how, rb_err *err) {
    training *t = ctx;
    int stage = t->crew->places[worker].stage, *to = calloc((size_t)t->cfg->train.microbatches, sizeof *to);
    bool within = t->computing && !all_answered(t, worker), led = true;
    char text[700];
    if (!to) return rb_fail(err, RESBM_E_MEMORY, "no memory for a deal");
    for (int m = 0; m < t->cfg->train.microbatches; m++) to[m] = -1;
    for (int r = 0; r < t->crew->places[worker].replica; r++)
        led = led && t->crew->gone[rb_worker_of(t->cfg, stage, r)];
    rb_training_snapshot_loses(t, worker);
    snprintf(text, sizeof text, "%.500s; going on without it", how);
    resbm_status st = RESBM_OK;
    if (t->asks_leads && led && !t->reply[worker])
        st = rb_fail(err, RESBM_E_PEER, "%.500s", how); /* its part of a snapshot, or of an evaluation */
    if (!st && t->o->hooks.note) t->o->hooks.note(t->o->hooks.ctx, text);
    if (!st && within) {
        forget_answers(t, stage);
        st = deal_again(t, worker, to, err);
    }
    if (!st) st = tell(t, worker, within, to, err);
    free(to);
    return st;
}

uint64_t rb_training_deals(training *t) {
    struct {
        uint64_t before, again;
    } chain = {t->deals, t->dealt_again ? (uint64_t)rb_now_ns()
                                        : 0}; /* the order of a sum with what came late is its own */
    size_t n = (size_t)(t->cfg->pipeline.stages * t->cfg->train.microbatches);
    if (!t->dealt) return 0;
    uint64_t whole[2] = {rb_hash64(&chain, sizeof chain), rb_hash64(t->dealt, n * sizeof *t->dealt)};
    return t->deals = rb_hash64(whole, sizeof whole);
}
