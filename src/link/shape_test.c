/* The shape's arithmetic in virtual time, and what endpoints make of it in real time. */
#include "rb_busy.h"

#include <pthread.h>
#include <stdlib.h>
#include "core/clock.h"
#include "link/link.h"
#include "link/pair.h"

/* -- the model ------------------------------------------------------------------------------------------- */

static rb_shape_options rate(double bits) {
    return (rb_shape_options){.up_bits = bits, .down_bits = bits};
}

static void wire_bytes(void **state) {
    (void)state;
    assert_int_equal(rb_shape_wire_bytes(0), 0);
    assert_int_equal(rb_shape_wire_bytes(1), 67);
    assert_int_equal(rb_shape_wire_bytes(1448), 1514);
    assert_int_equal(rb_shape_wire_bytes(1449), 1449 + 132);
    assert_int_equal(rb_shape_wire_bytes(4608), 4608 + 4 * 66);
}

/* 1514 bytes at 1 Mbit/s take 12112 us; back to back they add up without rounding, at odd rates as well. */
static void segments_queue_behind_each_other(void **state) {
    (void)state;
    rb_shape s;
    rb_shape_stream t;
    rb_shape_options o = rate(1e6);
    rb_shape_init(&s, &o);
    rb_shape_stream_init(&t, &s, 2);
    for (int i = 0; i < 10; i++) {
        rb_shape_trip r = rb_shape_send(&s, &t, 5000, 1448);
        assert_int_equal(r.start_ns, 5000 + i * 12112000ll);
        assert_int_equal(r.leave_ns, 5000 + (i + 1) * 12112000ll);
        assert_int_equal(r.arrive_ns, r.leave_ns);
        assert_int_equal(r.losses, 0);
    }
    rb_shape_trip late = rb_shape_send(&s, &t, RB_SEC, 34); /* idle in between: nothing is saved up */
    assert_int_equal(late.start_ns, RB_SEC);
    assert_int_equal(late.leave_ns, RB_SEC + 800000);
    o = rate(937e6);
    rb_shape_init(&s, &o);
    rb_shape_trip r = {0};
    for (int i = 0; i < 1000000; i++) r = rb_shape_send(&s, &t, 0, 1448);
    assert_true(r.leave_ns >= 12926360725ll && r.leave_ns <= 12926360727ll); /* 1e6 * 1514 * 8 / 0.937 ns */
}

static void peers_share_the_uplink(void **state) {
    (void)state;
    rb_shape s;
    rb_shape_stream a, b;
    rb_shape_options o = rate(1e6);
    rb_shape_init(&s, &o);
    rb_shape_stream_init(&a, &s, 1);
    rb_shape_stream_init(&b, &s, 2);
    assert_int_equal(rb_shape_send(&s, &a, 0, 1448).leave_ns, 12112000);
    assert_int_equal(rb_shape_send(&s, &b, 0, 1448).start_ns, 12112000);
    assert_int_equal(rb_shape_receive(&s, &a, 0, 1448), 12112000); /* the downlink is another lane */
}

static void half_duplex_shares_one_lane(void **state) {
    (void)state;
    rb_shape s;
    rb_shape_stream a;
    rb_shape_options o = rate(1e6);
    o.half_duplex = true;
    rb_shape_init(&s, &o);
    rb_shape_stream_init(&a, &s, 1);
    rb_shape_send(&s, &a, 0, 1448);
    assert_int_equal(rb_shape_receive(&s, &a, 0, 1448), 2 * 12112000);
}

/* The next message sets out when the one before has arrived, and the receiver's way back is free. */
static void latency_can_occupy_the_wire(void **state) {
    (void)state;
    rb_shape s;
    rb_shape_stream a;
    for (int occupies = 0; occupies < 2; occupies++) {
        rb_shape_options o = rate(1e6);
        o.latency_ns = 30000000;
        o.latency_occupies = occupies;
        rb_shape_init(&s, &o);
        rb_shape_stream_init(&a, &s, 1);
        rb_shape_send(&s, &a, 0, 1448);
        rb_shape_trip first = rb_shape_send(&s, &a, 0, 1448); /* two segments of one message */
        assert_int_equal(first.leave_ns, 2 * 12112000);
        rb_shape_end_message(&s);
        rb_shape_trip next = rb_shape_send(&s, &a, 0, 1448);
        assert_int_equal(next.start_ns, occupies ? first.arrive_ns : first.leave_ns);
        assert_int_equal(rb_shape_receive(&s, &a, 0, 1448), 12112000);
    }
}

