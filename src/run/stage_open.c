/* From the configuration to memory, ports, schedules and data. */
#include <stdlib.h>
#include <string.h>
#include "device/bench_peak.h"
#include "pipeline/inflight.h"
#include "run/devices.h"
#include "run/stage.h"

static resbm_status find_hosted(rb_stage *s, rb_err *err) {
    free(s->host);
    s->hosted = 0;
    s->stage = s->places ? s->places[s->self].stage : s->self;
    s->replica = s->places ? s->places[s->self].replica : 0;
    s->host = calloc((size_t)s->segments, sizeof *s->host);
    if (!s->host) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d segments", s->segments);
    for (int i = 0; i < s->segments; i++)
        if (rb_stage_of(&s->cfg, i) == s->stage) s->host[s->hosted++] = i;
    return RESBM_OK;
}

/* Bytes of one message of a direction, header included. */
static double message_bytes(const rb_stage *s, int direction) {
    rb_wire w;
    rb_err ignored;
    if (rb_model_wire(&s->cfg.model, &s->cfg.boundary, direction, &w, &ignored)) return RB_FRAME_HEADER_BYTES;
    return RB_FRAME_HEADER_BYTES + (double)rb_wire_bytes(&w, s->B, s->T);
}

/* A replica's device is its stage's. */
static const char *device_name(const rb_stage *s, char name[RB_DEVICE_NAME]) {
    return rb_device_of_stage(&s->cfg, s->places ? s->places[s->self].stage : s->self, name);
}

static resbm_status open_device(rb_stage *s, rb_err *err) {
    char name[RB_DEVICE_NAME];
    rb_device_options o = {.threads = (int)s->cfg.pipeline.threads,
                           .flops_per_s = s->cfg.pipeline.speed,
                           .math = s->cfg.pipeline.math,
                           .attention = s->cfg.pipeline.attention};
    return s->dev ? RESBM_OK : rb_device_open(device_name(s, name), &o, &s->dev, err);
}

bool rb_stage_plans_in_flight(const rb_stage *s) {
    const rb_config *c = &s->cfg;
    bool delayed = c->link.latency_ns > 0 || c->link.up_bits > 0 || c->link.down_bits > 0;
    const rb_schedule_kind *kind = rb_schedule_find(c->pipeline.schedule);
    return s->training && !s->measuring && !s->apart && !c->pipeline.inflight && delayed &&
           c->pipeline.stages > 1 && kind && kind->takes_extra && !kind->extra_ages;
}

/* Its queue goes on while the host does something else. Of "timed", which computes nothing, that is of no use. */
static bool computes_apart(const rb_stage *s) {
    return !s->dev->table->host_memory && strcmp(s->dev->table->name, "timed") != 0;
}

/* The device stays open; of one that does not compute apart the processors' speed is asked for. */
resbm_status rb_stage_speed(rb_stage *s, double *gflops, rb_err *err) {
    RB_TRY(open_device(s, err));
    if (!computes_apart(s)) return rb_bench_sgemm_glance((int)s->cfg.pipeline.threads, gflops, err);
    return rb_bench_device_glance(s->dev, gflops, err);
}

/* Of the slowest replica, a second. */
static double flops_of(const rb_stage *s, int stage) {
    double least = 0;
    if (s->cfg.pipeline.speed > 0) return s->cfg.pipeline.speed;
    for (int w = 0; w < s->workers; w++)
        if (s->places[w].stage == stage && !(least > 0 && least <= s->gflops[w])) least = s->gflops[w];
    return 0.6e9 * least;
}

/* pipeline.inflight: auto, with each stage's speed as it is stated, or as it measured it. A training step reaches about 0.6 of what plain
 * products do (docs/benchmarks.md). The depth never changes a bit of the result, only its time. */
