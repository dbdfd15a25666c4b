#include <math.h>
#include "pipeline/inflight.h"
#include "pipeline/steady.h"
#include "pipeline/testing.h"

static void assert_near(double got, double want) {
    if (!(fabs(got - want) <= 1e-9 * fmax(1, fabs(want)))) fail_msg("%.15g is not %.15g", got, want);
}

static rb_sim_result simulate(const rb_schedule *s, const rb_sim_options *o) {
    rb_sim_result r;
    rb_err err;
    assert_ok(rb_simulate(s, o, &r, &err), &err);
    return r;
}

/* p stages, m microbatches, free links: both schedules idle (p-1)/(m+p-1) of the time, whatever B/F is. */
static void the_bubble_is_the_known_one(void **state) {
    (void)state;
    const char *const names[] = {"gpipe", "1f1b"};
    for (int n = 0; n < 2; n++) {
        for (int p = 1; p <= 8; p++) {
            for (int m = p; m <= 16; m++) {
                for (double backward = 1; backward <= 2; backward += 0.5) {
                    rb_segment_cost cost[8];
                    for (int g = 0; g < p; g++)
                        cost[g] = (rb_segment_cost){.forward = 1, .backward = backward};
                    rb_schedule s = build(names[n], p, p, m, 0);
                    rb_sim_result r = simulate(&s, &(rb_sim_options){.cost = cost});
                    assert_near(r.idle, (p - 1.0) / (m + p - 1));
                    assert_near(r.step, (m + p - 1) * (1 + backward));
                    rb_sim_free(&r);
                    rb_schedule_free(&s);
                }
            }
        }
    }
}

/* One microbatch over two stages, by hand: a message of 10 bytes leaves at 10 bytes a second, flies 0.5 s, is in the relay when its
 * last byte is, takes its thread 0.25 s and its uplink 2 s, and flies 0.125 s. */
static void a_message_passes_the_relay(void **state) {
    (void)state;
    rb_sim_port port[2] = {{.up = 10}, {.up = 10}};
    rb_sim_relay relay = {.down = 20, .up = 5, .message = 0.25, .latency = 0.125};
    rb_schedule s = build("1f1b", 2, 2, 1, 0);
    rb_sim_result r = simulate(&s, &(rb_sim_options){.port = port,
                                                     .relay = &relay,
                                                     .latency = 0.5,
                                                     .bytes_forward = 10,
                                                     .bytes_backward = 10,
                                                     .pieces = 1});
    assert_near(r.step, 1 + 3.875 + 1 + 2 + 3.875 + 2);
    assert_near(r.relay_down, 1);
    assert_near(r.relay_thread, 0.5);
    assert_near(r.relay_up, 4);
    assert_near(r.stage[1].wait_latency, 0.625);
    rb_sim_free(&r);
    rb_schedule_free(&s);
}

/* Of a line that all share nothing is lost, whatever the order: every byte takes its time, and no step is shorter than the sum. */
static void all_share_the_relay(void **state) {
    (void)state;
    const char *const names[] = {"gpipe", "1f1b", "zb-h1"};
    rb_sim_port port[8];
    for (int n = 0; n < 3; n++) {
        for (int p = 2; p <= 8; p++) {
            for (int half = 0; half < 2; half++) {
                for (int i = 0; i < p; i++) port[i] = (rb_sim_port){.up = 50, .down = half ? 0 : 100};
                rb_sim_relay relay = {.down = 20, .up = 30, .byte = 0.01};
                rb_schedule s = build(names[n], p, p, 12, 0);
                rb_sim_result r = simulate(&s, &(rb_sim_options){.port = port,
                                                                 .relay = &relay,
                                                                 .half_duplex = half,
                                                                 .latency = 0.5,
                                                                 .bytes_forward = 40,
                                                                 .bytes_backward = 20});
                double bytes = 12.0 * 60 * (p - 1);
                assert_near(r.relay_down, bytes / 20);
                assert_near(r.relay_up, bytes / 30);
                assert_near(r.relay_thread, bytes / 100);
                assert_true(r.step > bytes / 20);
                rb_sim_free(&r);
                rb_schedule_free(&s);
            }
        }
    }
}

