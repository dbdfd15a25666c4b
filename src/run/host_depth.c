/* How many microbatches the stages of an epoch keep in flight: its pipeline played with what its machines measured when they joined. */
#include <math.h>
#include "run/fit.h"
#include "run/host.h"
#include "run/predict.h"
#include "run/workers.h"

/* What is known of the machine in each place, taken with the host's lock: planning takes longer than a beat may wait. */
typedef struct machines {
    const rb_host *h;
    struct {
        double flops, memory, up_bits, down_bits, latency_s;
    } of[RB_MAX_STAGES];
} machines;

static void look(rb_host *h, machines *m) {
    m->h = h;
    pthread_mutex_lock(&h->lock);
    for (int w = 0; w < h->workers; w++) {
        const rb_member *who = &h->member[h->seat[w]];
        m->of[w].flops = rb_member_flops(who);
        m->of[w].memory = who->memory;
        m->of[w].up_bits = who->up_bits;
        m->of[w].down_bits = who->down_bits;
        m->of[w].latency_s = who->latency_s;
    }
    pthread_mutex_unlock(&h->lock);
}

/* FLOP/s of a stage with all its replicas; 0: of one it is not known. */
static double rate_of(const machines *m, int stage) {
    const rb_host *h = m->h;
    double all = 0;
    for (int w = 0; w < h->workers; w++) {
        if (h->place[w].stage != stage) continue;
        double one = h->cfg->pipeline.speed > 0 ? h->cfg->pipeline.speed : m->of[w].flops;
        if (!(one > 0)) return 0;
        all += one;
    }
    return all;
}

/* Seconds of a microbatch in each segment. False: some speed is not known. */
static bool costs(const machines *m, rb_segment_cost *cost) {
    const rb_host *h = m->h;
    for (int g = 0; g < (int)h->cfg->model.segments; g++) {
        double rate = rate_of(m, rb_stage_of(h->cfg, g));
        const rb_segment_cost *f = &h->flop[g];
        if (!(rate > 0)) return false;
        cost[g] = (rb_segment_cost){f->forward / rate, f->backward / rate, f->input / rate, f->weight / rate};
    }
    return true;
}

/* To the host and from there to whom it sends to: of the stages beside it the replica that is farthest. (stages) */
static void ways(const machines *m, double *farthest) {
    const rb_config *c = m->h->cfg;
    double own[RB_MAX_STAGES] = {0};
    for (int w = 0; w < m->h->workers; w++) {
        int s = m->h->place[w].stage;
        own[s] = fmax(own[s], m->of[w].latency_s / 2);
    }
    for (int s = 0; s < (int)c->pipeline.stages; s++) farthest[s] = 0;
    for (int i = 0; i + 1 < (int)c->model.segments; i++) {
        int a = rb_stage_of(c, i), b = rb_stage_of(c, i + 1);
        if (a == b) continue;
        farthest[a] = fmax(farthest[a], own[b]);
        farthest[b] = fmax(farthest[b], own[a]);
    }
}

static double less_of(double limit, double measured) {
    return !(limit > 0) || (measured > 0 && measured < limit) ? measured : limit;
}

static void lines(const machines *m, rb_machine *machine) {
    const rb_shape_options *l = &m->h->cfg->link;
    double farthest[RB_MAX_STAGES];
    ways(m, farthest);
    for (int w = 0; w < m->h->workers; w++) {
        double way_s = m->of[w].latency_s / 2 + farthest[m->h->place[w].stage];
        machine[w] = (rb_machine){.count = 1,
                                  .up_bits = less_of(l->up_bits, m->of[w].up_bits),
                                  .down_bits = less_of(l->down_bits, m->of[w].down_bits),
                                  .latency_ns = l->latency_ns + (int64_t)(1e9 * fmin(way_s, 3600)),
                                  .jitter_ns = l->jitter_ns};
    }
}

/* Of the replica that has least; 0: of none it is known. */
static double memory_of(const machines *m, int stage) {
    double least = 0;
    for (int w = 0; w < m->h->workers; w++)
        if (m->h->place[w].stage == stage) least = less_of(least, m->of[w].memory);
    return least;
}

static bool fits(const machines *m, int extra) {
    rb_kept kept;
    rb_err why;
    if (rb_kept_of(m->h->cfg, extra, &kept, &why)) return false;
    for (int s = 0; s < (int)m->h->cfg->pipeline.stages; s++) {
        rb_fit_need deep;
        double memory = memory_of(m, s);
        if (!(memory > 0)) continue;
        if (rb_fit_kept(m->h->cfg, s, &kept, &deep, &why)) return false;
        if (m->h->need[s] - m->h->planned[s] + (double)deep.total > memory) return false;
    }
    return true;
}

static int most_that_fit(const machines *m, int wanted) {
    int low = 0, high = wanted;
    while (low < high) {
        int middle = low + (high - low + 1) / 2;
        if (fits(m, middle))
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

resbm_status rb_host_plan_depth(rb_host *h, int *extra, rb_err *err) {
    rb_segment_cost cost[RB_MAX_SEGMENTS];
    rb_machine machine[RB_MAX_STAGES];
    machines m;
    look(h, &m);
    *extra = (int)h->cfg->pipeline.inflight;
    if (*extra || !costs(&m, cost)) return RESBM_OK;
    lines(&m, machine);
    rb_prediction p;
    rb_prediction_input in = {.cfg = h->cfg, .cost = cost, .machine = machine};
    resbm_status st = rb_predict(&in, &p, err);
    if (!st) *extra = most_that_fit(&m, p.extra);
    rb_prediction_free(&p);
    return st;
}
