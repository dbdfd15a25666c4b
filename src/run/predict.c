#include "run/predict.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "pipeline/steady.h"
#include "run/kept.h"
#include "run/measure.h"
#include "run/stage.h"
#include "run/workers.h"

/* The end of a message waits for the last of its segments; with k of them within the jitter, the latest of k draws. */
static double expected_jitter(const rb_machine *m, double wire_bytes) {
    double jitter = (double)m->jitter_ns * 1e-9, segment = RB_SEGMENT_PAYLOAD + RB_SEGMENT_HEADERS;
    if (jitter <= 0) return 0;
    double k = ceil(wire_bytes / segment);
    if (m->up_bits > 0) k = fmin(k, 1 + jitter * m->up_bits / (8 * segment));
    return jitter * k / (k + 1);
}

typedef struct links {
    rb_sim_port *port;
    double *latency;
    double *start; /* (stages) updates before the list */
    double busy;   /* how many cores they keep busy while the lists run */
    rb_sim_relay relay;
} links;

static resbm_status fill_links(const rb_prediction_input *in, double wire_bytes, links *l, rb_err *err) {
    int n = rb_workers(in->cfg);
    l->port = calloc((size_t)n, sizeof *l->port);
    l->latency = calloc((size_t)n, sizeof *l->latency);
    l->start = calloc((size_t)n, sizeof *l->start);
    if (!l->port || !l->latency || !l->start)
        return rb_fail(err, RESBM_E_MEMORY, "no memory to plan %d stages", n);
    if (in->relay) {
        const rb_relay *r = in->relay;
        l->relay = (rb_sim_relay){.down = r->down_bits / 8,
                                  .up = r->up_bits / 8,
                                  .message = (double)r->message_ns * 1e-9,
                                  .byte = r->moves ? 1 / (double)r->moves : 0,
                                  .latency = (double)r->latency_ns * 1e-9};
    }
    for (int i = 0; i < n; i++) {
        rb_machine m = in->machine ? in->machine[i] : rb_machine_of(in->cfg);
        l->port[i] = (rb_sim_port){m.up_bits / 8, m.down_bits / 8};
        l->latency[i] = (double)m.latency_ns * 1e-9 + expected_jitter(&m, wire_bytes);
    }
    return RESBM_OK;
}

static rb_sim_options options(const rb_prediction_input *in, const rb_prediction *p, const links *l) {
    return (rb_sim_options){.cost = in->cost,
                            .trunk = in->trunk,
                            .port = l->port,
                            .start = l->start,
                            .pace = in->pace,
                            .extra_latency = l->latency,
                            .relay = in->relay ? &l->relay : NULL,
                            .pack = in->pack,
                            .unpack = in->unpack,
                            .half_duplex = in->cfg->link.half_duplex,
                            .latency_occupies = in->latency_occupies || in->cfg->link.latency_occupies,
                            .bytes_forward = p->wire[0],
                            .bytes_backward = p->wire[1],
                            .grain = 0.25e-3,
                            .segment = RB_SEGMENT_PAYLOAD + RB_SEGMENT_HEADERS,
                            .cores = in->cores,
                            .crowd = in->crowd,
                            .at_once = in->at_once,
                            .no_spans = !in->spans};
}

/* Where searching for the depth would take long, a pipeline like this one but shorter tells it per hop. */
enum { SEARCH_ACTIONS = 20000, SEARCH_STAGES = 16 };

static resbm_status search_small(const rb_schedule_kind *kind, const rb_schedule_args *a,
                                 const rb_sim_options *o, int *extra, rb_err *err) {
    rb_schedule_args small = {.stages = SEARCH_STAGES, .segments = SEARCH_STAGES * (a->segments / a->stages)};
    rb_inflight_limits none = {0};
    rb_sim_options shorter = *o;
    int64_t m = (int64_t)a->microbatches * SEARCH_STAGES / a->stages;
    small.microbatches = m < 2 * SEARCH_STAGES ? 2 * SEARCH_STAGES : (int)m;
    RB_TRY(rb_schedule_auto_inflight(kind, &small, &shorter, &none, extra, err));
    *extra = (int)ceil((double)*extra * (a->stages - 1) / (SEARCH_STAGES - 1));
    return RESBM_OK;
}

