/* When the participants of a run are given other stages than they have, though it could go on as it is: where a replica was
 * lost and somebody could take its place, and where a machine turns out slow and a faster one is spare. It happens behind a
 * snapshot, so that no work is lost. */
#include <stdlib.h>
#include <string.h>
#include "core/clock.h"
#include "run/host.h"
#include "run/workers.h"

#define SLOW                                                                                                 \
    2.0 /* times slower than what the spare machine would be, and than what it measured lets expect */
#define MATTERS      0.25 /* share of a step that it computes: what waits for links gains nothing */
#define LINK_MATTERS 0.5  /* share of a step that its link is thought to take */
enum { SETTLED = 8 /* steps of an epoch before its speeds count */ };

/* What a participant has given to the run. */
static void account(rb_host *h, const rb_step_record *r, int worker) {
    rb_member *m = h->seat[worker] >= 0 ? &h->member[h->seat[worker]] : NULL;
    for (int k = 0; k < 2 && r->packets; k++) {
        int64_t more = r->packets[worker][k] - h->packets[worker][k];
        h->packets[worker][k] = r->packets[worker][k];
        if (m && more > 0 && more < INT64_MAX / 4) m->moved[k] += more;
    }
    if (!m) return;
    m->busy_s += r->busy_s ? r->busy_s[worker] : 0;
    m->steps++;
}

