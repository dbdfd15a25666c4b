#include "optim/optim.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "device/ops.h"
#include "optim/inside.h"

enum { EXCHANGE = 1 << 20 /* elements */ };

/* Bytes taken so far, each piece on its own 64-byte line; the same walk measures and hands out. */
typedef struct carver {
    char *base;
    size_t used;
} carver;

static void *carve(carver *c, size_t bytes) {
    void *p = c->base ? c->base + c->used : NULL;
    c->used += (bytes + 63) & ~(size_t)63;
    return p;
}

static rb_view state_view(carver *c, const rb_tensor *t) {
    void *p = carve(c, (size_t)rb_optim_elements(t) * sizeof(float));
    return t->rank == 2 ? rb_view2(p, RB_F32, t->shape[0], t->shape[1]) : rb_view1(p, RB_F32, t->shape[0]);
}

static void carve_scratch(carver *c, int64_t matrix, int64_t side, rb_rule_scratch *s) {
    for (int i = 0; i < 2; i++) s->matrix[i] = carve(c, (size_t)matrix * sizeof(float));
    for (int i = 0; i < 2; i++) s->square[i] = carve(c, (size_t)(side * side) * sizeof(float));
    s->sum = carve(c, sizeof(double));
}

static void grow_scratch(const rb_tensor *t, int64_t *matrix, int64_t *side) {
    int64_t smaller = t->shape[0] < t->shape[1] ? t->shape[0] : t->shape[1];
    if (rb_optim_elements(t) > *matrix) *matrix = rb_optim_elements(t);
    if (smaller > *side) *side = smaller;
}

static bool on_host(const rb_optim_place *place, rb_rule rule, const rb_tensor *t) {
    return place && place->host_threads > 0 && rule == RB_RULE_ADAMW && t->constraint == RB_CONSTRAINT_NONE;
}

bool rb_optim_hosts(const rb_optim_config *c, const rb_optim_place *place, const rb_tensor *t) {
    return on_host(place, rb_optim_find(c->kind)->rule_of(t), t);
}

static void lay_out(rb_optim *o, carver *c) {
    int64_t matrix = 0, side = 0;
    for (int i = 0; i < o->count; i++) {
        rb_optim_entry *e = &o->entries[i];
        const rb_rule_table *rule = rb_rule_find(e->rule);
        for (int s = 0; s < rule->states && !o->tile; s++) e->state[s] = state_view(c, e->tensor.tensor);
        if (o->config.delay && !e->hosted) e->newest = state_view(c, e->tensor.tensor);
        if (e->rule == RB_RULE_MUON) grow_scratch(e->tensor.tensor, &matrix, &side);
    }
    carve_scratch(c, matrix, side, &o->scratch);
    if (o->config.delay) o->exchange = rb_view1(carve(c, EXCHANGE * sizeof(float)), RB_F32, EXCHANGE);
}

static int64_t tile_of(const rb_optim_place *place) {
    return !place ? 0 : place->tile ? place->tile : RB_STREAM_TILE;
}

rb_optim_need rb_optim_needs(const rb_device *dev, const rb_optim_config *c, const rb_tensor *const *tensors,
                             int count, const rb_optim_place *place) {
    const rb_optim_kind *kind = rb_optim_find(c->kind);
    int64_t matrix = 0, side = 0, tile = tile_of(place);
    carver sum = {0}, scratch_sum = {0}, newest = {0};
    rb_rule_scratch scratch;
    rb_optim_need need = {0};
    for (int i = 0; i < count; i++) {
        rb_rule r = kind->rule_of(tensors[i]);
        uint64_t bytes = (uint64_t)rb_optim_elements(tensors[i]) * sizeof(float);
        bool host = on_host(place, r, tensors[i]);
        if (r && c->delay && !host) state_view(&newest, tensors[i]);
        if (host) need.host += 2 * bytes; /* master and gradient */
        for (int s = 0; r && s < rb_rule_find(r)->states; s++) {
            if (!place) state_view(&sum, tensors[i]);
            if (host) need.host += bytes;
            if (place && !host)
                need.spill += rb_spill_round(bytes); /* all tiles but the last fill whole pages */
        }
        if (r == RB_RULE_MUON) grow_scratch(tensors[i], &matrix, &side);
    }
    carve_scratch(&scratch_sum, matrix, side, &scratch);
    need.states = sum.used;
    need.scratch = scratch_sum.used + (c->delay ? EXCHANGE * sizeof(float) : 0);
    need.newest = newest.used;
    if (need.spill) { /* else nothing streams */
        need.windows = rb_stream_window_bytes(dev, tile);
        need.device_windows = rb_stream_device_bytes(dev, tile);
    }
    if (place && place->host_threads > 0) need.windows += rb_host_window_bytes(tile);
    return need;
}

