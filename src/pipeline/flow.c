/* Lists that flow from step to step: which part of them is a step's. */
#include <stdlib.h>
#include <string.h>
#include "pipeline/schedules.h"

/* Behind the last update by microbatch `m`; 0 for m < 0. */
static int cut(const rb_schedule *s, int stage, int m) {
    const rb_action_list *l = &s->stage[stage];
    int at = 0;
    for (int i = 0; i < l->count; i++)
        if (l->items[i].kind == RB_ACT_UPDATE && l->items[i].microbatch == m) at = i + 1;
    return at;
}

static void part_of(const rb_flow *f, int stage, int n, int *from, int *to) {
    *from = cut(&f->list, stage, n * f->per_step - 1);
    *to = cut(&f->list, stage, (n + 1) * f->per_step - 1);
}

/* Are the parts of steps n and n + 1 the same on every stage? */
static bool repeats(const rb_flow *f, int n) {
    for (int i = 0; i < f->list.stages; i++) {
        int a, b, c, d;
        part_of(f, i, n, &a, &b);
        part_of(f, i, n + 1, &c, &d);
        if (b - a != d - c) return false;
        for (int k = 0; k < b - a; k++) {
            rb_action x = f->list.stage[i].items[a + k], y = f->list.stage[i].items[c + k];
            x.microbatch += f->per_step;
            if (x.kind != y.kind || x.segment != y.segment || x.microbatch != y.microbatch ||
                x.behind != y.behind)
                return false;
        }
    }
    return true;
}

resbm_status rb_flow_build(const rb_schedule_kind *kind, const rb_schedule_args *a, rb_flow *out,
                           int *in_flight, int *stash, rb_err *err) {
    rb_schedule_args args = *a;
    *out = (rb_flow){.per_step = a->microbatches};
    if (!kind->flows) return rb_fail(err, RESBM_E_ARG, "%s does not flow from step to step", kind->name);
    int overlap = (rb_1f1b_deep(a, 0) - 1 + a->microbatches - 1) / a->microbatches;
    out->steady = overlap + 1;
    args.steps = 2 * overlap + 3; /* whose last ones end what is in flight */
    RB_TRY(rb_schedule_build_stash(kind, &args, &out->list, in_flight, stash, err));
    if (repeats(out, out->steady)) return RESBM_OK;
    return rb_fail(err, RESBM_E_INTERNAL, "%s: steps %d and %d differ", kind->name, out->steady,
                   out->steady + 1);
}

int rb_flow_overlap(const rb_flow *f) {
    return f->steady - 1;
}

void rb_flow_part(const rb_flow *f, int stage, int n, int *from, int *to, int *shift) {
    int in_list = n < f->steady ? n : f->steady;
    *shift = (n - in_list) * f->per_step;
    part_of(f, stage, in_list, from, to);
}

/* The message a send makes, by the receive that takes it. */
static rb_action as_receive(rb_action a) {
    if (a.kind == RB_ACT_SEND_FORWARD) return rb_action_of(RB_ACT_RECV_FORWARD, a.segment + 1, a.microbatch);
    return rb_action_of(RB_ACT_RECV_BACKWARD, a.segment - 1, a.microbatch);
}

static bool is_send(rb_action_kind k) {
    return k == RB_ACT_SEND_FORWARD || k == RB_ACT_SEND_BACKWARD;
}

static size_t mark_of(const rb_schedule *s, rb_action a) {
    size_t row = (size_t)(a.kind == RB_ACT_RECV_BACKWARD) * (size_t)s->segments + (size_t)a.segment;
    return row * (size_t)s->microbatches + (size_t)a.microbatch;
}

resbm_status rb_flow_undelivered(const rb_flow *f, int stage, int n, rb_action_list *out, int *shift,
                                 rb_err *err) {
    const rb_schedule *s = &f->list;
    int from, to;
    unsigned char *sent = calloc(2 * (size_t)s->segments, (size_t)s->microbatches);
    resbm_status st =
        sent ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory to look for messages under way");
    for (int i = 0; i < s->stages && !st; i++) {
        rb_flow_part(f, i, n, &from, &to, shift);
        for (int j = 0; j < to; j++) {
            rb_action a = s->stage[i].items[j];
            if (is_send(a.kind)) sent[mark_of(s, as_receive(a))] = 1;
        }
    }
    rb_flow_part(f, stage, n, &from, &to, shift);
    for (int j = to; j < s->stage[stage].count && !st; j++) {
        rb_action a = s->stage[stage].items[j];
        if ((a.kind == RB_ACT_RECV_FORWARD || a.kind == RB_ACT_RECV_BACKWARD) && sent[mark_of(s, a)])
            st = rb_action_push(out, a, err);
    }
    free(sent);
    return st;
}