/* A relay without limits is no relay. */
static void a_free_relay_costs_nothing(void **state) {
    (void)state;
    const char *const names[] = {"gpipe", "1f1b", "zb-h1"};
    rb_sim_port port[4] = {{.up = 50}, {.up = 20}, {.up = 80}, {.up = 30}};
    rb_sim_relay none = {0};
    for (int n = 0; n < 3; n++) {
        for (int half = 0; half < 2; half++) {
            rb_sim_options o = {.port = port,
                                .half_duplex = half,
                                .latency = 0.5,
                                .bytes_forward = 40,
                                .bytes_backward = 20,
                                .pieces = 1};
            rb_schedule s = build(names[n], 4, 4, 8, 0);
            rb_sim_result plain = simulate(&s, &o);
            o.relay = &none;
            rb_sim_result relayed = simulate(&s, &o);
            if (!half) assert_near(relayed.step, plain.step);
            assert_true(relayed.step >= plain.step - 1e-9);
            rb_sim_free(&plain);
            rb_sim_free(&relayed);
            rb_schedule_free(&s);
        }
    }
}

static const rb_segment_cost ones[16] = {{1, 2, 1, 1}, {1, 2, 1, 1}, {1, 2, 1, 1}, {1, 2, 1, 1},
                                         {1, 2, 1, 1}, {1, 2, 1, 1}, {1, 2, 1, 1}, {1, 2, 1, 1},
                                         {1, 2, 1, 1}, {1, 2, 1, 1}, {1, 2, 1, 1}, {1, 2, 1, 1},
                                         {1, 2, 1, 1}, {1, 2, 1, 1}, {1, 2, 1, 1}, {1, 2, 1, 1}};

/* v segments to a stage: (p-1)/(v m + p-1), for any number of whole rounds. */
static void interleaving_divides_the_bubble(void **state) {
    (void)state;
    for (int p = 1; p <= 8; p++) {
        for (int v = 1; v * p <= 16; v++) {
            for (int m = p; m <= 3 * p; m += p) {
                rb_schedule s = build("interleaved-1f1b", p, v * p, m, 0);
                rb_sim_result r = simulate(&s, &(rb_sim_options){.cost = ones});
                assert_near(r.idle, (p - 1.0) / (v * m + p - 1));
                rb_sim_free(&r);
                rb_schedule_free(&s);
            }
        }
    }
}

/* ZB-H1 with F, I and W alike: (p-1)/(3m + p-1) once there are as many microbatches as stages. */
static void weight_halves_fill_the_bubble(void **state) {
    (void)state;
    for (int p = 1; p <= 8; p++) {
        for (int m = p; m <= 20; m++) {
            rb_schedule s = build("zb-h1", p, p, m, 0);
            rb_sim_result r = simulate(&s, &(rb_sim_options){.cost = ones});
            assert_near(r.idle, (p - 1.0) / (3 * m + p - 1));
            rb_sim_free(&r);
            rb_schedule_free(&s);
        }
    }
}

/* Two stages, one-way latency L. Between the halves of 1F1B's backward the last gradient's crossing cannot hide, nor can it
 * where every weight half follows its input half; with extra in flight the last stage's put-off halves cover it, and only
 * the first activation's crossing is left: 1 + L + 3m. */
static void put_off_weight_halves_hide_the_last_gradient(void **state) {
    (void)state;
    for (int m = 6; m <= 20; m++) {
        for (double L = 0.25; L <= 1; L += 0.25) {
            double step[3];
            for (int extra = 0; extra < 3; extra++) {
                rb_schedule s = build("zb-h1", 2, 2, m, extra);
                rb_sim_result r = simulate(&s, &(rb_sim_options){.cost = ones, .latency = L});
                step[extra] = r.step;
                rb_sim_free(&r);
                rb_schedule_free(&s);
            }
            assert_true(step[0] >= 1 + 2 * L + 3 * m);
            assert_near(step[2], 1 + L + 3 * m);
        }
    }
}

static bool works(const rb_schedule *s, int stage, int i) {
    return rb_action_computes(s->stage[stage].items[i].kind);
}

/* As its paper counts: between a stage's first action and its last; stages may begin and end one after the other.
 * ZB-V has none from 2p microbatches on. */
