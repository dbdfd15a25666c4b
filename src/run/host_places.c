/* Who gets which stage: what a stage takes of a machine's memory, processor and link, and whom that fits best. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "core/clock.h"
#include "run/fit.h"
#include "run/host.h"
#include "run/workers.h"

#define PROCESS_BYTES 64e6  /* of a stage's process, beside what its plan counts */
#define GIVES         0.6e9 /* FLOP/s of a training step per GFLOP/s of plain products (docs/benchmarks.md) */
#define HARDLY_ANY    1e12  /* bytes of memory */
#define BETTER                                                                                               \
    1.2 /* times faster, for somebody to be taken who joined later: measurements differ that much */

/* --- what the stages take --- */

/* What a stage has beside its plan so that replicas can be added up, and the run go on without one: gradients before their sum and
 * what int8 has not sent of them; or anchor, momentum and sum of local steps; and a step's packed messages, until its commit. */
static double copies(const rb_config *c, int stage, double gradients, double sent) {
    bool many = rb_replicas(c, stage) > 1, lossy = !strcmp(c->pipeline.replica_codec, "int8");
    double all = 0;
    if (many && c->optim.local_steps) all = (3 + lossy) * gradients;
    if (many && !c->optim.local_steps) all = (1 + 2 * lossy) * gradients;
    if (rb_covers(c) && !c->optim.local_steps) all += sent * (double)c->train.microbatches;
    return all;
}

/* Bytes of a microbatch that leave (go[0]) and come (go[1]): of boundaries, and to the first stage token ids from the coordinator. */
static void traffic_of(const rb_config *c, int stage, double go[2]) {
    int n = (int)c->model.segments;
    double bytes[2] = {rb_measure_message(c, 0), rb_measure_message(c, 1)};
    double ids = (double)(c->train.batch / c->train.microbatches * (c->model.context + 1)) * 4;
    go[0] = 0;
    go[1] = rb_stage_of(c, 0) == stage ? ids : 0;
    for (int i = 0; i + 1 < n; i++) {
        int a = rb_stage_of(c, i), b = rb_stage_of(c, i + 1);
        if (a == b) continue;
        for (int k = 0; k < 2; k++) {
            if (a == stage) go[k] += bytes[k];
            if (b == stage) go[k] += bytes[!k];
        }
    }
}

/* Bytes each way that adding up replicas takes, a step (stage_sum.c; with local steps a step's part of a round). */
static double sum_of(const rb_config *c, int stage, double gradients) {
    double n = rb_replicas(c, stage), bytes = gradients * 2 * (n - 1) / n;
    if (!strcmp(c->pipeline.replica_codec, "int8")) bytes *= 17.0 / 64;
    return c->optim.local_steps > 0 ? bytes / (double)c->optim.local_steps : bytes;
}

resbm_status rb_host_measure_stages(rb_host *h, rb_err *err) {
    const rb_config *c = h->cfg;
    memset(h->work, 0, sizeof h->work);
    for (int g = 0; g < (int)c->model.segments; g++) {
        rb_segment_measure m;
        RB_TRY(rb_measure_segment(c, "timed", g, 0, 0, &m, err));
        h->work[rb_stage_of(c, g)] += m.forward + m.backward;
        h->flop[g] = rb_measured_cost(&m, 1);
    }
    rb_kept kept;
    RB_TRY(rb_kept_of(c, (int)c->pipeline.inflight, &kept, err)); /* deeper: host_depth.c */
    for (int s = 0; s < (int)c->pipeline.stages; s++) {
        rb_fit_need need;
        RB_TRY(rb_fit_kept(c, s, &kept, &need, err));
        h->planned[s] = (double)need.total;
        double gradients = (double)need.part.gradients;
        traffic_of(c, s, h->traffic[s]);
        h->sum[s] = sum_of(c, s, gradients);
        h->need[s] = (double)need.total + copies(c, s, gradients, h->traffic[s][0]) + PROCESS_BYTES;
    }
    return RESBM_OK;
}

/* --- how long a step would take a machine; what is not known of it takes no time --- */

