/* What link.h promises, run over every transport, shaped and not. Stages live in this process, each with its
 * own endpoint, so every wait has a short deadline and every byte can be compared. */
#include "link/testing.h"

#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <linux/tcp.h>
#include "link/hello.h"
#include "link/mpi.h"
#include "link/socket.h"

/* -- what works ----------------------------------------------------------------------------------------- */

static void all_sizes_cross_both_ways(void **state) {
    const variant *v = *state;
    static const size_t sizes[] = {0, 1, 55, 56, 57, 1448, 65536, 65480, 100001, 700000};
    enum { N = sizeof sizes / sizeof *sizes };
    pair p = open_pair(v);
    for (uint32_t i = 0; i < N; i++) put(p.a, 2, forward(1, i), sizes[i]);
    rb_frame_header back = forward(1, 0);
    back.kind = RB_FRAME_BACKWARD;
    back.direction = 1;
    for (uint32_t i = 0; i < N; i++) {
        back.microbatch = i;
        put(p.b, 1, back, sizes[i]);
    }
    for (uint32_t i = 0; i < N; i++) expect(p.b, 1, forward(1, i), sizes[i]);
    for (uint32_t i = 0; i < N; i++) {
        back.microbatch = i;
        expect(p.a, 2, back, sizes[i]);
    }
    close_pair(p);
}

/* Control messages have no address: they come in the order of sending. */
static void order_is_kept(void **state) {
    enum { N = 300 };
    pair p = open_pair(*state);
    rb_err err;
    for (uint32_t i = 0; i < N; i++) {
        rb_frame_header h = {.kind = RB_FRAME_CONTROL, .epoch = 5, .microbatch = i};
        put(p.a, 2, h, i % 7 * 100);
    }
    for (uint32_t i = 0; i < N; i++) {
        rb_message *m;
        int from = -7;
        assert_ok(
            rb_link_recv_any(p.b, i % 2 ? 1 : RB_PEER_ANY, RB_FRAME_CONTROL, in_ms(60000), &from, &m, &err),
            &err);
        assert_int_equal(from, 1);
        assert_int_equal(m->head.microbatch, i);
        rb_message_free(m);
    }
    close_pair(p);
}

static void addressed_out_of_order(void **state) {
    enum { N = 50 };
    pair p = open_pair(*state);
    for (uint32_t i = 0; i < N; i++) put(p.a, 2, forward(3, i), 1000 + i);
    for (uint32_t i = N; i-- > 0;) expect(p.b, 1, forward(3, i), 1000 + i);
    close_pair(p);
}

static void doubles_are_dropped(void **state) {
    enum { N = 9000 }; /* more than the window, to pass its border */
    pair p = open_pair(*state);
    for (uint32_t i = 0; i < N; i++) {
        put(p.a, 2, forward(1, i), 8);
        if (i % 1000 == 0) put(p.a, 2, forward(1, i), 8);
        expect(p.b, 1, forward(1, i), 8);
        if (i == 40) { /* another attempt is another message */
            rb_frame_header again = forward(1, i);
            again.attempt = 1;
            put(p.a, 2, again, 8);
            expect(p.b, 1, again, 8);
        }
        if (((const variant *)*state)->shape.up_bits > 0 && i == 100) break;
    }
    rb_frame_header last = forward(2, 0);
    put(p.a, 2, last, 1);
    expect(p.b, 1, last, 1);
    uint64_t doubles = ((const variant *)*state)->shape.up_bits > 0 ? 1 : 9;
    assert_int_equal(stats_of(p.b, 1).dropped_double, doubles);
    close_pair(p);
}

static void old_epochs_are_dropped(void **state) {
    pair p = open_pair(*state);
    rb_frame_header old = forward(1, 0);
    rb_err err;
    rb_message *m;
    old.epoch = 4;
    put(p.a, 2, old, 100);
    put(p.a, 2, forward(1, 0), 100);
    expect(p.b, 1, forward(1, 0), 100);
    assert_int_equal(stats_of(p.b, 1).dropped_epoch, 1);
    assert_fails(rb_link_recv(p.b, 1, &old, in_ms(10), &m, &err), RESBM_E_TIMEOUT, "waited", &err);
    close_pair(p);
}