static void the_v_has_no_bubble(void **state) {
    (void)state;
    for (int p = 1; p <= 8; p++) {
        for (int m = 2 * p; m <= 20; m++) {
            rb_schedule s = build("zbv", p, 2 * p, m, 0);
            rb_sim_result r = simulate(&s, &(rb_sim_options){.cost = ones});
            for (int i = 0; i < p; i++) {
                assert_true(works(&s, i, 0) || works(&s, i, 1)); /* at most a receive comes first */
                double first = r.span[i][works(&s, i, 0) ? 0 : 1].begin;
                assert_near(r.stage[i].end - first, 6 * m);
                assert_near(r.stage[i].busy, 6 * m);
            }
            /* With a barrier at the step's end, as global clipping sets one, stages wait for the last to be done. */
            assert_near(r.idle, (p - 1.0) / (6 * m + p - 1));
            rb_sim_free(&r);
            rb_schedule_free(&s);
        }
    }
}

/* When the stage's update by microbatch m ended. */
static double updated_at(const rb_schedule *s, const rb_sim_result *r, int stage, int m) {
    for (int i = 0; i < s->stage[stage].count; i++) {
        rb_action a = s->stage[stage].items[i];
        if (a.kind == RB_ACT_UPDATE && a.microbatch == m) return r->span[stage][i].end;
    }
    fail_msg("stage %d has no update by microbatch %d", stage, m);
    return 0;
}

/* From the last stage's first update to where microbatches run out a PipeDream stage ends one after every F + B. */
static void pipedream_does_not_idle(void **state) {
    (void)state;
    const char *const names[] = {"pipedream", "pipedream-2bw"};
    for (int n = 0; n < 2; n++) {
        for (int p = 1; p <= 8; p++) {
            rb_schedule_args a = {.stages = p, .segments = p, .microbatches = 8, .steps = 5};
            rb_schedule s;
            rb_err err;
            assert_ok(rb_schedule_build(rb_schedule_find(names[n]), &a, &s, NULL, &err), &err);
            rb_sim_result r = simulate(&s, &(rb_sim_options){.cost = ones});
            for (int i = 0; i < p; i++)
                assert_near(updated_at(&s, &r, i, 31) - updated_at(&s, &r, i, 15), 16 * 3.0);
            rb_sim_free(&r);
            rb_schedule_free(&s);
        }
    }
}

/* What one more step adds: m forwards, backwards and updates, whatever it took to fill the pipeline; over slow links the
 * bytes of the busiest stage, once they are more than that. */
static void a_step_in_full_swing_has_no_fill(void **state) {
    (void)state;
    const rb_schedule_kind *const kinds[] = {&rb_schedule_pipedream, &rb_schedule_2bw, &rb_schedule_1f1b};
    double update[8] = {0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5};
    rb_sim_port port[8];
    for (int i = 0; i < 8; i++) port[i] = (rb_sim_port){1, 0};
    for (int n = 0; n < 3; n++) {
        for (int p = 1; p <= 8; p++) {
            rb_schedule_args a = ARGS(p, p, 8, 0, NULL);
            rb_sim_options o = {.cost = ones, .update = update};
            rb_schedule s;
            rb_sim_result r;
            rb_err err;
            assert_ok(rb_simulate_steady(kinds[n], &a, &o, &s, &r, &err), &err);
            double want = n == 0 ? 8 * 3.5 : n == 1 ? 8 * 3 + 0.5 : (8 + p - 1) * 3;
            assert_near(r.step, want);
            assert_near(r.stage[p - 1].busy, n == 2 ? 24 : want);
            assert_near(r.idle, n == 2 ? 1 - 24 / want : 0);
            rb_sim_free(&r);
            rb_schedule_free(&s);
            if (p < 3 || n > 0) continue;
            o.port = port, o.bytes_forward = 2, o.bytes_backward = 4, a.extra = 4 * p;
            assert_ok(rb_simulate_steady(kinds[n], &a, &o, &s, &r, &err), &err);
            assert_near(r.step, 8 * 6); /* a middle stage's uplink */
            rb_sim_free(&r);
            rb_schedule_free(&s);
        }
    }
}

/* Two stages, one microbatch, F = 3 and B = 6, of which the second stage's trunk takes 1 and 2; messages take 2. Inside, the
 * step is 3 + 2 + 3 + 6 + 2 + 6; with actions of its own the trunk's forward runs before the message is there, and its backward
 * while the gradient travels. */
