#include "pipeline/simulator.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "pipeline/heap.h"

/* One message between its send and its receive; those done with are used again. */
typedef struct message {
    int next; /* in the uplink's queue, or of the free ones; -1 at the end */
    int next_in;
    int next_relayed;
    int from, to, direction;
    int up, passed, down; /* pieces that have left, that may go to the receiver, that have come in */
    double ready;         /* handed over by the sender */
    double last
        [RB_SIM_PIECES]; /* when each piece's last byte reaches the receiver, or the relay before it has passed */
    double done;         /* all there; INFINITY until then */
} message;

typedef struct lane {
    double free;
    bool up_last; /* half duplex: who used it last */
} lane;

typedef struct channel {
    int held;       /* sent, not yet received */
    double freed;   /* when the last one was received */
    int head, tail; /* messages on their way in, in order; -1 none */
    long served;
} channel;

/* One stage's state. */
typedef struct seat {
    int at; /* next action */
    double clock, job_begin, compute_end;
    bool computing; /* under shared cores: its end is not known yet */
    lane up, down;
    int up_head, up_tail; /* half duplex: messages that wait for the lane */
    int at_relay,
        last_at_relay; /* messages of this stage on their way through the relay, in order; -1 none */
    int *peer, peers;  /* stages that messages come from */
} seat;

typedef struct sim {
    const rb_schedule *s;
    const rb_sim_options *o;
    rb_sim_result *r;
    seat *seat;
    channel *chan;   /* (stages, stages) to, from */
    message *msg;    /* pool */
    int pool, spare; /* its size; first free one, -1 none */
    int *by_target;  /* (2, segments, microbatches) message towards that segment, -1 = not under way */
    unsigned char
        *apart; /* (segments) bit 0: its trunk's forward is an action of its own, bit 1: its backward */
    int pieces;
    long turns;
    rb_heap stages,
        jobs; /* stages, and the relay behind them; jobs: by the virtual time of their end, where cores are shared */
    rb_heap relay; /* (stages) whose piece comes in there next */
    double relay_down_free, relay_thread_free, relay_up_free;
    int computing;
    double now, virtual_now;
    bool no_memory;
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
    size_t row = (size_t)direction_of(a.kind) * (size_t)m->s->segments + (size_t)target_segment(a);
    return &m->by_target[row * (size_t)m->s->microbatches + (size_t)a.microbatch];
}

static channel *channel_of(sim *m, int from, int to) {
    return &m->chan[(size_t)to * (size_t)m->s->stages + (size_t)from];
}

static double plain_cost(const sim *m, rb_action a) {
    static const rb_segment_cost unit = {.forward = 1, .backward = 2, .input = 1, .weight = 1};
    const rb_segment_cost *c = m->o->cost ? &m->o->cost[a.segment] : &unit;
    rb_trunk_cost trunk = m->o->trunk ? m->o->trunk[a.segment] : (rb_trunk_cost){0, 0};
    unsigned char apart = m->apart[a.segment];
    switch (a.kind) {
    case RB_ACT_FORWARD:
        return c->forward - (apart & 1 ? trunk.forward : 0);
    case RB_ACT_BACKWARD:
        return c->backward - (apart & 2 ? trunk.backward : 0);
    case RB_ACT_TRUNK_FORWARD:
        return trunk.forward;
    case RB_ACT_TRUNK_BACKWARD:
        return trunk.backward;
    case RB_ACT_BACKWARD_INPUT:
        return c->input;
    case RB_ACT_BACKWARD_WEIGHT:
        return c->weight;
    case RB_ACT_UPDATE:
        return m->o->update ? m->o->update[a.segment] : 0;
    case RB_ACT_SEND_FORWARD:
    case RB_ACT_SEND_BACKWARD:
        return m->o->pack;
    case RB_ACT_RECV_FORWARD:
    case RB_ACT_RECV_BACKWARD:
        return m->o->unpack;
    default:
        return 0;
    }
}

