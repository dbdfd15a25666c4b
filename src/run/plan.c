#include "run/plan.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "pipeline/schedules.h"
#include "run/devices.h"
#include "run/measure_link.h"
#include "run/stage.h"
#include "run/workers.h"

/* Segments (and stages) that are alike are measured once. */
typedef struct segment_kind {
    bool first, last;
    int64_t layers;
    char device[RB_DEVICE_NAME];
    rb_segment_measure cost;
} segment_kind;

enum { MOST_ALIKE = 16 /* segments of a stage; stages with more are not compared */ };
typedef struct stage_kind {
    bool first[MOST_ALIKE], last[MOST_ALIKE], joined[MOST_ALIKE], halves;
    int hosted;
    int64_t layers[MOST_ALIKE];
    rb_stage_need need;
    size_t slot[MOST_ALIKE];
} stage_kind;

/* One boundary's part of the plan. */
typedef struct work {
    const rb_plan_options *o;
    const char *boundary; /* its name */
    rb_config *cfg;
    int stages, segments; /* stages: workers, where they have replicas */
    rb_place *place;      /* (stages) */
    double *pace;         /* (stages) how much slower than the first replica of its stage */
    segment_kind *seg;
    int segs;
    stage_kind *stg;
    int stgs;
    int *stage_of;         /* (segments), under the schedule at hand */
    rb_segment_cost *cost; /* (segments) seconds */
    rb_trunk_cost *trunk;  /* (segments) seconds */
    double *optimizer;     /* (segments) seconds of an update */
    double pack, unpack, cores;
    double moving;          /* seconds of this machine's cores that a message takes of its links' threads */
    double alone, together; /* seconds of all that was measured, as it is and while at_once stages work */
    int at_once;
    rb_stage_need *need;   /* (stages) */
    double *sync, *sync_s; /* (stages) bytes to the other replicas, a step, and seconds of it */
    size_t *slot;          /* (segments) */
    size_t *room;          /* (stages) for activations */
    int64_t *memory;       /* (stages) */
    rb_err *err;
} work;

static double speed_of(const work *w, int stage) {
    return w->o->machine ? w->o->machine[stage].flops : w->cfg->pipeline.speed;
}

