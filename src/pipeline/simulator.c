#include "pipeline/simulator.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct message {
    int from, to, next; /* next in the uplink's or downlink's list, -1 at the end */
    int direction;
    double ready; /* handed over by the sender */
    double sent;  /* last byte has left */
    double first; /* first byte reaches the receiver */
    double done;  /* all there; INFINITY until the downlink has taken it */
} message;

typedef struct port {
    double up_free, down_free;
    int up_head, up_tail, down_head;
} port;

typedef struct channel {
    int held;     /* sent, not yet received */
    double freed; /* when the last one was received */
} channel;

typedef struct sim {
    const rb_schedule *s;
    const rb_sim_options *o;
    rb_sim_result *r;
    int *at;       /* (stages) next action */
    double *clock; /* (stages) */
    port *port;    /* (stages) */
    channel *chan; /* (stages, stages) from, to */
    message *msg;  /* every message, in order of sending */
    int messages;
    int *by_target; /* (2, segments, microbatches) message towards that segment, -1 = not sent */
} sim;

static bool is_send(rb_action_kind k) {
    return k == RB_ACT_SEND_FORWARD || k == RB_ACT_SEND_BACKWARD;
}
static bool is_recv(rb_action_kind k) {
    return k == RB_ACT_RECV_FORWARD || k == RB_ACT_RECV_BACKWARD;
}
static int direction_of(rb_action_kind k) {
    return k == RB_ACT_SEND_BACKWARD || k == RB_ACT_RECV_BACKWARD;
}

/* The segment a message's address names, from either end. */
static int target_segment(rb_action a) {
    if (a.kind == RB_ACT_SEND_FORWARD) return a.segment + 1;
    if (a.kind == RB_ACT_SEND_BACKWARD) return a.segment - 1;
    return a.segment;
}

static int *slot_of(sim *m, rb_action a) {
    size_t row = (size_t)direction_of(a.kind) * m->s->segments + target_segment(a);
    return &m->by_target[row * m->s->microbatches + a.microbatch];
}

static channel *channel_of(sim *m, int from, int to) {
    return &m->chan[(size_t)from * m->s->stages + to];
}

static double cost_of(const sim *m, rb_action a) {
    static const rb_segment_cost unit = {1, 2, 1, 1};
    const rb_segment_cost *c = m->o->cost ? &m->o->cost[a.segment] : &unit;
    switch (a.kind) {
    case RB_ACT_FORWARD:
        return c->forward;
    case RB_ACT_BACKWARD:
        return c->backward;
    case RB_ACT_BACKWARD_INPUT:
        return c->input;
    case RB_ACT_BACKWARD_WEIGHT:
        return c->weight;
    default:
        return 0;
    }
}

/* When the stage can finish waiting for its next action; INFINITY while that is not known, or at the end. */
static double stage_ready(sim *m, int stage) {
    const rb_action_list *l = &m->s->stage[stage];
    if (m->at[stage] == l->count) return INFINITY;
    rb_action a = l->items[m->at[stage]];
    if (is_send(a.kind)) {
        channel *c = channel_of(m, stage, m->s->stage_of[target_segment(a)]);
        bool full = m->o->queue_bound && c->held >= m->o->queue_bound;
        return full ? INFINITY : m->o->queue_bound ? fmax(m->clock[stage], c->freed) : m->clock[stage];
    }
    if (is_recv(a.kind)) {
        int id = *slot_of(m, a);
        return id < 0 ? INFINITY : fmax(m->clock[stage], m->msg[id].done);
    }
    return m->clock[stage];
}

static void send(sim *m, int stage, rb_action a, double now) {
    int id = m->messages++, to = m->s->stage_of[target_segment(a)];
    m->msg[id] = (message){.from = stage,
                           .to = to,
                           .next = -1,
                           .direction = direction_of(a.kind),
                           .ready = now,
                           .done = INFINITY};
    *slot_of(m, a) = id;
    channel_of(m, stage, to)->held++;
    port *p = &m->port[stage];
    if (p->up_head < 0)
        p->up_head = id;
    else
        m->msg[p->up_tail].next = id;
    p->up_tail = id;
}

static void run_action(sim *m, int stage, double ready) {
    int index = m->at[stage]++;
    rb_action a = m->s->stage[stage].items[index];
    rb_sim_stage *st = &m->r->stage[stage];
    double begin = m->clock[stage], cost = cost_of(m, a);
    if (is_send(a.kind)) {
        st->wait_send += ready - begin;
        send(m, stage, a, ready);
    } else if (is_recv(a.kind)) {
        st->wait_recv += ready - begin;
        channel *c = channel_of(m, m->msg[*slot_of(m, a)].from, stage);
        c->held--;
        c->freed = ready;
    }
    st->busy += cost;
    st->end = m->clock[stage] = ready + cost;
    m->r->span[stage][index] = (rb_sim_span){begin, st->end};
}

static double transfer_time(const sim *m, const message *g, double rate) {
    double bytes = g->direction ? m->o->bytes_backward : m->o->bytes_forward;
    return rate > 0 ? bytes / rate : 0;
}

static double up_ready(sim *m, int stage) {
    const port *p = &m->port[stage];
    return p->up_head < 0 ? INFINITY : fmax(p->up_free, m->msg[p->up_head].ready);
}