static double cost_of(const sim *m, int stage, rb_action a) {
    return plain_cost(m, a) * (m->o->pace && rb_action_computes(a.kind) ? m->o->pace[stage] : 1);
}

/* --- links ------------------------------------------------------------------------------------------------ */

static double rate_of(const sim *m, int stage, bool up) {
    if (!m->o->port) return 0;
    return up || m->o->half_duplex ? m->o->port[stage].up : m->o->port[stage].down;
}

static double piece_bytes(const sim *m, const message *g) {
    return (g->direction ? m->o->bytes_backward : m->o->bytes_forward) / m->pieces;
}

static double piece_time(const sim *m, const message *g, double rate) {
    return rate > 0 ? piece_bytes(m, g) / rate : 0;
}

static double latency_of(const sim *m, int from) {
    return m->o->latency + (m->o->extra_latency ? m->o->extra_latency[from] : 0);
}

/* The next piece goes through the sender's uplink from `start` on. */
static void leave(sim *m, message *g, double start) {
    seat *s = &m->seat[g->from];
    double latency = latency_of(m, g->from);
    s->up.free = start + piece_time(m, g, rate_of(m, g->from, true));
    g->last[g->up++] = s->up.free + latency;
    if (!m->o->relay) g->passed = g->up;
    if (m->o->latency_occupies && g->up == m->pieces) s->up.free += latency;
}

/* The rate at which a message comes towards its receiver. */
static double rate_towards(const sim *m, const message *g) {
    return m->o->relay ? m->o->relay->up : rate_of(m, g->from, true);
}

/* What the last piece's bytes that came in one go still have to pass. */
static double tail_of(const sim *m, const message *g) {
    double up = rate_towards(m, g), down = rate_of(m, g->to, false);
    if (g->down + 1 < m->pieces || !(up > 0) || !(down > 0)) return 0;
    return fmin(piece_bytes(m, g) * m->pieces, fmax(up * m->o->grain, m->o->segment)) / down;
}

/* When the head of a channel's next piece can begin to enter; INFINITY where none has been sent. */
static double entry_time(sim *m, const message *g) {
    if (g->down == g->passed) return INFINITY;
    double up = piece_time(m, g, rate_towards(m, g)), down = piece_time(m, g, rate_of(m, g->to, false));
    return fmax(m->seat[g->to].down.free, g->last[g->down] - fmin(up, down));
}

/* Of the stages whose messages come in: whose piece is next. Among several at once, the one served longest ago. */
static channel *next_in(sim *m, int stage, double *when) {
    seat *s = &m->seat[stage];
    channel *best = NULL;
    *when = INFINITY;
    for (int i = 0; i < s->peers; i++) {
        channel *c = channel_of(m, s->peer[i], stage);
        if (c->head < 0) continue;
        double t = entry_time(m, &m->msg[c->head]);
        if (t > *when || t == INFINITY || (best && t == *when && c->served > best->served)) continue;
        *when = t;
        best = c;
    }
    return best;
}

static void enter(sim *m, int stage, channel *c, double start) {
    int id = c->head;
    message *g = &m->msg[id];
    double bytes = piece_time(m, g, rate_of(m, stage, false));
    double end = fmax(start + bytes, g->last[g->down] + tail_of(m, g));
    m->seat[stage].down.free = end;
    c->served = ++m->turns;
    if (++g->down < m->pieces) return;
    g->done = end;
    c->head = g->next_in;
}

/* --- stages ----------------------------------------------------------------------------------------------- */