static void trunks_hide_behind_messages(void **state) {
    (void)state;
    const rb_segment_cost cost[] = {{3, 6, 3, 3}, {3, 6, 3, 3}};
    const rb_trunk_cost trunk[] = {{0, 0}, {1, 2}};
    const double want[] = {22, 19, 20};
    for (int how = RB_TRUNKS_INSIDE; how <= RB_TRUNKS_BEHIND; how++) {
        rb_schedule_args a = {.stages = 2, .segments = 2, .microbatches = 1, .trunks = (rb_trunks)how};
        rb_schedule s;
        rb_err err;
        assert_ok(rb_schedule_build(&rb_schedule_1f1b, &a, &s, NULL, &err), &err);
        rb_sim_result r = simulate(&s, &(rb_sim_options){.cost = cost, .trunk = trunk, .latency = 2});
        assert_near(r.step, want[how]);
        assert_near(r.stage[1].busy, 9);
        rb_sim_free(&r);
        rb_schedule_free(&s);
    }
}

static void waits_busy_and_spans_add_up(void **state) {
    (void)state;
    rb_schedule s = build("1f1b", 3, 5, 6, 1);
    const rb_segment_cost cost[] = {{1, 2, 0, 0}, {1.5, 2, 0, 0}, {0.5, 1, 0, 0}, {1, 2, 0, 0}, {2, 3, 0, 0}};
    const rb_sim_port port[] = {{10, 20}, {15, 10}, {8, 9}};
    rb_sim_options o = {.cost = cost,
                        .port = port,
                        .latency = 0.3,
                        .bytes_forward = 4,
                        .bytes_backward = 6,
                        .queue_bound = 2};
    rb_sim_result r = simulate(&s, &o);
    for (int i = 0; i < 3; i++) {
        double at = 0;
        for (int j = 0; j < s.stage[i].count; j++) {
            assert_near(r.span[i][j].begin, at);
            at = r.span[i][j].end;
        }
        assert_near(r.stage[i].busy + r.stage[i].wait_recv + r.stage[i].wait_send, r.stage[i].end);
        assert_near(r.stage[i].end, at);
        assert_true(r.stage[i].end <= r.step);
    }
    rb_sim_free(&r);
    rb_schedule_free(&s);
}

/* One message: its bytes leave at the uplink's rate and enter at the downlink's, flowing on while they come.
 */
static double one_message(rb_sim_port sender, rb_sim_port receiver, double latency) {
    const int stage_of[] = {0, 1};
    const rb_segment_cost cost[] = {{1, 0, 0, 0}, {1, 0, 0, 0}};
    rb_sim_port port[] = {sender, receiver};
    rb_schedule s = parse_schedule("0F0 0SF0\n1RF0 1F0\n", 2, stage_of, 1);
    rb_sim_options o = {.cost = cost, .port = port, .latency = latency, .bytes_forward = 100};
    rb_sim_result r = simulate(&s, &o);
    double wait = r.stage[1].wait_recv - 1;
    rb_sim_free(&r);
    rb_schedule_free(&s);
    return wait;
}

static void messages_take_the_slower_rate_and_the_latency(void **state) {
    (void)state;
    assert_near(one_message((rb_sim_port){0, 0}, (rb_sim_port){0, 0}, 0), 0);
    assert_near(one_message((rb_sim_port){0, 0}, (rb_sim_port){0, 0}, 3), 3);
    assert_near(one_message((rb_sim_port){10, 1}, (rb_sim_port){1, 0}, 3), 13);
    assert_near(one_message((rb_sim_port){0, 1}, (rb_sim_port){1, 20}, 3), 8);
    assert_near(one_message((rb_sim_port){10, 1}, (rb_sim_port){1, 20}, 3), 13);
    assert_near(one_message((rb_sim_port){20, 1}, (rb_sim_port){1, 10}, 3), 13);
}

/* A middle stage's forward and backward messages share its uplink; half duplex, also with what it receives.
 */
