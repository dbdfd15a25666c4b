#include "pipeline/executor.h"

#include "core/clock.h"

static rb_action_fn hook_of(const rb_executor_hooks *h, rb_action_kind k) {
    const rb_action_fn table[RB_ACT_COUNT] = {
        [RB_ACT_FORWARD] = h->forward,
        [RB_ACT_BACKWARD] = h->backward,
        [RB_ACT_BACKWARD_INPUT] = h->backward_input,
        [RB_ACT_BACKWARD_WEIGHT] = h->backward_weight,
        [RB_ACT_TRUNK_FORWARD] = h->trunk_forward,
        [RB_ACT_TRUNK_BACKWARD] = h->trunk_backward,
        [RB_ACT_UPDATE] = h->update,
        [RB_ACT_SEND_FORWARD] = h->send_forward,
        [RB_ACT_RECV_FORWARD] = h->recv_forward,
        [RB_ACT_SEND_BACKWARD] = h->send_backward,
        [RB_ACT_RECV_BACKWARD] = h->recv_backward,
    };
    return (unsigned)k < RB_ACT_COUNT ? table[k] : NULL;
}

static resbm_status locate(rb_err *err, resbm_status st, int stage, rb_action a) {
    char cell[RB_ACTION_TEXT];
    rb_action_print(cell, sizeof cell, a);
    return rb_err_context(err, st, "stage %d, action %s: ", stage, cell);
}

/* A hole is found before the first action, not in the middle of a step. */
static resbm_status check_hooks(const rb_action_list *l, int stage, const rb_executor_hooks *hooks,
                                rb_err *err) {
    for (int i = 0; i < l->count; i++) {
        if (hook_of(hooks, l->items[i].kind)) continue;
        resbm_status st = rb_fail(err, RESBM_E_ARG, "no hook is given for this kind of action");
        return locate(err, st, stage, l->items[i]);
    }
    return RESBM_OK;
}

resbm_status rb_execute(const rb_schedule *s, int stage, const rb_executor_hooks *hooks,
                        const atomic_bool *cancel, rb_action_trace *trace, int *done, rb_err *err) {
    return rb_execute_part(s, stage, 0, s->stage[stage].count, 0, hooks, cancel, trace, done, err);
}

resbm_status rb_execute_part(const rb_schedule *s, int stage, int from, int to, int shift,
                             const rb_executor_hooks *hooks, const atomic_bool *cancel,
                             rb_action_trace *trace, int *done, rb_err *err) {
    const rb_action_list *l = &s->stage[stage];
    if (done) *done = 0;
    RB_TRY(check_hooks(l, stage, hooks, err));
    for (int i = 0; i < to - from; i++) {
        rb_action a = l->items[from + i];
        a.microbatch += shift;
        if (cancel && atomic_load_explicit(cancel, memory_order_relaxed))
            return locate(err, rb_fail(err, RESBM_E_CANCELLED, "stopped on request"), stage, a);
        if (trace) trace[i] = (rb_action_trace){.action = a, .begin_ns = rb_now_ns()};
        resbm_status st = hook_of(hooks, a.kind)(hooks->ctx, a, err);
        if (trace) trace[i].end_ns = rb_now_ns();
        if (st != RESBM_OK) return locate(err, st, stage, a);
        if (done) *done = i + 1;
    }
    return RESBM_OK;
}