/* When the stage can finish waiting for its next action; INFINITY while that is not known, or at the end. */
static double stage_ready(sim *m, int stage) {
    const rb_action_list *l = &m->s->stage[stage];
    seat *s = &m->seat[stage];
    if (s->computing || s->at == l->count) return INFINITY;
    rb_action a = l->items[s->at];
    if (is_send(a.kind)) {
        if (!m->o->queue_bound) return s->clock;
        channel *c = channel_of(m, stage, rb_schedule_host(m->s, target_segment(a), a.microbatch));
        return c->held >= m->o->queue_bound ? INFINITY : fmax(s->clock, c->freed);
    }
    if (is_recv(a.kind)) {
        int id = *slot_of(m, a);
        return id < 0 ? INFINITY : fmax(s->clock, m->msg[id].done);
    }
    return s->clock;
}

static double lane_ready(sim *m, int stage, channel **in) {
    seat *s = &m->seat[stage];
    double when = INFINITY;
    *in = s->peers ? next_in(m, stage, &when) : NULL;
    if (s->up_head < 0) return when;
    double up = fmax(s->up.free, m->msg[s->up_head].ready);
    if (up > when || (up == when && s->up.up_last)) return when;
    *in = NULL;
    return up;
}

/* Something about the stage has changed: puts it in its place among the others. */
static void touch(sim *m, int stage) {
    channel *in;
    rb_heap_set(&m->stages, stage, fmin(stage_ready(m, stage), lane_ready(m, stage, &in)));
}

/* --- the relay -------------------------------------------------------------------------------------------- */

/* When the head of a sender's next piece can begin to come in there. */
static double relay_entry(const sim *m, int sender) {
    if (m->seat[sender].at_relay < 0) return INFINITY;
    const message *g = &m->msg[m->seat[sender].at_relay];
    if (g->passed == g->up) return INFINITY;
    double up = piece_time(m, g, rate_of(m, sender, true)), down = piece_time(m, g, m->o->relay->down);
    return g->last[g->passed] - fmin(up, down);
}

static void touch_relay(sim *m, int sender) {
    rb_heap_set(&m->relay, sender, relay_entry(m, sender));
    rb_heap_set(&m->stages, m->s->stages, fmax(m->relay_down_free, rb_heap_first(&m->relay).time));
}

static void start_relaying(sim *m, int id) {
    message *g = &m->msg[id];
    seat *s = &m->seat[g->from];
    if (s->at_relay < 0)
        s->at_relay = id;
    else
        m->msg[s->last_at_relay].next_relayed = id;
    s->last_at_relay = id;
    touch_relay(m, g->from);
}

/* One part of the relay works for so long, from when the part before lets it; returns when it is done. */
static double work_on(double *free, double *busy, double from, double takes) {
    *busy += takes;
    return *free = fmax(*free, from) + takes;
}

/* The piece that comes in first goes through. */
static void run_relay(sim *m) {
    const rb_sim_relay *r = m->o->relay;
    int sender = rb_heap_first(&m->relay).id;
    message *g = &m->msg[m->seat[sender].at_relay];
    double bytes = piece_bytes(m, g), begin = rb_heap_first(&m->relay).time;
    double in = work_on(&m->relay_down_free, &m->r->relay_down, begin, piece_time(m, g, r->down));
    in = m->relay_down_free = fmax(in, g->last[g->passed]);
    double seen =
        work_on(&m->relay_thread_free, &m->r->relay_thread, in, r->message / m->pieces + bytes * r->byte);
    double out = work_on(&m->relay_up_free, &m->r->relay_up, seen, piece_time(m, g, r->up));
    g->last[g->passed++] = out + r->latency;
    if (g->passed == m->pieces) {
        m->seat[sender].at_relay = g->next_relayed;
        if (!m->o->half_duplex && !(rate_of(m, g->to, false) > 0)) g->done = g->last[m->pieces - 1];
    }
    touch_relay(m, sender);
    touch(m, g->to);
}

static int new_message(sim *m) {
    if (m->spare < 0) {
        int n = m->pool ? 2 * m->pool : 256;
        message *p = realloc(m->msg, (size_t)n * sizeof *p);
        if (!p) {
            m->no_memory = true;
            return -1;
        }
        m->msg = p;
        for (int i = n - 1; i >= m->pool; i--) {
            p[i].next = m->spare;
            m->spare = i;
        }
        m->pool = n;
    }
    int id = m->spare;
    m->spare = m->msg[id].next;
    return id;
}

