/* What becomes of a run whose epochs end without a step. One participant may not end it: who is named for numbers that are none, or
 * too large, again and again, gives its stage to another. Where that one is named for the same stage, the numbers are the run's
 * own: it diverges, and goes on only with other settings. */
#include "core/clock.h"
#include "run/host.h"

enum { SURE = 3 /* epochs */, HOPELESS = 50 };
#define ASIDE (600 * RB_SEC)

void rb_host_note_vain(rb_host *h, rb_host_vain *v, bool moved, int worker) {
    if (moved) *v = (rb_host_vain){.member = -1, .stage = -1};
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
static bool somebody_else(rb_host *h, int worker) {
    pthread_mutex_lock(&h->lock);
    int best = rb_host_best_for(h, worker);
    bool good = best >= 0 && h->member[best].aside_ns <= rb_now_ns();
    pthread_mutex_unlock(&h->lock);
    return good;
}

void rb_host_back_off(rb_host *h, const rb_host_vain *v) {
    if (v->numeric < SURE) return;
    if (v->numeric % SURE == 0) change_seat(h, v);
    int64_t until = rb_now_ns() + (RB_SEC << (v->numeric < SURE + 6 ? v->numeric - SURE : 6));
    while (rb_now_ns() < until && !somebody_else(h, v->worker) && !(h->asked && atomic_load(h->asked)) &&
           !atomic_load(&h->stop)) {
        rb_sleep_ns(50 * RB_MS);
        rb_host_check_leases(h);
    }
}