static void many_peers(void **state) {
    const variant *v = *state;
    rb_link *l[STAGES], *coordinator;
    rb_err err;
    rb_link_options o = options(v, RB_PEER_COORDINATOR);
    coordinator = open_link(&o);
    for (int i = 0; i < STAGES; i++) {
        o = options(v, i);
        l[i] = open_link(&o);
        join(v, l[i], coordinator, RB_PEER_COORDINATOR);
        for (int j = 0; j < i; j++) join(v, l[i], l[j], j);
    }
    for (uint32_t n = 0; n < 10; n++)
        for (int i = 0; i < STAGES; i++)
            for (int j = 0; j < STAGES; j++)
                if (i != j) put(l[i], j, forward((uint64_t)i, n), 3000);
    for (uint32_t n = 0; n < 10; n++)
        for (int i = 0; i < STAGES; i++)
            for (int j = 0; j < STAGES; j++)
                if (i != j) expect(l[j], i, forward((uint64_t)i, n), 3000);
    rb_frame_header h = {.kind = RB_FRAME_CONTROL, .epoch = 5};
    bool heard[STAGES] = {false};
    for (int i = 0; i < STAGES; i++) put(l[i], RB_PEER_COORDINATOR, h, 20);
    for (int i = 0; i < STAGES; i++) {
        rb_message *m;
        int from;
        assert_ok(rb_link_recv_any(coordinator, RB_PEER_ANY, RB_FRAME_CONTROL, in_ms(60000), &from, &m, &err),
                  &err);
        heard[from] = true;
        rb_message_free(m);
    }
    for (int i = 0; i < STAGES; i++) assert_true(heard[i]);
    assert_int_equal(stats_of(l[0], RB_PEER_ANY).frames_sent, 30);
    for (int i = 0; i < STAGES; i++) rb_link_fini(l[i]);
    rb_link_fini(coordinator);
}

static void counters_tell_what_crossed(void **state) {
    const variant *v = *state;
    pair p = open_pair(v);
    rb_err err;
    rb_message *m = message(forward(1, 0), 5000);
    m->token_bytes = 520;
    assert_ok(rb_link_send(p.a, 2, m, in_ms(30000), &err), &err);
    rb_frame_header g = forward(1, 0), c = {.kind = RB_FRAME_CONTROL, .epoch = 5};
    g.kind = RB_FRAME_BACKWARD;
    g.direction = 1;
    put(p.a, 2, g, 300000);
    put(p.a, 2, c, 77);
    expect(p.b, 1, c, 77);
    assert_ok(rb_link_stop(p.a, in_ms(30000), &err), &err);
    rb_link_stats a = stats_of(p.a, 2), b = stats_of(p.b, 1);
    assert_int_equal(a.sent[RB_TRAFFIC_ACTIVATION], 5000 - 520 + RB_FRAME_HEADER_BYTES);
    assert_int_equal(a.sent[RB_TRAFFIC_TOKENS], 520);
    assert_int_equal(a.sent[RB_TRAFFIC_GRADIENT], 300000 + RB_FRAME_HEADER_BYTES);
    assert_int_equal(a.sent[RB_TRAFFIC_CONTROL], 77 + RB_FRAME_HEADER_BYTES + RB_HELLO_BYTES);
    assert_int_equal(sum(a.sent), sum(b.received));
    assert_int_equal(sum(b.sent), sum(a.received));
    assert_int_equal(a.frames_sent, 3);
    assert_int_equal(b.frames_received, 3);
    if (v->address[0] == 't') {
        struct tcp_info ia, ib;
        socklen_t n = sizeof ia;
        assert_int_equal(getsockopt(rb_link_fd(p.a, 2), IPPROTO_TCP, TCP_INFO, &ia, &n), 0);
        n = sizeof ib;
        assert_int_equal(getsockopt(rb_link_fd(p.b, 1), IPPROTO_TCP, TCP_INFO, &ib, &n), 0);
        assert_int_equal(sum(a.sent), ia.tcpi_bytes_sent - ia.tcpi_bytes_retrans);
        assert_int_equal(sum(a.sent), ia.tcpi_bytes_acked - 1); /* the dialing side's SYN counts as one */
        assert_int_equal(sum(b.received), ib.tcpi_bytes_received);
        assert_int_equal(sum(b.sent), ib.tcpi_bytes_sent - ib.tcpi_bytes_retrans);
        assert_int_equal(sum(a.received), ia.tcpi_bytes_received);
    }
    close_pair(p);
}