static void add_peer(sim *m, int from, int to) {
    seat *s = &m->seat[to];
    int *p = realloc(s->peer, (size_t)(s->peers + 1) * sizeof *p);
    if (!p) {
        m->no_memory = true;
        return;
    }
    s->peer = p;
    p[s->peers++] = from;
}

static void start_incoming(sim *m, int id) {
    message *g = &m->msg[id];
    channel *c = channel_of(m, g->from, g->to);
    if (!c->served) {
        c->served = ++m->turns;
        add_peer(m, g->from, g->to);
    }
    if (c->head < 0)
        c->head = id;
    else
        m->msg[c->tail].next_in = id;
    c->tail = id;
}

static void queue_up(sim *m, seat *s, int id) {
    if (s->up_head < 0)
        s->up_head = id;
    else
        m->msg[s->up_tail].next = id;
    s->up_tail = id;
}

static void send(sim *m, int stage, rb_action a, double now) {
    int id = new_message(m), to = rb_schedule_host(m->s, target_segment(a), a.microbatch);
    if (id < 0) return;
    message *g = &m->msg[id];
    *g = (message){.next = -1,
                   .next_in = -1,
                   .next_relayed = -1,
                   .from = stage,
                   .to = to,
                   .direction = direction_of(a.kind),
                   .ready = now,
                   .done = INFINITY};
    *slot_of(m, a) = id;
    channel_of(m, stage, to)->held++;
    m->r->stage[stage].sent[g->direction]++;
    if (m->o->half_duplex) {
        queue_up(m, &m->seat[stage], id);
        start_incoming(m, id);
        if (m->o->relay) start_relaying(m, id);
        return;
    }
    /* First in, first out: everything about the way out is known at once. */
    double start = fmax(m->seat[stage].up.free, now);
    while (g->up < m->pieces) leave(m, g, g->up ? m->seat[stage].up.free : start);
    if (rate_of(m, to, false) > 0)
        start_incoming(m, id);
    else if (!m->o->relay)
        g->done = g->last[m->pieces - 1];
    if (m->o->relay) start_relaying(m, id);
    touch(m, to);
}

static void count_wait(sim *m, rb_sim_stage *st, const message *g, double from, double to) {
    double latency = latency_of(m, g->from) + (m->o->relay ? m->o->relay->latency : 0),
           arrived = g->last[m->pieces - 1];
    double peer = fmax(0, fmin(to, g->ready) - from);
    double begin = fmax(from + peer, arrived - latency), end = fmin(to, arrived);
    double flying = fmax(0, end - begin);
    st->wait_recv += to - from;
    st->wait_peer += peer;
    st->wait_latency += flying;
    st->wait_bandwidth += fmax(0, to - from - peer - flying);
}

static void receive(sim *m, int stage, rb_action a, double begin, double ready) {
    int *slot = slot_of(m, a);
    message *g = &m->msg[*slot];
    channel *c = channel_of(m, g->from, stage);
    count_wait(m, &m->r->stage[stage], g, begin, ready);
    c->held--;
    c->freed = ready;
    g->next = m->spare;
    m->spare = *slot;
    *slot = -1;
    if (m->o->queue_bound) touch(m, g->from);
}

static void note_span(sim *m, int stage, int index, double begin, double end) {
    if (m->r->span) m->r->span[stage][index] = (rb_sim_span){begin, end};
    m->r->stage[stage].end = m->seat[stage].clock = end;
}

