/* Which tensor gets which rule, and telling people so. */
#include <math.h>
#include <string.h>
#include "optim/groups.h"

static rb_rule adamw_rule(const rb_tensor *t) {
    return rb_role_trained(t->role) ? RB_RULE_ADAMW : RB_RULE_NONE;
}

static rb_rule muon_rule(const rb_tensor *t) {
    bool matrix = t->rank == 2 && (t->role == RB_ROLE_MATRIX || (t->role == RB_ROLE_BOUNDARY_MATRIX &&
                                                                 t->shape[0] >= 2 && t->shape[1] >= 2));
    return matrix ? RB_RULE_MUON : adamw_rule(t);
}

static const rb_optim_kind adamw = {
    .name = "adamw", .summary = "AdamW for every tensor", .rule_of = adamw_rule, .main_rule = RB_RULE_ADAMW};
static const rb_optim_kind muon = {.name = "muon",
                                   .summary =
                                       "Muon for the matrices, AdamW for embedding, head, norms and the rest",
                                   .rule_of = muon_rule,
                                   .main_rule = RB_RULE_MUON};
const rb_optim_kind *const rb_optims[] = {&muon, &adamw, NULL};

const rb_optim_kind *rb_optim_find(const char *name) {
    for (const rb_optim_kind *const *k = rb_optims; *k; k++) {
        if (!strcmp((*k)->name, name)) return *k;
    }
    return NULL;
}

rb_optim_config rb_optim_defaults(void) {
    return (rb_optim_config){.kind = "muon",
                             .lr = 0.01,
                             .adamw_lr = 0.002,
                             .beta1 = 0.9,
                             .beta2 = 0.95,
                             .eps = 1e-8,
                             .momentum = 0.95,
                             .nesterov = true,
                             .ns_steps = 5,
                             .scaling = RB_SCALING_ORIGINAL};
}

const rb_rule_table *rb_rule_find(rb_rule r) {
    static const rb_rule_table *const table[RB_RULE_COUNT] = {
        [RB_RULE_ADAMW] = &rb_rule_adamw, [RB_RULE_MUON] = &rb_rule_muon};
    return table[r];
}

double rb_rule_lr(const rb_optim_config *c, const rb_optim_kind *kind, rb_rule r) {
    return r == kind->main_rule ? c->lr : c->adamw_lr;
}

resbm_status rb_optim_check_config(const rb_optim_config *c, rb_err *err) {
    const struct {
        const char *key;
        double value, below; /* 0 <= value < below */
    } range[] = {{"lr", c->lr, INFINITY},      {"adamw_lr", c->adamw_lr, INFINITY},
                 {"beta1", c->beta1, 1},       {"beta2", c->beta2, 1},
                 {"momentum", c->momentum, 1}, {"weight_decay", c->weight_decay, INFINITY},
                 {"eps", c->eps, INFINITY}};
    if (!rb_optim_find(c->kind))
        return rb_fail(err, RESBM_E_CONFIG, "optim.kind is \"%s\"; it must be muon or adamw", c->kind);
    for (size_t i = 0; i < sizeof range / sizeof *range; i++) {
        if (range[i].value >= 0 && range[i].value < range[i].below) continue;
        return rb_fail(err, RESBM_E_CONFIG, "optim.%s is %g; it must be at least 0 and below %g",
                       range[i].key, range[i].value, range[i].below);
    }
    if (c->delay != 0 && c->delay != 1)
        return rb_fail(err, RESBM_E_CONFIG,
                       "optim.delay is %d; updates are used at once (0) or one step later (1)", c->delay);
    if (c->ns_steps < 1 || c->ns_steps > 99)
        return rb_fail(err, RESBM_E_CONFIG, "%d Newton-Schulz iterations; use 1 to 99 (5 is usual)",
                       c->ns_steps);
    return RESBM_OK;
}

resbm_status rb_optim_check(const rb_optim_config *c, const rb_tensor_table *t, rb_err *err) {
    RB_TRY(rb_optim_check_config(c, err));
    const rb_optim_kind *kind = rb_optim_find(c->kind);
    for (int i = 0; i < t->count; i++) {
        if (kind->rule_of(&t->rows[i]) == kind->main_rule) return RESBM_OK;
    }
    return rb_fail(err, RESBM_E_CONFIG,
                   "optim.kind is %s, but none of the model's %d tensors is one for it; use adamw",
                   kind->name, t->count);
}

static void describe_rule(const rb_optim_config *c, const rb_tensor_table *t, rb_rule r, rb_buf *out) {
    const rb_optim_kind *kind = rb_optim_find(c->kind);
    long long tensors = 0, parameters = 0;
    for (int i = 0; i < t->count; i++) {
        if (kind->rule_of(&t->rows[i]) != r) continue;
        tensors++;
        parameters += t->rows[i].rank == 2 ? t->rows[i].shape[0] * t->rows[i].shape[1] : t->rows[i].shape[0];
    }
    if (tensors)
        rb_buf_printf(out, "%s: %lld tensors, %lld parameters, lr %g\n", rb_rule_find(r)->name, tensors,
                      parameters, rb_rule_lr(c, kind, r));
}

void rb_optim_describe(const rb_optim_config *c, const rb_tensor_table *t, rb_buf *out) {
    const rb_optim_kind *kind = rb_optim_find(c->kind);
    for (int r = RB_RULE_COUNT - 1; r > RB_RULE_NONE; r--) describe_rule(c, t, (rb_rule)r, out);
    for (int i = 0; i < t->count; i++) {
        const rb_tensor *row = &t->rows[i];
        rb_rule r = kind->rule_of(row);
        const char *rule = r ? rb_rule_find(r)->name : "none (the codec updates it)";
        if (row->rank == 2)
            rb_buf_printf(out, "  %-52s %6lld x %-6lld %s\n", row->name, (long long)row->shape[0],
                          (long long)row->shape[1], rule);
        else
            rb_buf_printf(out, "  %-52s %6lld   %-6s %s\n", row->name, (long long)row->shape[0], "", rule);
    }
}