static bool fits(rb_view v, const rb_tensor *t, bool away) {
    rb_view want =
        t->rank == 2 ? rb_view2(NULL, RB_F32, t->shape[0], t->shape[1]) : rb_view1(NULL, RB_F32, t->shape[0]);
    bool same = (v.data || away) && v.dtype == RB_F32 && v.rank == want.rank;
    for (int i = 0; same && i < want.rank; i++)
        same = v.shape[i] == want.shape[i] && v.stride[i] == want.stride[i];
    return same;
}

static resbm_status add_entries(rb_optim *o, const rb_optim_tensor *tensors, int count,
                                const rb_optim_place *place, rb_err *err) {
    o->entries = calloc((size_t)count + 1, sizeof *o->entries);
    if (!o->entries)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for the optimizer's list of %d tensors", count);
    for (int i = 0; i < count; i++) {
        const rb_tensor *t = tensors[i].tensor;
        rb_rule r = o->kind->rule_of(t);
        if (!r) continue;
        bool host = on_host(place, r, t), half = host && tensors[i].half.data;
        if (!fits(tensors[i].weight, t, half) || !fits(tensors[i].grad, t, o->tile > 0))
            return rb_fail(err, RESBM_E_ARG,
                           "optimizer: weight and gradient of %s must be contiguous f32 of its shape",
                           t->name);
        rb_optim_entry *e = &o->entries[o->count++];
        *e = (rb_optim_entry){.tensor = tensors[i], .given = i, .rule = r};
        if (host && !(e->hosted = calloc(1, sizeof *e->hosted)))
            return rb_fail(err, RESBM_E_MEMORY, "no memory for an optimizer");
    }
    return RESBM_OK;
}

/* States that stay begin as zeros, weights that updates run ahead on as those in use. */
static resbm_status begin_states(rb_optim *o, rb_err *err) {
    rb_queue *q;
    RB_TRY(rb_queue_open(o->dev, &q, err));
    resbm_status st = RESBM_OK;
    for (int i = 0; i < o->count && !o->tile; i++)
        for (int k = 0; st == RESBM_OK && k < rb_rule_find(o->entries[i].rule)->states; k++)
            st = rb_fill(q, o->entries[i].state[k], 0, err);
    if (st == RESBM_OK) st = rb_optim_begin_newest(o, q, err);
    if (st == RESBM_OK) st = rb_queue_sync(q, err);
    rb_queue_close(q);
    return st;
}

/* The tiles of all entries in the order of an update. */
static resbm_status open_stream(rb_optim *o, const rb_optim_place *place, rb_err *err) {
    int n = 0;
    uint64_t at = place->at;
    if (o->tile % RB_TILE_UNIT)
        return rb_fail(err, RESBM_E_ARG, "tiles of %lld elements", (long long)o->tile);
    for (int i = 0; i < o->count; i++) {
        rb_optim_entry *e = &o->entries[i];
        e->first_tile = n;
        if (!e->hosted) n += e->tiles = (int)((rb_optim_elements(e->tensor.tensor) + o->tile - 1) / o->tile);
    }
    if (!n) return RESBM_OK; /* everything is updated on the host */
    rb_tile *tiles = calloc((size_t)n + 1, sizeof *tiles), *t = tiles;
    if (!tiles) return rb_fail(err, RESBM_E_MEMORY, "no memory for a list of %d tiles", n);
    for (int i = 0; i < o->count; i++) {
        const rb_optim_entry *e = &o->entries[i];
        int64_t all = e->hosted ? 0 : rb_optim_elements(e->tensor.tensor);
        for (int64_t from = 0; from < all; from += o->tile, t++) {
            *t = (rb_tile){.entry = i,
                           .states = rb_rule_find(e->rule)->states,
                           .from = from,
                           .at = at,
                           .count = all - from < o->tile ? all - from : o->tile,
                           .grad_away = !e->tensor.grad.data,
                           .grad_at = e->tensor.grad_at + (uint64_t)from * sizeof(float)};
            at += rb_tile_stride(t) * (uint64_t)t->states;
        }
    }
    return rb_stream_open(o->dev, place->spill, tiles, n, o->tile, &o->stream, err);
}

