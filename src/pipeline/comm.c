#include <stdlib.h>
#include "pipeline/schedules.h"

/* Does the action's segment have a neighbour in this direction (+1, -1), on another stage? */
static bool remote(const rb_schedule *s, rb_action a, int step) {
    int n = a.segment + step;
    return n >= 0 && n < s->segments &&
           rb_schedule_host(s, n, a.microbatch) != rb_schedule_host(s, a.segment, a.microbatch);
}

static resbm_status push_with_messages(const rb_schedule *s, rb_action a, rb_action_list *out, rb_err *err) {
    bool forward = a.kind == RB_ACT_FORWARD;
    bool backward = a.kind == RB_ACT_BACKWARD || a.kind == RB_ACT_BACKWARD_INPUT;
    int from = forward ? -1 : 1;
    rb_action_kind recv = forward ? RB_ACT_RECV_FORWARD : RB_ACT_RECV_BACKWARD;
    rb_action_kind send = forward ? RB_ACT_SEND_FORWARD : RB_ACT_SEND_BACKWARD;
    if ((forward || backward) && remote(s, a, from))
        RB_TRY(rb_action_push(out, rb_action_of(recv, a.segment, a.microbatch), err));
    RB_TRY(rb_action_push(out, a, err));
    if ((forward || backward) && remote(s, a, -from))
        RB_TRY(rb_action_push(out, rb_action_of(send, a.segment, a.microbatch), err));
    return RESBM_OK;
}

resbm_status rb_schedule_communicate(rb_schedule *s, rb_err *err) {
    for (int i = 0; i < s->stages; i++) {
        rb_action_list with = {0};
        for (int j = 0; j < s->stage[i].count; j++) {
            resbm_status st = push_with_messages(s, s->stage[i].items[j], &with, err);
            if (st == RESBM_OK) continue;
            free(with.items);
            return st;
        }
        free(s->stage[i].items);
        s->stage[i] = with;
    }
    return RESBM_OK;
}