static void events_tell_the_life_of_messages(void **state) {
    const variant *v = *state;
    pair p = open_pair(v);
    rb_link_event e[8];
    for (uint32_t i = 0; i < 3; i++) put(p.a, 2, forward(1, i), 20000);
    for (uint32_t i = 0; i < 3; i++) expect(p.b, 1, forward(1, i), 20000);
    int n = 0;
    for (int64_t until = in_ms(30000); n < 3 && rb_now_ns() < until;)
        n += rb_link_take_events(p.a, e + n, 8 - n);
    assert_int_equal(n, 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(e[i].peer, 2);
        assert_int_equal(e[i].head.microbatch, i);
        assert_true(e[i].queued_ns <= e[i].started_ns && e[i].started_ns <= e[i].left_ns);
        if (i && v->shape.up_bits > 0) assert_true(e[i].started_ns >= e[i - 1].started_ns + 800 * 1000);
        if (v->shape.latency_ns) assert_true(e[i].left_ns - e[i].started_ns >= v->shape.latency_ns);
    }
    close_pair(p);
}

/* -- what goes wrong ------------------------------------------------------------------------------------ */

static void deadline_says_who_waited_for_what(void **state) {
    pair p = open_pair(*state);
    rb_err err;
    rb_message *m = NULL;
    rb_frame_header want = forward(17, 3);
    int64_t t0 = rb_now_ns();
    assert_fails(
        rb_link_recv(p.a, 2, &want, in_ms(60), &m, &err), RESBM_E_TIMEOUT,
        "s for the forward activation of boundary 1, microbatch 3, step 17 from stage 2; nothing ever came",
        &err);
    assert_waited(&err, 0.06);
    assert_true(rb_now_ns() - t0 >= 60 * RB_MS);
    assert_null(m);
    assert_fails(rb_link_recv(p.a, 3, &want, in_ms(60), &m, &err), RESBM_E_STATE,
                 "stage 1 has no connection to stage 3", &err);
    assert_fails(rb_link_recv_any(p.a, RB_PEER_ANY, RB_FRAME_CONTROL, in_ms(5), NULL, &m, &err),
                 RESBM_E_TIMEOUT, "from any stage", &err);
    close_pair(p);
}

typedef struct waiting {
    rb_link *l;
    resbm_status st;
    rb_err err;
} waiting;

static void *wait_for_message(void *arg) {
    waiting *w = arg;
    rb_message *m;
    rb_frame_header want = forward(17, 3);
    w->st = rb_link_recv(w->l, 2, &want, in_ms(60000), &m, &w->err);
    return NULL;
}

static void peer_that_dies_ends_the_wait(void **state) {
    pair p = open_pair(*state);
    waiting w = {.l = p.a};
    pthread_t t;
    rb_err err;
    put(p.b, 1, forward(16, 0), 10); /* came whole before the end: still delivered */
    assert_ok(rb_link_stop(p.b, in_ms(30000), &err), &err);
    assert_int_equal(pthread_create(&t, NULL, wait_for_message, &w), 0);
    rb_sleep_ns(20 * RB_MS);
    rb_link_fini(p.b);
    pthread_join(t, NULL);
    assert_int_equal(w.st, RESBM_E_PEER);
    assert_string_equal(w.err.text,
                        "stage 2 closed the connection while stage 1 waited for the forward activation of "
                        "boundary 1, microbatch 3, step 17");
    expect(p.a, 2, forward(16, 0), 10);
    assert_fails(rb_link_send(p.a, 2, message(forward(1, 1), 10), in_ms(100), &err), RESBM_E_PEER,
                 "stage 2 closed the connection while stage 1 was sending", &err);
    rb_message *m;
    int from = -5;
    assert_fails(rb_link_recv_any(p.a, RB_PEER_ANY, RB_FRAME_CONTROL, in_ms(100), &from, &m, &err),
                 RESBM_E_PEER, "stage 2 closed", &err);
    assert_int_equal(from, 2);
    rb_link_fini(p.a);
}

/* A stage that starts again may take its place; counters go on. */
static void peer_may_come_back(void **state) {
    const variant *v = *state;
    pair p = open_pair(v);
    rb_err err;
    put(p.a, 2, forward(1, 0), 10);
    expect(p.b, 1, forward(1, 0), 10);
    rb_link_fini(p.b);
    rb_message *m;
    rb_frame_header want = forward(1, 1);
    assert_fails(rb_link_recv(p.a, 2, &want, in_ms(30000), &m, &err), RESBM_E_PEER, "closed", &err);
    rb_link_options o = options(v, 2);
    p.b = open_link(&o);
    join(v, p.b, p.a, 1);
    put(p.a, 2, forward(1, 1), 10);
    expect(p.b, 1, forward(1, 1), 10);
    put(p.b, 1, forward(1, 1), 10);
    expect(p.a, 2, forward(1, 1), 10);
    assert_int_equal(stats_of(p.a, 2).frames_sent, 2);
    close_pair(p);
}