/* Bytes that come without a pause fill segments up; after a pause a new one begins. */
static void downlink_counts_segments_of_the_stream(void **state) {
    (void)state;
    rb_shape s;
    rb_shape_stream t;
    rb_shape_options o = rate(8e9); /* a byte takes 1 ns */
    rb_shape_init(&s, &o);
    rb_shape_stream_init(&t, &s, 1);
    assert_int_equal(rb_shape_receive(&s, &t, 0, 1000), 1066);
    assert_int_equal(rb_shape_receive(&s, &t, 0, 448), 1514);
    assert_int_equal(rb_shape_receive(&s, &t, 0, 1), 1514 + 67);
    assert_int_equal(rb_shape_receive(&s, &t, 0, 2895), 3 * 1514);
    assert_int_equal(rb_shape_receive(&s, &t, 10000, 100), 10000 + 166);
    assert_int_equal(rb_shape_receive(&s, &t, 20000, 100), 20000 + 166);
}

static void latency_and_jitter_delay_in_order(void **state) {
    (void)state;
    rb_shape s;
    rb_shape_stream t;
    rb_shape_options o = {.latency_ns = 20 * RB_MS, .jitter_ns = 10 * RB_MS, .seed = 3};
    rb_shape_init(&s, &o);
    rb_shape_stream_init(&t, &s, 1);
    int64_t least = INT64_MAX, most = 0, before = 0;
    for (int i = 0; i < 2000; i++) {
        int64_t at = i * 20 * RB_MS; /* far enough apart that none holds the next one up */
        rb_shape_trip r = rb_shape_send(&s, &t, at, 1448);
        assert_int_equal(r.leave_ns, at);
        int64_t d = r.arrive_ns - at;
        assert_true(d >= 20 * RB_MS && d < 30 * RB_MS);
        least = d < least ? d : least;
        most = d > most ? d : most;
        assert_true(r.arrive_ns >= before);
        before = r.arrive_ns;
    }
    assert_true(least < 20.1 * RB_MS && most > 29.9 * RB_MS);
    for (int i = 0; i < 100; i++) { /* close together: never out of order */
        rb_shape_trip r = rb_shape_send(&s, &t, 50 * RB_SEC + i, 1448);
        assert_true(r.arrive_ns >= before);
        before = r.arrive_ns;
    }
}

static uint64_t lossy_run(double loss, uint64_t seed, int n, uint64_t *print) {
    rb_shape s;
    rb_shape_stream t;
    rb_shape_options o = rate(10e6);
    o.latency_ns = 30 * RB_MS;
    o.loss = loss;
    o.seed = seed;
    rb_shape_init(&s, &o);
    rb_shape_stream_init(&t, &s, 1);
    uint64_t losses = 0;
    int64_t before = 0;
    *print = 0;
    for (int i = 0; i < n; i++) {
        rb_shape_trip r = rb_shape_send(&s, &t, 0, 1448);
        assert_int_equal(r.leave_ns - r.start_ns,
                         (r.losses + 1) * 1211200); /* each time it costs the uplink */
        int64_t own = r.leave_ns + (1 + 2 * r.losses) * 30 * RB_MS;
        assert_int_equal(r.arrive_ns,
                         own > before ? own : before); /* one round trip later; others wait behind */
        before = r.arrive_ns;
        losses += (uint64_t)r.losses;
        *print = *print * 31 + (uint64_t)r.losses;
    }
    return losses;
}

static void loss_is_repeatable(void **state) {
    (void)state;
    uint64_t a, b, c;
    uint64_t n = lossy_run(0.02, 5, 50000, &a);
    assert_true(n > 900 && n < 1140); /* 50000 * 0.02 / 0.98 = 1020, sigma 32 */
    assert_int_equal(lossy_run(0.02, 5, 50000, &b), n);
    assert_int_equal(a, b);
    lossy_run(0.02, 6, 50000, &c);
    assert_int_not_equal(a, c);
    assert_int_equal(lossy_run(0, 5, 1000, &a), 0);
}

static void wrong_options(void **state) {
    (void)state;
    rb_err err;
    rb_shape_options o = rate(-1);
    assert_fails(rb_shape_check(&o, &err), RESBM_E_ARG, "rates of -1", &err);
    o = (rb_shape_options){.latency_ns = -5};
    assert_fails(rb_shape_check(&o, &err), RESBM_E_ARG, "latency -5", &err);
    o = (rb_shape_options){.loss = 0.6};
    assert_fails(rb_shape_check(&o, &err), RESBM_E_ARG, "loss 0.6", &err);
    o = (rb_shape_options){.up_bits = 1, .down_bits = 2, .half_duplex = true};
    assert_fails(rb_shape_check(&o, &err), RESBM_E_ARG, "half duplex", &err);
}

/* -- endpoints ------------------------------------------------------------------------------------------- */

enum { FRAME = 20000 };

