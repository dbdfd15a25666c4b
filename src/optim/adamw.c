#include <math.h>
#include "device/ops.h"
#include "optim/rule.h"

static resbm_status tile(rb_queue *q, const rb_rule_call *c, rb_err *err) {
    const rb_optim_config *k = c->config;
    rb_adamw_args a = {
        .lr = (float)c->lr,
        .beta1 = (float)k->beta1,
        .beta2 = (float)k->beta2,
        .eps = (float)k->eps,
        .weight_decay = (float)rb_decay_of(c),
        .bias1 = (float)(1 - pow(k->beta1, (double)c->t)),
        .bias2 = (float)(1 - pow(k->beta2, (double)c->t)),
        .grad_scale = c->grad_scale,
    };
    rb_view weight = rb_view1((float *)c->weight.data + c->from, RB_F32, c->count);
    return rb_adamw(q, weight, c->state[0], c->state[1], c->grad, &a, err);
}

const rb_rule_table rb_rule_adamw = {
    .name = "adamw", .states = 2, .state = {"exp_avg", "exp_avg_sq"}, .tile = tile};
