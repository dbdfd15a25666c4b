/* Who keeps the crew from going on: a stage without a sign of life, and one that lives but holds up the others. */
#include <stdio.h>
#include <string.h>
#include "core/clock.h"
#include "run/crew.h"

static const char *who(const rb_crew *c, int worker, char buf[RB_WHO_TEXT]) {
    return rb_who_at(buf, worker, c->places);
}

resbm_status rb_crew_all_alive(rb_crew *c, int only, json_t **replies, rb_err *err) {
    for (int i = 0; i < c->stages; i++) {
        if (c->gone[i] || replies[i] || (only >= 0 && i != only) || c->child[i].ended) continue;
        int64_t silent_ns;
        if (rb_sign_look(&c->sign[i], c->control, i, c->o.cfg->pipeline.deadline_ns, &silent_ns)) continue;
        char name[RB_WHO_TEXT];
        c->silent = i;
        rb_crew_accuse(c, i, false, RESBM_E_TIMEOUT);
        return rb_fail(
            err, RESBM_E_TIMEOUT,
            "the coordinator waited %.3g s for a sign of life from %s %s: its process is stopped, or its "
            "machine or the network to it is gone; see to it, or raise pipeline.deadline",
            (double)silent_ns * 1e-9, who(c, i, name), c->doing);
    }
    return RESBM_OK;
}

bool rb_crew_has_twin(const rb_crew *c, int worker) {
    for (int i = 0; i < c->stages; i++)
        if (i != worker && !c->gone[i] && c->places[i].stage == c->places[worker].stage) return true;
    return false;
}

static const char *name_of(const rb_crew *c, int worker, char buf[RB_WHO_TEXT + RB_CARRIER_NAME + 4]) {
    char stage[RB_WHO_TEXT];
    const rb_crew_outside *o = c->o.outside;
    snprintf(buf, RB_WHO_TEXT + RB_CARRIER_NAME + 4, o ? "%s (%s)" : "%s", who(c, worker, stage),
             o ? o->who(o->ctx, worker) : "");
    return buf;
}

/* Could anybody do its part? Else it is given what time it takes, unless it hangs. */
static bool can_be_spared(const rb_crew *c, int worker) {
    const rb_crew_outside *o = c->o.outside;
    if (c->o.lose && rb_crew_has_twin(c, worker)) return true;
    return o && o->spare && o->spare(o->ctx, worker);
}

/* What those who wait for it wait for, one of them in full. */
static void say_who_waits(const rb_crew *c, int worker, char *out, size_t size) {
    char name[RB_WHO_TEXT], what[RB_WHAT_TEXT];
    int first = -1, n = 0;
    for (int w = 0; w < c->stages; w++) {
        if (c->gone[w] || !c->held.by[w].waits || c->held.by[w].on != worker) continue;
        if (first < 0) first = w;
        n++;
    }
    size_t at = 0;
    if (first >= 0)
        at = (size_t)snprintf(out, size, "%s waits for %s from it", who(c, first, name),
                              rb_what(what, &c->held.by[first].what));
    else
        at = (size_t)snprintf(out, size, "%s",
                              c->stages > 1 ? "the others have done theirs" : "there is no other");
    if (n > 1 && at < size) snprintf(out + at, size - at, ", and %d more do", n - 1);
}

static resbm_status fail_held(rb_crew *c, int worker, int other, rb_err *err) {
    char name[RB_WHO_TEXT + RB_CARRIER_NAME + 4], second[sizeof name], waits[RB_WHO_TEXT + RB_WHAT_TEXT + 80];
    const rb_held *h = &c->held;
    double s = (double)h->passed_ns * 1e-9, usual = (double)h->usual_ns * 1e-9;
    char how[120];
    if (h->deadline_ns)
        snprintf(how, sizeof how, "%.3g times the usual %.2g s of %d steps of this epoch", s / usual, usual,
                 h->steps);
    else
        snprintf(how, sizeof how, "too long after the others (pipeline.deadline is %.3g s)",
                 (double)c->o.cfg->pipeline.deadline_ns * 1e-9);
    name_of(c, worker, name);
    if (other >= 0) {
        char what[RB_WHAT_TEXT];
        return rb_fail(
            err, RESBM_E_TIMEOUT,
            "all wait %s, for %.3g s, which is %s: %s for %s from %s, which has sent it; the line of one "
            "of the two does not carry it",
            c->doing, s, how, name, rb_what(what, &h->by[worker].what), name_of(c, other, second));
    }
    say_who_waits(c, worker, waits, sizeof waits);
    return rb_fail(
        err, RESBM_E_TIMEOUT,
        "%s holds up the others %s: it has not done its part for %.3g s, which is %s, and waits for "
        "nobody; %s",
        name, c->doing, s, how, waits);
}

resbm_status rb_crew_held_up(rb_crew *c, json_t **replies, rb_err *err) {
    bool owes[RB_MAX_STAGES], answered[RB_MAX_STAGES];
    const rb_crew_outside *o = c->o.outside;
    bool online = !o || !o->carrier || o->carrier->module->connected(o->carrier->state);
    int answers = 0;
    for (int i = 0; i < c->stages; i++) {
        answered[i] = !c->gone[i] && replies[i];
        owes[i] = !c->gone[i] && !replies[i];
        /* Other replicas have nothing to do in an evaluation, and tell nothing of how long it is. */
        answers += answered[i] && rb_crew_lead(c, c->places[i].stage) == i;
    }
    rb_held_answers(&c->held, answers);
    if (!rb_held_due(&c->held, rb_now_ns(), online)) return RESBM_OK;
    int other, worker = rb_held_find(&c->held, owes, answered, c->stages, &other);
    if (worker < 0 || !(can_be_spared(c, worker) || rb_held_hangs(&c->held))) return RESBM_OK;
    c->silent = c->held.found = worker;
    *c->blame = (rb_blame){.worker = worker, .by = other, .holds_up = true};
    return fail_held(c, worker, other, err);
}

void rb_crew_name_holder(rb_crew *c, int from, rb_err *err) {
    char name[RB_WHO_TEXT + RB_CARRIER_NAME + 4];
    int worker = from >= 0 && from < c->stages ? rb_held_behind(&c->held, from) : -1;
    if (worker < 0 || c->gone[worker] || c->blame->worker != from || c->blame->by != from) return;
    /* That so much time has passed is seen here; before, it is one's word. */
    bool long_enough = c->held.passed_ns > c->o.cfg->pipeline.deadline_ns * 9 / 10;
    *c->blame = (rb_blame){.worker = worker, .by = long_enough ? -1 : from, .holds_up = true};
    size_t n = err ? strlen(err->text) : 0;
    if (err)
        snprintf(err->text + n, sizeof err->text - n, "; %s holds up all: it waits for nobody",
                 name_of(c, worker, name));
}