/* Sends `frames` frames from l to `to`, all at once; returns how long the calls took together. */
static int64_t send_all(rb_link *l, int to, int frames) {
    rb_err err;
    int64_t t0 = rb_now_ns();
    for (int i = 0; i < frames; i++) assert_ok(rb_link_pair_send(l, to, (uint32_t)i, FRAME, &err), &err);
    return rb_now_ns() - t0;
}

static void take(rb_link *l, int from, int i) {
    rb_err err;
    assert_ok(rb_link_pair_take(l, from, (uint32_t)i, &err), &err);
}

static rb_link_pair open_pair(const char *address, const rb_shape_options *a, const rb_shape_options *b) {
    rb_link_pair p;
    rb_err err;
    assert_ok(rb_link_pair_open(address, a, b, &p, &err), &err);
    return p;
}

/* When the last of them was there. */
static int64_t take_all(rb_link *l, int from, int frames) {
    for (int i = 0; i < frames; i++) take(l, from, i);
    return rb_now_ns();
}

static bool near(int64_t got_ns, double want_ns, double share, int64_t slack_ns) {
    double d = (double)got_ns - want_ns;
    if (d < 0) d = -d;
    bool ok = d <= want_ns * share + (double)slack_ns;
    if (!ok) print_message("%.3f ms where %.3f ms was expected\n", (double)got_ns / 1e6, want_ns / 1e6);
    return ok;
}

static double wire_ns(double bits, int frames) {
    uint64_t bytes = (uint64_t)frames * (FRAME + RB_FRAME_HEADER_BYTES);
    return (double)rb_shape_wire_bytes(bytes) * 8e9 / bits;
}

/* The uplink, then the downlink, each alone: the time of many frames is their bytes at the rate; handing them
 * over takes no time (shaping never sleeps on the caller's thread). */
typedef struct lanes {
    rb_shape_options a, b;
    double bits;
    int frames;
} lanes;

static bool rate_holds(const void *arg) {
    const lanes *r = arg;
    double want = wire_ns(r->bits, r->frames);
    rb_link_pair p = open_pair("unix:shape.sock", &r->a, &r->b);
    int64_t t0 = rb_now_ns(), call = send_all(p.a, 2, r->frames), last = take_all(p.b, 1, r->frames);
    rb_link_pair_close(&p);
    assert_true((double)(last - t0) > want * 0.97 - 4e6); /* never faster, however busy the machine */
    return near(last - t0, want, 0.03, 4 * RB_MS) && near(call, 0, 0, (int64_t)(want / 4));
}

static void rate_is_kept(rb_shape_options a, rb_shape_options b, double bits, int frames) {
    rb_measured(rate_holds, &(lanes){a, b, bits, frames}, "a shaped rate");
}

static void uplink_rates(void **state) {
    (void)state;
    rb_shape_options none = {0}, up = {.up_bits = 2e6};
    rate_is_kept(up, none, 2e6, 5);
    up.up_bits = 20e6;
    rate_is_kept(up, none, 20e6, 40);
    up.up_bits = 100e6;
    rate_is_kept(up, none, 100e6, 160);
}

static void downlink_rates(void **state) {
    (void)state;
    rb_shape_options none = {0}, down = {.down_bits = 2e6};
    rate_is_kept(none, down, 2e6, 5);
    down.down_bits = 20e6;
    rate_is_kept(none, down, 20e6, 40);
    down.down_bits = 100e6;
    rate_is_kept(none, down, 100e6, 160);
}

/* Uplink and downlink of one rate behind each other: one segment longer than either alone. */
static void both_lanes_overlap(void **state) {
    (void)state;
    rb_shape_options o = rate(20e6);
    rate_is_kept(o, o, 20e6, 40);
}

typedef struct ping {
    rb_link_pair pair;
    int *count;
} ping;

static bool latency_holds(const void *arg) {
    const ping *g = arg;
    rb_link_pair p = g->pair;
    int i = (*g->count)++;
    rb_err err;
    int64_t t0 = rb_now_ns();
    assert_ok(rb_link_pair_send(p.a, 2, (uint32_t)i, 100, &err), &err);
    take(p.b, 1, i);
    int64_t there = rb_now_ns() - t0;
    assert_ok(rb_link_pair_send(p.b, 1, (uint32_t)i, 100, &err), &err);
    take(p.a, 2, i);
    int64_t back = rb_now_ns() - t0;
    assert_true(there >= 40 * RB_MS && back >= 80 * RB_MS); /* never early */
    return near(there, 45e6, 0, 7 * RB_MS) && near(back, 90e6, 0, 13 * RB_MS);
}

static void one_latency_each_way(void **state) {
    (void)state;
    rb_shape_options o = {.latency_ns = 40 * RB_MS, .jitter_ns = 10 * RB_MS, .seed = 1};
    rb_link_pair p = open_pair("tcp:127.0.0.1:0", &o, &o);
    int count = 0;
    for (int i = 0; i < 4; i++) rb_measured(latency_holds, &(ping){p, &count}, "a latency");
    rb_link_pair_close(&p);
}