void rb_host_note_speeds(rb_host *h, const rb_step_record *r) {
    pthread_mutex_lock(&h->lock);
    h->timed = r->speed ? h->timed + 1 : 0;
    h->step_s = r->step_s;
    for (int w = 0; w < r->stages && r->speed; w++) {
        h->speed[w] = r->speed[w];
        double count = r->deal ? r->deal[w] : (double)h->cfg->train.microbatches;
        account(h, r, w);
        h->computes[w] = r->speed[w] > 0 && r->step_s > 0 ? count / r->speed[w] / r->step_s : 0;
    }
    pthread_mutex_unlock(&h->lock);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* How much of what it measured when it joined a machine turns into microbatches: the same for all, were they what they say. */
static double yield(const rb_host *h, int worker) {
    const rb_member *m = h->seat[worker] >= 0 ? &h->member[h->seat[worker]] : NULL;
    return m && m->gflops > 0 ? h->speed[worker] * h->work[h->place[worker].stage] / m->gflops : 0;
}

static double usual_yield(const rb_host *h) {
    double v[RB_MAX_STAGES];
    int n = 0;
    for (int w = 0; w < h->workers; w++)
        if (yield(h, w) > 0) v[n++] = yield(h, w);
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n > 2 ? v[(n - 1) / 2] : n ? v[n - 1] : 0; /* of two, the one that is not slow */
}

/* Whom the steps wait for: the worker with the least microbatches a second. */
static int slowest(const rb_host *h) {
    int worst = -1;
    for (int w = 0; w < h->workers; w++)
        if (h->seat[w] >= 0 && h->speed[w] > 0 && (worst < 0 || h->speed[w] < h->speed[worst])) worst = w;
    return worst;
}

/* In two snapshots in a row, it has to be so. */
static bool is_slow_again(rb_host *h, int worker, int spare) {
    bool again = h->slow == h->seat[worker];
    h->slow = again ? -1 : h->seat[worker];
    if (!again) return false;
    h->swap_worker = worker;
    h->swap_member = spare;
    return true;
}

/* Is the processor of worker w what the steps wait for, and would the spare machine's do twice as much? */
static bool computes_slowly(const rb_host *h, int w, const rb_member *other, double usual) {
    double then = other->gflops * rb_member_share(other) * usual / h->work[h->place[w].stage];
    return then >= SLOW * h->speed[w] && usual >= SLOW * yield(h, w) && h->computes[w] >= MATTERS;
}

static bool replace_slow(rb_host *h, char *text, size_t size, bool *found) {
    double usual = usual_yield(h);
    int w = slowest(h), spare = w >= 0 ? rb_host_best_for(h, w) : -1;
    if (spare < 0 || usual <= 0) return false;
    rb_member *m = &h->member[h->seat[w]], *other = &h->member[spare];
    *found = other->aside_ns <= rb_now_ns() && computes_slowly(h, w, other, usual);
    if (!*found || !is_slow_again(h, w, spare)) return false;
    m->share = yield(h, w) / usual;
    snprintf(
        text, size,
        "stage %d goes from %s (\"%s\"), which turned out slow (%.3g microbatches a second), to %s (\"%s\")",
        h->place[w].stage, m->name, m->label, h->speed[w], other->name, other->label);
    return true;
}

/* Whose link a step waits for most: by what it was measured to carry. */
static int farthest(const rb_host *h) {
    int worst = -1;
    double most = 0;
    for (int w = 0; w < h->workers; w++) {
        double s = h->seat[w] >= 0 ? rb_host_link_s(h, &h->member[h->seat[w]], w) : 0;
        if (s <= most) continue;
        most = s;
        worst = w;
    }
    return worst;
}

/* A step that was much quicker than the link was thought to let it be shows that the link was measured at a bad moment. */
static bool replace_far(rb_host *h, char *text, size_t size, bool *found) {
    int w = farthest(h), spare = w >= 0 ? rb_host_best_for(h, w) : -1;
    if (spare < 0) return false;
    const rb_member *m = &h->member[h->seat[w]], *other = &h->member[spare];
    double s = rb_host_link_s(h, m, w);
    *found = other->aside_ns <= rb_now_ns() && s >= LINK_MATTERS * h->step_s && s <= 1.2 * h->step_s &&
             s >= SLOW * rb_host_step_s(h, other, w);
    if (!*found || !is_slow_again(h, w, spare)) return false;
    snprintf(text, size,
             "stage %d goes from %s (\"%s\"), whose link takes %.3g s of a step's %.3g, to %s (\"%s\")",
             h->place[w].stage, m->name, m->label, s, h->step_s, other->name, other->label);
    return true;
}

/* With the lock. Who is slow keeps its seat unless a spare one is much faster. */
static bool replace(rb_host *h, char *text, size_t size) {
    bool found = false;
    if (h->timed < SETTLED) return false;
    if (replace_slow(h, text, size, &found)) return true;
    if (!found && replace_far(h, text, size, &found)) return true;
    if (!found) h->slow = -1;
    return false;
}

/* All places that are empty, or none: an epoch begins with all of them taken. */
static bool fill_places(rb_host *h, char *text, size_t size) {
    int seat[RB_MAX_STAGES], n = 0;
    bool all = true;
    memcpy(seat, h->seat, sizeof seat);
    for (int w = 0; w < h->workers && all; w++) {
        if (h->seat[w] >= 0) continue;
        int spare = rb_host_best_for(h, w);
        all = spare >= 0 && h->member[spare].aside_ns <= rb_now_ns();
        if (!all) continue;
        h->seat[w] = spare;
        if (!n++)
            snprintf(text, size, "%s (\"%s\") takes the place of the replica of stage %d that was lost",
                     h->member[spare].name, h->member[spare].label, h->place[w].stage);
    }
    size_t have = n ? strlen(text) : 0;
    if (n > 1) snprintf(text + have, size - have, ", and %d more are taken", n - 1);
    memcpy(h->seat, seat, sizeof seat); /* the next epoch's assignment comes to the same */
    return all && n;
}

void rb_host_regroup(rb_host *h) {
    char text[400];
    if (h->regroup || (h->asked && atomic_load(h->asked))) return;
    pthread_mutex_lock(&h->lock);
    h->regroup = fill_places(h, text, sizeof text) || replace(h, text, sizeof text);
    pthread_mutex_unlock(&h->lock);
    if (!h->regroup) return;
    rb_host_note(h, "%s", text);
    int none = 0;
    atomic_compare_exchange_strong(&h->stop, &none,
                                   1); /* behind this snapshot; the next epoch begins with it */
}

void rb_host_swap(rb_host *h) {
    h->regroup = false;
    atomic_store(&h->stop, 0);
    pthread_mutex_lock(&h->lock);
    if (h->swap_member >= 0) h->seat[h->swap_worker] = h->swap_member;
    h->swap_member = -1;
    pthread_mutex_unlock(&h->lock);
}

void rb_host_dropped(void *host, int worker, const char *how, bool held_up) {
    rb_host *h = host;
    pthread_mutex_lock(&h->lock);
    rb_member *m = h->seat[worker] >= 0 ? &h->member[h->seat[worker]] : NULL;
    h->seat[worker] = -1;
    h->speed[worker] = 0;
    if (m) m->stage = -1; /* with its next beat it hears that there is nothing to do */
    if (m && how && !m->left && !m->paused) rb_member_set_aside(m, held_up);
    pthread_mutex_unlock(&h->lock);
}