/* What is updated on the host: its memory there, all zero. */
static resbm_status open_hosted(rb_optim_entry *e, rb_err *err) {
    const rb_tensor *t = e->tensor.tensor;
    rb_hosted *h = e->hosted;
    size_t bytes = (size_t)rb_optim_elements(t) * sizeof(float);
    h->name = t->name;
    h->count = rb_optim_elements(t);
    h->grad = e->tensor.grad;
    h->weight = e->tensor.half.data ? e->tensor.half : e->tensor.weight;
    h->rule = rb_rule_find(e->rule);
    h->master = rb_spill_memory(bytes);
    h->down = rb_spill_memory(bytes);
    bool ok = h->master && h->down;
    for (int k = 0; k < h->rule->states; k++) ok = (h->state[k] = rb_spill_memory(bytes)) && ok;
    return ok ? RESBM_OK
              : rb_fail(err, RESBM_E_MEMORY,
                        "no host memory for masters, moments and gradient of %s, %zu bytes each: set "
                        "optim.offload_update: device, or optim.offload: disk",
                        t->name, bytes);
}

static resbm_status open_host(rb_optim *o, const rb_optim_place *place, rb_err *err) {
    if (place->host_threads < 1) return RESBM_OK;
    for (int i = 0; i < o->count; i++) {
        rb_optim_entry *e = &o->entries[i];
        if (!e->hosted) continue;
        if (!e->tensor.grad.data)
            return rb_fail(err, RESBM_E_STATE, "%s: its gradient is away, and its update on the host",
                           e->tensor.tensor->name);
        RB_TRY(open_hosted(e, err));
    }
    return rb_host_open(o->dev, place->host_threads, o->tile, place->deadline_ns, &o->host, err);
}

static resbm_status open_all(rb_optim *o, const rb_optim_tensor *tensors, int count,
                             const rb_optim_place *place, rb_err *err) {
    RB_TRY(rb_optim_check_config(&o->config, err));
    o->kind = rb_optim_find(o->config.kind);
    o->tile = tile_of(place);
    RB_TRY(add_entries(o, tensors, count, place, err));
    carver measure = {0};
    lay_out(o, &measure);
    resbm_status st = rb_alloc(o->dev, measure.used, &o->memory, err);
    if (st != RESBM_OK) return rb_err_context(err, st, "states of optimizer %s: ", o->kind->name);
    carver real = {.base = o->memory};
    lay_out(o, &real);
    if (place) RB_TRY(open_host(o, place, err));
    if (place) RB_TRY(open_stream(o, place, err));
    return begin_states(o, err);
}

resbm_status rb_optim_open(rb_device *dev, const rb_optim_config *c, const rb_optim_tensor *tensors,
                           int count, const rb_optim_place *place, rb_optim **out, rb_err *err) {
    rb_optim *o = calloc(1, sizeof *o);
    *out = NULL;
    if (!o) return rb_fail(err, RESBM_E_MEMORY, "no memory for an optimizer");
    o->dev = dev;
    o->config = *c;
    resbm_status st = open_all(o, tensors, count, place, err);
    if (st == RESBM_OK)
        *out = o;
    else
        rb_optim_close(o);
    return st;
}

static void close_hosted(rb_hosted *h) {
    if (!h) return;
    for (int k = 0; k < RB_MAX_STATES; k++) free(h->state[k]);
    free(h->master);
    free(h->down);
    free(h);
}

void rb_optim_close(rb_optim *o) {
    if (!o) return;
    rb_stream_close(o->stream);
    rb_host_close(o->host);
    for (int i = 0; i < o->count; i++) close_hosted(o->entries[i].hosted);
    if (o->memory) rb_free(o->dev, o->memory);
    free(o->entries);
    free(o);
}

