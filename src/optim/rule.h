/* Inside optim/: what a rule needs to update one tensor. */
#ifndef RB_OPTIM_RULE_H
#define RB_OPTIM_RULE_H

#include "optim/optim.h"

enum { RB_MAX_STATES = 2 };

/* Shared by all tensors of an optimizer, in queue order: two matrices of the largest size, two square ones of
 * the largest smaller side, one f64. */
typedef struct rb_rule_scratch {
    float *matrix[2], *square[2];
    double *sum;
} rb_rule_scratch;

typedef struct rb_rule_call {
    const rb_optim_config *config;
    int64_t t; /* this update's number, from 1 */
    double lr; /* schedule included */
    float grad_scale;
    rb_view weight; /* whole */
    /* The tile: elements [from, from + count) of the tensor's flat order. */
    int64_t from, count;
    rb_view grad, state[RB_MAX_STATES]; /* (count) */
    const rb_rule_scratch *scratch;
} rb_rule_call;

/* An update goes through a tensor's gradient and states tile by tile, in ascending order: what is not in memory passes
 * through a window. Tiles begin at multiples of RB_TILE_UNIT elements, so that their bits do not depend on the tiles'
 * size. What needs a whole matrix keeps it in scratch. */
typedef struct rb_rule_table {
    const char *name; /* for people */
    int states;
    const char *state[RB_MAX_STATES];
    resbm_status (*tile)(rb_queue *q, const rb_rule_call *c, rb_err *err);
    resbm_status (*finish)(rb_queue *q, const rb_rule_call *c,
                           rb_err *err); /* behind the last tile; or NULL */
} rb_rule_table;

enum { RB_TILE_UNIT = 4096 };

extern const rb_rule_table rb_rule_adamw, rb_rule_muon;

/* Decay of this tensor: matrices only. */
static inline double rb_decay_of(const rb_rule_call *c) {
    return c->weight.rank >= 2 ? c->config->weight_decay : 0;
}

#endif