static void a_stage_shares_its_link(void **state) {
    (void)state;
    rb_segment_cost cost[3] = {{0, 0, 0, 0}, {0, 0, 0, 0}, {0, 0, 0, 0}};
    const rb_sim_port port[] = {{0, 0}, {1, 1}, {0, 0}};
    rb_sim_options o = {.cost = cost, .port = port, .bytes_forward = 1, .bytes_backward = 1};
    rb_schedule s = build("gpipe", 3, 3, 8, 0);
    rb_sim_result full = simulate(&s, &o);
    o.half_duplex = true;
    rb_sim_result half = simulate(&s, &o);
    /* Full: 8 in, each passed on while the next comes, then 8 back: 2 * (8 + 1). Half: 32 transfers in turn.
     */
    assert_near(full.step, 18);
    assert_near(half.step, 32);
    rb_sim_free(&full);
    rb_sim_free(&half);
    rb_schedule_free(&s);
}

static void a_bounded_queue_makes_the_sender_wait(void **state) {
    (void)state;
    const int stage_of[] = {0, 1};
    const rb_segment_cost cost[] = {{1, 0, 0, 0}, {10, 0, 0, 0}};
    rb_schedule s =
        parse_schedule("0F0 0SF0 0F1 0SF1 0F2 0SF2\n1RF0 1F0 1RF1 1F1 1RF2 1F2\n", 2, stage_of, 3);
    rb_sim_result r = simulate(&s, &(rb_sim_options){.cost = cost, .queue_bound = 1});
    /* F2 is made at 3 and has to wait until message 1 is taken at 11. */
    assert_near(r.stage[0].wait_send, 8);
    assert_near(r.stage[0].end, 11);
    rb_sim_free(&r);
    r = simulate(&s, &(rb_sim_options){.cost = cost});
    assert_near(r.stage[0].wait_send, 0);
    rb_sim_free(&r);
    rb_schedule_free(&s);
}

/* 100 bytes at 10 a second, 3 s of latency, handed over at 1: the receiver waits 1 for its peer, 10 for the wire's rate and
 * 3 for its length. */
static void waiting_is_told_apart(void **state) {
    (void)state;
    const int stage_of[] = {0, 1};
    const rb_segment_cost cost[] = {{1, 0, 0, 0}, {1, 0, 0, 0}};
    const rb_sim_port port[] = {{10, 0}, {0, 0}};
    rb_schedule s = parse_schedule("0F0 0SF0\n1RF0 1F0\n", 2, stage_of, 1);
    rb_sim_result r =
        simulate(&s, &(rb_sim_options){.cost = cost, .port = port, .latency = 3, .bytes_forward = 100});
    assert_near(r.stage[1].wait_peer, 1);
    assert_near(r.stage[1].wait_bandwidth, 10);
    assert_near(r.stage[1].wait_latency, 3);
    assert_near(r.stage[1].wait_recv, 14);
    rb_sim_free(&r);
    rb_schedule_free(&s);
}

/* Three messages of 2 s each with 3 s of latency: the last is there at 9, or at 15 where nothing follows until the one
 * before has arrived. */
static void latency_pipelines_or_occupies_the_wire(void **state) {
    (void)state;
    const int stage_of[] = {0, 1};
    const rb_segment_cost cost[] = {{0, 0, 0, 0}, {0, 0, 0, 0}};
    const rb_sim_port port[] = {{1, 0}, {0, 0}};
    rb_schedule s =
        parse_schedule("0F0 0SF0 0F1 0SF1 0F2 0SF2\n1RF0 1F0 1RF1 1F1 1RF2 1F2\n", 2, stage_of, 3);
    rb_sim_options o = {.cost = cost, .port = port, .latency = 3, .bytes_forward = 2};
    rb_sim_result r = simulate(&s, &o);
    assert_near(r.step, 9);
    rb_sim_free(&r);
    o.latency_occupies = true;
    r = simulate(&s, &o);
    assert_near(r.step, 15);
    rb_sim_free(&r);
    rb_schedule_free(&s);
}

/* Two stages on two cores, and on one. */
static void stages_share_cores(void **state) {
    (void)state;
    const int stage_of[] = {0, 1};
    const rb_segment_cost cost[] = {{2, 0, 0, 0}, {2, 0, 0, 0}};
    rb_schedule s = parse_schedule("0F0 0SF0 0F1 0SF1\n1RF0 1F0 1RF1 1F1\n", 2, stage_of, 2);
    rb_sim_result r = simulate(&s, &(rb_sim_options){.cost = cost, .cores = 2});
    assert_near(r.step, 6);
    rb_sim_free(&r);
    r = simulate(&s, &(rb_sim_options){.cost = cost, .cores = 1});
    /* From 2 on both compute, at half speed each, until 6; then stage 1 alone. */
    assert_near(r.span[0][2].end, 6);
    assert_near(r.step, 8);
    assert_near(r.stage[0].busy, 6);
    rb_sim_free(&r);
    rb_schedule_free(&s);
}