static rb_view flat(rb_view v) {
    return rb_view1(v.data, v.dtype, rb_count(v));
}

/* Everything in memory: one tile. */
static resbm_status update_whole(const rb_optim_entry *e, rb_queue *q, rb_rule_call *c, rb_err *err) {
    const rb_rule_table *rule = rb_rule_find(e->rule);
    c->count = rb_count(e->tensor.weight);
    c->grad = flat(e->tensor.grad);
    for (int k = 0; k < rule->states; k++) c->state[k] = flat(e->state[k]);
    RB_TRY(rule->tile(q, c, err));
    return rule->finish ? rule->finish(q, c, err) : RESBM_OK;
}

static resbm_status update_streamed(const rb_optim *o, const rb_optim_entry *e, rb_queue *q, rb_rule_call *c,
                                    rb_err *err) {
    const rb_rule_table *rule = rb_rule_find(e->rule);
    int64_t all = rb_count(e->tensor.weight);
    for (int i = 0; i < e->tiles; i++) {
        c->from = i * o->tile;
        c->count = all - c->from < o->tile ? all - c->from : o->tile;
        if (e->tensor.grad.data) c->grad = rb_view1((float *)e->tensor.grad.data + c->from, RB_F32, c->count);
        RB_TRY(rb_stream_get(o->stream, q, e->first_tile + i, c->state, &c->grad, err));
        RB_TRY(rule->tile(q, c, err));
        RB_TRY(rb_stream_put(o->stream, q, e->first_tile + i, err));
    }
    return rule->finish ? rule->finish(q, c, err) : RESBM_OK;
}

/* With a delay: what the update before this one made comes into use, and this one is made behind that. */
static resbm_status update_entry(const rb_optim *o, const rb_optim_entry *e, rb_queue *q, rb_rule_call *c,
                                 rb_err *err) {
    if (e->newest.data) {
        RB_TRY(rb_axpby(q, 1, e->newest, 0, e->tensor.weight, err));
        c->weight = e->newest;
    }
    if (!o->tile) return update_whole(e, q, c, err);
    return update_streamed(o, e, q, c, err);
}

static double scale_of(const rb_optim_tensor *t) {
    return t->lr_scale != 0 ? t->lr_scale : 1;
}

static rb_rule_call call_of(const rb_optim *o, const rb_optim_entry *e, int64_t t, double lr_factor,
                            const float *scale) {
    return (rb_rule_call){.config = &o->config,
                          .t = t,
                          .lr = rb_rule_lr(&o->config, o->kind, e->rule) * lr_factor * scale_of(&e->tensor),
                          .grad_scale = scale ? scale[e->given] : 1,
                          .weight = e->tensor.weight,
                          .scratch = &o->scratch};
}

static bool is_among(const rb_optim_entry *e, int first, int count) {
    return e->given >= first && e->given < first + count;
}

static resbm_status update_some(rb_optim *o, rb_queue *q, int64_t t, double lr_factor, const float *scale,
                                int first, int count, rb_err *err) {
    for (int i = 0; i < o->count; i++) {
        const rb_optim_entry *e = &o->entries[i];
        if (e->hosted || !is_among(e, first, count)) continue;
        rb_rule_call c = call_of(o, e, t, lr_factor, scale);
        resbm_status st = update_entry(o, e, q, &c, err);
        if (st != RESBM_OK)
            return rb_err_context(err, st, "optimizer step %lld, %s: ", (long long)t, e->tensor.tensor->name);
    }
    return RESBM_OK;
}

/* What the host updates, asked for in the order in which the next forward needs it: with a delay, first all that was made
 * before comes into use. */
static resbm_status ask_host(rb_optim *o, rb_queue *q, int64_t t, double lr_factor, const float *scale,
                             int first, int count, rb_err *err) {
    bool delay = o->config.delay > 0;
    for (int i = 0; i < o->count; i++) {
        rb_optim_entry *e = &o->entries[i];
        if (!e->hosted || !is_among(e, first, count)) continue;
        if (e->taken) o->early += (uint64_t)e->hosted->count * sizeof(float);
        if (!e->taken) RB_TRY(rb_host_take(o->host, q, e->hosted, err));
        e->taken = false;
        if (delay) RB_TRY(rb_host_publish(o->host, e->hosted, err));
    }
    for (int i = 0; i < o->count; i++) {
        rb_optim_entry *e = &o->entries[i];
        if (!e->hosted || !is_among(e, first, count)) continue;
        rb_rule_call c = call_of(o, e, t, lr_factor, scale);
        RB_TRY(rb_host_update(o->host, e->hosted, &c, !delay, err));
    }
    return RESBM_OK;
}

