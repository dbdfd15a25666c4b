/* The simulator's links against src/link/shape, which is what runs: every message of a step, handed over when the
 * simulator says, is passed through the arithmetic of real shapes, segment by segment. */
#include <math.h>
#include <stdlib.h>
#include "link/shape.h"
#include "pipeline/simulator.h"
#include "pipeline/testing.h"

typedef struct flight { /* one segment on its way */
    double arrive;
    int message, bytes;
} flight;

typedef struct message {
    int from, to, direction;
    double handed, done,
        simulated; /* simulated: when the simulator's receiver had it; negative: it did not wait */
} message;

typedef struct world {
    rb_schedule s;
    rb_sim_options o;
    rb_sim_result r;
    message *msg;
    int count;
    int payload[2];
    rb_shape_options shape;
} world;

static int target(rb_action a) {
    return a.kind == RB_ACT_SEND_FORWARD    ? a.segment + 1
           : a.kind == RB_ACT_SEND_BACKWARD ? a.segment - 1
                                            : a.segment;
}

/* The receive of what stage i sends at j. */
static double received(const world *w, int to, rb_action sent) {
    bool forward = sent.kind == RB_ACT_SEND_FORWARD;
    for (int j = 0; j < w->s.stage[to].count; j++) {
        rb_action a = w->s.stage[to].items[j];
        if (a.kind != (forward ? RB_ACT_RECV_FORWARD : RB_ACT_RECV_BACKWARD)) continue;
        if (a.segment != target(sent) || a.microbatch != sent.microbatch) continue;
        return w->r.span[to][j].end > w->r.span[to][j].begin ? w->r.span[to][j].end : -1;
    }
    fail_msg("nobody receives");
    return 0;
}

static void collect(world *w) {
    w->msg = calloc(100000, sizeof *w->msg);
    w->count = 0;
    for (int i = 0; i < w->s.stages; i++) {
        for (int j = 0; j < w->s.stage[i].count; j++) {
            rb_action a = w->s.stage[i].items[j];
            if (a.kind != RB_ACT_SEND_FORWARD && a.kind != RB_ACT_SEND_BACKWARD) continue;
            int to = w->s.stage_of[target(a)];
            w->msg[w->count++] =
                (message){i, to, a.kind == RB_ACT_SEND_BACKWARD, w->r.span[i][j].end, 0, received(w, to, a)};
        }
    }
}

/* Messages of one stage leave in the order of msg, which is the order of its list. */
static int send_all(world *w, int stage, int to, flight *out) {
    rb_shape shape;
    rb_shape_stream stream[8];
    int n = 0;
    rb_shape_init(&shape, &w->shape);
    for (int i = 0; i < 8; i++) rb_shape_stream_init(&stream[i], &shape, i);
    for (int i = 0; i < w->count; i++) {
        const message *m = &w->msg[i];
        if (m->from != stage) continue;
        for (int left = w->payload[m->direction]; left > 0; left -= RB_SEGMENT_PAYLOAD) {
            int bytes = left < RB_SEGMENT_PAYLOAD ? left : RB_SEGMENT_PAYLOAD;
            rb_shape_trip t = rb_shape_send(&shape, &stream[m->to], (int64_t)(m->handed * 1e9), bytes);
            if (m->to == to) out[n++] = (flight){(double)t.arrive_ns * 1e-9, i, bytes};
        }
    }
    return n;
}

/* What comes from each stage, in order, and how much of it has gone in. */
typedef struct inflow {
    flight *f;
    int count, at;
    long served;
} inflow;

/* The stage whose segment goes in next: of those that wait the one served longest ago, as the link's thread turns from
 * one connection to the next; else whose comes first. */
static int next_inflow(const inflow *in, int stages, double free) {
    int best = -1;
    for (int i = 0; i < stages; i++) {
        if (in[i].at == in[i].count) continue;
        double t = fmax(free, in[i].f[in[i].at].arrive),
               u = best < 0 ? 0 : fmax(free, in[best].f[in[best].at].arrive);
        if (best < 0 || t < u || (t == u && in[i].served < in[best].served)) best = i;
    }
    return best;
}