typedef struct taking {
    rb_link *l;
    int from, frames;
    int64_t fifth_ns, last_ns; /* when a fifth of them was there, and all */
} taking;

static void *take_thread(void *arg) {
    taking *t = arg;
    for (int i = 0; i < t->frames; i++) {
        take(t->l, t->from, i);
        if (i + 1 == t->frames / 5) t->fifth_ns = rb_now_ns();
    }
    t->last_ns = rb_now_ns();
    return NULL;
}

/* Both directions at once: at half duplex they share, at full duplex they do not. */
static int64_t both_ways(rb_shape_options o, int frames, int64_t *fifth_ns) {
    rb_link_pair p = open_pair("unix:shape.sock", &o, &o);
    taking a = {.l = p.a, .from = 2, .frames = frames}, b = {.l = p.b, .from = 1, .frames = frames};
    pthread_t ta, tb;
    int64_t t0 = rb_now_ns();
    send_all(p.a, 2, frames);
    send_all(p.b, 1, frames);
    pthread_create(&ta, NULL, take_thread, &a);
    pthread_create(&tb, NULL, take_thread, &b);
    pthread_join(ta, NULL);
    pthread_join(tb, NULL);
    rb_link_pair_close(&p);
    *fifth_ns = (a.fifth_ns > b.fifth_ns ? a.fifth_ns : b.fifth_ns) - t0;
    return (a.last_ns > b.last_ns ? a.last_ns : b.last_ns) - t0;
}

static bool duplex_holds(const void *arg) {
    rb_shape_options o = rate(20e6), half = o;
    half.half_duplex = true;
    double one = *(const double *)arg;
    int64_t full_fifth, half_fifth, full_ns = both_ways(o, 25, &full_fifth),
                                    half_ns = both_ways(half, 25, &half_fifth);
    assert_true((double)half_ns > 1.9 * one - 5e6); /* never faster, however busy the machine */
    return near(full_ns, one, 0.03, 5 * RB_MS) && near(full_fifth, one / 5, 0.1, 5 * RB_MS) &&
           near(half_ns, 2 * one, 0.05, 5 * RB_MS) &&
           near(half_fifth, 2 * one / 5, 0.2, 5 * RB_MS); /* neither direction waits for the other's end */
}

static void half_duplex_takes_twice_as_long(void **state) {
    (void)state;
    double one = wire_ns(20e6, 25);
    rb_measured(duplex_holds, &one, "full and half duplex");
}

static uint64_t lost_bytes(uint64_t seed, bool at_once) {
    rb_shape_options o = {.up_bits = 200e6, .latency_ns = RB_MS / 2, .loss = 0.05, .seed = seed}, none = {0};
    rb_link_pair p = open_pair("unix:shape.sock", &o, &none);
    rb_link_stats s;
    enum { FRAMES = 40 };
    rb_err err;
    /* One by one or all at once: how frames meet in the queue does not change the draws. */
    if (at_once) send_all(p.a, 2, FRAMES);
    for (int i = 0; i < FRAMES; i++) {
        if (!at_once) assert_ok(rb_link_pair_send(p.a, 2, (uint32_t)i, FRAME, &err), &err);
        take(p.b, 1, i);
    }
    rb_link_get_stats(p.a, 2, &s);
    rb_link_pair_close(&p);
    return s.retransmitted_bytes;
}

static void losses_of_an_endpoint_are_repeatable(void **state) {
    (void)state;
    uint64_t a = lost_bytes(11, false);
    assert_true(a > 5 * 1514 && a < 80 * 1514); /* 560 segments, 5% */
    assert_int_equal(a, lost_bytes(11, true));
    assert_int_not_equal(a, lost_bytes(12, true));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wire_bytes),
        cmocka_unit_test(segments_queue_behind_each_other),
        cmocka_unit_test(peers_share_the_uplink),
        cmocka_unit_test(half_duplex_shares_one_lane),
        cmocka_unit_test(latency_can_occupy_the_wire),
        cmocka_unit_test(downlink_counts_segments_of_the_stream),
        cmocka_unit_test(latency_and_jitter_delay_in_order),
        cmocka_unit_test(loss_is_repeatable),
        cmocka_unit_test(wrong_options),
        cmocka_unit_test(uplink_rates),
        cmocka_unit_test(downlink_rates),
        cmocka_unit_test(both_lanes_overlap),
        cmocka_unit_test(one_latency_each_way),
        cmocka_unit_test(half_duplex_takes_twice_as_long),
        cmocka_unit_test(losses_of_an_endpoint_are_repeatable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
