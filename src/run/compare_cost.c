#include "run/compare_cost.h"

#include <math.h>
#include <string.h>
#include "codec/frame.h"
#include "optim/groups.h"
#include "run/port.h"

/* A subspace's basis is multiplied with like a weight; rows are picked from a fixed table and from a memory of what was lost. */
static bool multiplies(const rb_tensor *t) {
    bool basis = t->role == RB_ROLE_STATE && t->values == RB_VALUES_BASIS;
    return t->rank == 2 && (basis || (rb_role_trained(t->role) && t->role != RB_ROLE_EMBEDDING));
}

/* Newton-Schulz (optim/muon.c): each iteration a symmetric product over the long side, one of that with itself, of which one
 * triangle is computed, and one back. */
static double orthogonalization(const rb_tensor *t, double iterations) {
    double side = fmin((double)t->shape[0], (double)t->shape[1]),
           length = fmax((double)t->shape[0], (double)t->shape[1]);
    return iterations * (side * (side + 1) * (length + side) + 2 * side * side * length);
}

static void add_row(const rb_config *c, const rb_tensor *t, double tokens, rb_cost *out) {
    double numbers = (double)rb_tensor_count(t), weights = rb_role_trained(t->role) ? numbers : 0,
           share = strstr(t->name, ".aux.") ? fmin(1, c->train.aux_until) : 1;
    double work = multiplies(t) ? 2 * tokens * numbers * share : 0;
    out->params[t->segment] += weights;
    out->forward[t->segment] += work;
    if (rb_optim_find(c->optim.rule.kind)->rule_of(t) == RB_RULE_MUON)
        out->optimizer[t->segment] += orthogonalization(t, c->optim.rule.ns_steps);
    if (t->part == RB_PART_SEGMENT) return;
    out->boundary_params += weights;
    out->boundary_forward += work;
}

/* Scores and values, each two operations per width and earlier position: half of the square. */
static double attention(double tokens, double context, double width, double blocks) {
    return 2 * tokens * context * width * blocks;
}

static void add_attention(const rb_config *c, double tokens, rb_cost *out) {
    const rb_boundary_config *b = &c->boundary;
    double T = (double)c->model.context;
    bool trunk = b->tokens == RB_TOKENS_TRUNK && c->model.segments > 1;
    double receiver = trunk ? attention(tokens, T, (double)b->trunk_width, (double)b->trunk_blocks) : 0;
    for (int i = 0; i < out->segments; i++) {
        out->forward[i] +=
            attention(tokens, T, (double)c->model.d, (double)rb_halves_of(&c->model, i).attention);
        if (!i) continue;
        out->forward[i] += receiver;
        out->boundary_forward += receiver;
    }
}

static resbm_status frame(const rb_config *c, int direction, double *bytes, rb_err *err) {
    rb_wire w;
    RB_TRY(rb_model_wire(&c->model, &c->boundary, direction, &w, err));
    *bytes = RB_FRAME_HEADER_BYTES +
             (double)rb_wire_bytes(&w, c->train.batch / c->train.microbatches, c->model.context);
    return RESBM_OK;
}

static resbm_status add_frames(const rb_config *c, rb_cost *out, rb_err *err) {
    int64_t B = c->train.batch / c->train.microbatches;
    if (c->model.segments < 2) return RESBM_OK;
    RB_TRY(frame(c, 0, &out->frame_forward, err));
    RB_TRY(frame(c, 1, &out->frame_backward, err));
    if (c->data.distribute == RB_DISTRIBUTE_WIRE)
        out->ids = (double)(B * (c->model.context + 1) * rb_id_bytes(c->model.vocab));
    out->frame_forward += out->ids;
    return RESBM_OK;
}

resbm_status rb_cost_of(const rb_config *c, rb_cost *out, rb_err *err) {
    rb_tensor_table table;
    double tokens = (double)(c->train.batch * c->model.context);
    memset(out, 0, sizeof *out);
    out->segments = (int)c->model.segments;
    out->backward = c->train.recompute ? 3 : 2;
    out->tokens = tokens / (double)c->train.microbatches;
    RB_TRY(rb_tensor_table_build(&c->model, &c->boundary, &table, err));
    for (int i = 0; i < table.count; i++) add_row(c, &table.rows[i], tokens, out);
    rb_tensor_table_free(&table);
    add_attention(c, tokens, out);
    return add_frames(c, out, err);
}

static double sum_of(const double *of, int segments) {
    double sum = 0;
    for (int i = 0; i < segments; i++) sum += of[i];
    return sum;
}

double rb_cost_total(const rb_cost *c) {
    return sum_of(c->forward, c->segments);
}

double rb_cost_params(const rb_cost *c) {
    return sum_of(c->params, c->segments);
}

double rb_cost_optimizer(const rb_cost *c) {
    return sum_of(c->optimizer, c->segments);
}
