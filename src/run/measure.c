#include "run/measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "core/clock.h"
#include "device/timed/timed.h"
#include "run/company.h"
#include "run/devices.h"
#include "run/stage.h"

static resbm_status fill_in(rb_stage *s, const rb_config *cfg, const char *device, const int *host,
                            int hosted, rb_err *err) {
    char name[RB_DEVICE_NAME];
    s->cfg = *cfg;
    s->workers = 1;
    s->segments = (int)cfg->model.segments;
    s->hosted = hosted;
    s->training = s->measuring = true;
    if (s->cfg.pipeline.threads < 1) s->cfg.pipeline.threads = 1;
    s->accelerator = strstr(rb_device_of_stage(cfg, rb_stage_of(cfg, host[0]), name), "cuda") != NULL;
    if (s->accelerator && !strcmp(device, "timed") && cfg->pipeline.math == RB_MATH_AUTO)
        s->cfg.pipeline.math = RB_MATH_BF16; /* which card it will be, nobody knows yet */
    s->cfg.pipeline.logits = rb_devices_logits(cfg, rb_stage_of(cfg, host[0])); /* before its device is another */
    snprintf(s->cfg.pipeline.device, sizeof s->cfg.pipeline.device, "%s", device);
    s->cfg.pipeline.speed = 0; /* of "timed" its operations are counted; nobody is to wait for them */
    s->host = calloc((size_t)hosted, sizeof *s->host);
    if (!s->host) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d segments", hosted);
    memcpy(s->host, host, (size_t)hosted * sizeof *host);
    return RESBM_OK;
}

static resbm_status new_stage(const rb_config *cfg, const char *device, const int *host, int hosted,
                              const int *slots, bool halves, rb_stage **out, rb_err *err) {
    rb_stage *s = *out = calloc(1, sizeof *s);
    if (!s) return rb_fail(err, RESBM_E_MEMORY, "no memory to measure a stage");
    s->halves = halves;
    RB_TRY(fill_in(s, cfg, device, host, hosted, err));
    return rb_stage_open_memory(s, slots, err);
}

static void free_stage(rb_stage *s) {
    if (s) rb_stage_close(s);
    free(s);
}

/* --- costs ------------------------------------------------------------------------------------------------- */

typedef resbm_status (*work_fn)(rb_stage *s, rb_err *err);

static resbm_status run_forward(rb_stage *s, rb_err *err) {
    rb_executor_hooks h = rb_stage_hooks(s);
    return h.forward(s, rb_action_of(RB_ACT_FORWARD, s->host[0], 0), err);
}
static resbm_status run_backward(rb_stage *s, rb_err *err) {
    rb_executor_hooks h = rb_stage_hooks(s);
    return h.backward(s, rb_action_of(RB_ACT_BACKWARD, s->host[0], 0), err);
}
static resbm_status run_input(rb_stage *s, rb_err *err) {
    rb_executor_hooks h = rb_stage_hooks(s);
    return h.backward_input(s, rb_action_of(RB_ACT_BACKWARD_INPUT, s->host[0], 0), err);
}
static resbm_status run_weight(rb_stage *s, rb_err *err) {
    rb_executor_hooks h = rb_stage_hooks(s);
    return h.backward_weight(s, rb_action_of(RB_ACT_BACKWARD_WEIGHT, s->host[0], 0), err);
}

/* Both ends of a boundary take part in every crossing; which direction is dearer depends on the codec. */
static resbm_status run_pack(rb_stage *s, rb_err *err) {
    rb_port_key key = {0};
    bool behind = s->host[0] < s->segments - 1;
    const rb_view *parts = s->seat[0].berth[0].out;
    if (behind) RB_TRY(rb_port_pack(&s->out_port[0], s->q, parts, key, err));
    if (!behind && s->host[0] > 0)
        RB_TRY(rb_port_pack(&s->grad_out_port[0], s->q, s->seat[0].berth[0].in, key, err));
    return rb_queue_sync(s->q, err);
}
static resbm_status run_unpack(rb_stage *s, rb_err *err) {
    rb_port_key key = {0};
    const rb_berth *b = &s->seat[0].berth[0];
    if (s->host[0] > 0)
        RB_TRY(rb_port_unpack(&s->in_port[0], s->q, b->in, key, err));
    else if (s->segments > 1)
        RB_TRY(rb_port_unpack(&s->grad_in_port[0], s->q, b->grad_in, key, err));
    return rb_queue_sync(s->q, err);
}