static resbm_status auto_in_flight(const rb_stage *s, const rb_schedule_kind *kind, rb_schedule_args *a,
                                   rb_err *err) {
    const rb_model_config *m = &s->cfg.model;
    int n = s->segments;
    rb_segment_cost *cost = calloc((size_t)n, sizeof *cost);
    rb_sim_port *port = calloc((size_t)s->cfg.pipeline.stages, sizeof *port);
    size_t *slot = calloc((size_t)n, sizeof *slot),
           *memory = calloc((size_t)s->cfg.pipeline.stages, sizeof *memory);
    resbm_status st =
        cost && port && slot && memory ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory to plan");
    for (int i = 0; i < n && !st; i++) {
        double tokens = (double)(s->B * s->T), d = (double)m->d;
        double attention = d * d * (2 + 2 * (double)m->kv_heads / (double)m->heads),
               mlp = 3 * d * (double)m->ffn;
        rb_segment_halves has = rb_halves_of(m, i);
        double weights = attention * (double)has.attention + mlp * (double)has.mlp;
        cost[i].forward = 2 * tokens * weights / flops_of(s, rb_stage_of(&s->cfg, i));
        cost[i].backward = 2 * cost[i].forward;
        slot[i] = (size_t)(tokens * (double)m->segment_layers[i] * (8 * d + 2 * (double)m->ffn) * 4);
    }
    for (int i = 0; i < s->cfg.pipeline.stages && !st; i++) {
        port[i] = (rb_sim_port){s->cfg.link.up_bits / 8, s->cfg.link.down_bits / 8};
        memory[i] = (size_t)s->cfg.pipeline.memory;
    }
    rb_sim_options o = {.cost = cost,
                        .port = port,
                        .half_duplex = s->cfg.link.half_duplex,
                        .latency_occupies = s->cfg.link.latency_occupies,
                        .latency = (double)s->cfg.link.latency_ns * 1e-9,
                        .bytes_forward = message_bytes(s, 0),
                        .bytes_backward = message_bytes(s, 1)};
    rb_inflight_limits limits = {slot, s->cfg.pipeline.memory > 0 ? memory : NULL};
    if (!st) st = rb_schedule_auto_inflight(kind, a, &o, &limits, &a->extra, err);
    free(cost);
    free(port);
    free(slot);
    free(memory);
    return st;
}

static rb_schedule_args args_of(const rb_stage *s) {
    return (rb_schedule_args){.stages = (int)s->cfg.pipeline.stages,
                              .segments = s->segments,
                              .microbatches = (int)s->M,
                              .extra = s->extra,
                              .vertical = s->cfg.pipeline.vertical_sync,
                              .trunks = rb_config_trunks(&s->cfg)};
}

/* The most that any deal has in flight: that of one process with the list of all microbatches, made deep. */
static resbm_status most_in_flight(const rb_stage *s, const rb_schedule_kind *kind, int *flight,
                                   rb_err *err) {
    rb_schedule_args a = args_of(s);
    rb_schedule all;
    int most = 1;
    for (int i = 0; i < a.stages; i++)
        if (rb_replicas(&s->cfg, i) > most) most = rb_replicas(&s->cfg, i);
    if (kind->takes_extra) a.extra += (most - 1) * a.stages;
    resbm_status st = rb_schedule_build(kind, &a, &all, flight, err);
    rb_schedule_free(&all);
    return st;
}

resbm_status rb_stage_deal(rb_stage *s, const int *count, rb_err *err) {
    rb_schedule next;
    rb_schedule_args a = args_of(s);
    if (s->train.stage && !memcmp(s->share, count, (size_t)s->workers * sizeof *count)) return RESBM_OK;
    resbm_status st =
        rb_workers_schedule(&s->cfg, rb_schedule_find(s->cfg.pipeline.schedule), &a, count, &next, NULL, err);
    if (st) {
        rb_schedule_free(&next);
        return st;
    }
    rb_schedule_free(&s->train);
    s->train = next;
    memcpy(s->share, count, (size_t)s->workers * sizeof *count);
    return RESBM_OK;
}