static void close_ends_every_wait(void **state) {
    pair p = open_pair(*state);
    waiting w = {.l = p.a};
    pthread_t t;
    rb_err err;
    rb_message *m;
    assert_int_equal(pthread_create(&t, NULL, wait_for_message, &w), 0);
    rb_sleep_ns(20 * RB_MS);
    rb_link_close(p.a);
    pthread_join(t, NULL);
    assert_int_equal(w.st, RESBM_E_CANCELLED);
    rb_frame_header want = forward(1, 1);
    assert_fails(rb_link_recv(p.a, 2, &want, in_ms(100), &m, &err), RESBM_E_CANCELLED, "the link was closed",
                 &err);
    assert_fails(rb_link_send(p.a, 2, message(want, 5), in_ms(100), &err), RESBM_E_CANCELLED,
                 "the link was closed", &err);
    close_pair(p);
    rb_link_fini(NULL);
}

static void credit_holds_the_sender_back(void **state) {
    const variant *v = *state;
    rb_link_options o = options(v, 2);
    o.limits.inbox_bytes = 100000; /* the peer stops reading there */
    pair p = open_pair_with(v, options(v, 1), o);
    rb_err err;
    uint32_t n = 0;
    resbm_status st = RESBM_OK;
    for (int quiet = 0; quiet < 2 && n < 200; n += st == RESBM_OK) {
        int64_t deadline = in_ms(150);
        uint64_t before = sum(stats_of(p.a, 2).sent);
        st = rb_link_send(p.a, 2, message(forward(1, n), 200000), deadline, &err);
        assert_true(st == RESBM_OK || rb_now_ns() >= deadline);
        bool moves = st == RESBM_OK || sum(stats_of(p.a, 2).sent) > before;
        quiet = moves ? 0 : quiet + 1; /* once may be the machine's doing */
    }
    assert_int_equal(st, RESBM_E_TIMEOUT);
    assert_non_null(strstr(err.text, "to stage 2, which does not take its bytes"));
    assert_fails(rb_link_stop(p.a, in_ms(20), &err), RESBM_E_TIMEOUT, "stage 1 could not send its last",
                 &err);
    for (uint32_t i = 0; i < n; i++) expect(p.b, 1, forward(1, i), 200000); /* nothing was lost */
    close_pair(p);
}

static void full_inbox_is_named(void **state) {
    const variant *v = *state;
    rb_link_options o = options(v, 2);
    o.limits.inbox_bytes = 5000;
    pair p = open_pair_with(v, options(v, 1), o);
    rb_err err;
    rb_message *m;
    for (uint32_t i = 0; i < 3; i++) put(p.a, 2, forward(1, i), 100000);
    rb_frame_header want = forward(9, 9);
    resbm_status st = RESBM_OK;
    err.text[0] = 0;
    for (int64_t ms = 100; ms < 10000 && !strstr(err.text, "its inbox is full");
         ms *= 3) /* until enough has come */
        st = rb_link_recv(p.b, 1, &want, in_ms(ms), &m, &err);
    assert_fails(st, RESBM_E_TIMEOUT, "its inbox is full", &err);
    close_pair(p);
}

static void nobody_listens(void **state) {
    const variant *v = *state;
    rb_err err;
    rb_listener *listener;
    char address[RB_ADDRESS_MAX];
    rb_link_options o = options(v, 1);
    rb_link *l = open_link(&o);
    assert_ok(rb_listen(v->address, &listener, &err), &err);
    snprintf(address, sizeof address, "%s", rb_listener_address(listener));
    rb_listener_close(listener);
    assert_fails(rb_link_connect(l, 2, address, in_ms(50), &err), RESBM_E_TIMEOUT,
                 "stage 1 could not connect to stage 2", &err);
    assert_fails(rb_link_connect(l, 2, "udp:here", in_ms(50), &err), RESBM_E_ARG,
                 "neither unix: nor tcp:", &err);
    assert_fails(rb_link_connect(l, 9, address, in_ms(50), &err), RESBM_E_ARG, "number 9", &err);
    rb_link_fini(l);
}

