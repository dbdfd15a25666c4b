#include "run/workers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int rb_replicas(const rb_config *c, int stage) {
    return c->pipeline.replica_list ? c->pipeline.replicas_of[stage] : (int)c->pipeline.replicas;
}

bool rb_replicated(const rb_config *c) {
    for (int i = 0; i < c->pipeline.stages; i++)
        if (rb_replicas(c, i) > 1) return true;
    return false;
}

static void fill(const rb_config *c, int replicas[RB_MAX_STAGES]) {
    for (int i = 0; i < c->pipeline.stages; i++) replicas[i] = rb_replicas(c, i);
}

int rb_workers(const rb_config *c) {
    int replicas[RB_MAX_STAGES];
    fill(c, replicas);
    return rb_deal_lists(replicas, (int)c->pipeline.stages);
}

int rb_worker_of(const rb_config *c, int stage, int replica) {
    int replicas[RB_MAX_STAGES];
    fill(c, replicas);
    return rb_deal_list(replicas, (int)c->pipeline.stages, stage, replica);
}

rb_place *rb_worker_places(const rb_config *c) {
    int replicas[RB_MAX_STAGES], n = rb_workers(c);
    rb_place *p = calloc((size_t)n, sizeof *p);
    fill(c, replicas);
    for (int i = 0; i < n && p; i++)
        rb_deal_place(replicas, (int)c->pipeline.stages, i, &p[i].stage, &p[i].replica);
    return p;
}

void rb_config_alone(rb_config *c) {
    c->pipeline.replicas = 1;
    c->pipeline.replica_list = 0;
}

/* With local steps replica r of every stage works on the same microbatches: as fast as the slowest of them. */
static double speed_of(const rb_config *c, const double *speed, int stage, int replica) {
    if (!speed) return 1;
    if (!c->optim.local_steps) return speed[rb_worker_of(c, stage, replica)];
    double least = INFINITY;
    for (int s = 0; s < c->pipeline.stages; s++) least = fmin(least, speed[rb_worker_of(c, s, replica)]);
    return least;
}

void rb_workers_share(const rb_config *c, const double *speed, const bool *gone, int *count) {
    for (int s = 0; s < c->pipeline.stages; s++) {
        double own[RB_MAX_STAGES];
        int n = 0, got[RB_MAX_STAGES], worker[RB_MAX_STAGES];
        for (int r = 0; r < rb_replicas(c, s); r++) {
            int w = rb_worker_of(c, s, r);
            count[w] = 0;
            if (gone && gone[w]) continue;
            own[n] = speed_of(c, speed, s, r);
            worker[n++] = w;
        }
        rb_deal_share((int)c->train.microbatches, n, own, got);
        for (int i = 0; i < n; i++) count[worker[i]] = got[i];
    }
}

resbm_status rb_workers_schedule(const rb_config *c, const rb_schedule_kind *kind, const rb_schedule_args *a,
                                 const int *count, rb_schedule *out, int *in_flight, rb_err *err) {
    int replicas[RB_MAX_STAGES], own[RB_MAX_STAGES], M = a->microbatches;
    int *replica = calloc((size_t)a->stages * (size_t)M, sizeof *replica);
    if (!replica) return rb_fail(err, RESBM_E_MEMORY, "no memory to deal %d microbatches", M);
    fill(c, replicas);
    for (int s = 0; s < a->stages; s++) {
        for (int r = 0; r < replicas[s]; r++) own[r] = count[rb_worker_of(c, s, r)];
        rb_deal_spread(M, replicas[s], own, replica + (size_t)s * (size_t)M);
    }
    rb_deal d = {.stages = a->stages, .microbatches = M, .replicas = replicas, .replica = replica};
    resbm_status st = rb_schedule_build_dealt(kind, a, &d, out, in_flight, err);
    free(replica);
    return st;
}

bool rb_covers(const rb_config *c) {
    return rb_replicated(c) && !c->pipeline.updates && strcmp(c->engine, "mpi") != 0;
}

