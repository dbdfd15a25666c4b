#include "pipeline/steady.h"

enum {
    MORE = 4 /* steps by which the two lists differ */,
    MANY = 400000 /* of these actions one is enough */
};

/* Steps that a microbatch begun in one can be ahead of it. */
static int overlap_of(const rb_schedule_args *a) {
    return (rb_1f1b_deep(a, 0) - 1 + a->microbatches - 1) / a->microbatches;
}

static int more_of(const rb_schedule_args *a) {
    int64_t actions = (int64_t)a->segments * a->microbatches * (2 * overlap_of(a) + 3 + MORE);
    return actions > MANY ? 1 : MORE;
}

int rb_steady_steps(const rb_schedule_kind *kind, const rb_schedule_args *a, int *first) {
    *first = kind->flows ? overlap_of(a) + 1 : 0;
    return kind->flows ? 2 * overlap_of(a) + 3 + more_of(a) : 1;
}

static resbm_status play(const rb_schedule_kind *kind, const rb_schedule_args *a, int steps,
                         const rb_sim_options *o, rb_schedule *list, rb_sim_result *out, rb_err *err) {
    rb_schedule_args args = *a;
    args.steps = steps;
    RB_TRY(rb_schedule_generate(kind, &args, list, err));
    RB_TRY(rb_schedule_communicate(list, err));
    RB_TRY(rb_schedule_trunks(list, a->trunks, err));
    return rb_simulate(list, o, out, err);
}

/* long = (long - less) / more, and the idle share of that. */
static void take_apart(rb_sim_result *longer, const rb_sim_result *less, int more) {
    double busy = 0;
    longer->step = (longer->step - less->step) / more;
    for (int i = 0; i < longer->stages; i++) {
        rb_sim_stage *s = &longer->stage[i];
        const rb_sim_stage *b = &less->stage[i];
        double *const field[] = {&s->busy,      &s->moving,         &s->wait_recv,    &s->wait_peer,
                                 &s->wait_send, &s->wait_bandwidth, &s->wait_latency, &s->end};
        const double before[] = {b->busy,      b->moving,         b->wait_recv,    b->wait_peer,
                                 b->wait_send, b->wait_bandwidth, b->wait_latency, b->end};
        for (size_t f = 0; f < sizeof before / sizeof *before; f++)
            *field[f] = (*field[f] - before[f]) / more;
        for (int d = 0; d < 2; d++) s->sent[d] = (s->sent[d] - b->sent[d]) / more;
        busy += s->busy;
    }
    longer->relay_down = (longer->relay_down - less->relay_down) / more;
    longer->relay_thread = (longer->relay_thread - less->relay_thread) / more;
    longer->relay_up = (longer->relay_up - less->relay_up) / more;
    longer->idle = longer->step > 0 ? 1 - busy / (longer->step * longer->stages) : 0;
}

resbm_status rb_simulate_steady(const rb_schedule_kind *kind, const rb_schedule_args *a,
                                const rb_sim_options *o, rb_schedule *list, rb_sim_result *out, rb_err *err) {
    int first, steps = rb_steady_steps(kind, a, &first), more = more_of(a);
    rb_sim_options same = *o;
    rb_schedule shorter = {0};
    rb_sim_result less = {0};
    *list = (rb_schedule){0};
    *out = (rb_sim_result){.stuck_stage = -1, .stuck_index = -1};
    if (!kind->flows) return play(kind, a, 1, o, list, out, err);
    /* As fine in both: else their difference would be of pieces and not of steps. */
    if (!same.pieces) same.pieces = more == 1 ? 1 : RB_SIM_PIECES;
    resbm_status st = play(kind, a, steps, &same, list, out, err);
    same.no_spans = true;
    if (st == RESBM_OK) st = play(kind, a, steps - more, &same, &shorter, &less, err);
    if (st == RESBM_OK) take_apart(out, &less, more);
    rb_schedule_free(&shorter);
    rb_sim_free(&less);
    return st;
}