/* Stages that compute at the same time slow each other down; one alone is as fast as ever. */
static void a_crowd_is_slower(void **state) {
    (void)state;
    const int stage_of[] = {0, 1};
    const rb_segment_cost cost[] = {{2, 0, 0, 0}, {2, 0, 0, 0}};
    rb_schedule s = parse_schedule("0F0 0SF0 0F1 0SF1\n1RF0 1F0 1RF1 1F1\n", 2, stage_of, 2);
    rb_sim_options o = {.cost = cost, .cores = 2, .crowd = 1.5, .at_once = 2};
    rb_sim_result r = simulate(&s, &o);
    assert_near(r.span[0][0].end, 2); /* alone */
    assert_near(r.span[0][2].end, 5); /* beside the other */
    assert_near(r.step, 7);
    rb_sim_free(&r);
    o.background = 0.4; /* of two cores 1.6 are left: 2 / 1.6 times 1 + 0.5 * 0.6 */
    r = simulate(&s, &o);
    assert_near(r.span[0][2].end, 2 + 2 * 1.25 * 1.3);
    assert_near(r.step, 4 + 2 * 1.25 * 1.3);
    rb_sim_free(&r);
    rb_schedule_free(&s);
    rb_sim_options eight = {.cores = 8, .crowd = 1.7, .at_once = 8};
    assert_near(rb_sim_crowding(&eight, 1), 1);
    assert_near(rb_sim_crowding(&eight, 4), 1.3);
    assert_near(rb_sim_crowding(&eight, 16), 2 * 1.7); /* shared in turn besides */
    assert_near(rb_sim_crowding(&(rb_sim_options){.crowd = 2, .at_once = 2}, 2), 1); /* cores for everybody */
}

/* Two neighbours send to the one between them at once: its downlink serves them in turn, so that both are there when the
 * bytes of both are through, and neither after its own alone. */
static void a_downlink_is_shared(void **state) {
    (void)state;
    const int stage_of[] = {0, 1, 2};
    const rb_segment_cost cost[] = {{1, 0, 0, 0}, {0, 0, 0, 0}, {0, 1, 0, 0}};
    const rb_sim_port port[] = {{0, 0}, {0, 1}, {0, 0}};
    rb_schedule s =
        parse_schedule("0F0 0SF0 0F1 0SF1\n1RF0 1F0 1SF0 1RF1 1RB0\n2RF0 2F0 2B0 2SB0\n", 3, stage_of, 2);
    rb_sim_options o = {.cost = cost, .port = port, .bytes_forward = 8, .bytes_backward = 8};
    rb_sim_result r = simulate(&s, &o);
    /* Message 0: 1 to 9. Message 1 follows at 9 and the gradient joins it at 10. */
    assert_true(r.span[1][3].end >= 22 && r.span[1][3].end <= 24); /* alone it would be there at 17 */
    assert_near(r.span[1][4].end, 25);
    rb_sim_free(&r);
    rb_schedule_free(&s);
}

static void a_deadlock_names_who_waits(void **state) {
    (void)state;
    const int stage_of[] = {0, 1};
    rb_schedule s = parse_schedule("0F0 0RB0 0SF0 0B0\n1RF0 1F0 1B0 1SB0\n", 2, stage_of, 1);
    rb_sim_result r;
    rb_err err;
    assert_fails(rb_simulate(&s, &(rb_sim_options){0}, &r, &err), RESBM_E_STATE,
                 "deadlock: stage 0 waits at 0RB0, stage 1 waits at 1RF0", &err);
    assert_int_equal(r.stuck_stage, 0);
    assert_int_equal(r.stuck_index, 1);
    rb_sim_free(&r);
    rb_schedule_free(&s);
}

static double step_of(int stages, int m, int extra, const rb_sim_options *o) {
    rb_schedule s = build("1f1b", stages, stages, m, extra);
    rb_sim_result r = simulate(&s, o);
    double step = r.step;
    rb_sim_free(&r);
    rb_schedule_free(&s);
    return step;
}

