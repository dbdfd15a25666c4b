/* The bench runs and its figures are possible ones; a probe measures what the shape was told. */
#include "rb_busy.h"

#include <stdlib.h>
#include "core/clock.h"
#include "link/bench_link.h"
#include "link/pair.h"
#include "link/probe.h"

static bool figures_are_possible(const void *arg) {
    (void)arg;
    rb_buf b = {0};
    rb_err err;
    const char *seconds = getenv("RESBM_BENCH_SECONDS");
    assert_ok(rb_bench_link(&b, seconds ? atof(seconds) : 0, &err), &err);
    fputs(b.data, stdout); /* print_message cuts */
    double asked, measured;
    const char *row = strstr(b.data, "cpu, both ends\n");
    assert_non_null(row);
    assert_int_equal(sscanf(row + 15, "%lf %lf", &asked, &measured), 2);
    assert_true(asked == 1 && measured < 1.03);
    rb_buf_free(&b);
    return measured > 0.2; /* of 0.2 s */
}

static void tables(void **state) {
    (void)state;
    rb_measured(figures_are_possible, NULL, "the table of links");
}

static rb_link_probe_result probe(const rb_shape_options *a, const rb_shape_options *b) {
    rb_link_pair p;
    rb_link_probe_result r;
    rb_err err;
    assert_ok(rb_link_pair_open("tcp:127.0.0.1:0", a, b, &p, &err), &err);
    assert_ok(rb_link_probe(p.a, 2, rb_now_ns() + 60 * RB_SEC, &r, &err), &err);
    rb_link_pair_close(&p);
    return r;
}

static bool shape_is_found(const void *arg) {
    (void)arg;
    rb_shape_options a = {.up_bits = 5e6, .down_bits = 20e6, .latency_ns = 10 * RB_MS},
                     b = {.latency_ns = 5 * RB_MS};
    rb_link_probe_result r = probe(&a, &b);
    assert_true(r.round_trip_ns >= 15 * RB_MS && r.typical_ns >= r.round_trip_ns);
    if (r.round_trip_ns < 20 * RB_MS) /* what that is too long is missing in the other times, of 0.1 s */
        assert_true(r.up_bits < 5.4e6 && r.down_bits < 21.5e6);
    print_message("round trip %g ms, %g up, %g down\n", (double)r.round_trip_ns / 1e6, r.up_bits,
                  r.down_bits);
    return r.round_trip_ns < 60 * RB_MS && r.up_bits > 3e6 && r.up_bits < 5.1e6 && r.down_bits > 10e6 &&
           r.down_bits < 20.4e6;
}

static void probe_finds_the_shape(void **state) {
    (void)state;
    rb_measured(shape_is_found, NULL, "a probed shape");
}

static bool no_shape_is_found(const void *arg) {
    (void)arg;
    rb_link_probe_result r = probe(NULL, NULL);
    assert_true(r.round_trip_ns > 0);
    return r.round_trip_ns < 50 * RB_MS && r.up_bits > 100e6 && r.down_bits > 100e6;
}

static void probe_of_an_unshaped_link(void **state) {
    (void)state;
    rb_measured(no_shape_is_found, NULL, "a probed link without a shape");
}

static void probe_of_nobody(void **state) {
    (void)state;
    rb_link *l;
    rb_err err;
    rb_link_probe_result r;
    assert_ok(rb_link_pair_end(1, NULL, &l, &err), &err);
    assert_fails(rb_link_probe(l, 2, rb_now_ns() + RB_SEC, &r, &err), RESBM_E_STATE,
                 "no connection to stage 2", &err);
    rb_link_fini(l);
}

/* The peer's program takes no part in it, and the answer lies in nobody's way. */
static void sign_of_life(void **state) {
    (void)state;
    rb_link_pair p;
    rb_err err;
    rb_message *m;
    int from;
    assert_ok(rb_link_pair_open("tcp:127.0.0.1:0", NULL, NULL, &p, &err), &err);
    assert_int_equal(rb_link_heard_ns(p.a, 2), 0);
    for (int i = 0; i < 3; i++) {
        int64_t asked = rb_now_ns(), give_up = asked + 60 * RB_SEC;
        rb_link_ask(p.a, 2);
        while (rb_link_heard_ns(p.a, 2) < asked && rb_now_ns() < give_up) rb_sleep_ns(RB_MS);
        assert_true(rb_link_heard_ns(p.a, 2) >= asked);
    }
    assert_fails(rb_link_recv_any(p.a, 2, RB_FRAME_PROBE, rb_now_ns() + RB_MS, &from, &m, &err),
                 RESBM_E_TIMEOUT, "waited", &err);
    rb_link_close(p.b);
    assert_fails(rb_link_recv_any(p.a, 2, RB_FRAME_CONTROL, rb_now_ns() + 60 * RB_SEC, &from, &m, &err),
                 RESBM_E_PEER, "closed the connection", &err);
    int64_t then = rb_link_heard_ns(p.a, 2);
    rb_link_ask(p.a, 2);
    rb_link_ask(p.a, 77); /* nobody */
    assert_int_equal(rb_link_heard_ns(p.a, 2), then);
    rb_link_pair_close(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables),
        cmocka_unit_test(probe_finds_the_shape),
        cmocka_unit_test(probe_of_an_unshaped_link),
        cmocka_unit_test(probe_of_nobody),
        cmocka_unit_test(sign_of_life),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