/* The longest wait is for what all others do first; measured before the run, a machine's speed is a guess. */
enum { EXPECTED = 4, MOST_TIMES = 8 };

static double seconds(double what, double rate) {
    return rate > 0 ? what / rate : 0;
}

double rb_member_share(const rb_member *m) {
    return m->share > 0 && m->share < 1 ? m->share : 1;
}

double rb_member_flops(const rb_member *m) {
    return m->gflops * rb_member_share(m) * GIVES;
}

static double part_of(const rb_host *h, int worker) {
    return (double)h->cfg->train.microbatches / rb_replicas(h->cfg, h->place[worker].stage);
}

double rb_host_link_s(const rb_host *h, const rb_member *m, int worker) {
    int stage = h->place[worker].stage;
    const double *go = h->traffic[stage];
    double n = part_of(h, worker), sum = h->sum[stage];
    return fmax(seconds(8 * (n * go[0] + sum), m->up_bits), seconds(8 * (n * go[1] + sum), m->down_bits));
}

double rb_host_step_s(const rb_host *h, const rb_member *m, int worker) {
    double work = part_of(h, worker) * h->work[h->place[worker].stage];
    double computes = seconds(work, rb_member_flops(m));
    return fmax(computes, rb_host_link_s(h, m, worker)) + 2 * m->latency_s;
}

int64_t rb_host_wait_ns(const rb_host *h, int times) {
    double in_turn = 0, stated = (double)h->cfg->pipeline.deadline_ns;
    for (int w = 0; w < h->workers; w++)
        if (h->seat[w] >= 0) in_turn += 1e9 * rb_host_step_s(h, &h->member[h->seat[w]], w);
    double ns = fmax(stated, EXPECTED * in_turn) * (times < MOST_TIMES ? times : MOST_TIMES);
    return ns < 1e18 ? (int64_t)ns : (int64_t)1e18;
}

/* --- assignment --- */

bool rb_member_ready(const rb_member *m) {
    return m->seen && !m->lapsed && !m->paused && !m->left && !*m->revoked;
}

bool rb_host_fits(const rb_host *h, const rb_member *m, int stage) {
    return !(m->memory > 0) || m->memory >= h->need[stage];
}

double rb_host_least_need(const rb_host *h) {
    double least = h->need[0];
    for (int s = 1; s < (int)h->cfg->pipeline.stages; s++) least = fmin(least, h->need[s]);
    return least;
}

static bool seated(const rb_host *h, int member) {
    for (int w = 0; w < h->workers; w++)
        if (h->seat[w] == member) return true;
    return false;
}

void rb_member_set_aside(rb_member *m, bool at_once) {
    if (at_once && !m->faults) m->faults = 1;
    int64_t pause =
        RB_SEC << (m->faults < 6 ? m->faults : 6); /* again and again: a full disk, too little memory */
    if (m->faults++ > 0) m->aside_ns = rb_now_ns() + pause;
}

static bool aside(const rb_member *m) {
    return m->aside_ns > rb_now_ns();
}

int rb_host_best_for(const rb_host *h, int worker) {
    int best = -1;
    double best_s = 0;
    for (int i = 0; i < h->members; i++) {
        const rb_member *m = &h->member[i], *b = best >= 0 ? &h->member[best] : NULL;
        if (!rb_member_ready(m) || seated(h, i) || !rb_host_fits(h, m, h->place[worker].stage)) continue;
        double s = rb_host_step_s(h, m, worker);
        bool both = b && aside(m) && aside(b) && m->faults != b->faults; /* then the one with fewer */
        if (both ? m->faults > b->faults : b && aside(m) != aside(b) ? aside(m) : b && s * BETTER >= best_s)
            continue;
        best = i;
        best_s = s;
    }
    return best;
}

/* The usual machine among those that are there, by which stages are heavy or light. */
static rb_member usual_member(const rb_host *h) {
    rb_member u = {0};
    int n = 0;
    for (int i = 0; i < h->members; i++) {
        const rb_member *m = &h->member[i];
        if (!rb_member_ready(m)) continue;
        u.gflops += m->gflops;
        u.up_bits += m->up_bits;
        u.down_bits += m->down_bits;
        n++;
    }
    u.gflops /= n ? n : 1;
    u.up_bits /= n ? n : 1;
    u.down_bits /= n ? n : 1;
    return u;
}