/* The tiles of the tensors [first, first + count) of open: entries, and with them tiles, keep that order. */
static void find_tiles(const rb_optim *o, int first, int count, int *from, int *to) {
    *from = *to = 0;
    for (int i = 0; i < o->count; i++) {
        const rb_optim_entry *e = &o->entries[i];
        if (!e->tiles || !is_among(e, first, count)) continue;
        if (*to == 0) *from = e->first_tile;
        *to = e->first_tile + e->tiles;
    }
}

resbm_status rb_optim_step_some(rb_optim *o, rb_queue *q, int64_t t, double lr_factor, const float *scale,
                                int first, int count, rb_err *err) {
    int from = 0, to = 0;
    if (o->host) RB_TRY(ask_host(o, q, t, lr_factor, scale, first, count, err));
    if (o->stream) find_tiles(o, first, count, &from, &to);
    if (to > from) RB_TRY(rb_stream_begin(o->stream, from, to, err));
    RB_TRY(update_some(o, q, t, lr_factor, scale, first, count, err));
    return to > from ? rb_stream_end(o->stream, err) : RESBM_OK;
}

resbm_status rb_optim_step(rb_optim *o, rb_queue *q, double lr_factor, const float *scale, rb_err *err) {
    return rb_optim_step_some(o, q, ++o->steps, lr_factor, scale, 0, INT_MAX, err);
}

int64_t rb_optim_steps_done(const rb_optim *o) {
    return o->steps;
}
void rb_optim_set_steps_done(rb_optim *o, int64_t steps) {
    o->steps = steps;
}

/* --- what the host updates -------------------------------------------------------------------------------- */

static resbm_status take(rb_optim *o, rb_queue *q, rb_optim_entry *e, rb_err *err) {
    if (!e->hosted || e->taken) return RESBM_OK;
    e->taken = true;
    return rb_host_take(o->host, q, e->hosted, err);
}

resbm_status rb_optim_take(rb_optim *o, rb_queue *q, int segment, rb_err *err) {
    for (int i = 0; o->host && i < o->count; i++)
        if (o->entries[i].tensor.tensor->segment == segment) RB_TRY(take(o, q, &o->entries[i], err));
    return RESBM_OK;
}

resbm_status rb_optim_take_some(rb_optim *o, rb_queue *q, int first, int count, rb_err *err) {
    for (int i = 0; o->host && i < o->count; i++)
        if (is_among(&o->entries[i], first, count)) RB_TRY(take(o, q, &o->entries[i], err));
    return RESBM_OK;
}

static resbm_status await(rb_optim *o, int segment, bool gradients, rb_err *err) {
    uint64_t last = 0;
    for (int i = 0; o->host && i < o->count; i++) {
        const rb_optim_entry *e = &o->entries[i];
        if (!e->hosted || (segment >= 0 && e->tensor.tensor->segment != segment)) continue;
        uint64_t ticket = gradients ? e->hosted->taken : e->hosted->ready;
        if (ticket > last) last = ticket;
    }
    return last ? rb_host_wait(o->host, last, err) : RESBM_OK;
}

resbm_status rb_optim_await(rb_optim *o, int segment, rb_err *err) {
    return await(o, segment, false, err);
}

resbm_status rb_optim_await_taken(rb_optim *o, rb_err *err) {
    return await(o, -1, true, err);
}

resbm_status rb_optim_settle(rb_optim *o, rb_err *err) {
    return o->host ? rb_host_settle(o->host, err) : RESBM_OK;
}

rb_host_work rb_optim_host_work(const rb_optim *o) {
    rb_host_stats s = {0};
    if (o->host) rb_host_get_stats(o->host, &s);
    return (rb_host_work){s.down, s.up, o->early, s.waited_ns};
}
