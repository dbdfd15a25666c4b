#include <math.h>
#include "device/ops.h"
#include "optim/rule.h"

static rb_view flat(rb_view v) {
    return rb_view1(v.data, v.dtype, rb_count(v));
}

static resbm_status update(rb_queue *q, const rb_rule_call *c, rb_err *err) {
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
    return rb_adamw(q, flat(c->weight), flat(c->state[0]), flat(c->state[1]), flat(c->grad), &a, err);
}

const rb_rule_table rb_rule_adamw = {
    .name = "adamw", .states = 2, .state = {"exp_avg", "exp_avg_sq"}, .update = update};