static resbm_status run_optimizer(rb_stage *s, rb_err *err) {
    RB_TRY(rb_stage_zero_grads(s->model, s->q, err));
    for (int i = 0; i < s->row_count; i++) {
        rb_view g = rb_stage_grad(s->model, s->rows[i]);
        if (g.data) RB_TRY(rb_sumsq(s->q, rb_view1((double *)s->sums.data + i, RB_F64, 1), g, err));
    }
    RB_TRY(rb_optim_step(s->optim, s->q, 1, NULL, err));
    return rb_queue_sync(s->q, err);
}

static double meter(const rb_stage *s) {
    return strcmp(s->cfg.pipeline.device, "timed") ? (double)rb_now_ns() * 1e-9 : rb_timed_flops(s->q);
}

static bool has_trunk(const rb_stage *s) {
    return rb_config_trunks(&s->cfg) != RB_TRUNKS_INSIDE && s->host[0] > 0;
}

static resbm_status run_trunk_forward(rb_stage *s, rb_err *err) {
    rb_executor_hooks h = rb_stage_hooks(s);
    return has_trunk(s) ? h.trunk_forward(s, rb_action_of(RB_ACT_TRUNK_FORWARD, s->host[0], 0), err)
                        : RESBM_OK;
}

/* Behind a backward that leaves it out. */
static resbm_status run_trunk_backward(rb_stage *s, rb_err *err) {
    rb_executor_hooks h = rb_stage_hooks(s);
    return has_trunk(s) ? h.trunk_backward(s, rb_action_of(RB_ACT_TRUNK_BACKWARD, s->host[0], 0), err)
                        : RESBM_OK;
}

static resbm_status run_backward_without(rb_stage *s, rb_err *err) {
    bool apart = has_trunk(s);
    s->trunk_apart = &apart;
    resbm_status st = run_backward(s, err);
    s->trunk_apart = NULL;
    return st;
}

/* The actions in the order they need each other; how often is decided by the whole round. */
static const work_fn rounds[] = {
    run_forward,        run_pack,    run_backward, run_trunk_forward, run_forward, run_backward_without,
    run_trunk_backward, run_forward, run_input,    run_weight,        run_unpack,  run_optimizer};
enum {
    FORWARD,
    PACK,
    BACKWARD,
    TRUNK_FORWARD,
    SHORT,
    WITHOUT,
    TRUNK_BACKWARD,
    AGAIN,
    INPUT,
    WEIGHT,
    UNPACK,
    OPTIMIZER,
    WORKS
};

/* What each took, round by round: the newest, where there are more than fit. Alone, and with company at work. */
enum { MOST_ROUNDS = 256 };
typedef struct rounds_taken {
    int count;
    double took[WORKS][MOST_ROUNDS];
} rounds_taken;

static resbm_status one_work(rb_stage *s, int i, rb_err *err) {
    if (!i) rb_seat_clear(&s->seat[0]);
    RB_TRY(rounds[i](s, err));
    if (i == BACKWARD || i == TRUNK_BACKWARD) rb_seat_clear(&s->seat[0]);
    return RESBM_OK;
}

static resbm_status one_round(rb_stage *s, rounds_taken *r, rb_err *err) {
    for (int i = 0; i < WORKS; i++) {
        double begin = meter(s);
        RB_TRY(one_work(s, i, err));
        if (r) r->took[i][r->count % MOST_ROUNDS] = meter(s) - begin;
    }
    if (r) r->count++;
    return RESBM_OK;
}