/* Do the microbatches alive with this depth fit every stage? */
static bool fits(const rb_schedule_kind *kind, const rb_schedule_args *a, int extra,
                 const rb_inflight_limits *l) {
    rb_schedule_args deep = *a;
    size_t need[RB_MAX_STAGES] = {0};
    int nth[RB_MAX_STAGES] = {0};
    deep.extra = extra;
    for (int g = 0; l->memory && g < a->segments; g++) {
        int stage = rb_schedule_place(kind, a->stages, a->segments, g);
        need[stage] += (size_t)kind->in_flight(&deep, stage, nth[stage]++) * l->slot_bytes[g];
        if (need[stage] > l->memory[stage]) return false;
    }
    return true;
}

static void shrink_to_fit(const rb_schedule_kind *kind, rb_schedule_args *a, const rb_inflight_limits *l,
                          rb_prediction *p) {
    int low = 0, high = a->extra;
    p->over_memory = !fits(kind, a, 0, l);
    while (low < high) {
        int middle = low + (high - low + 1) / 2;
        if (fits(kind, a, middle, l))
            low = middle;
        else
            high = middle - 1;
    }
    a->extra = low;
}

static resbm_status find_depth(const rb_prediction_input *in, const rb_schedule_kind *kind,
                               rb_schedule_args *a, const rb_sim_options *o, rb_prediction *p, rb_err *err) {
    static const rb_inflight_limits none;
    const rb_inflight_limits *limits = in->limits ? in->limits : &none;
    rb_err why;
    a->extra = (int)in->cfg->pipeline.inflight;
    if (a->extra || !kind->takes_extra || kind->extra_ages || a->stages < 2) return RESBM_OK;
    rb_sim_options quick = *o;
    quick.no_spans = true;
    quick.pieces = 1;
    if ((int64_t)a->stages * a->microbatches > SEARCH_ACTIONS && a->stages > SEARCH_STAGES) {
        RB_TRY(search_small(kind, a, &quick, &a->extra, err));
        shrink_to_fit(kind, a, limits, p);
        return RESBM_OK;
    }
    resbm_status st = rb_schedule_auto_inflight(kind, a, &quick, limits, &a->extra, &why);
    p->over_memory = st == RESBM_E_CONFIG;
    if (p->over_memory) a->extra = 0;
    if (st && !p->over_memory && err) *err = why;
    return p->over_memory ? RESBM_OK : st;
}

static rb_schedule_args args_of(const rb_config *c) {
    return (rb_schedule_args){.stages = (int)c->pipeline.stages,
                              .segments = (int)c->model.segments,
                              .microbatches = (int)c->train.microbatches,
                              .vertical = c->pipeline.vertical_sync,
                              .trunks = rb_config_trunks(c)};
}

static resbm_status find_kind(const rb_config *c, const rb_schedule_kind **kind, rb_err *err) {
    *kind = rb_schedule_find(c->pipeline.schedule);
    if (*kind && !(*kind)->forward_only) return RESBM_OK;
    return rb_fail(err, RESBM_E_CONFIG, "there is no schedule \"%s\" that trains", c->pipeline.schedule);
}

static resbm_status from_file(const rb_config *c, const char *file, rb_schedule *out, int *slots, int *stash,
                              rb_err *err) {
    rb_buf text = {0};
    rb_schedule_args a = args_of(c);
    resbm_status st = rb_config_schedule_text(c, &text, err);
    if (!st) st = rb_schedule_build_text(text.data, text.len, file, &a, out, slots, stash, err);
    rb_buf_free(&text);
    return st;
}