static void wrong_arguments(void **state) {
    const variant *v = *state;
    pair p = open_pair(v);
    rb_err err;
    rb_link *l;
    assert_fails(rb_link_send(p.a, 2, message(forward(1, 1), 5 << 20), in_ms(10), &err), RESBM_E_ARG,
                 "the link's limit is", &err);
    rb_message *m = message(forward(1, 1), 10);
    m->head.payload_bytes = 11;
    assert_fails(rb_link_send(p.a, 2, m, in_ms(10), &err), RESBM_E_ARG, "in room for 10", &err);
    assert_fails(rb_link_send(p.a, 1, message(forward(1, 1), 5), in_ms(10), &err), RESBM_E_ARG, "to number 1",
                 &err);
    rb_link_options o = options(v, 7);
    assert_fails(rb_link_open(&o, &l, &err), RESBM_E_ARG, "number 7 among 4 stages", &err);
    o = options(v, 1);
    o.shape.loss = 0.7;
    assert_fails(rb_link_open(&o, &l, &err), RESBM_E_ARG, "loss 0.7", &err);
    close_pair(p);
}

/* --- the same over an engine's streams: RB_LINK_OVER=openmpi or mpich (tests/mpi_link_test.sh; two MPIs do not fit one
 * process) --- */

static rb_mpi *mpi;

static resbm_status mpi_stream(int fd[2], rb_err *err) {
    static int channel;
    return rb_mpi_loop(mpi, channel++ % RB_MPI_CHANNELS, fd, err);
}

static const variant mpi_plain = {.address = "mpi", .stream = mpi_stream};
static const variant mpi_shaped = {.address = "mpi", .stream = mpi_stream, .shape = SHAPE};
#define STAMP_MPI(f)                                                                                         \
    {#f " (mpi)", f, NULL, NULL, (void *)(uintptr_t)&mpi_plain}, {                                           \
#f " (mpi, shaped)", f, NULL, NULL, (void *)(uintptr_t)&mpi_shaped                                   \
    }

/* All but what is about addresses and their sockets. */
static int run_over_mpi(const char *kind) {
    const struct CMUnitTest tests[] = {
        STAMP_MPI(all_sizes_cross_both_ways),
        STAMP_MPI(order_is_kept),
        STAMP_MPI(addressed_out_of_order),
        STAMP_MPI(doubles_are_dropped),
        STAMP_MPI(old_epochs_are_dropped),
        STAMP_MPI(many_peers),
        STAMP_MPI(counters_tell_what_crossed),
        STAMP_MPI(events_tell_the_life_of_messages),
        STAMP_MPI(deadline_says_who_waited_for_what),
        STAMP_MPI(peer_that_dies_ends_the_wait),
        STAMP_MPI(peer_may_come_back),
        STAMP_MPI(close_ends_every_wait),
        STAMP_MPI(full_inbox_is_named),
        STAMP_MPI(wrong_arguments),
    };
    rb_err err = {0};
    resbm_status st = rb_mpi_open(kind, RB_BINARY_DIR "/resbm", in_ms(30000), &mpi, &err);
    int failed = st ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
    if (!st) st = rb_mpi_close(mpi, in_ms(10000), &err);
    if (st) fprintf(stderr, "%s\n", err.text);
    return failed || st;
}

/* Empty ones: not as many bytes as the asker's 56 name. */
static void probes_bring_nothing(void **state) {
    pair p = open_pair(*state);
    rb_err err;
    rb_message *m;
    for (uint32_t i = 0; i < 3; i++) {
        rb_frame_header h = {
            .kind = RB_FRAME_PROBE, .epoch = 5, .microbatch = i, .step = i ? (uint64_t)1 << (20 * i) : 5000};
        put(p.a, 2, h, 0);
        h.direction = 1;
        assert_ok(rb_link_recv(p.a, 2, &h, in_ms(60000), &m, &err), &err);
        assert_int_equal(m->head.payload_bytes, 0);
        rb_message_free(m);
    }
    assert_int_equal(sum(stats_of(p.a, 2).received), 3 * RB_FRAME_HEADER_BYTES + RB_HELLO_BYTES);
    close_pair(p);
}

int main(void) {
    if (getenv("RB_LINK_OVER")) return run_over_mpi(getenv("RB_LINK_OVER"));
    const struct CMUnitTest tests[] = {
        STAMP(all_sizes_cross_both_ways),
        STAMP(order_is_kept),
        STAMP(addressed_out_of_order),
        STAMP(doubles_are_dropped),
        STAMP(old_epochs_are_dropped),
        STAMP(many_peers),
        STAMP(counters_tell_what_crossed),
        STAMP(events_tell_the_life_of_messages),
        STAMP(deadline_says_who_waited_for_what),
        STAMP(peer_that_dies_ends_the_wait),
        STAMP(peer_may_come_back),
        STAMP(close_ends_every_wait),
        STAMP(credit_holds_the_sender_back),
        STAMP(full_inbox_is_named),
        STAMP(probes_bring_nothing),
        STAMP(nobody_listens),
        STAMP(wrong_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