double rb_sim_crowding(const rb_sim_options *o, int computing) {
    if (!(o->cores > 0) || computing < 1) return 1;
    double served = fmin(computing, fmax(o->cores / 2, o->cores - o->background)), slower = 1;
    if (o->crowd > 1 && o->at_once > 1 && served > 1)
        slower += (o->crowd - 1) * (served - 1) / (o->at_once - 1);
    return slower * computing / served;
}

/* Virtual time goes on as fast as each of the stages that compute. */
static double speed(const sim *m) {
    return 1 / rb_sim_crowding(m->o, m->computing);
}

static void run_action(sim *m, int stage, double ready) {
    seat *s = &m->seat[stage];
    int index = s->at++;
    rb_action a = m->s->stage[stage].items[index];
    rb_sim_stage *st = &m->r->stage[stage];
    double begin = s->clock, cost = cost_of(m, stage, a);
    if (rb_action_computes(a.kind) && m->o->cores > 0) {
        s->computing = true;
        s->job_begin = ready;
        m->computing++;
        rb_heap_set(&m->jobs, stage, m->virtual_now + cost);
        return;
    }
    if (is_send(a.kind)) {
        st->wait_send += ready - begin;
        send(m, stage, a, ready + cost);
    } else if (is_recv(a.kind)) {
        receive(m, stage, a, begin, ready);
    }
    *(rb_action_computes(a.kind) ? &st->busy : &st->moving) += cost;
    note_span(m, stage, index, begin, ready + cost);
}

static void finish_job(sim *m, int stage, double now) {
    seat *s = &m->seat[stage];
    s->computing = false;
    m->computing--;
    rb_heap_set(&m->jobs, stage, INFINITY);
    m->r->stage[stage].busy += now - s->job_begin;
    note_span(m, stage, s->at - 1, s->clock, now);
    touch(m, stage);
}

/* The stage is next: its actions that can be done by now, or else what its lanes have to do. */
static void run_stage(sim *m, int stage, double now) {
    double ready = stage_ready(m, stage);
    channel *in;
    if (ready <= now) {
        for (; ready <= now && !m->no_memory; ready = stage_ready(m, stage)) run_action(m, stage, ready);
    } else {
        seat *s = &m->seat[stage];
        double start = lane_ready(m, stage, &in);
        if (in) {
            enter(m, stage, in, start);
            s->up.up_last = false;
        } else {
            message *g = &m->msg[s->up_head];
            leave(m, g, start);
            s->up.up_last = true;
            if (g->up == m->pieces) s->up_head = g->next;
            if (m->o->relay)
                touch_relay(m, stage);
            else
                touch(m, g->to);
        }
        if (m->o->half_duplex) s->up.free = s->down.free = in ? s->down.free : s->up.free;
    }
    touch(m, stage);
}

/* Runs the earliest thing that can happen; false when nothing can. */
static bool next_event(sim *m) {
    int who = rb_heap_first(&m->stages).id;
    double when = rb_heap_first(&m->stages).time;
    if (m->computing) {
        rb_heap_entry job = rb_heap_first(&m->jobs);
        double end = m->now + (job.time - m->virtual_now) / speed(m);
        if (end <= when) {
            m->virtual_now = job.time;
            m->now = end;
            finish_job(m, job.id, end);
            return true;
        }
    }
    if (!(when < INFINITY) || m->no_memory) return false;
    if (when > m->now) { /* a list that begins in the past of another's message is still in order */
        m->virtual_now += (when - m->now) * speed(m);
        m->now = when;
    }
    if (who == m->s->stages)
        run_relay(m);
    else
        run_stage(m, who, when);
    return true;
}

/* --- the whole -------------------------------------------------------------------------------------------- */

