/* What becomes of a run whose epochs end without a step. One participant may not end it: who is named for numbers that are none, or
 * too large, again and again, gives its stage to another. Where that one is named for the same stage, the numbers are the run's
 * own: it diverges, and goes on only with other settings. */
#include <stdio.h>
#include <string.h>
#include "core/clock.h"
#include "data/utf8.h"
#include "run/host.h"

enum { SURE = 3 /* epochs */, HOPELESS = 50, AT_ONCE = 2 /* tries behind an epoch without a step */ };
#define SHORTEST (RB_SEC / 2)
#define LONGEST  (30 * RB_SEC)
#define ASIDE    (600 * RB_SEC)

/* That one has a place now which has not failed before is a reason to try at once. */
void rb_host_note_try(const rb_host *h, rb_host_vain *v) {
    for (int w = 0; w < h->workers; w++)
        if (h->seat[w] >= 0 && !v->tried[h->seat[w]]) v->stepless = 0;
}

static void note_stepless(const rb_host *h, rb_host_vain *v, const char *why) {
    v->stepless++;
    rb_utf8_cut(v->why, sizeof v->why, why);
    for (int w = 0; w < h->workers; w++)
        if (h->seat[w] >= 0) v->tried[h->seat[w]] = true;
}

void rb_host_note_vain(rb_host *h, rb_host_vain *v, bool moved, int worker, bool disk, const char *why) {
    if (moved) *v = (rb_host_vain){.member = -1, .stage = -1};
    if (!moved && h->timed) { /* steps were done again, which took their time */
        v->stepless = 0;
        memset(v->tried, 0, sizeof v->tried);
    }
    if (!h->timed) note_stepless(h, v, why);
    v->disk = disk;
    if (disk) rb_utf8_cut(v->why, sizeof v->why, why);
    v->epochs += !moved;
    if (worker < 0 || h->seat[worker] < 0) return;
    int stage = h->place[worker].stage;
    v->others |= v->stage == stage && v->member >= 0 && v->member != h->seat[worker];
    v->member = h->seat[worker];
    v->worker = worker;
    v->stage = stage;
    v->numeric++;
}

bool rb_host_is_hopeless(const rb_host *h, const rb_host_vain *v) {
    if (v->numeric >= 2 * SURE && v->others) return true;
    return v->epochs >= HOPELESS && (v->numeric < v->epochs || h->workers == 1);
}

/* With the lock: the seat of another stage whose holder could have this one's; -1: none. */
static int exchange(const rb_host *h, int member, int stage) {
    for (int w = 0; w < h->workers; w++) {
        int other = h->seat[w];
        if (other >= 0 && h->place[w].stage != stage && rb_host_fits(h, &h->member[other], stage) &&
            rb_host_fits(h, &h->member[member], h->place[w].stage))
            return w;
    }
    return -1;
}

/* One that has no stage gets it, or else one with another stage, for that. */
static void change_seat(rb_host *h, const rb_host_vain *v) {
    pthread_mutex_lock(&h->lock);
    h->member[v->member].aside_ns = rb_now_ns() + ASIDE;
    int with = rb_host_best_for(h, v->worker) < 0 ? exchange(h, v->member, v->stage) : -1;
    if (with >= 0) {
        h->seat[v->worker] = h->seat[with];
        h->seat[with] = v->member;
    }
    rb_host_note(
        h,
        "%s was named by %d epochs in a row that came to no step: others have its stage first for %d minutes",
        h->member[v->member].name, v->numeric, (int)(ASIDE / (60 * RB_SEC)));
    pthread_mutex_unlock(&h->lock);
}

/* Has one come that could have the stage, and that nothing is known against? */
bool rb_host_spare(void *host, int worker) {
    rb_host *h = host;
    pthread_mutex_lock(&h->lock);
    int best = rb_host_best_for(h, worker);
    bool good = best >= 0 && h->member[best].aside_ns <= rb_now_ns();
    pthread_mutex_unlock(&h->lock);
    return good;
}

/* Has a participant come, or come back, since then? */
static bool somebody_came(rb_host *h, int64_t since_ns) {
    bool came = false;
    pthread_mutex_lock(&h->lock);
    for (int i = 0; i < h->members && !came; i++)
        came = h->member[i].came_ns > since_ns && rb_member_ready(&h->member[i]);
    pthread_mutex_unlock(&h->lock);
    return came;
}

int64_t rb_host_pause_ns(const rb_host_vain *v) {
    int64_t numeric = v->numeric < SURE ? 0 : RB_SEC << (v->numeric < SURE + 6 ? v->numeric - SURE : 6);
    int more = v->stepless - AT_ONCE - 1;
    int64_t pause = more < 0 ? 0 : SHORTEST << (more < 6 ? more : 6);
    if (pause > LONGEST || v->disk) pause = LONGEST;
    return pause > numeric ? pause : numeric;
}

static void say_pause(rb_host *h, const rb_host_vain *v, int64_t until_ns) {
    double s = (double)(until_ns - rb_now_ns()) * 1e-9;
    pthread_mutex_lock(&h->lock);
    if (v->disk)
        snprintf(h->vain, sizeof h->vain, "%s", v->why);
    else if (v->stepless)
        snprintf(h->vain, sizeof h->vain, "the last %d epochs ended before a step, the last because %s",
                 v->stepless, v->why);
    else
        snprintf(h->vain, sizeof h->vain, "%d epochs ended with numbers that cannot be used", v->numeric);
    snprintf(h->doing, sizeof h->doing, "waits before the next try: %s", h->vain);
    h->next_try_ns = until_ns;
    rb_host_note(h, "the next try in %.2g s: %s", s, h->vain);
    pthread_mutex_unlock(&h->lock);
}

void rb_host_back_off(rb_host *h, const rb_host_vain *v) {
    if (v->numeric >= SURE && v->numeric % SURE == 0) change_seat(h, v);
    int64_t begin = rb_now_ns(), until = begin + rb_host_pause_ns(v);
    bool numeric = v->numeric >= SURE;
    if (until == begin || (numeric && rb_host_spare(h, v->worker))) return;
    say_pause(h, v, until);
    while (rb_now_ns() < until && !(numeric && rb_host_spare(h, v->worker)) && !somebody_came(h, begin) &&
           !(h->asked && atomic_load(h->asked)) && !atomic_load(&h->stop)) {
        rb_sleep_ns(50 * RB_MS);
        rb_host_check_leases(h);
    }
    pthread_mutex_lock(&h->lock);
    h->next_try_ns = 0;
    pthread_mutex_unlock(&h->lock);
}