static void pass_into(world *w, int to) {
    inflow in[8] = {0};
    rb_shape shape;
    rb_shape_stream stream[8];
    long turns = 0;
    rb_shape_init(&shape, &w->shape);
    for (int i = 0; i < w->s.stages; i++) {
        rb_shape_stream_init(&stream[i], &shape, i);
        in[i].f = malloc(100000 * sizeof *in[i].f);
        in[i].count = send_all(w, i, to, in[i].f);
    }
    for (int i; (i = next_inflow(in, w->s.stages, (double)shape.down->free_ns * 1e-9)) >= 0;) {
        const flight *f = &in[i].f[in[i].at++];
        int64_t done = rb_shape_receive(&shape, &stream[i], (int64_t)(f->arrive * 1e9), (uint64_t)f->bytes);
        w->msg[f->message].done = (double)done * 1e-9;
        in[i].served = ++turns;
    }
    for (int i = 0; i < w->s.stages; i++) free(in[i].f);
}

static void pass_through(world *w) {
    for (int to = 0; to < w->s.stages; to++) pass_into(w, to);
}

/* A message may differ by a piece of its own and one of whoever shares the downlink; on average they agree much better. */
static void compare(const world *w, const char *what) {
    double slower = 8 / fmin(w->shape.up_bits, w->shape.down_bits), sum = 0, worst = 0;
    int n = 0;
    for (int i = 0; i < w->count; i++) {
        const message *m = &w->msg[i];
        if (m->simulated < 0) continue;
        double transit = m->done - m->handed, off = m->simulated - m->done;
        double most = 2 * ((double)w->payload[m->direction] / RB_SIM_PIECES + 1514) * slower;
        if (fabs(off) > most)
            fail_msg("%s: message %d from stage %d to %d takes %.6f s, the simulator says %.6f", what, i,
                     m->from, m->to, transit, transit + off);
        worst = fmax(worst, fabs(off) / transit);
        sum += off / transit;
        n++;
    }
    assert_true(n > 0);
    if (fabs(sum / n) > 0.02)
        fail_msg("%s: on average off by %.2f%% (worst %.2f%%)", what, 100 * sum / n, 100 * worst);
}

static void check(const char *schedule, int stages, int m, double up, double down, double latency, int fwd,
                  int bwd) {
    char what[200];
    rb_sim_port port[8];
    double cost = 0.02;
    rb_segment_cost costs[16];
    rb_err err;
    world w = {.s = build(schedule, stages, stages, m, 2),
               .payload = {fwd, bwd},
               .shape = {.up_bits = up, .down_bits = down, .latency_ns = (int64_t)(latency * 1e9)}};
    for (int i = 0; i < stages; i++) port[i] = (rb_sim_port){up / 8, down / 8};
    for (int i = 0; i < stages; i++) costs[i] = (rb_segment_cost){cost, 2 * cost, cost, cost};
    w.o = (rb_sim_options){.cost = costs,
                           .port = port,
                           .latency = latency,
                           .segment = RB_SEGMENT_PAYLOAD + RB_SEGMENT_HEADERS,
                           .bytes_forward = (double)rb_shape_wire_bytes((uint64_t)fwd),
                           .bytes_backward = (double)rb_shape_wire_bytes((uint64_t)bwd)};
    snprintf(what, sizeof what, "%s, %d stages, %d microbatches, %g up, %g down, %g s, %d and %d bytes",
             schedule, stages, m, up, down, latency, fwd, bwd);
    assert_ok(rb_simulate(&w.s, &w.o, &w.r, &err), &err);
    collect(&w);
    pass_through(&w);
    compare(&w, what);
    free(w.msg);
    rb_sim_free(&w.r);
    rb_schedule_free(&w.s);
}

static void messages_take_as_long_as_through_the_shape(void **state) {
    (void)state;
    for (int latency = 0; latency <= 50; latency += 25) {
        check("1f1b", 4, 8, 8e6, 8e6, latency * 1e-3, 40000, 40000);
        check("gpipe", 4, 8, 8e6, 8e6, latency * 1e-3, 40000, 30000);
        check("1f1b", 3, 6, 4e6, 40e6, latency * 1e-3, 100000, 20000);
        check("1f1b", 3, 6, 40e6, 8e6, latency * 1e-3, 100000, 100000);
        check("gpipe", 2, 4, 1e6, 1e6, latency * 1e-3, 5000, 5000);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(messages_take_as_long_as_through_the_shape)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