/* The first deal: everybody the same. Slots for any other that may follow. */
static resbm_status build_dealt(rb_stage *s, const rb_schedule_kind *kind, int *flight, rb_err *err) {
    int count[RB_MAX_STAGES];
    s->share = calloc((size_t)s->workers, sizeof *s->share);
    if (!s->share) return rb_fail(err, RESBM_E_MEMORY, "no memory to deal to %d replicas", s->workers);
    rb_workers_share(&s->cfg, NULL, NULL, count);
    RB_TRY(rb_stage_deal(s, count, err));
    if (s->cfg.pipeline.deal == RB_DEAL_MEASURED || s->cover) /* a lost replica makes it another deal, too */
        return most_in_flight(s, kind, flight, err);
    rb_schedule again;
    rb_schedule_args a = args_of(s);
    resbm_status st = rb_workers_schedule(&s->cfg, kind, &a, count, &again, flight, err);
    rb_schedule_free(&again);
    return st;
}

static resbm_status build_train(rb_stage *s, rb_schedule_args *a, int *flight, int *stash, rb_err *err) {
    const rb_schedule_kind *kind = rb_schedule_find(s->cfg.pipeline.schedule);
    const char *file = rb_config_schedule_file(&s->cfg);
    if (file)
        return rb_schedule_build_text(s->schedule_text.data, s->schedule_text.len, file, a, &s->train, flight,
                                      stash, err);
    if (!kind || kind->forward_only)
        return rb_fail(err, RESBM_E_CONFIG,
                       "pipeline.schedule %s has no backward: choose another for training",
                       s->cfg.pipeline.schedule);
    if (rb_stage_plans_in_flight(s)) RB_TRY(auto_in_flight(s, kind, a, err));
    s->extra = a->extra;
    if (rb_replicated(&s->cfg)) return build_dealt(s, kind, flight, err);
    if (!kind->flows) return rb_schedule_build(kind, a, &s->train, flight, err);
    resbm_status st = rb_flow_build(kind, a, &s->flow, flight, stash, err);
    s->train = s->flow.list; /* one owner: rb_stage_close frees it */
    s->flows = true;
    s->ring = (int)s->M * (1 + rb_flow_overlap(&s->flow));
    return st;
}

/* Does this stage's list run input and weight halves apart? */
static bool has_halves(const rb_stage *s) {
    const rb_action_list *l = s->training ? &s->train.stage[s->self] : NULL;
    for (int i = 0; l && i < l->count; i++)
        if (l->items[i].kind == RB_ACT_BACKWARD_WEIGHT) return true;
    return false;
}

static void size_up(rb_stage *s) {
    s->workers = rb_workers(&s->cfg);
    s->segments = (int)s->cfg.model.segments;
    s->M = s->cfg.train.microbatches;
    s->B = s->cfg.train.batch / s->M;
    s->T = s->cfg.model.context;
    s->ring = (int)s->M;
}

resbm_status rb_stage_open_lists(rb_stage *s, rb_err *err) {
    size_up(s);
    rb_schedule_args a = args_of(s);
    int place[RB_MAX_SEGMENTS];
    a.extra = (int)s->cfg.pipeline.inflight;
    for (int i = 0; i < s->segments; i++) place[i] = rb_stage_of(&s->cfg, i);
    size_t n = (size_t)s->segments;
    s->flight = calloc(n, sizeof *s->flight);
    s->eval_flight = calloc(n, sizeof *s->eval_flight);
    s->older = calloc(n, sizeof *s->older);
    if (!s->flight || !s->eval_flight || !s->older)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for %d segments", s->segments);
    RB_TRY(rb_cover_open(s, err));
    if (s->training) RB_TRY(build_train(s, &a, s->flight, s->older, err));
    s->updates = s->training && rb_schedule_updates(&s->train);
    a.stage_of = place;
    return rb_schedule_build(&rb_schedule_forward, &a, &s->eval, s->eval_flight, err);
}

resbm_status rb_stage_take_place(rb_stage *s, int *slots, rb_err *err) {
    const int *flight = s->flight, *eval = s->eval_flight, *stash = s->older;
    RB_TRY(find_hosted(s, err));
    free(s->stash);
    s->stash = calloc((size_t)s->hosted, sizeof *s->stash);
    resbm_status st =
        s->stash ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for %d segments", s->hosted);
    for (int i = 0; i < s->hosted && !st; i++) {
        int trained = flight[s->host[i]], tried = eval[s->host[i]];
        slots[i] = trained > tried ? trained : tried;
        if (s->cover && !s->cfg.optim.local_steps && slots[i] < s->M)
            slots[i]++; /* for what a lost replica had to do */
    }
    for (int i = 0; i < s->hosted && !st; i++) s->stash[i] = stash[s->host[i]];
    s->halves = has_halves(s);
    return st;
}

