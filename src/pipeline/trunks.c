/* Actions of their own for receivers' trunks. */
#include <stdlib.h>
#include "pipeline/schedules.h"

static const rb_action *find(const rb_action_list *l, rb_action_kind kind, rb_action of) {
    for (int i = 0; i < l->count; i++)
        if (l->items[i].kind == kind && l->items[i].segment == of.segment &&
            l->items[i].microbatch == of.microbatch)
            return &l->items[i];
    return NULL;
}

static bool has_trunks(const rb_schedule *s) {
    for (int i = 0; i < s->stages; i++)
        for (int j = 0; j < s->stage[i].count; j++)
            if (s->stage[i].items[j].kind == RB_ACT_TRUNK_FORWARD ||
                s->stage[i].items[j].kind == RB_ACT_TRUNK_BACKWARD)
                return true;
    return false;
}

/* The forward that a receive at `at` is for stands close behind it, the backward that a send is of close before. */
static resbm_status push(const rb_action_list *l, int at, rb_trunks how, rb_action_list *out, rb_err *err) {
    rb_action a = l->items[at];
    rb_action_list near = {.items = l->items + at, .count = l->count - at};
    const rb_action *forward =
        a.kind == RB_ACT_RECV_FORWARD && how == RB_TRUNKS_APART ? find(&near, RB_ACT_FORWARD, a) : NULL;
    if (forward) {
        rb_action first = *forward;
        first.kind = RB_ACT_TRUNK_FORWARD;
        RB_TRY(rb_action_push(out, first, err));
    }
    RB_TRY(rb_action_push(out, a, err));
    int from = at;
    if (a.kind != RB_ACT_SEND_BACKWARD) return RESBM_OK;
    while (from > 0 && !rb_action_computes(l->items[from].kind)) from--;
    near = (rb_action_list){.items = l->items + from, .count = at - from};
    if (!find(&near, RB_ACT_BACKWARD, a)) return RESBM_OK;
    return rb_action_push(out, rb_action_of(RB_ACT_TRUNK_BACKWARD, a.segment, a.microbatch), err);
}

resbm_status rb_schedule_trunks(rb_schedule *s, rb_trunks how, rb_err *err) {
    if (how == RB_TRUNKS_INSIDE || has_trunks(s)) return RESBM_OK;
    for (int i = 0; i < s->stages; i++) {
        rb_action_list with = {0};
        for (int j = 0; j < s->stage[i].count; j++) {
            resbm_status st = push(&s->stage[i], j, how, &with, err);
            if (st == RESBM_OK) continue;
            free(with.items);
            return st;
        }
        free(s->stage[i].items);
        s->stage[i] = with;
    }
    return RESBM_OK;
}
