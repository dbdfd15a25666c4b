#include "optim/optim.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "device/ops.h"
#include "optim/groups.h"
#include "optim/host.h"
#include "optim/stream.h"

typedef struct entry {
    rb_optim_tensor tensor;
    int given; /* its place in the array of rb_optim_open */
    rb_rule rule;
    rb_view state[RB_MAX_STATES]; /* where they are not away */
    int first_tile, tiles;        /* where they are */
    float *host[RB_MAX_STATES];   /* where this is updated on the host */
} entry;

struct rb_optim {
    rb_device *dev;
    rb_optim_config config;
    const rb_optim_kind *kind;
    entry *entries; /* tensors with a rule */
    int count, states;
    int64_t steps;
    void *memory;
    rb_rule_scratch scratch;
    rb_stream *stream; /* states that are away; else NULL */
    rb_host *host;     /* updates on the host; else NULL */
    int64_t tile;
};

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

static int64_t elements(const rb_tensor *t) {
    return t->rank == 2 ? t->shape[0] * t->shape[1] : t->shape[0];
}

static rb_view state_view(carver *c, const rb_tensor *t) {
    void *p = carve(c, (size_t)elements(t) * sizeof(float));
    return t->rank == 2 ? rb_view2(p, RB_F32, t->shape[0], t->shape[1]) : rb_view1(p, RB_F32, t->shape[0]);
}

static void carve_scratch(carver *c, int64_t matrix, int64_t side, rb_rule_scratch *s) {
    for (int i = 0; i < 2; i++) s->matrix[i] = carve(c, (size_t)matrix * sizeof(float));
    for (int i = 0; i < 2; i++) s->square[i] = carve(c, (size_t)(side * side) * sizeof(float));
    s->sum = carve(c, sizeof(double));
}

static void grow_scratch(const rb_tensor *t, int64_t *matrix, int64_t *side) {
    int64_t smaller = t->shape[0] < t->shape[1] ? t->shape[0] : t->shape[1];
    if (elements(t) > *matrix) *matrix = elements(t);
    if (smaller > *side) *side = smaller;
}

static void lay_out(rb_optim *o, carver *c) {
    int64_t matrix = 0, side = 0;
    for (int i = 0; i < o->count; i++) {
        entry *e = &o->entries[i];
        const rb_rule_table *rule = rb_rule_find(e->rule);
        for (int s = 0; s < rule->states && !o->tile; s++) e->state[s] = state_view(c, e->tensor.tensor);
        if (e->rule == RB_RULE_MUON) grow_scratch(e->tensor.tensor, &matrix, &side);
    }
    carve_scratch(c, matrix, side, &o->scratch);
}

static int64_t tile_of(const rb_optim_place *place) {
    return !place ? 0 : place->tile ? place->tile : RB_STREAM_TILE;
}

static bool on_host(const rb_optim_place *place, rb_rule rule) {
    return place && place->host_threads > 0 && rule == RB_RULE_ADAMW;
}