static void run_up(sim *m, int stage, double now) {
    port *p = &m->port[stage];
    message *g = &m->msg[p->up_head];
    int id = p->up_head;
    p->up_head = g->next;
    g->sent = now + transfer_time(m, g, m->o->port ? m->o->port[stage].up : 0);
    g->first = now + m->o->latency;
    p->up_free = g->sent;
    if (m->o->half_duplex) p->down_free = g->sent;
    g->next = m->port[g->to].down_head;
    m->port[g->to].down_head = id;
}

/* The link to the message in a stage's downlink list whose first byte came first; the newest stands in front, so
 * that of two that came together the one sent first wins. */
static int *first_arrival(sim *m, int stage) {
    int *best = &m->port[stage].down_head;
    for (int *p = best; *p >= 0; p = &m->msg[*p].next) {
        if (m->msg[*p].first <= m->msg[*best].first) best = p;
    }
    return best;
}

static double down_ready(sim *m, int stage) {
    int id = *first_arrival(m, stage);
    return id < 0 ? INFINITY : fmax(m->port[stage].down_free, m->msg[id].first);
}

static void run_down(sim *m, int stage, double now) {
    int *link = first_arrival(m, stage);
    message *g = &m->msg[*link];
    *link = g->next;
    double alone = now + transfer_time(m, g, m->o->port ? m->o->port[stage].down : 0);
    g->done = fmax(alone, g->sent + m->o->latency);
    m->port[stage].down_free = g->done;
    if (m->o->half_duplex) m->port[stage].up_free = g->done;
}

/* Runs the earliest thing that can happen; false when nothing can. Among things of one moment stages go
 * first. */
static bool next_event(sim *m) {
    double (*const ready[3])(sim *, int) = {stage_ready, up_ready, down_ready};
    void (*const run[3])(sim *, int, double) = {run_action, run_up, run_down};
    double best = INFINITY;
    int what = 0, who = -1;
    for (int k = 0; k < 3; k++) {
        for (int i = 0; i < m->s->stages; i++) {
            double t = ready[k](m, i);
            if (!(t < best)) continue;
            best = t;
            what = k;
            who = i;
        }
    }
    if (who < 0) return false;
    run[what](m, who, best);
    return true;
}

static resbm_status report_stuck(sim *m, rb_err *err) {
    char text[600] = "", cell[RB_ACTION_TEXT];
    size_t n = 0;
    for (int i = 0; i < m->s->stages; i++) {
        if (m->at[i] == m->s->stage[i].count) continue;
        if (m->r->stuck_stage < 0) {
            m->r->stuck_stage = i;
            m->r->stuck_index = m->at[i];
        }
        rb_action_print(cell, sizeof cell, m->s->stage[i].items[m->at[i]]);
        if (n < sizeof text - 80)
            n +=
                (size_t)snprintf(text + n, sizeof text - n, "%sstage %d waits at %s", n ? ", " : "", i, cell);
    }
    if (m->r->stuck_stage < 0) return RESBM_OK;
    return rb_fail(err, RESBM_E_STATE, "deadlock: %s", text);
}

static void finish(sim *m) {
    double busy = 0;
    for (int i = 0; i < m->s->stages; i++) {
        m->r->step = fmax(m->r->step, m->r->stage[i].end);
        busy += m->r->stage[i].busy;
    }
    m->r->idle = m->r->step > 0 ? 1 - busy / (m->r->step * m->s->stages) : 0;
}

static bool take_memory(sim *m) {
    size_t stages = (size_t)m->s->stages, sends = 1;
    size_t targets = 2 * (size_t)m->s->segments * (size_t)m->s->microbatches;
    m->r->stage = calloc(stages, sizeof *m->r->stage);
    m->r->span = calloc(stages, sizeof *m->r->span);
    m->at = calloc(stages, sizeof *m->at);
    m->clock = calloc(stages, sizeof *m->clock);
    m->port = calloc(stages, sizeof *m->port);
    m->chan = calloc(stages * stages, sizeof *m->chan);
    m->by_target = malloc(targets * sizeof *m->by_target);
    if (!m->r->stage || !m->r->span || !m->at || !m->clock || !m->port || !m->chan || !m->by_target)
        return false;
    memset(m->by_target, -1, targets * sizeof *m->by_target);
    for (size_t i = 0; i < stages; i++) {
        m->port[i] = (port){.up_head = -1, .up_tail = -1, .down_head = -1};
        sends += (size_t)m->s->stage[i].count;
        m->r->span[i] = calloc((size_t)m->s->stage[i].count + 1, sizeof **m->r->span);
        if (!m->r->span[i]) return false;
    }
    m->msg = malloc(sends * sizeof *m->msg);
    return m->msg != NULL;
}

resbm_status rb_simulate(const rb_schedule *s, const rb_sim_options *o, rb_sim_result *out, rb_err *err) {
    *out = (rb_sim_result){.stages = s->stages, .stuck_stage = -1, .stuck_index = -1};
    sim m = {.s = s, .o = o, .r = out};
    resbm_status st = RESBM_OK;
    if (take_memory(&m)) {
        while (next_event(&m)) {
        }
        st = report_stuck(&m, err);
        finish(&m);
    } else {
        st = rb_fail(err, RESBM_E_MEMORY, "no memory to simulate %d stages with %d microbatches", s->stages,
                     s->microbatches);
    }
    free(m.at);
    free(m.clock);
    free(m.port);
    free(m.chan);
    free(m.by_target);
    free(m.msg);
    return st;
}

void rb_sim_free(rb_sim_result *r) {
    for (int i = 0; r->span && i < r->stages; i++) free(r->span[i]);
    free(r->span);
    free(r->stage);
    *r = (rb_sim_result){0};
}