static int processors(void) {
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

static int threads_of(const rb_config *c) {
    int share = processors() / rb_workers(c);
    return c->pipeline.threads > 0 ? (int)c->pipeline.threads : share > 1 ? share : 1;
}

/* --- costs ------------------------------------------------------------------------------------------------- */

/* How many more stages compute on this machine's cores while one does. */
static int others_at_once(const work *w) {
    double most = fmin(w->stages, w->cores);
    return rb_plan_measures(w->o) && !w->o->machine && most > 1 ? (int)most - 1 : 0;
}

static void note_crowd(work *w, const rb_segment_measure *m) {
    double all = m->forward + m->backward + m->optimizer;
    if (m->at_once < 2) return;
    w->alone += all;
    w->together += all * m->crowd;
    if (!w->at_once || m->at_once < w->at_once) w->at_once = m->at_once;
}

static double crowd_of(const work *w) {
    return w->alone > 0 ? w->together / w->alone : 0;
}

static resbm_status cost_of_segment(work *w, int g, rb_segment_measure *out) {
    const rb_model_config *m = &w->cfg->model;
    char name[RB_DEVICE_NAME];
    segment_kind k = {.first = g == 0, .last = g == w->segments - 1, .layers = m->segment_layers[g]};
    snprintf(k.device, sizeof k.device, "%s",
             rb_plan_measures(w->o) ? rb_device_of_stage(w->cfg, w->stage_of[g], name) : "timed");
    for (int i = 0; i < w->segs; i++) {
        segment_kind *s = &w->seg[i];
        if (s->first != k.first || s->last != k.last || s->layers != k.layers || strcmp(s->device, k.device))
            continue;
        *out = s->cost;
        return RESBM_OK;
    }
    RB_TRY(rb_plan_measure(w->o, w->cfg, w->boundary, k.device, g, others_at_once(w), &k.cost, w->err));
    note_crowd(w, &k.cost);
    segment_kind *grown = realloc(w->seg, (size_t)(w->segs + 1) * sizeof *grown);
    if (!grown) return rb_fail(w->err, RESBM_E_MEMORY, "no memory to plan");
    w->seg = grown;
    w->seg[w->segs++] = k;
    *out = k.cost;
    return RESBM_OK;
}

static void fill_paces(work *w) {
    for (int i = 0; i < w->stages; i++)
        w->pace[i] = rb_plan_measures(w->o) ? 1 : speed_of(w, w->place[i].stage) / speed_of(w, i);
}

/* Where the schedule puts the segments, and what they cost there. */
static resbm_status fill_costs(work *w) {
    w->pack = w->unpack = 0;
    for (int g = 0; g < w->segments; g++) {
        rb_segment_measure c = {0};
        w->stage_of[g] = rb_stage_of(w->cfg, g);
        double speed = rb_plan_measures(w->o) ? 1 : speed_of(w, w->stage_of[g]);
        RB_TRY(cost_of_segment(w, g, &c));
        w->cost[g] = rb_measured_cost(&c, speed);
        w->optimizer[g] = c.optimizer / speed;
        w->trunk[g] = rb_measured_trunk(&c, speed);
        w->pack = fmax(w->pack, c.pack / speed);
        w->unpack = fmax(w->unpack, c.unpack / speed);
    }
    return RESBM_OK;
}

/* --- memory ------------------------------------------------------------------------------------------------ */

static stage_kind kind_of_stage(const work *w, const int *host, int hosted, bool halves) {
    stage_kind k = {.hosted = hosted, .halves = halves};
    for (int i = 0; i < hosted && i < MOST_ALIKE; i++) {
        k.first[i] = host[i] == 0;
        k.last[i] = host[i] == w->segments - 1;
        k.joined[i] = i > 0 && host[i] == host[i - 1] + 1;
        k.layers[i] = w->cfg->model.segment_layers[host[i]];
    }
    return k;
}

static bool same_stage(const stage_kind *a, const stage_kind *b) {
    return a->hosted == b->hosted && a->hosted <= MOST_ALIKE && a->halves == b->halves &&
           !memcmp(a->first, b->first, sizeof a->first) && !memcmp(a->last, b->last, sizeof a->last) &&
           !memcmp(a->joined, b->joined, sizeof a->joined) && !memcmp(a->layers, b->layers, sizeof a->layers);
}

/* slot (hosted) */
static resbm_status need_of_stage(work *w, const int *host, int hosted, bool halves, rb_stage_need *out,
                                  size_t *slot) {
    stage_kind k = kind_of_stage(w, host, hosted, halves);
    for (int i = 0; i < w->stgs; i++) {
        if (!same_stage(&w->stg[i], &k)) continue;
        *out = w->stg[i].need;
        memcpy(slot, w->stg[i].slot, (size_t)hosted * sizeof *slot);
        return RESBM_OK;
    }
    RB_TRY(rb_measure_stage(w->cfg, host, hosted, halves, out, slot, w->err));
    stage_kind *grown = realloc(w->stg, (size_t)(w->stgs + 1) * sizeof *grown);
    if (!grown) return rb_fail(w->err, RESBM_E_MEMORY, "no memory to plan");
    w->stg = grown;
    k.need = *out;
    memcpy(k.slot, slot, (size_t)(hosted < MOST_ALIKE ? hosted : MOST_ALIKE) * sizeof *slot);
    w->stg[w->stgs++] = k;
    return RESBM_OK;
}

static size_t fixed_bytes(const rb_stage_need *n) {
    return n->weights + n->gradients + n->optimizer + n->working;
}

static int64_t memory_of(const work *w, int stage) {
    if (w->o->machine) return w->o->machine[stage].memory;
    if (w->cfg->pipeline.memory) return w->cfg->pipeline.memory;
    return (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE) / w->stages;
}

/* Segments of a stage under the schedule at hand, ascending; returns how many. */
static int hosted_by(const work *w, int stage, int *host) {
    int n = 0;
    for (int g = 0; g < w->segments; g++)
        if (w->stage_of[g] == w->place[stage].stage) host[n++] = g;
    return n;
}

static resbm_status fill_memory(work *w, bool halves) {
    int host[RB_MAX_SEGMENTS];
    size_t slot[RB_MAX_SEGMENTS];
    for (int i = 0; i < w->stages; i++) {
        int hosted = hosted_by(w, i, host);
        RB_TRY(need_of_stage(w, host, hosted, halves, &w->need[i], slot));
        for (int n = 0; n < hosted; n++) w->slot[host[n]] = slot[n];
        int64_t all = w->memory[i] = memory_of(w, i);
        size_t fixed = fixed_bytes(&w->need[i]);
        w->room[i] = !all ? SIZE_MAX : (size_t)all > fixed ? (size_t)all - fixed : 0;
    }
    return RESBM_OK;
}

/* All replicas at once pass through the relay's line, where there is one. */
static void spread_over_relay(work *w) {
    const rb_relay *r = w->o->relay;
    double all = 0;
    if (!r) return;
    double rate =
        r->up_bits > 0 && (r->down_bits <= 0 || r->up_bits < r->down_bits) ? r->up_bits : r->down_bits;
    for (int i = 0; i < w->stages; i++) all += w->sync[i];
    for (int i = 0; i < w->stages && rate > 0; i++)
        if (w->sync[i] > 0) w->sync_s[i] = fmax(w->sync_s[i], 8 * all / rate);
}

/* Adding up the gradients of a stage's replicas: each sends and receives 2 (n - 1) / n times their bytes, and waits for the
 * others twice a piece (stage_sum.c). With local steps their weights, once a round: a step's part of that. */
static void add_sums(work *w) {
    for (int i = 0; i < w->stages; i++) {
        int n = rb_replicas(w->cfg, w->place[i].stage);
        rb_machine m = w->o->machine ? w->o->machine[i] : rb_machine_of(w->cfg);
        double rate =
            m.up_bits > 0 && (m.down_bits <= 0 || m.up_bits < m.down_bits) ? m.up_bits : m.down_bits;
        double bytes = (double)w->need[i].gradients * 2 * (n - 1) / n,
               pieces = ceil((double)w->need[i].gradients / (8 << 20));
        if (n == 1) continue;
        if (!strcmp(w->cfg->pipeline.replica_codec, "int8")) bytes *= 17.0 / 64;
        if (w->cfg->optim.local_steps > 0) {
            bytes /= (double)w->cfg->optim.local_steps;
            pieces /= (double)w->cfg->optim.local_steps;
        }
        w->sync_s[i] = (rate > 0 ? 8 * bytes / rate : 0) + 2 * pieces * (double)m.latency_ns * 1e-9;
        w->sync[i] = bytes;
    }
    spread_over_relay(w);
}

/* --- one row ----------------------------------------------------------------------------------------------- */

static void fill_stage(const work *w, const rb_prediction *p, int i, rb_plan_row *r) {
    rb_plan_stage *s = &r->stage[i];
    const rb_sim_stage *sim = &p->sim.stage[i];
    int host[RB_MAX_SEGMENTS], hosted = hosted_by(w, i, host);
    *s = (rb_plan_stage){.stage = w->place[i].stage,
                         .replica = w->place[i].replica,
                         .sync = w->sync[i],
                         .first = host[0],
                         .segments = hosted,
                         .need = w->need[i],
                         .room = w->memory[i],
                         .busy = sim->busy,
                         .wait_peer = sim->wait_peer,
                         .wait_bandwidth = sim->wait_bandwidth,
                         .wait_latency = sim->wait_latency};
    int stash = 0; /* alike for all segments of a stage, but in a text of actions */
    for (int n = 0; n < hosted; n++) {
        stash = p->stash[host[n]] > stash ? p->stash[host[n]] : stash;
        int slots = p->slots[host[n]];
        s->layers += w->cfg->model.segment_layers[host[n]];
        s->activations += (size_t)slots * w->slot[host[n]];
        if (slots > s->slots) s->slots = slots;
    }
    s->stashes = (size_t)stash * s->need.version;
    s->total = fixed_bytes(&s->need) + s->activations + s->stashes;
    for (int d = 0; d < 2; d++) s->sent[d] = (double)sim->sent[d] * p->wire[d];
}

static void fill_disk(const work *w, rb_plan_row *r) {
    for (int i = 0; i < w->stages; i++) {
        if (w->place[i].replica) continue; /* the first one writes for all */
        uint64_t bytes = r->stage[i].need.snapshot;
        double rate = w->o->machine ? (double)w->o->machine[i].disk : 0;
        r->snapshot_bytes += bytes;
        if (rate > 0) r->snapshot_s = fmax(r->snapshot_s, (double)bytes / rate);
    }
}

static double passing(double bytes, double rate) {
    return rate > 0 ? bytes / rate : 0;
}

/* What passes between stages the simulator has counted; the sums of replicas' gradients come beside it. */
static void fill_relay(const work *w, const rb_prediction *p, rb_plan_row *r) {
    const rb_relay *o = w->o->relay;
    double bytes = 0, sums = 0;
    if (!o) return;
    for (int i = 0; i < w->stages; i++) {
        bytes += r->stage[i].sent[0] + r->stage[i].sent[1] + r->stage[i].sync;
        sums += r->stage[i].sync;
    }
    r->relay = (rb_plan_relay){.bytes = bytes,
                               .down = (p->sim.relay_down + passing(sums, o->down_bits / 8)) / r->step_s,
                               .thread = (p->sim.relay_thread + passing(sums, (double)o->moves)) / r->step_s,
                               .up = (p->sim.relay_up + passing(sums, o->up_bits / 8)) / r->step_s};
    if (o->memory) r->relay.memory = (double)o->participant * w->stages / (double)o->memory;
}

/* Snapshots on their way to the host of a run across machines, beside the steps. */
static void fill_uplink(const work *w, rb_plan_row *r) {
    r->snapshot_every_s = (double)w->cfg->train.checkpoint_every * r->step_s;
    for (int i = 0; i < w->stages; i++) {
        if (w->place[i].replica) continue;
        rb_machine m = w->o->machine ? w->o->machine[i] : rb_machine_of(w->cfg);
        uint64_t bytes = r->stage[i].need.snapshot;
        double whole = m.up_bits > 0 ? 8 * (double)bytes / m.up_bits : 0;
        if (whole / w->cfg->snapshot_share <= r->snapshot_up_s) continue;
        r->snapshot_up_s = whole / w->cfg->snapshot_share;
        r->snapshot_most = bytes;
        r->snapshot_uplink = r->snapshot_every_s > 0 ? whole / r->snapshot_every_s : 0;
    }
}

static void fill_row(const work *w, const rb_prediction *p, rb_plan_row *r) {
    double tokens = (double)(w->cfg->train.batch * w->cfg->model.context), least = DBL_MAX,
           M = (double)w->cfg->train.microbatches;
    r->step_s = p->sim.step;
    r->tokens_per_s = tokens / r->step_s;
    r->extra = p->extra;
    r->fits = true;
    double busy = 0;
    for (int i = 0; i < w->stages; i++) {
        fill_stage(w, p, i, r);
        const rb_plan_stage *s = &r->stage[i];
        double left = s->room ? (double)s->room - (double)s->total : DBL_MAX / 2;
        if (left < least) least = left, r->fullest = i;
        if (left < 0) r->fits = false;
        busy += s->busy;
        r->wait_peer += s->wait_peer / w->stages;
        r->wait_bandwidth += s->wait_bandwidth / w->stages;
        r->wait_latency += s->wait_latency / w->stages;
    }
    r->idle = 1 - busy / (r->step_s * w->stages);
    for (int i = 0; i < w->stages; i++)
        for (int d = 0; d < 2; d++) r->bytes[d] = fmax(r->bytes[d], r->stage[i].sent[d]);
    double bf16 = 2 * tokens / M * (double)w->cfg->model.d;
    r->wire_ratio = 2 * bf16 / (rb_measure_message(w->cfg, 0) + rb_measure_message(w->cfg, 1));
    bool narrows = w->segments > 1 && rb_boundary_find(w->cfg->boundary.kind)->narrows;
    r->ratio = narrows ? (double)w->cfg->model.d / (double)w->cfg->boundary.k : 1;
    fill_disk(w, r);
    fill_relay(w, p, r);
    fill_uplink(w, r);
}

/* Do the schedule's lists call the backward pass in halves? A short one tells, and also whether there can be any. */
enum { FEW = 64 };
static resbm_status has_halves(const rb_config *c, bool *out, rb_err *err) {
    rb_schedule s;
    int64_t m = c->train.microbatches;
    *out = false;
    resbm_status st = rb_predict_schedule(c, m < FEW ? (int)m : FEW, &s, err);
    if (st && m > FEW) {
        rb_schedule_free(&s);
        st = rb_predict_schedule(c, (int)m, &s, err);
    }
    for (int i = 0; !st && i < s.stage[0].count; i++)
        *out = *out || s.stage[0].items[i].kind == RB_ACT_BACKWARD_WEIGHT;
    rb_schedule_free(&s);
    return st;
}

static resbm_status plan_row(work *w, const char *schedule, rb_plan_row *r) {
    rb_prediction p = {0};
    rb_inflight_limits limits = {w->slot, w->room};
    snprintf(w->cfg->pipeline.schedule, sizeof w->cfg->pipeline.schedule, "%s", schedule);
    snprintf(r->schedule, sizeof r->schedule, "%s", schedule);
    rb_prediction_input in = {.cfg = w->cfg,
                              .cost = w->cost,
                              .optimizer = w->optimizer,
                              .trunk = w->trunk,
                              .sync = w->sync_s,
                              .pace = w->pace,
                              .machine = w->o->machine,
                              .relay = w->o->relay,
                              .cores = w->cores,
                              .moving = w->moving,
                              .limits = &limits,
                              .spans = r->own && w->o->events,
                              .latency_occupies = w->o->latency_occupies};
    rb_err why = {0};
    bool halves;
    resbm_status st = has_halves(w->cfg, &halves, &why);
    if (!st) {
        RB_TRY(fill_costs(w));
        RB_TRY(fill_memory(w, halves));
        add_sums(w);
        in.pack = w->pack;
        in.unpack = w->unpack;
        in.crowd = crowd_of(w);
        in.at_once = w->at_once;
        st = rb_predict(&in, &p, &why);
    }
    r->asynchronous = !st && rb_schedule_updates(&p.schedule);
    if (!st) fill_row(w, &p, r);
    if (!st && in.spans) st = rb_plan_keep_events(&p, (int)w->cfg->train.microbatches, w->o->events, &why);
    if (st == RESBM_E_CONFIG || st == RESBM_E_STATE) {
        snprintf(r->refused, sizeof r->refused, "%s", why.text);
        st = RESBM_OK;
    } else if (st && w->err) {
        *w->err = why;
    }
    rb_prediction_free(&p);
    return st;
}

/* --- one boundary ------------------------------------------------------------------------------------------ */

static void close_work(work *w) {
    free(w->seg);
    free(w->stg);
    free(w->stage_of);
    free(w->cost);
    free(w->optimizer);
    free(w->trunk);
    free(w->need);
    free(w->slot);
    free(w->room);
    free(w->memory);
    free(w->place);
    free(w->pace);
    free(w->sync);
    free(w->sync_s);
}

/* Enough for a usual message at 10 Mbit/s, and for hundreds of wake-ups on slower links. */
#define LINK_SECONDS 0.1

static resbm_status open_work(work *w) {
    size_t n = (size_t)w->stages, s = (size_t)w->segments;
    w->stage_of = calloc(s, sizeof *w->stage_of);
    w->cost = calloc(s, sizeof *w->cost);
    w->slot = calloc(s, sizeof *w->slot);
    w->optimizer = calloc(s, sizeof *w->optimizer);
    w->trunk = calloc(s, sizeof *w->trunk);
    w->need = calloc(n, sizeof *w->need);
    w->room = calloc(n, sizeof *w->room);
    w->memory = calloc(n, sizeof *w->memory);
    w->place = rb_worker_places(w->cfg);
    w->pace = calloc(n, sizeof *w->pace);
    w->sync = calloc(n, sizeof *w->sync);
    w->sync_s = calloc(n, sizeof *w->sync_s);
    if (!w->place || !w->pace || !w->sync || !w->sync_s || !w->stage_of || !w->cost || !w->slot ||
        !w->optimizer || !w->trunk || !w->need || !w->room || !w->memory)
        return rb_fail(w->err, RESBM_E_MEMORY, "no memory to plan %d stages", w->stages);
    fill_paces(w);
    if (!rb_plan_measures(w->o)) return RESBM_OK;
    w->cfg->pipeline.threads = threads_of(w->cfg);
    w->cores = fmax(1, (double)processors() / (double)w->cfg->pipeline.threads);
    if (w->o->machine || w->stages < 2) return RESBM_OK;
    return rb_measure_link(w->cfg, fmin(w->o->seconds, LINK_SECONDS), &w->moving, w->err);
}

static rb_plan_row *new_row(rb_run_plan *p, int stages) {
    rb_plan_row *grown = realloc(p->row, (size_t)(p->count + 1) * sizeof *grown);
    if (!grown) return NULL;
    p->row = grown;
    grown[p->count] = (rb_plan_row){.stages = stages, .stage = calloc((size_t)stages, sizeof(rb_plan_stage))};
    return grown[p->count].stage ? &grown[p->count++] : NULL;
}

static resbm_status plan_schedules(work *w, const char *boundary, const char *own, rb_run_plan *out) {
    const rb_plan_options *o = w->o;
    for (int i = 0; o->schedule_count ? i < o->schedule_count : rb_schedules[i] != NULL; i++) {
        if (!o->schedule_count && rb_schedules[i]->forward_only) continue;
        const char *name = o->schedule_count ? o->schedules[i] : rb_schedules[i]->name;
        rb_plan_row *r = new_row(out, w->stages);
        if (!r) return rb_fail(w->err, RESBM_E_MEMORY, "no memory to plan");
        snprintf(r->boundary, sizeof r->boundary, "%s", boundary);
        r->own = !strcmp(boundary, "own") && !strcmp(name, own);
        RB_TRY(plan_row(w, name, r));
    }
    return RESBM_OK;
}

static resbm_status plan_boundary(const rb_plan_options *o, const char *boundary, rb_run_plan *out,
                                  rb_err *err) {
    rb_config *c = malloc(sizeof *c);
    if (!c) return rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration");
    *c = *o->cfg;
    work w = {.o = o,
              .boundary = boundary,
              .cfg = c,
              .stages = rb_workers(c),
              .segments = (int)c->model.segments,
              .err = err};
    resbm_status st = rb_plan_boundary(c, boundary, err);
    if (!st) st = open_work(&w);
    out->measured = rb_plan_measures(w.o);
    if (!st) st = plan_schedules(&w, boundary, o->cfg->pipeline.schedule, out);
    out->crowd = crowd_of(&w);
    out->at_once = w.at_once;
    out->moving = w.moving;
    close_work(&w);
    free(c);
    return st;
}

/* --- the whole --------------------------------------------------------------------------------------------- */

/* The usual others: uncompressed, the easy way out, and the run's kind at a milder and a stronger ratio. */
static int usual(const rb_config *c, char names[12][RB_PLAN_NAME]) {
    int n = 0;
    const char *kind = rb_boundary_find(c->boundary.kind)->narrows ? c->boundary.kind : "residual";
    snprintf(names[n++], RB_PLAN_NAME, "own");
    if (c->model.segments < 2) return n;
    snprintf(names[n++], RB_PLAN_NAME, "none-bf16");
    snprintf(names[n++], RB_PLAN_NAME, "none-int8");
    for (int ratio = 8; ratio <= 128; ratio *= 4) {
        if (c->model.d % ratio) continue;
        snprintf(names[n++], RB_PLAN_NAME, "%s-%d-bf16", kind, ratio);
        snprintf(names[n++], RB_PLAN_NAME, "%s-%d-int4", kind, ratio);
    }
    return n;
}

/* Fastest of what fits; and of what is nearly as fast, the boundary that narrows least. */
static bool eligible(const rb_plan_options *o, const rb_plan_row *r) {
    return !*r->refused && r->fits && r->asynchronous == o->cfg->pipeline.updates;
}

static void recommend(const rb_plan_options *o, rb_run_plan *p) {
    p->best = p->fastest = -1;
    for (int i = 0; i < p->count; i++) {
        const rb_plan_row *r = &p->row[i];
        if (!eligible(o, r)) continue;
        if (p->fastest < 0 || r->step_s < p->row[p->fastest].step_s) p->fastest = i;
    }
    for (int i = 0; i < p->count && p->fastest >= 0; i++) {
        const rb_plan_row *r = &p->row[i], *best = p->best < 0 ? NULL : &p->row[p->best];
        if (!eligible(o, r) || r->step_s > 1.05 * p->row[p->fastest].step_s) continue;
        bool milder = !best || r->wire_ratio < best->wire_ratio * 0.999;
        bool same = best && fabs(r->wire_ratio - best->wire_ratio) <= 0.001 * best->wire_ratio;
        if (milder || (same && r->step_s < 0.999 * best->step_s)) p->best = i;
    }
}

static resbm_status count_params(const rb_config *c, rb_run_plan *out, rb_err *err) {
    rb_tensor_table t;
    RB_TRY(rb_tensor_table_build(&c->model, &c->boundary, &t, err));
    for (int i = 0; i < t.count; i++)
        if (rb_role_trained(t.rows[i].role)) out->params += rb_tensor_count(&t.rows[i]);
    rb_tensor_table_free(&t);
    return RESBM_OK;
}

resbm_status rb_plan_check(const rb_plan_options *o, rb_err *err) {
    char name[RB_DEVICE_NAME];
    for (int i = 0; i < o->cfg->pipeline.stages && rb_plan_measures(o); i++)
        if (!strcmp(rb_device_of_stage(o->cfg, i, name), "timed"))
            return rb_fail(
                err, RESBM_E_CONFIG,
                "pipeline.device = timed computes nothing that a plan could measure: say what its stages "
                "are to reach, pipeline.speed=FLOP/s");
    return RESBM_OK;
}

resbm_status rb_plan_rows(const rb_plan_options *o, rb_run_plan *out, rb_err *err) {
    char names[12][RB_PLAN_NAME];
    *out = (rb_run_plan){
        .tokens = (double)(o->cfg->train.batch * o->cfg->model.context), .best = -1, .fastest = -1};
    int n = o->boundary_count ? o->boundary_count : usual(o->cfg, names);
    RB_TRY(rb_plan_check(o, err));
    RB_TRY(count_params(o->cfg, out, err));
    for (int i = 0; i < n; i++)
        RB_TRY(plan_boundary(o, o->boundary_count ? o->boundaries[i] : names[i], out, err));
    recommend(o, out);
    return RESBM_OK;
}

resbm_status rb_plan_make(const rb_plan_options *o, rb_run_plan *out, rb_err *err) {
    RB_TRY(rb_plan_rows(o, out, err));
    return rb_plan_recut(o, out, err);
}

void rb_plan_free(rb_run_plan *p) {
    for (int i = 0; i < p->count; i++) free(p->row[i].stage);
    free(p->row);
    *p = (rb_run_plan){0};
}
