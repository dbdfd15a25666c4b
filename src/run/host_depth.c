/* How many microbatches the stages of an epoch keep in flight: its pipeline played with what its machines measured when they joined. */
#include <math.h>
#include "run/fit.h"
#include "run/host.h"
#include "run/predict.h"
#include "run/workers.h"

/* With the host's lock: every place is taken. */
static const rb_member *in_place(const rb_host *h, int worker) {
    return &h->member[h->seat[worker]];
}

static bool plans(const rb_config *c) {
    const rb_schedule_kind *kind = rb_schedule_find(c->pipeline.schedule);
    return !c->pipeline.inflight && c->pipeline.stages > 1 && kind && kind->takes_extra && !kind->extra_ages;
}

/* FLOP/s of a stage with all its replicas; 0: of one it is not known. */
static double rate_of(const rb_host *h, int stage) {
    double all = 0;
    for (int w = 0; w < h->workers; w++) {
        if (h->place[w].stage != stage) continue;
        double one = h->cfg->pipeline.speed > 0 ? h->cfg->pipeline.speed : rb_member_flops(in_place(h, w));
        if (!(one > 0)) return 0;
        all += one;
    }
    return all;
}

/* Seconds of a microbatch in each segment. False: some speed is not known. */
static bool costs(const rb_host *h, rb_segment_cost *cost) {
    for (int g = 0; g < (int)h->cfg->model.segments; g++) {
        double rate = rate_of(h, rb_stage_of(h->cfg, g));
        const rb_segment_cost *f = &h->flop[g];
        if (!(rate > 0)) return false;
        cost[g] = (rb_segment_cost){f->forward / rate, f->backward / rate, f->input / rate, f->weight / rate};
    }
    return true;
}

static bool neighbours(const rb_config *c, int a, int b) {
    for (int i = 0; i + 1 < (int)c->model.segments; i++) {
        int x = rb_stage_of(c, i), y = rb_stage_of(c, i + 1);
        if ((x == a && y == b) || (x == b && y == a)) return a != b;
    }
    return false;
}

/* To the host and from there to whom it sends to, of those the farthest. */
static double one_way(const rb_host *h, int worker) {
    double farthest = 0;
    for (int w = 0; w < h->workers; w++)
        if (neighbours(h->cfg, h->place[w].stage, h->place[worker].stage))
            farthest = fmax(farthest, in_place(h, w)->latency_s / 2);
    return in_place(h, worker)->latency_s / 2 + farthest;
}

static double less_of(double limit, double measured) {
    return !(limit > 0) || (measured > 0 && measured < limit) ? measured : limit;
}

static void lines(const rb_host *h, rb_machine *machine) {
    const rb_shape_options *l = &h->cfg->link;
    for (int w = 0; w < h->workers; w++) {
        const rb_member *m = in_place(h, w);
        machine[w] = (rb_machine){.count = 1,
                                  .up_bits = less_of(l->up_bits, m->up_bits),
                                  .down_bits = less_of(l->down_bits, m->down_bits),
                                  .latency_ns = l->latency_ns + (int64_t)(1e9 * fmin(one_way(h, w), 3600)),
                                  .jitter_ns = l->jitter_ns};
    }
}

/* Have all machines the memory? One whose memory is not known has. */
static bool fits(const rb_host *h, int extra) {
    for (int w = 0; w < h->workers; w++) {
        rb_fit_need deep, plain;
        rb_err why;
        int stage = h->place[w].stage;
        double memory = in_place(h, w)->memory;
        if (!(memory > 0)) continue;
        if (rb_fit_stage(h->cfg, stage, extra, &deep, &why) || rb_fit_stage(h->cfg, stage, 0, &plain, &why))
            return false;
        if (h->need[stage] + (double)deep.total - (double)plain.total > memory) return false;
    }
    return true;
}

static int most_that_fit(const rb_host *h, int wanted) {
    int low = 0, high = wanted;
    while (low < high) {
        int middle = low + (high - low + 1) / 2;
        if (fits(h, middle))
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static resbm_status plan(const rb_host *h, int *extra, rb_err *err) {
    rb_segment_cost cost[RB_MAX_SEGMENTS];
    rb_machine machine[RB_MAX_STAGES];
    *extra = (int)h->cfg->pipeline.inflight;
    if (!plans(h->cfg) || !costs(h, cost)) return RESBM_OK;
    lines(h, machine);
    rb_prediction p;
    rb_prediction_input in = {.cfg = h->cfg, .cost = cost, .machine = machine};
    resbm_status st = rb_predict(&in, &p, err);
    if (!st) *extra = most_that_fit(h, p.extra);
    rb_prediction_free(&p);
    return st;
}

resbm_status rb_host_plan_depth(rb_host *h, int *extra, rb_err *err) {
    pthread_mutex_lock(&h->lock);
    resbm_status st = plan(h, extra, err);
    pthread_mutex_unlock(&h->lock);
    return st;
}