typedef struct weighed {
    double s;
    int worker;
} weighed;

static int heavier(const void *a, const void *b) {
    const weighed *x = a, *y = b;
    return x->s != y->s ? (x->s < y->s) - (x->s > y->s) : x->worker - y->worker;
}

/* The heaviest place goes to the fastest, the next one to the fastest of the rest. */
static void fill_greedily(rb_host *h) {
    weighed order[RB_MAX_STAGES];
    rb_member usual = usual_member(h);
    int n = 0;
    for (int w = 0; w < h->workers; w++)
        if (h->seat[w] < 0) order[n++] = (weighed){rb_host_step_s(h, &usual, w), w};
    qsort(order, (size_t)n, sizeof *order, heavier);
    for (int i = 0; i < n; i++) h->seat[order[i].worker] = rb_host_best_for(h, order[i].worker);
}

/* A place that nobody free fits may be had from one who fits another as well (augmenting paths). `of`: which place each has. */
static bool make_room(rb_host *h, int worker, int *of, bool *tried) {
    for (int i = 0; i < h->members; i++) {
        const rb_member *m = &h->member[i];
        if (tried[i] || !rb_member_ready(m) || !rb_host_fits(h, m, h->place[worker].stage)) continue;
        tried[i] = true;
        if (of[i] >= 0 && !make_room(h, of[i], of, tried)) continue;
        h->seat[worker] = i;
        of[i] = worker;
        return true;
    }
    return false;
}

static void fill_the_rest(rb_host *h) {
    int of[RB_MOST_MEMBERS];
    bool tried[RB_MOST_MEMBERS];
    for (int w = 0; w < h->workers; w++) {
        if (h->seat[w] >= 0) continue;
        for (int i = 0; i < h->members; i++) of[i] = -1, tried[i] = false;
        for (int v = 0; v < h->workers; v++)
            if (h->seat[v] >= 0) of[h->seat[v]] = v;
        make_room(h, w, of, tried);
    }
}

/* With the lock: what to do where no machine has, or will have, that much. */
static const char *too_large(const rb_host *h, double need) {
    double largest = 0;
    bool known = true, anybody = false;
    for (int i = 0; i < h->members; i++) {
        const rb_member *m = &h->member[i];
        if (!rb_member_ready(m)) continue;
        anybody = true;
        known &= m->memory > 0;
        largest = fmax(largest, m->memory);
    }
    if (anybody ? !known || need <= largest : need <= HARDLY_ANY) return "";
    return anybody ? ": none that is here has that much; more memory, or lower model.d, model.ffn or "
                     "train.batch, or more pipeline.stages"
                   : ": hardly a machine has that; lower model.d, model.ffn or train.batch, or more "
                     "pipeline.stages";
}

/* A stage stays where it was, if it can: that machine has its weights. */
bool rb_host_assign(rb_host *h, char *text, size_t size) {
    int missing = 0, where = -1;
    pthread_mutex_lock(&h->lock);
    for (int w = 0; w < h->workers; w++) {
        const rb_member *m = h->seat[w] >= 0 ? &h->member[h->seat[w]] : NULL;
        if (m && (!rb_member_ready(m) || aside(m) || !rb_host_fits(h, m, h->place[w].stage))) h->seat[w] = -1;
    }
    fill_greedily(h);
    fill_the_rest(h);
    for (int w = 0; w < h->workers; w++) {
        if (h->seat[w] >= 0) continue;
        missing++;
        if (where < 0 || h->need[h->place[w].stage] > h->need[where]) where = h->place[w].stage;
    }
    if (missing)
        snprintf(text, size, "waits for %d more participant%s (stage %d needs %.2f GB of memory%s)", missing,
                 missing > 1 ? "s" : "", where, h->need[where] * 1e-9, too_large(h, h->need[where]));
    pthread_mutex_unlock(&h->lock);
    return !missing;
}