resbm_status rb_predict_schedule(const rb_config *c, int microbatches, rb_schedule *out, rb_err *err) {
    const char *file = rb_config_schedule_file(c);
    const rb_schedule_kind *kind;
    *out = (rb_schedule){0};
    if (file) return from_file(c, file, out, NULL, NULL, err);
    rb_schedule_args a = args_of(c);
    a.microbatches = microbatches;
    RB_TRY(find_kind(c, &kind, err));
    RB_TRY(rb_schedule_generate(kind, &a, out, err));
    return rb_schedule_communicate(out, err);
}

/* Where a list has updates they take their time in it, else before it, behind the sum of the replicas' gradients: then all
 * stages are at it at the same time. */
static resbm_status place_updates(const rb_prediction_input *in, bool inside, rb_sim_options *o, links *l,
                                  rb_err *err) {
    rb_place *place = rb_worker_places(in->cfg);
    if (!place) return rb_fail(err, RESBM_E_MEMORY, "no memory to plan");
    double crowding = rb_sim_crowding(o, rb_workers(in->cfg));
    if (inside) o->update = in->optimizer;
    for (int w = 0; w < rb_workers(in->cfg); w++) {
        if (in->sync) l->start[w] += in->sync[w];
        for (int g = 0; in->optimizer && !inside && g < in->cfg->model.segments; g++)
            if (rb_stage_of(in->cfg, g) == place[w].stage)
                l->start[w] += in->optimizer[g] * (in->pace ? in->pace[w] : 1) * crowding;
    }
    free(place);
    return RESBM_OK;
}

/* With a relay the coordinator lives beside it: a step's order, and the token ids of stages that have no data, come from there before it
 * begins. Seconds until the word that it is done is back there, from the machine that is farthest. */
static double place_orders(const rb_prediction_input *in, links *l) {
    const rb_config *c = in->cfg;
    double back = 0, ids = (double)(c->train.batch * (c->model.context + 1)) * 4;
    int first = rb_stage_of(c, 0);
    if (!in->relay) return 0;
    for (int w = 0; w < rb_workers(c); w++) {
        back = fmax(back, l->latency[w]);
        l->start[w] += l->relay.latency;
    }
    for (int r = 0; r < rb_replicas(c, first); r++) { /* each has all of them */
        int w = rb_worker_of(c, first, r);
        double rate = l->relay.up > 0 ? l->relay.up : l->port[w].down;
        if (l->port[w].down > 0) rate = fmin(rate, l->port[w].down);
        if (rate > 0) l->start[w] += ids / rate;
    }
    return back;
}

/* With replicas: the deal that their paces lead to, and memory for any other that may follow. */
static resbm_status deal(const rb_prediction_input *in, const rb_schedule_kind *kind,
                         const rb_schedule_args *a, const rb_sim_options *o, rb_prediction *out,
                         rb_err *err) {
    double speed[RB_MAX_STAGES];
    int share[RB_MAX_STAGES];
    rb_kept kept;
    RB_TRY(rb_kept_of(in->cfg, a->extra, &kept, err));
    memcpy(out->slots, kept.slots, (size_t)a->segments * sizeof *out->slots);
    for (int w = 0; w < rb_workers(in->cfg); w++)
        speed[w] = in->pace && in->cfg->pipeline.deal == RB_DEAL_MEASURED ? 1 / in->pace[w] : 1;
    rb_workers_share(in->cfg, speed, NULL, share);
    RB_TRY(rb_workers_schedule(in->cfg, kind, a, share, &out->schedule, NULL, err));
    return rb_simulate(&out->schedule, o, &out->sim, err);
}

static void promises(const rb_schedule_kind *kind, const rb_schedule_args *a, rb_prediction *out) {
    rb_schedule_args many = *a;
    int nth[RB_MAX_STAGES] = {0};
    many.steps = out->steps;
    for (int g = 0; g < a->segments; g++) {
        int stage = rb_schedule_place(kind, a->stages, a->segments, g);
        out->slots[g] = kind->in_flight(&many, stage, nth[stage]++);
        out->stash[g] = kind->stash ? kind->stash(&many, stage) : 0;
    }
}