/* Numbers of a usual size everywhere: zeros would take other ways through the optimizer. */
static resbm_status fill_inputs(rb_stage *s, rb_err *err) {
    const rb_berth *b = &s->seat[0].berth[0];
    for (int i = 0; i < s->table.count; i++)
        if (rb_stage_weight(s->model, i).data)
            RB_TRY(rb_fill(s->q, rb_stage_weight(s->model, i), 0.01f, err));
    RB_TRY(rb_stage_weights_changed(s->model, s->q, err));
    for (int p = 0; p < RB_MAX_WIRE_PARTS; p++) {
        if (b->in[p].data) RB_TRY(rb_fill(s->q, b->in[p], 0.5f, err));
        if (b->grad_in[p].data) RB_TRY(rb_fill(s->q, b->grad_in[p], 0.001f, err));
    }
    RB_TRY(rb_stage_zero_grads(s->model, s->q, err));
    for (int m = 0; m < s->M; m++) RB_TRY(rb_stage_upload_ids(s, m, err));
    s->grad_scale = 1.0f / (float)(s->B * s->T * s->M);
    s->aux_scale = (float)rb_aux_weight(&s->cfg, 0) * s->grad_scale; /* they work, as in the first step */
    return rb_queue_sync(s->q, err);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median of each: a step is made of usual times, not of the best. */
static double take_medians(rounds_taken *r, double usual[WORKS]) {
    int n = r->count < MOST_ROUNDS ? r->count : MOST_ROUNDS;
    double sum = 0;
    for (int i = 0; i < WORKS; i++) {
        qsort(r->took[i], (size_t)n, sizeof(double), by_value);
        sum += usual[i] = r->took[i][n / 2];
    }
    return sum;
}

/* A stage like the one that is measured, and which of the works is its next. */
typedef struct mate {
    rb_stage *s;
    int next;
} mate;

static resbm_status work_along(void *ctx, rb_err *err) {
    mate *m = ctx;
    int i = m->next++;
    m->next %= WORKS;
    return one_work(m->s, i, err);
}

/* First a round that warms up, of which nothing counts; then by turns with company and alone, as a machine's speed drifts. */
static resbm_status take_turns(rb_stage *s, rb_company *mates, int n, double seconds, rounds_taken r[2],
                               rb_err *err) {
    bool counts = !strcmp(s->cfg.pipeline.device, "timed");
    int64_t end = rb_now_ns() + (int64_t)(seconds * 1e9);
    rb_company_let(mates, true);
    if (!counts) RB_TRY(one_round(s, NULL, err));
    do {
        if (n) RB_TRY(one_round(s, &r[1], err));
        rb_company_let(mates, false);
        RB_TRY(one_round(s, &r[0], err));
        rb_company_let(mates, true);
    } while (!counts && rb_now_ns() < end);
    return RESBM_OK;
}

static resbm_status repeat(rb_stage *s, mate *mates, int n, double seconds, double usual[WORKS],
                           double *crowd, rb_err *err) {
    rb_company *c;
    void *member[RB_MAX_STAGES];
    double together[WORKS];
    rounds_taken *r = calloc(2, sizeof *r);
    if (!r) return rb_fail(err, RESBM_E_MEMORY, "no memory to measure a segment");
    for (int i = 0; i < n; i++) member[i] = &mates[i];
    resbm_status st = rb_company_open(work_along, member, n, &c, err), theirs;
    if (!st) {
        rb_err why;
        st = take_turns(s, c, n, seconds, r, err);
        theirs = rb_company_close(c, &why);
        if (theirs && !st) {
            st = theirs;
            if (err) *err = why;
        }
    }
    double alone = st ? 0 : take_medians(&r[0], usual);
    *crowd = !st && n && alone > 0 ? fmax(1, take_medians(&r[1], together) / alone) : 1;
    free(r);
    return st;
}

rb_segment_cost rb_measured_cost(const rb_segment_measure *m, double speed) {
    return (rb_segment_cost){m->forward / speed, m->backward / speed, m->input / speed, m->weight / speed};
}

rb_trunk_cost rb_measured_trunk(const rb_segment_measure *m, double speed) {
    return (rb_trunk_cost){m->trunk_forward / speed, m->trunk_backward / speed};
}

static resbm_status open_ready(const rb_config *cfg, const char *device, int segment, rb_stage **out,
                               rb_err *err) {
    RB_TRY(new_stage(cfg, device, &segment, 1, &(int){1}, true, out, err));
    RB_TRY(rb_stage_open_optim(*out, err));
    return fill_inputs(*out, err);
}

/* Where memory is the host's, as many beside s as go with it into half of what the machine has. */
static resbm_status mates_of(const rb_stage *s, int beside, int *out, rb_err *err) {
    rb_stage_need need;
    size_t slot, half = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE) / 2;
    *out = 0;
    if (!beside || !s->dev->table->host_memory || !strcmp(s->dev->table->name, "timed")) return RESBM_OK;
    RB_TRY(rb_measure_stage(&s->cfg, s->host, 1, true, &need, &slot, err));
    size_t fit = half / (need.weights + need.gradients + need.optimizer + need.working + 2 * slot);
    while (*out < beside && (size_t)*out + 2 <= fit) ++*out;
    return RESBM_OK;
}

static resbm_status measure_in_company(const rb_config *cfg, const char *device, int segment, int beside,
                                       double seconds, double usual[WORKS], rb_segment_measure *out,
                                       rb_err *err) {
    rb_stage *s = NULL;
    mate *mates = calloc((size_t)beside + 1, sizeof *mates);
    int n = 0;
    resbm_status st = mates ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory to measure a segment");
    if (!st) st = open_ready(cfg, device, segment, &s, err);
    if (!st) st = mates_of(s, beside, &n, err);
    for (int i = 0; i < n && !st; i++) st = open_ready(cfg, device, segment, &mates[i].s, err);
    if (!st) st = repeat(s, mates, n, seconds, usual, &out->crowd, err);
    out->at_once = 1 + n;
    for (int i = 0; i < n; i++) free_stage(mates[i].s);
    free(mates);
    free_stage(s);
    return st;
}

