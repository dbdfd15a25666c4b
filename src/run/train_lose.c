/* A replica that is lost: what it had to do in this step goes to the others of its stage (run/stage_cover.c). */
#include <stdlib.h>
#include <string.h>
#include "core/hash.h"
#include "run/control.h"
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
    t->losses = 0;
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

/* Have all answered, it too? Then what it did is in its stage's sums, and nobody wants a message of it any more: not one that was
 * still on its way, nor once more one that it had sent to somebody who is lost as well, which it alone has kept. */
static bool all_answered(const training *t, int lost) {
    for (int w = 0; w < t->crew->stages; w++)
        if (!t->reply[w] && (w == lost || !t->crew->gone[w])) return false;
    return true;
}

static void forget_answer(training *t, int worker) {
    json_decref(t->reply[worker]);
    t->reply[worker] = NULL;
}

static void forget_answers(training *t, int stage) {
    for (int w = 0; w < t->crew->stages; w++) {
        if (t->crew->places[w].stage != stage) continue;
        forget_answer(t, w);
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

/* The part of a snapshot that a lost first replica was asked for: whoever is the first one now has the same weights, and writes
 * it. What a stage apart has said it would send does not come either. */
static resbm_status ask_next(training *t, int stage, int lost, rb_err *err) {
    bool apart = t->o->outside && t->o->outside->apart;
    int next = rb_crew_lead(t->crew, stage);
    if (t->reply[lost] && !apart) return RESBM_OK;
    forget_answer(t, lost);
    forget_answer(t, next);
    t->crew->redeals[next]++;
    json_t *again = json_copy(t->saving);
    if (again) json_object_set_new(again, "redeals", json_integer(t->crew->redeals[next]));
    if (!again) return rb_fail(err, RESBM_E_MEMORY, "no memory for a control message");
    resbm_status st =
        rb_control_send(t->crew->control, next, again, rb_now_ns() + t->cfg->pipeline.deadline_ns, err);
    return st == RESBM_E_PEER ? RESBM_OK : st; /* lost as well, as the crew will find */
}

/* Was it the first one of its stage? */
static bool led(const training *t, int worker) {
    const rb_place *p = &t->crew->places[worker];
    for (int r = 0; r < p->replica; r++)
        if (!t->crew->gone[rb_worker_of(t->cfg, p->stage, r)]) return false;
    return true;
}

/* A pipeline of local steps goes whole: the weights of its other stages are good for nothing without the lost ones. */
static void leave_out(training *t, int lost) {
    int replica = t->crew->places[lost].replica, rows = t->table.count;
    bool apart = t->o->outside && t->o->outside->apart;
    for (int w = 0; w < t->crew->stages; w++) {
        if (t->crew->places[w].replica != replica) continue;
        if (!t->crew->gone[w]) rb_crew_leave_out(t->crew, w, NULL);
        rb_training_snapshot_loses(t, w);
        if (t->saving && !apart) continue; /* what it wrote is whole */
        forget_answer(t, w);
    }
    memset(t->sumsq + (size_t)replica * (size_t)rows, 0, (size_t)rows * sizeof *t->sumsq);
    t->dealt_again |= t->computing;
    for (int w = 0; w < t->crew->stages && t->meeting; w++) {
        forget_answer(t, w);
        t->crew->redeals[w] = t->losses;
    }
}

static resbm_status lose_pipeline(training *t, int lost, const int *nobody, rb_err *err) {
    bool first = led(t, lost);
    leave_out(t, lost);
    RB_TRY(tell(t, lost, false, nobody, err));
    for (int s = 0; s < t->cfg->pipeline.stages && t->saving && first; s++)
        RB_TRY(ask_next(t, s, rb_worker_of(t->cfg, s, t->crew->places[lost].replica), err));
    return RESBM_OK;
}

static resbm_status lose_replica(training *t, int lost, int *to, rb_err *err) {
    int stage = t->crew->places[lost].stage;
    bool within = t->computing && !all_answered(t, lost), first = led(t, lost);
    rb_training_snapshot_loses(t, lost);
    if (within) {
        forget_answers(t, stage);
        RB_TRY(deal_again(t, lost, to, err));
    }
    RB_TRY(tell(t, lost, within, to, err));
    return t->saving && first ? ask_next(t, stage, lost, err) : RESBM_OK;
}

/* The first replicas are in the middle of a list of their own, which has no second deal: those that are first now do it all. */
static resbm_status evaluate_anew(training *t, rb_err *err) {
    for (int w = 0; w < t->crew->stages; w++) forget_answer(t, w);
    t->eval_attempt++;
    return rb_training_ask_eval(t, err);
}

resbm_status rb_training_lose(void *ctx, int worker, const char *how, rb_err *err) {
    training *t = ctx;
    char text[700];
    int *to = calloc((size_t)t->cfg->train.microbatches, sizeof *to);
    if (!to) return rb_fail(err, RESBM_E_MEMORY, "no memory for a deal");
    for (int m = 0; m < t->cfg->train.microbatches; m++) to[m] = -1;
    t->losses++;
    t->crew->held.deadline_ns = 0; /* what is done again may take its time */
    bool whole = t->cfg->optim.local_steps && t->cfg->pipeline.stages > 1;
    snprintf(text, sizeof text,
             whole ? "%.500s; going on without it and the rest of its pipeline"
                   : "%.500s; going on without it",
             how);
    if (t->o->hooks.note) t->o->hooks.note(t->o->hooks.ctx, text);
    bool first = led(t, worker);
    resbm_status st =
        t->cfg->optim.local_steps ? lose_pipeline(t, worker, to, err) : lose_replica(t, worker, to, err);
    free(to);
    return st || !t->evaluating || !first ? st : evaluate_anew(t, err);
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
