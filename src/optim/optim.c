#include "optim/optim.h"

#include <stdio.h>
#include <stdlib.h>
#include "device/ops.h"
#include "optim/groups.h"

typedef struct entry {
    rb_optim_tensor tensor;
    int given; /* its place in the array of rb_optim_open */
    rb_rule rule;
    rb_view state[RB_MAX_STATES];
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
        for (int s = 0; s < rule->states; s++) e->state[s] = state_view(c, e->tensor.tensor);
        if (e->rule == RB_RULE_MUON) grow_scratch(e->tensor.tensor, &matrix, &side);
    }
    carve_scratch(c, matrix, side, &o->scratch);
}

size_t rb_optim_bytes(const rb_optim_config *c, const rb_tensor *const *tensors, int count) {
    const rb_optim_kind *kind = rb_optim_find(c->kind);
    int64_t matrix = 0, side = 0;
    carver sum = {0};
    rb_rule_scratch scratch;
    for (int i = 0; i < count; i++) {
        rb_rule r = kind->rule_of(tensors[i]);
        for (int s = 0; r && s < rb_rule_find(r)->states; s++) state_view(&sum, tensors[i]);
        if (r == RB_RULE_MUON) grow_scratch(tensors[i], &matrix, &side);
    }
    carve_scratch(&sum, matrix, side, &scratch);
    return sum.used;
}

static bool fits(rb_view v, const rb_tensor *t) {
    rb_view want =
        t->rank == 2 ? rb_view2(NULL, RB_F32, t->shape[0], t->shape[1]) : rb_view1(NULL, RB_F32, t->shape[0]);
    bool same = v.data && v.dtype == RB_F32 && v.rank == want.rank;
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
        if (!fits(tensors[i].weight, t) || !fits(tensors[i].grad, t))
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
    for (int i = 0; st == RESBM_OK && i < o->states; i++)
        st = rb_fill(q, rb_optim_state_at(o, i).view, 0, err);
    if (st == RESBM_OK) st = rb_queue_sync(q, err);
    rb_queue_close(q);
    return st;
}

static resbm_status open_all(rb_optim *o, const rb_optim_tensor *tensors, int count, rb_err *err) {
    RB_TRY(rb_optim_check_config(&o->config, err));
    o->kind = rb_optim_find(o->config.kind);
    RB_TRY(add_entries(o, tensors, count, err));
    carver measure = {0};
    lay_out(o, &measure);
    resbm_status st = rb_alloc(o->dev, measure.used, &o->memory, err);
    if (st != RESBM_OK) return rb_err_context(err, st, "states of optimizer %s: ", o->kind->name);
    carver real = {.base = o->memory};
    lay_out(o, &real);
    return zero_states(o, err);
}

resbm_status rb_optim_open(rb_device *dev, const rb_optim_config *c, const rb_optim_tensor *tensors,
                           int count, rb_optim **out, rb_err *err) {
    rb_optim *o = calloc(1, sizeof *o);
    *out = NULL;
    if (!o) return rb_fail(err, RESBM_E_MEMORY, "no memory for an optimizer");
    o->dev = dev;
    o->config = *c;
    resbm_status st = open_all(o, tensors, count, err);
    if (st == RESBM_OK)
        *out = o;
    else
        rb_optim_close(o);
    return st;
}

void rb_optim_close(rb_optim *o) {
    if (!o) return;
    if (o->memory) rb_free(o->dev, o->memory);
    free(o->entries);
    free(o);
}

resbm_status rb_optim_step(rb_optim *o, rb_queue *q, double lr_factor, const float *scale, rb_err *err) {
    o->steps++;
    for (int i = 0; i < o->count; i++) {
        const entry *e = &o->entries[i];
        rb_rule_call c = {.config = &o->config,
                          .t = o->steps,
                          .lr = rb_rule_lr(&o->config, o->kind, e->rule) * lr_factor,
                          .grad_scale = scale ? scale[e->given] : 1,
                          .weight = e->tensor.weight,
                          .grad = e->tensor.grad,
                          .state = {e->state[0], e->state[1]},
                          .scratch = &o->scratch};
        resbm_status st = rb_rule_find(e->rule)->update(q, &c, err);
        if (st != RESBM_OK)
            return rb_err_context(err, st, "optimizer step %lld, %s: ", (long long)o->steps,
                                  e->tensor.tensor->name);
    }
    return RESBM_OK;
}

int rb_optim_state_count(const rb_optim *o) {
    return o->states;
}

rb_optim_state rb_optim_state_at(const rb_optim *o, int i) {
    const entry *e = o->entries;
    while (i >= rb_rule_find(e->rule)->states) i -= rb_rule_find(e++->rule)->states;
    rb_optim_state s = {.tensor = e->tensor.tensor, .view = e->state[i]};
    snprintf(s.name, sizeof s.name, "%s.%s", rb_rule_find(e->rule)->state[i], e->tensor.tensor->name);
    return s;
}

int64_t rb_optim_steps_done(const rb_optim *o) {
    return o->steps;
}
void rb_optim_set_steps_done(rb_optim *o, int64_t steps) {
    o->steps = steps;
}