static resbm_status open_trace(rb_stage *s, rb_err *err) {
    int longest = s->train.stage ? s->train.stage[s->self].count : 0, other = s->eval.stage[s->stage].count;
    if (s->share)
        longest = 8 * s->hosted * (int)s->M; /* whatever is dealt: F, B or I and W, and their messages */
    s->trace = calloc((size_t)(longest > other ? longest : other) + 1, sizeof *s->trace);
    s->span_capacity = 2 * RB_TRACE_STEPS * (longest * 3 + 8);
    s->span = calloc((size_t)s->span_capacity, sizeof *s->span);
    return s->trace && s->span ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for traces");
}

/* Which trunks of this stage go backward by themselves. */
static resbm_status find_trunks(rb_stage *s, rb_err *err) {
    const rb_action_list *l = s->training ? &s->train.stage[s->self] : NULL;
    s->trunk_apart = calloc((size_t)s->hosted, sizeof *s->trunk_apart);
    if (!s->trunk_apart) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d segments", s->hosted);
    for (int i = 0; l && i < l->count; i++) {
        if (l->items[i].kind == RB_ACT_TRUNK_BACKWARD)
            s->trunk_apart[rb_stage_local(s, l->items[i].segment)] = true;
    }
    return RESBM_OK;
}

/* Activations in bf16 that were asked for by name are where products are in bf16, or nowhere. */
static resbm_status check_activations(const rb_stage *s, rb_err *err) {
    char device[RB_DEVICE_NAME];
    if (s->cfg.pipeline.activations != RB_ACTIVATIONS_BF16 || s->dev->factor == RB_BF16) return RESBM_OK;
    return rb_fail(err, RESBM_E_UNSUPPORTED,
                   "pipeline.activations = bf16, but stage %d's device %s does not compute products in bf16 "
                   "here; auto takes bf16 where that is so",
                   s->self, device_name(s, device));
}

static resbm_status open_model(rb_stage *s, const int *slots, rb_err *err) {
    RB_TRY(rb_tensor_table_build(&s->cfg.model, &s->cfg.boundary, &s->table, err));
    RB_TRY(open_device(s, err));
    RB_TRY(check_activations(s, err));
    s->room = rb_room(s->dev);
    RB_TRY(rb_queue_open(s->dev, &s->q, err));
    s->ahead = !s->measuring && computes_apart(s);
    rb_stage_options m = {.model = &s->cfg.model,
                          .boundary = &s->cfg.boundary,
                          .table = &s->table,
                          .hosted = s->host,
                          .segments = s->hosted,
                          .B = s->B,
                          .T = s->T,
                          .slots_of = slots,
                          .training = s->training,
                          .split_backward = s->halves,
                          .weight_copies = s->cfg.pipeline.weight_copies,
                          .head_chunk = rb_devices_logits(&s->cfg, s->stage) / (int64_t)sizeof(float),
                          .half_activations =
                              s->dev->factor == RB_BF16 && s->cfg.pipeline.activations != RB_ACTIVATIONS_F32,
                          .bare = s->measuring};
    s->rows = calloc((size_t)s->table.count, sizeof *s->rows);
    if (!s->rows) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d tensors", s->table.count);
    for (int i = 0; i < s->table.count; i++)
        if (rb_stage_local(s, s->table.rows[i].segment) >= 0) s->rows[s->row_count++] = i;
    bool *masters;
    RB_TRY(rb_stage_open_spill(s, &m, &masters, err));
    resbm_status st = rb_stage_model_open(s->dev, &m, &s->model, err);
    free(masters);
    return st;
}