static resbm_status report_stuck(sim *m, rb_err *err) {
    char text[600] = "", cell[RB_ACTION_TEXT];
    size_t n = 0;
    for (int i = 0; i < m->s->stages; i++) {
        if (m->seat[i].at == m->s->stage[i].count) continue;
        if (m->r->stuck_stage < 0) {
            m->r->stuck_stage = i;
            m->r->stuck_index = m->seat[i].at;
        }
        rb_action_print(cell, sizeof cell, m->s->stage[i].items[m->seat[i].at]);
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

static bool take_spans(sim *m) {
    m->r->span = calloc((size_t)m->s->stages, sizeof *m->r->span);
    for (int i = 0; m->r->span && i < m->s->stages; i++) {
        m->r->span[i] = calloc((size_t)m->s->stage[i].count + 1, sizeof **m->r->span);
        if (!m->r->span[i]) return false;
    }
    return m->r->span != NULL;
}

static bool take_memory(sim *m) {
    size_t stages = (size_t)m->s->stages;
    size_t targets = 2 * (size_t)m->s->segments * (size_t)m->s->microbatches;
    m->r->stage = calloc(stages, sizeof *m->r->stage);
    m->seat = calloc(stages, sizeof *m->seat);
    m->chan = malloc(stages * stages * sizeof *m->chan);
    m->apart = calloc((size_t)m->s->segments + 1, 1);
    m->by_target = malloc(targets * sizeof *m->by_target);
    if (!m->r->stage || !m->seat || !m->chan || !m->apart || !m->by_target) return false;
    if (!m->o->no_spans && !take_spans(m)) return false;
    memset(m->by_target, -1, targets * sizeof *m->by_target);
    for (size_t i = 0; i < stages * stages; i++) m->chan[i] = (channel){.head = -1};
    return rb_heap_open(&m->stages, m->s->stages + 1) && rb_heap_open(&m->jobs, m->s->stages) &&
           rb_heap_open(&m->relay, m->s->stages);
}

static void begin(sim *m) {
    long messages = 0;
    for (int i = 0; i < m->s->stages; i++) {
        seat *s = &m->seat[i];
        s->up_head = s->at_relay = -1;
        s->clock = m->o->start ? m->o->start[i] : 0;
        messages += m->s->stage[i].count / 3;
        for (int j = 0; j < m->s->stage[i].count; j++) {
            rb_action a = m->s->stage[i].items[j];
            if (a.kind == RB_ACT_TRUNK_FORWARD) m->apart[a.segment] |= 1;
            if (a.kind == RB_ACT_TRUNK_BACKWARD) m->apart[a.segment] |= 2;
        }
    }
    m->pieces = m->o->pieces ? m->o->pieces : messages < 200000 ? RB_SIM_PIECES : 1;
    if (!m->o->port) m->pieces = 1;
    for (int i = 0; i < m->s->stages; i++) touch(m, i);
}

static void release(sim *m) {
    for (int i = 0; m->seat && i < m->s->stages; i++) free(m->seat[i].peer);
    free(m->seat);
    free(m->chan);
    free(m->by_target);
    free(m->apart);
    free(m->msg);
    rb_heap_close(&m->stages);
    rb_heap_close(&m->jobs);
    rb_heap_close(&m->relay);
}

resbm_status rb_simulate(const rb_schedule *s, const rb_sim_options *o, rb_sim_result *out, rb_err *err) {
    *out = (rb_sim_result){.stages = s->stages, .stuck_stage = -1, .stuck_index = -1};
    sim m = {.s = s, .o = o, .r = out, .spare = -1};
    resbm_status st = RESBM_OK;
    bool room = take_memory(&m);
    if (room) {
        begin(&m);
        while (next_event(&m)) {
        }
    }
    if (room && !m.no_memory) {
        st = report_stuck(&m, err);
        finish(&m);
    } else {
        st = rb_fail(err, RESBM_E_MEMORY, "no memory to simulate %d stages with %d microbatches", s->stages,
                     s->microbatches);
    }
    release(&m);
    return st;
}

void rb_sim_free(rb_sim_result *r) {
    for (int i = 0; r->span && i < r->stages; i++) free(r->span[i]);
    free(r->span);
    free(r->stage);
    *r = (rb_sim_result){0};
}