/* Each replica is a whole pipeline with weights of its own, and meets the others after so many steps. */
static resbm_status check_local_steps(const rb_config *c, rb_err *err) {
    const rb_train_config *t = &c->train;
    int64_t n = c->optim.local_steps;
    if (!n) return RESBM_OK;
    for (int i = 1; i < c->pipeline.stages; i++)
        if (rb_replicas(c, i) != rb_replicas(c, 0))
            return rb_fail(
                err, RESBM_E_CONFIG,
                "optim.local_steps trains whole pipelines side by side, but stage 0 has %d replicas and "
                "stage %d has %d: give all the same pipeline.replicas",
                rb_replicas(c, 0), i, rb_replicas(c, i));
    if (c->pipeline.updates)
        return rb_fail(err, RESBM_E_CONFIG,
                       "optim.local_steps = %lld needs a schedule that updates at the end of a step, not %s",
                       (long long)n, c->pipeline.schedule);
    if (c->optim.rule.delay || c->optim.offload_update == RB_OFFLOAD_UPDATE_HOST)
        return rb_fail(
            err, RESBM_E_CONFIG,
            "optim.local_steps = %lld averages the weights in use, which with optim.%s are not the newest "
            "ones: set it to %s",
            (long long)n, c->optim.rule.delay ? "delay" : "offload_update: host",
            c->optim.rule.delay ? "0" : "device");
    if (t->checkpoint_every % n || t->eval_every % n)
        return rb_fail(
            err, RESBM_E_CONFIG,
            "train.%s = %lld is no multiple of optim.local_steps = %lld: between outer updates the "
            "replicas' weights differ, and there is no one model to %s",
            t->checkpoint_every % n ? "checkpoint_every" : "eval_every",
            (long long)(t->checkpoint_every % n ? t->checkpoint_every : t->eval_every), (long long)n,
            t->checkpoint_every % n ? "keep" : "evaluate");
    return RESBM_OK;
}

resbm_status rb_config_check_replicas(const rb_config *c, rb_err *err) {
    const rb_pipeline_config *p = &c->pipeline;
    int64_t most = 1, all = 0;
    if (p->replica_list && p->replica_list != p->stages)
        return rb_fail(err, RESBM_E_CONFIG, "pipeline.replicas has %d entries for pipeline.stages = %lld",
                       p->replica_list, (long long)p->stages);
    for (int i = 0; i < p->stages; i++) {
        all += rb_replicas(c, i);
        most = rb_replicas(c, i) > most ? rb_replicas(c, i) : most;
    }
    RB_TRY(check_local_steps(c, err));
    if (most == 1) return RESBM_OK;
    if (all > RB_MAX_STAGES)
        return rb_fail(err, RESBM_E_CONFIG, "pipeline.replicas makes %lld processes; allowed: up to %d",
                       (long long)all, RB_MAX_STAGES);
    if (most > c->train.microbatches)
        return rb_fail(
            err, RESBM_E_CONFIG,
            "pipeline.replicas = %lld, but train.microbatches = %lld: some replica would have nothing to do",
            (long long)most, (long long)c->train.microbatches);
    if (p->updates || rb_config_schedule_file(c))
        return rb_fail(
            err, RESBM_E_CONFIG,
            "pipeline.schedule = %s takes no replicas: choose one by name that updates at the end of a "
            "step, or set pipeline.replicas: 1",
            p->schedule);
    if (c->boundary.feedback != RB_FEEDBACK_NONE)
        return rb_fail(
            err, RESBM_E_CONFIG,
            "boundary.feedback = gradient keeps what did not cross at the place of each sequence, which the "
            "next step may deal to another replica: set boundary.feedback: none, or pipeline.replicas: 1");
    if (c->optim.offload_parts != RB_OFFLOAD_STATES)
        return rb_fail(
            err, RESBM_E_CONFIG,
            "optim.offload_parts = states+gradients keeps gradients where replicas cannot add them up: set "
            "states, or pipeline.replicas: 1");
    return RESBM_OK;
}
