/* Runs one stage's list of actions through hooks. Knows no schedule and no link: what an action means is the
 * hooks' affair, their order is the list's. */
#ifndef RB_PIPELINE_EXECUTOR_H
#define RB_PIPELINE_EXECUTOR_H

#include <stdatomic.h>
#include <stdint.h>
#include "pipeline/action.h"

typedef resbm_status (*rb_action_fn)(void *ctx, rb_action a, rb_err *err);

/* One function per kind; those whose kind is not in the list may be NULL. */
typedef struct rb_executor_hooks {
    void *ctx;
    rb_action_fn forward, backward, backward_input, backward_weight, update, trunk_forward, trunk_backward;
    rb_action_fn send_forward, recv_forward, send_backward, recv_backward;
} rb_executor_hooks;

typedef struct rb_action_trace {
    rb_action action;
    int64_t begin_ns, end_ns; /* rb_now_ns() before and after the hook */
} rb_action_trace;

/* Blocks until the list is done, a hook fails, or *cancel (may be NULL; looked at between actions) becomes
 * true (RESBM_E_CANCELLED). The first fault is returned with "stage 1, action 2B3: " in front of its text.
 * trace, when not NULL, has room for the stage's whole list; *done, when not NULL, counts the actions that
 * ended well, and trace holds that many plus the failed one. */
resbm_status rb_execute(const rb_schedule *s, int stage, const rb_executor_hooks *hooks,
                        const atomic_bool *cancel, rb_action_trace *trace, int *done, rb_err *err);

/* The same for the actions [from, to) of the list alone, with shift added to their microbatches. */
resbm_status rb_execute_part(const rb_schedule *s, int stage, int from, int to, int shift,
                             const rb_executor_hooks *hooks, const atomic_bool *cancel,
                             rb_action_trace *trace, int *done, rb_err *err);

#endif
