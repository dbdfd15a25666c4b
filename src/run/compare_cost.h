/* What a configuration costs on paper: weights, operations and bytes, by the tensor table and the wire's own rules.
 *
 * Operations of a step's forward pass: two per weight of a matrix and token, and those of causal attention; lookups,
 * norms and packing are left out. Heads of auxiliary losses count for the share of the steps in which
 * they work. Backward is twice as much (three times with train.recompute). The optimizer's operations are Muon's products; what it
 * does element by element is left out, and so all of AdamW. */
#ifndef RB_RUN_COMPARE_COST_H
#define RB_RUN_COMPARE_COST_H

#include "run/config.h"

typedef struct rb_cost {
    int segments;
    double forward
        [RB_MAX_SEGMENTS]; /* operations of one step, of the boundaries' ends on that segment's stage too */
    double params[RB_MAX_SEGMENTS];
    double optimizer[RB_MAX_SEGMENTS];        /* operations of one update */
    double boundary_forward, boundary_params; /* what of it the boundaries add to the model */
    double backward;                          /* times forward */
    double frame_forward,
        frame_backward; /* bytes of one microbatch's message; token ids, headers, scales included */
    double ids;         /* of frame_forward */
    double tokens;      /* of a microbatch */
} rb_cost;

/* c is validated. */
resbm_status rb_cost_of(const rb_config *c, rb_cost *out, rb_err *err);
double rb_cost_total(const rb_cost *c); /* forward of the whole model */
double rb_cost_params(const rb_cost *c);
double rb_cost_optimizer(const rb_cost *c); /* of all segments */

#endif