/* The learned steps of one end of a boundary; absent where it has none. */
static rb_view steps_of(const rb_stage *s, rb_part_kind part, int boundary) {
    for (int i = 0; i < s->row_count; i++) {
        const rb_tensor *t = &s->table.rows[s->rows[i]];
        if (t->role == RB_ROLE_STEP && t->part == part && t->part_index == boundary)
            return rb_stage_weight(s->model, s->rows[i]);
    }
    return rb_none();
}

static resbm_status open_port(rb_stage *s, int boundary, int direction, rb_part_kind end, rb_port *p,
                              rb_err *err) {
    rb_view steps = direction ? rb_none() : steps_of(s, end, boundary);
    return rb_port_open(s->dev, &s->cfg.model, &s->cfg.boundary, boundary, direction, s->B, s->T, steps, p,
                        err);
}

static resbm_status open_ports(rb_stage *s, rb_err *err) {
    size_t n = (size_t)s->hosted;
    s->out_port = calloc(n, sizeof *s->out_port);
    s->in_port = calloc(n, sizeof *s->in_port);
    s->grad_out_port = calloc(n, sizeof *s->grad_out_port);
    s->grad_in_port = calloc(n, sizeof *s->grad_in_port);
    if (!s->out_port || !s->in_port || !s->grad_out_port || !s->grad_in_port)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for %d segments", s->hosted);
    for (int i = 0; i < s->hosted; i++) {
        int segment = s->host[i];
        if (segment > 0) {
            RB_TRY(open_port(s, segment - 1, 0, RB_PART_DECODER, &s->in_port[i], err));
            RB_TRY(open_port(s, segment - 1, 1, RB_PART_DECODER, &s->grad_out_port[i], err));
            if (i > 0 &&
                rb_stage_hands_on(s, i - 1)) { /* inside the stage both ends work on the same bytes */
                rb_port_share(&s->in_port[i], &s->out_port[i - 1]);
                rb_port_share(&s->grad_out_port[i], &s->grad_in_port[i - 1]);
            }
        }
        if (segment == s->segments - 1) continue;
        RB_TRY(open_port(s, segment, 0, RB_PART_ENCODER, &s->out_port[i], err));
        RB_TRY(open_port(s, segment, 1, RB_PART_ENCODER, &s->grad_in_port[i], err));
    }
    return RESBM_OK;
}

static resbm_status open_seats(rb_stage *s, const int *slots, rb_err *err) {
    s->seat = calloc((size_t)s->hosted, sizeof *s->seat);
    if (!s->seat) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d segments", s->hosted);
    for (int i = 0; i < s->hosted; i++) {
        int segment = s->host[i];
        const rb_wire *before = segment > 0 ? &s->in_port[i].wire : NULL;
        const rb_wire *behind = segment < s->segments - 1 ? &s->grad_in_port[i].wire : NULL;
        RB_TRY(rb_seat_open(s->dev, segment, slots[i], s->B, s->T, before, behind, s->training,
                            s->cfg.boundary.aux == RB_AUX_LATENT, &s->seat[i], err));
    }
    return RESBM_OK;
}

static resbm_status open_data(rb_stage *s, rb_err *err) {
    const rb_data_config *d = &s->cfg.data;
    s->wire_tokens = d->distribute == RB_DISTRIBUTE_WIRE;
    s->id_bytes = rb_id_bytes(s->cfg.model.vocab);
    if (s->apart || (s->wire_tokens && s->host[0] > 0)) return RESBM_OK; /* ids come from others */
    if (s->training) {
        RB_TRY(rb_shards_open(d->train, s->cfg.model.vocab, &s->shards, err));
        RB_TRY(rb_sampler_init(&s->sampler, s->shards, s->T, s->cfg.train.seed, err));
    }
    if (!*d->val) return RESBM_OK;
    RB_TRY(rb_shards_open(d->val, s->cfg.model.vocab, &s->val_shards, err));
    return rb_sampler_init(&s->val_sampler, s->val_shards, s->T, s->cfg.train.seed, err);
}

static resbm_status alloc_view(rb_stage *s, rb_dtype type, int64_t a, int64_t b, rb_view *out, rb_err *err) {
    void *p;
    RB_TRY(rb_alloc(s->dev, (size_t)(a * b) * rb_dtype_size(type), &p, err));
    *out = rb_view2(p, type, a, b);
    return RESBM_OK;
}