resbm_status rb_measure_segment(const rb_config *cfg, const char *device, int segment, int beside,
                                double seconds, rb_segment_measure *out, rb_err *err) {
    double usual[WORKS];
    rb_config *c = malloc(sizeof *c);
    if (!c) return rb_fail(err, RESBM_E_MEMORY, "no memory to measure a segment");
    *c = *cfg;
    snprintf(c->optim.offload, sizeof c->optim.offload, "none"); /* its disk is measured by running it */
    resbm_status st = measure_in_company(c, device, segment, beside, seconds, usual, out, err);
    free(c);
    if (st) return st;
    out->forward = usual[FORWARD];
    out->backward = usual[BACKWARD];
    out->input = usual[INPUT];
    out->weight = usual[WEIGHT];
    out->pack = usual[PACK];
    out->unpack = usual[UNPACK];
    out->trunk_forward = usual[TRUNK_FORWARD];
    out->trunk_backward = usual[TRUNK_BACKWARD];
    out->optimizer = usual[OPTIMIZER];
    return RESBM_OK;
}

/* --- memory ------------------------------------------------------------------------------------------------ */

static resbm_status count_optimizer(rb_stage *s, rb_stage_need *out, rb_err *err) {
    const rb_tensor **list = calloc((size_t)s->row_count + 1, sizeof *list);
    if (!list) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d tensors", s->row_count);
    bool away = strcmp(s->cfg.optim.offload, "none") != 0;
    bool host = s->cfg.optim.offload_update == RB_OFFLOAD_UPDATE_HOST;
    rb_optim_place place = {.host_threads = host ? 1 : 0};
    for (int i = 0; i < s->row_count; i++) list[i] = &s->table.rows[s->rows[i]];
    rb_optim_need n = rb_optim_needs(s->dev, &s->cfg.optim.rule, list, s->row_count, away ? &place : NULL);
    out->optimizer =
        n.states + n.scratch + n.newest + (s->accelerator ? n.device_windows : n.windows - n.device_windows);
    rb_optim_need kept = rb_optim_needs(s->dev, &s->cfg.optim.rule, list, s->row_count, NULL);
    out->snapshot = kept.states + kept.newest;
    for (int i = 0; i < s->row_count; i++)
        if (!list[i]->like) out->snapshot += (uint64_t)rb_tensor_count(list[i]) * sizeof(float);
    free(list);
    return RESBM_OK;
}

/* All its bytes but the optimizer's. */
static resbm_status bytes_with(const rb_config *cfg, const int *host, int hosted, const int *slots,
                               bool halves, size_t *all, rb_stage_need *out, rb_err *err) {
    rb_stage *s;
    resbm_status st = new_stage(cfg, "timed", host, hosted, slots, halves, &s, err);
    if (!st) {
        rb_stage_memory b = rb_stage_model_memory(s->model);
        *all = rb_timed_bytes(s->dev);
        out->weights = b.weights;
        out->gradients = b.gradients;
        out->version = rb_stage_version_bytes(s->model);
        st = count_optimizer(s, out, err);
    }
    free_stage(s);
    return st;
}

resbm_status rb_measure_stage(const rb_config *cfg, const int *host, int hosted, bool halves,
                              rb_stage_need *out, size_t *slot, rb_err *err) {
    int slots[RB_MAX_SEGMENTS];
    size_t two = 0, more = 0;
    *out = (rb_stage_need){0};
    for (int i = 0; i < hosted; i++) slots[i] = 2;
    RB_TRY(bytes_with(cfg, host, hosted, slots, halves, &two, out, err));
    out->working = two - out->weights - out->gradients;
    for (int i = 0; i < hosted; i++) {
        slots[i] = 3;
        RB_TRY(bytes_with(cfg, host, hosted, slots, halves, &more, out, err));
        slots[i] = 2;
        slot[i] = more - two;
        out->working -= 2 * slot[i];
    }
    return RESBM_OK;
}

double rb_measure_message(const rb_config *cfg, int direction) {
    int64_t B = cfg->train.batch / cfg->train.microbatches, T = cfg->model.context;
    rb_wire w;
    rb_err ignored;
    double bytes = RB_FRAME_HEADER_BYTES;
    if (cfg->model.segments < 2 || rb_model_wire(&cfg->model, &cfg->boundary, direction, &w, &ignored))
        return bytes;
    for (int i = 0; i < w.parts; i++)
        bytes += (double)rb_packed_bytes(&w.part[i].pack, B, T, w.part[i].width);
    bool ids = direction == 0 && cfg->data.distribute == RB_DISTRIBUTE_WIRE;
    return bytes + (ids ? (double)(B * (T + 1) * rb_id_bytes(cfg->model.vocab)) : 0);
}
