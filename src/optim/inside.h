/* Inside of rb_optim: what optim.c (opening, an update), states.c (checkpoints) and newest.c (weights that run ahead of
 * those in use) share. */
#ifndef RB_OPTIM_INSIDE_H
#define RB_OPTIM_INSIDE_H

#include "optim/groups.h"
#include "optim/host.h"
#include "optim/stream.h"

typedef struct rb_optim_entry {
    rb_optim_tensor tensor;
    int given; /* its place in the array of rb_optim_open */
    rb_rule rule;
    rb_view state[RB_MAX_STATES]; /* where they are not away */
    int first_tile, tiles;        /* where they are */
    rb_hosted *hosted;            /* what is updated on the host; else NULL, */
    bool taken;                   /* and whether its gradient has been asked for in this step */
    rb_view newest; /* with a delay, updated on the device: the weights that updates are made to */
} rb_optim_entry;

struct rb_optim {
    rb_device *dev;
    rb_optim_config config;
    const rb_optim_kind *kind;
    rb_optim_entry *entries; /* tensors with a rule */
    int count;
    int64_t steps;
    void *memory;
    rb_rule_scratch scratch;
    rb_stream *stream; /* states that are away; else NULL */
    rb_host *host;     /* updates on the host; else NULL */
    int64_t tile;
    uint64_t early;   /* bytes of gradients taken before their step */
    rb_view exchange; /* with a delay: what newest.c exchanges weights through */
    bool exchanged;   /* the newest are in use */
};

static inline int64_t rb_optim_elements(const rb_tensor *t) {
    return t->rank == 2 ? t->shape[0] * t->shape[1] : t->shape[0];
}

/* With a delay the weights in use are one more state: they cannot be made from the newest ones. */
static inline int rb_optim_states_of(const rb_optim *o, const rb_optim_entry *e) {
    return rb_rule_find(e->rule)->states + (o->config.delay > 0);
}

/* newest.c. After opening: the newest weights are those in use; masters are what the device has, in f32. */
resbm_status rb_optim_begin_newest(rb_optim *o, rb_queue *q, rb_err *err);

#endif