static resbm_status open_buffers(rb_stage *s, rb_err *err) {
    int64_t n = s->B * s->T;
    s->ids = calloc((size_t)(s->ring * s->B * (s->T + 1)), sizeof *s->ids);
    s->host_tokens = calloc((size_t)(2 * s->ring * n), sizeof *s->host_tokens);
    s->host_losses = calloc((size_t)s->ring, sizeof *s->host_losses);
    s->host_aux = calloc((size_t)(s->hosted * s->ring), sizeof *s->host_aux);
    if (!s->ids || !s->host_tokens || !s->host_losses || !s->host_aux)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for token ids");
    RB_TRY(alloc_view(s, RB_I32, s->ring, n, &s->tokens, err));
    RB_TRY(alloc_view(s, RB_I32, s->ring, n, &s->targets, err));
    return alloc_view(s, RB_F64, s->row_count + 1, 1, &s->sums, err);
}

resbm_status rb_stage_open_memory(rb_stage *s, const int *slots, rb_err *err) {
    s->M = s->cfg.train.microbatches;
    s->B = s->cfg.train.batch / s->M;
    s->T = s->cfg.model.context;
    if (!s->ring) s->ring = (int)s->M; /* only measured: without schedules */
    RB_TRY(open_model(s, slots, err));
    RB_TRY(open_ports(s, err));
    RB_TRY(open_seats(s, slots, err));
    return open_buffers(s, err);
}

resbm_status rb_stage_open(rb_stage *s, rb_err *err) {
    int slots[RB_MAX_SEGMENTS];
    RB_TRY(rb_stage_open_lists(s, err));
    RB_TRY(rb_stage_take_place(s, slots, err));
    RB_TRY(open_trace(s, err));
    RB_TRY(find_trunks(s, err));
    RB_TRY(rb_stage_open_memory(s, slots, err));
    s->grads_left = calloc((size_t)s->hosted, sizeof *s->grads_left);
    if (!s->grads_left) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d segments", s->hosted);
    if (s->training) RB_TRY(rb_stage_open_optim(s, err));
    if (s->updates) RB_TRY(rb_stage_open_flow(s, err));
    return open_data(s, err);
}

static void close_ports(rb_stage *s, rb_port *p) {
    for (int i = 0; p && i < s->hosted; i++) rb_port_close(&p[i]);
    free(p);
}

void rb_stage_close(rb_stage *s) {
    close_ports(s, s->in_port);
    close_ports(s, s->grad_out_port);
    close_ports(s, s->out_port);
    close_ports(s, s->grad_in_port);
    for (int i = 0; s->seat && i < s->hosted; i++) rb_seat_close(&s->seat[i]);
    free(s->seat);
    rb_optim_close(s->optim);
    rb_kv_cache_close(s->cache);
    rb_stage_model_close(s->model);
    rb_spill_close(s->spill);
    if (s->dev) {
        rb_free(s->dev, s->tokens.data);
        rb_free(s->dev, s->targets.data);
        rb_free(s->dev, s->sums.data);
    }
    rb_stage_forget(s);
    if (s->q) rb_queue_close(s->q);
    rb_device_close(s->dev);
    rb_tensor_table_free(&s->table);
    rb_schedule_free(&s->train);
    rb_schedule_free(&s->eval);
    rb_buf_free(&s->schedule_text);
    rb_shards_close(s->shards);
    rb_shards_close(s->val_shards);
    rb_stage_close_flow(s);
    free(s->flight);
    free(s->eval_flight);
    free(s->older);
    free(s->trunk_apart);
    free(s->grads_left);
    free(s->share);
    rb_cover_close(s);
    free(s->sync_lost);
    free(s->anchor);
    free(s->outer_momentum);
    free(s->meeting.sum);
    free(s->meeting.unsent);
    free(s->host);
    free(s->rows);
    free(s->ids);
    free(s->host_tokens);
    free(s->host_losses);
    free(s->host_aux);
    free(s->trace);
    free(s->span);
}
