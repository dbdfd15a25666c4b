#include <string.h>
#include "run/training.h"
#include "run/workers.h"

/* How busy the busiest replica of each stage would be with that deal, per microbatch of a step. */
static double slowest(const training *t, const int *share) {
    double sum = 0, most[RB_MAX_STAGES] = {0};
    for (int w = 0; w < t->crew->stages; w++) {
        if (t->crew->gone[w]) continue;
        double took = share[w] / t->speed[w];
        int stage = t->crew->places[w].stage;
        if (took > most[stage]) most[stage] = took;
    }
    for (int s = 0; s < t->cfg->pipeline.stages; s++) sum += most[s];
    return sum;
}

/* Another one only where it saves a twentieth: a new list is made and proved on every worker. */
void rb_training_deal(training *t) {
    int next[RB_MAX_STAGES], present = rb_crew_present(t->crew);
    bool measured = t->cfg->pipeline.deal == RB_DEAL_MEASURED && t->speed[rb_crew_lead(t->crew, 0)] > 0;
    if (t->shared_by != present) {
        rb_workers_share(t->cfg, measured ? t->speed : NULL, t->crew->gone, t->share);
        t->shared_by = present;
    }
    if (!measured) return;
    rb_workers_share(t->cfg, t->speed, t->crew->gone, next);
    if (slowest(t, next) < 0.95 * slowest(t, t->share)) memcpy(t->share, next, sizeof t->share);
}

/* This step's measurement counts as much as all before it. */
void rb_training_measure(training *t) {
    for (int w = 0; w < t->crew->stages; w++) {
        const json_t *moved = json_object_get(t->reply[w], "packets");
        t->busy_s[w] = (double)json_integer_value(json_object_get(t->reply[w], "busy_ns")) * 1e-9;
        for (size_t k = 0; k < 2 && moved; k++)
            t->packets[w][k] = json_integer_value(json_array_get(moved, k));
    }
    for (int w = 0; w < t->crew->stages && !t->dealt_again; w++) {
        if (!t->reply[w] || t->crew->gone[w]) continue;
        double busy = (double)json_integer_value(json_object_get(t->reply[w], "busy_ns")) * 1e-9;
        t->worked[w] = 0.95 * t->worked[w] + t->share[w];
        t->worked_s[w] = 0.95 * t->worked_s[w] + busy;
        t->pace[w] = t->worked_s[w] > 0 ? t->worked[w] / t->worked_s[w] : 0;
        double now = busy > 0 ? t->share[w] / busy : 1e9;
        t->speed[w] = t->speed[w] > 0 ? 0.5 * (t->speed[w] + now) : now;
    }
}

json_t *rb_training_deal_json(const training *t) {
    json_t *a = json_array();
    for (int w = 0; w < t->crew->stages; w++) json_array_append_new(a, json_integer(t->share[w]));
    return a;
}