/* F + B = 3 and L = 1.5: one more in flight per hop hides 2L, so that only the way in and out is paid. */
static void depth_between_neighbours_hides_latency(void **state) {
    (void)state;
    rb_sim_options o = {.latency = 1.5};
    double ideal = 32 * 3 + 3 * 3 + 2 * 3 * 1.5;
    assert_near(step_of(4, 32, 3, &o), ideal);
    assert_true(step_of(4, 32, 0, &o) > 1.5 * ideal);
    assert_true(step_of(4, 32, 2, &o) > 1.1 * ideal);
}

static int auto_inflight(const rb_schedule_args *a, const rb_sim_options *o, const rb_inflight_limits *l) {
    int extra = -1;
    rb_err err;
    assert_ok(rb_schedule_auto_inflight(&rb_schedule_1f1b, a, o, l, &extra, &err), &err);
    return extra;
}

static void auto_finds_the_smallest_depth(void **state) {
    (void)state;
    rb_schedule_args a = ARGS(4, 4, 32, 99, NULL);
    rb_inflight_limits none = {0};
    assert_int_equal(auto_inflight(&a, &(rb_sim_options){.latency = 0}, &none), 0);
    assert_int_equal(auto_inflight(&a, &(rb_sim_options){.latency = 1.5}, &none), 3);
    assert_int_equal(auto_inflight(&a, &(rb_sim_options){.latency = 3}, &none), 6);
    a.stages = a.segments = 1;
    assert_int_equal(auto_inflight(&a, &(rb_sim_options){.latency = 3}, &none), 0);
}

static void auto_keeps_within_memory(void **state) {
    (void)state;
    const rb_schedule_args a = ARGS(4, 4, 32, 0, NULL);
    const rb_sim_options o = {.latency = 3};
    const size_t slot[] = {100, 100, 100, 100}, room[] = {700, 700, 700, 700},
                 little[] = {300, 700, 700, 700};
    rb_inflight_limits l = {slot, room};
    int extra;
    rb_err err;
    assert_int_equal(auto_inflight(&a, &o, &l), 3); /* stage 0: 4 + 3 slots */
    l.memory = little;
    assert_fails(rb_schedule_auto_inflight(&rb_schedule_1f1b, &a, &o, &l, &extra, &err), RESBM_E_CONFIG,
                 "stage 0: activations of the microbatches in flight take 400 bytes, but only 300 are free",
                 &err);
    const size_t much[] = {3200, 3200, 3200, 3200};
    l.memory = much;
    assert_ok(rb_schedule_auto_inflight(&rb_schedule_gpipe, &a, &o, &l, &extra, &err), &err);
    assert_int_equal(extra, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bubble_is_the_known_one),
        cmocka_unit_test(a_message_passes_the_relay),
        cmocka_unit_test(all_share_the_relay),
        cmocka_unit_test(a_free_relay_costs_nothing),
        cmocka_unit_test(interleaving_divides_the_bubble),
        cmocka_unit_test(weight_halves_fill_the_bubble),
        cmocka_unit_test(put_off_weight_halves_hide_the_last_gradient),
        cmocka_unit_test(the_v_has_no_bubble),
        cmocka_unit_test(pipedream_does_not_idle),
        cmocka_unit_test(a_step_in_full_swing_has_no_fill),
        cmocka_unit_test(trunks_hide_behind_messages),
        cmocka_unit_test(waits_busy_and_spans_add_up),
        cmocka_unit_test(messages_take_the_slower_rate_and_the_latency),
        cmocka_unit_test(a_stage_shares_its_link),
        cmocka_unit_test(a_bounded_queue_makes_the_sender_wait),
        cmocka_unit_test(waiting_is_told_apart),
        cmocka_unit_test(latency_pipelines_or_occupies_the_wire),
        cmocka_unit_test(stages_share_cores),
        cmocka_unit_test(a_crowd_is_slower),
        cmocka_unit_test(a_downlink_is_shared),
        cmocka_unit_test(a_deadlock_names_who_waits),
        cmocka_unit_test(depth_between_neighbours_hides_latency),
        cmocka_unit_test(auto_finds_the_smallest_depth),
        cmocka_unit_test(auto_keeps_within_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