rb_optim_need rb_optim_needs(const rb_device *dev, const rb_optim_config *c, const rb_tensor *const *tensors,
                             int count, const rb_optim_place *place) {
    const rb_optim_kind *kind = rb_optim_find(c->kind);
    int64_t matrix = 0, side = 0, tile = tile_of(place);
    carver sum = {0}, scratch_sum = {0};
    rb_rule_scratch scratch;
    rb_optim_need need = {0};
    for (int i = 0; i < count; i++) {
        rb_rule r = kind->rule_of(tensors[i]);
        uint64_t bytes = (uint64_t)elements(tensors[i]) * sizeof(float);
        for (int s = 0; r && s < rb_rule_find(r)->states; s++) {
            if (!place) state_view(&sum, tensors[i]);
            if (on_host(place, r)) need.host += bytes;
            if (place && !on_host(place, r))
                need.spill += rb_spill_round(bytes); /* all tiles but the last fill whole pages */
        }
        if (r == RB_RULE_MUON) grow_scratch(tensors[i], &matrix, &side);
    }
    carve_scratch(&scratch_sum, matrix, side, &scratch);
    need.states = sum.used;
    need.scratch = scratch_sum.used;
    if (place) need.windows = rb_stream_window_bytes(dev, tile);
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

static resbm_status add_entries(rb_optim *o, const rb_optim_tensor *tensors, int count, rb_err *err) {
    o->entries = calloc((size_t)count + 1, sizeof *o->entries);
    if (!o->entries)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for the optimizer's list of %d tensors", count);
    for (int i = 0; i < count; i++) {
        const rb_tensor *t = tensors[i].tensor;
        rb_rule r = o->kind->rule_of(t);
        if (!r) continue;
        if (!fits(tensors[i].weight, t, false) || !fits(tensors[i].grad, t, o->tile > 0))
            return rb_fail(err, RESBM_E_ARG,
                           "optimizer: weight and gradient of %s must be contiguous f32 of its shape",
                           t->name);
        o->entries[o->count++] = (entry){.tensor = tensors[i], .given = i, .rule = r};
        o->states += rb_rule_find(r)->states;
    }
    return RESBM_OK;
}

static resbm_status zero_states(rb_optim *o, rb_err *err) {
    rb_queue *q;
    RB_TRY(rb_queue_open(o->dev, &q, err));
    resbm_status st = RESBM_OK;
    for (int i = 0; i < o->count; i++)
        for (int k = 0; st == RESBM_OK && k < rb_rule_find(o->entries[i].rule)->states; k++)
            st = rb_fill(q, o->entries[i].state[k], 0, err);
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
        entry *e = &o->entries[i];
        e->first_tile = n;
        if (!e->host[0]) n += e->tiles = (int)((elements(e->tensor.tensor) + o->tile - 1) / o->tile);
    }
    rb_tile *tiles = calloc((size_t)n + 1, sizeof *tiles), *t = tiles;
    if (!tiles) return rb_fail(err, RESBM_E_MEMORY, "no memory for a list of %d tiles", n);
    for (int i = 0; i < o->count; i++) {
        const entry *e = &o->entries[i];
        int64_t all = e->host[0] ? 0 : elements(e->tensor.tensor);
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

/* States of what is updated on the host, all zero. */
static resbm_status open_host(rb_optim *o, const rb_optim_place *place, rb_err *err) {
    if (place->host_threads < 1) return RESBM_OK;
    for (int i = 0; i < o->count; i++) {
        entry *e = &o->entries[i];
        if (!on_host(place, e->rule)) continue;
        if (!e->tensor.grad.data)
            return rb_fail(err, RESBM_E_STATE, "%s: its gradient is away, and its update on the host",
                           e->tensor.tensor->name);
        for (int k = 0; k < rb_rule_find(e->rule)->states; k++)
            if (!(e->host[k] = rb_spill_memory((size_t)elements(e->tensor.tensor) * sizeof(float))))
                return rb_fail(err, RESBM_E_MEMORY, "no host memory for the states of %s",
                               e->tensor.tensor->name);
    }
    return rb_host_open(o->dev, place->host_threads, o->tile, &o->host, err);
}

static resbm_status open_all(rb_optim *o, const rb_optim_tensor *tensors, int count,
                             const rb_optim_place *place, rb_err *err) {
    RB_TRY(rb_optim_check_config(&o->config, err));
    o->kind = rb_optim_find(o->config.kind);
    o->tile = tile_of(place);
    RB_TRY(add_entries(o, tensors, count, err));
    carver measure = {0};
    lay_out(o, &measure);
    resbm_status st = rb_alloc(o->dev, measure.used, &o->memory, err);
    if (st != RESBM_OK) return rb_err_context(err, st, "states of optimizer %s: ", o->kind->name);
    carver real = {.base = o->memory};
    lay_out(o, &real);
    if (place) RB_TRY(open_host(o, place, err));
    return place ? open_stream(o, place, err) : zero_states(o, err);
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

void rb_optim_close(rb_optim *o) {
    if (!o) return;
    rb_stream_close(o->stream);
    rb_host_close(o->host);
    for (int i = 0; i < o->count; i++)
        for (int k = 0; k < RB_MAX_STATES; k++) free(o->entries[i].host[k]);
    if (o->memory) rb_free(o->dev, o->memory);
    free(o->entries);
    free(o);
}

static rb_view flat(rb_view v) {
    return rb_view1(v.data, v.dtype, rb_count(v));
}

/* Everything in memory: one tile. */
static resbm_status update_whole(const entry *e, rb_queue *q, rb_rule_call *c, rb_err *err) {
    const rb_rule_table *rule = rb_rule_find(e->rule);
    c->count = rb_count(e->tensor.weight);
    c->grad = flat(e->tensor.grad);
    for (int k = 0; k < rule->states; k++) c->state[k] = flat(e->state[k]);
    RB_TRY(rule->tile(q, c, err));
    return rule->finish ? rule->finish(q, c, err) : RESBM_OK;
}

static resbm_status update_streamed(const rb_optim *o, const entry *e, rb_queue *q, rb_rule_call *c,
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

static resbm_status update_entry(const rb_optim *o, const entry *e, rb_queue *q, rb_rule_call *c,
                                 rb_err *err) {
    if (!o->stream) return update_whole(e, q, c, err);
    if (!e->host[0]) return update_streamed(o, e, q, c, err);
    c->grad = e->tensor.grad;
    return rb_host_update(o->host, q, rb_rule_find(e->rule), c, e->host, err);
}

static double scale_of(const rb_optim_tensor *t) {
    return t->lr_scale != 0 ? t->lr_scale : 1;
}

static resbm_status update_some(rb_optim *o, rb_queue *q, int64_t t, double lr_factor, const float *scale,
                                int first, int count, rb_err *err) {
    for (int i = 0; i < o->count; i++) {
        const entry *e = &o->entries[i];
        if (e->given < first || e->given >= first + count) continue;
        rb_rule_call c = {.config = &o->config,
                          .t = t,
                          .lr = rb_rule_lr(&o->config, o->kind, e->rule) * lr_factor * scale_of(&e->tensor),
                          .grad_scale = scale ? scale[e->given] : 1,
                          .weight = e->tensor.weight,
                          .scratch = &o->scratch};
        resbm_status st = update_entry(o, e, q, &c, err);
        if (st != RESBM_OK)
            return rb_err_context(err, st, "optimizer step %lld, %s: ", (long long)t, e->tensor.tensor->name);
    }
    return RESBM_OK;
}

resbm_status rb_optim_step(rb_optim *o, rb_queue *q, double lr_factor, const float *scale, rb_err *err) {
    o->steps++;
    if (o->stream) RB_TRY(rb_stream_begin(o->stream, err));
    RB_TRY(update_some(o, q, o->steps, lr_factor, scale, 0, INT_MAX, err));
    return o->stream ? rb_stream_end(o->stream, err) : RESBM_OK;
}

resbm_status rb_optim_step_some(rb_optim *o, rb_queue *q, int64_t t, double lr_factor, const float *scale,
                                int first, int count, rb_err *err) {
    if (o->stream) return rb_fail(err, RESBM_E_STATE, "states that are streamed are updated all at once");
    return update_some(o, q, t, lr_factor, scale, first, count, err);
}

int rb_optim_state_count(const rb_optim *o) {
    return o->states;
}

/* The entry of state i, and which of its states it is. */
static const entry *entry_of(const rb_optim *o, int *i) {
    const entry *e = o->entries;
    while (*i >= rb_rule_find(e->rule)->states) *i -= rb_rule_find(e++->rule)->states;
    return e;
}

rb_optim_state rb_optim_state_at(const rb_optim *o, int i) {
    const entry *e = entry_of(o, &i);
    rb_optim_state s = {.tensor = e->tensor.tensor};
    snprintf(s.name, sizeof s.name, "%s.%s", rb_rule_find(e->rule)->state[i], e->tensor.tensor->name);
    return s;
}

static resbm_status in_state(const entry *e, int64_t offset, size_t n, rb_err *err) {
    uint64_t bytes = (uint64_t)elements(e->tensor.tensor) * sizeof(float);
    if (offset >= 0 && n <= bytes && (uint64_t)offset <= bytes - n) return RESBM_OK;
    return rb_fail(err, RESBM_E_ARG, "%zu bytes at %lld of the states of %s, which have %llu", n,
                   (long long)offset, e->tensor.tensor->name, (unsigned long long)bytes);
}

/* Bytes from `offset` on that lie in one tile, n at most; *tile and *inside: which one, and where in it. */
static size_t in_tile(const rb_optim *o, int64_t offset, size_t n, int *tile, int64_t *inside) {
    int64_t bytes = o->tile * (int64_t)sizeof(float);
    *tile = (int)(offset / bytes);
    *inside = offset % bytes;
    return n < (size_t)(bytes - *inside) ? n : (size_t)(bytes - *inside);
}

resbm_status rb_optim_state_read(rb_optim *o, rb_queue *q, int i, int64_t offset, void *dst, size_t n,
                                 rb_err *err) {
    const entry *e = entry_of(o, &i);
    RB_TRY(in_state(e, offset, n, err));
    if (e->host[0]) {
        memcpy(dst, (const char *)e->host[i] + offset, n);
        return RESBM_OK;
    }
    if (!o->stream) {
        RB_TRY(rb_download(q, dst, (char *)e->state[i].data + offset, n, err));
        return rb_queue_sync(q, err);
    }
    int tile = 0;
    int64_t inside = 0;
    for (size_t done = 0, k; done < n; done += k) {
        k = in_tile(o, offset + (int64_t)done, n - done, &tile, &inside);
        RB_TRY(rb_stream_peek(o->stream, e->first_tile + tile, i, inside, (char *)dst + done, k, err));
    }
    return RESBM_OK;
}

resbm_status rb_optim_state_write(rb_optim *o, rb_queue *q, int i, int64_t offset, const void *src, size_t n,
                                  rb_err *err) {
    const entry *e = entry_of(o, &i);
    RB_TRY(in_state(e, offset, n, err));
    if (e->host[0]) {
        memcpy((char *)e->host[i] + offset, src, n);
        return RESBM_OK;
    }
    if (!o->stream) {
        RB_TRY(rb_upload(q, (char *)e->state[i].data + offset, src, n, err));
        return rb_queue_sync(q, err);
    }
    int tile = 0;
    int64_t inside = 0;
    for (size_t done = 0, k; done < n; done += k) {
        k = in_tile(o, offset + (int64_t)done, n - done, &tile, &inside);
        RB_TRY(rb_stream_poke(o->stream, e->first_tile + tile, i, inside, (const char *)src + done, k, err));
    }
    return RESBM_OK;
}

int64_t rb_optim_steps_done(const rb_optim *o) {
    return o->steps;
}
void rb_optim_set_steps_done(rb_optim *o, int64_t steps) {
    o->steps = steps;
}