static resbm_status run_named(const rb_prediction_input *in, links *l, rb_prediction *out, rb_err *err) {
    const rb_config *c = in->cfg;
    const rb_schedule_kind *kind;
    rb_schedule_args a = args_of(c);
    RB_TRY(find_kind(c, &kind, err));
    rb_sim_options o = options(in, out, l);
    RB_TRY(place_updates(in, kind->flows, &o, l, err));
    o.background = l->busy;
    RB_TRY(find_depth(in, kind, &a, &o, out, err));
    out->extra = a.extra;
    out->steps = rb_steady_steps(kind, &a, &out->first);
    promises(kind, &a, out);
    if (rb_replicated(c)) return deal(in, kind, &a, &o, out, err);
    return rb_simulate_steady(kind, &a, &o, &out->schedule, &out->sim, err);
}

static resbm_status run_file(const rb_prediction_input *in, const char *file, links *l, rb_prediction *out,
                             rb_err *err) {
    rb_sim_options o = options(in, out, l);
    RB_TRY(from_file(in->cfg, file, &out->schedule, out->slots, out->stash, err));
    RB_TRY(place_updates(in, rb_schedule_updates(&out->schedule), &o, l, err));
    o.background = l->busy;
    out->steps = 1;
    return rb_simulate(&out->schedule, &o, &out->sim, err);
}

static resbm_status run(const rb_prediction_input *in, links *l, rb_prediction *out, rb_err *err) {
    const char *file = rb_config_schedule_file(in->cfg);
    size_t n = (size_t)in->cfg->model.segments;
    out->slots = calloc(n, sizeof *out->slots);
    out->stash = calloc(n, sizeof *out->stash);
    if (!out->slots || !out->stash) return rb_fail(err, RESBM_E_MEMORY, "no memory for %zu segments", n);
    double back = place_orders(in, l);
    RB_TRY(file ? run_file(in, file, l, out, err) : run_named(in, l, out, err));
    out->sim.step += back;
    return RESBM_OK;
}

/* Cores that the links' threads keep busy while a step's lists run, in the mean. */
static double busy_cores(const rb_prediction_input *in, const rb_prediction *p, const links *l) {
    double messages = 0, start = 0;
    for (int i = 0; i < rb_workers(in->cfg); i++) {
        messages += (double)(p->sim.stage[i].sent[0] + p->sim.stage[i].sent[1]);
        start = fmax(start, l->start[i]);
    }
    return p->sim.step > start ? in->moving * messages / (p->sim.step - start) : 0;
}

/* What a link's thread takes of a core it takes from the stages, once they are as many as the cores: again, knowing how much. */
static resbm_status run_beside_links(const rb_prediction_input *in, links *l, rb_prediction *out,
                                     rb_err *err) {
    RB_TRY(run(in, l, out, err));
    double busy = in->cores > 0 && in->moving > 0 ? busy_cores(in, out, l) : 0;
    if (!(rb_workers(in->cfg) + busy > in->cores) || !(busy > 0)) return RESBM_OK;
    rb_prediction again = {.wire = {out->wire[0], out->wire[1]}};
    memset(l->start, 0, (size_t)rb_workers(in->cfg) * sizeof *l->start);
    l->busy = busy;
    rb_prediction_free(out);
    *out = again;
    return run(in, l, out, err);
}

resbm_status rb_predict(const rb_prediction_input *in, rb_prediction *out, rb_err *err) {
    links l = {0};
    *out = (rb_prediction){0};
    for (int d = 0; d < 2; d++)
        out->wire[d] = (double)rb_shape_wire_bytes((uint64_t)rb_measure_message(in->cfg, d));
    resbm_status st = fill_links(in, out->wire[0], &l, err);
    if (!st) st = run_beside_links(in, &l, out, err);
    free(l.port);
    free(l.latency);
    free(l.start);
    return st;
}

void rb_prediction_free(rb_prediction *p) {
    rb_schedule_free(&p->schedule);
    rb_sim_free(&p->sim);
    free(p->slots);
    free(p->stash);
    *p = (rb_prediction){0};
}
