/* What link.h promises, run over every transport, shaped and not. Stages live in this process, each with its
 * own endpoint, so every wait has a short deadline and every byte can be compared. */
#include "rb_cmocka.h"

#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/tcp.h>
#include "core/bytes.h"
#include "core/clock.h"
#include "link/hello.h"
#include "link/link.h"
#include "link/socket.h"

typedef struct variant {
    const char *address;
    rb_shape_options shape;
} variant;

static const variant unix_plain = {.address = "unix:link.sock"};
static const variant tcp_plain = {.address = "tcp:127.0.0.1:0"};
#define SHAPE                                                                                                \
    {                                                                                                        \
        .up_bits = 200e6, .down_bits = 200e6, .latency_ns = RB_MS, .jitter_ns = RB_MS / 2, .loss = 0.01,     \
        .seed = 7                                                                                            \
    }
static const variant unix_shaped = {.address = "unix:link.sock", .shape = SHAPE};
static const variant tcp_shaped = {.address = "tcp:127.0.0.1:0", .shape = SHAPE};

enum { STAGES = 4 };
static const uint64_t token = 0x1234567812345678ull;

static int64_t in_ms(int64_t ms) {
    return rb_now_ns() + ms * RB_MS;
}

static rb_link_options options(const variant *v, int self) {
    return (rb_link_options){
        .self = self,
        .stages = STAGES,
        .epoch = 5,
        .token = token,
        .shape = v->shape,
        .limits = {.frame_bytes = 4 << 20, .queued_bytes = 1 << 20, .inbox_bytes = 16 << 20},
        .record_events = true};
}

typedef struct dialing {
    rb_link *l;
    int peer;
    const char *address;
    resbm_status st;
    rb_err err;
} dialing;

static void *dial(void *arg) {
    dialing *d = arg;
    d->st = rb_link_connect(d->l, d->peer, d->address, in_ms(5000), &d->err);
    return NULL;
}

/* Connects a to b, b listening. */
static void join(const variant *v, rb_link *a, rb_link *b, int number_b) {
    rb_listener *listener;
    rb_err err;
    int peer;
    pthread_t t;
    assert_ok(rb_listen(v->address, &listener, &err), &err);
    dialing d = {.l = a, .peer = number_b, .address = rb_listener_address(listener)};
    assert_int_equal(pthread_create(&t, NULL, dial, &d), 0);
    assert_ok(rb_link_accept(b, listener, in_ms(5000), &peer, &err), &err);
    pthread_join(t, NULL);
    assert_ok(d.st, &d.err);
    rb_listener_close(listener);
}

typedef struct pair {
    rb_link *a, *b; /* stages 1 and 2 */
} pair;

static rb_link *open_link(const rb_link_options *o) {
    rb_link *l;
    rb_err err;
    assert_ok(rb_link_open(o, &l, &err), &err);
    return l;
}

static pair open_pair_with(const variant *v, rb_link_options oa, rb_link_options ob) {
    pair p = {.a = open_link(&oa), .b = open_link(&ob)};
    join(v, p.a, p.b, ob.self);
    return p;
}

static pair open_pair(const variant *v) {
    return open_pair_with(v, options(v, 1), options(v, 2));
}

static void close_pair(pair p) {
    rb_link_fini(p.a);
    rb_link_fini(p.b);
}

static rb_frame_header forward(uint64_t step, uint32_t microbatch) {
    return (rb_frame_header){
        .kind = RB_FRAME_FORWARD, .boundary = 1, .epoch = 5, .step = step, .microbatch = microbatch};
}

static rb_message *message(rb_frame_header h, size_t bytes) {
    rb_message *m = rb_message_new(bytes);
    assert_non_null(m);
    h.payload_bytes = bytes;
    m->head = h;
    m->traffic = h.kind == RB_FRAME_FORWARD    ? RB_TRAFFIC_ACTIVATION
                 : h.kind == RB_FRAME_BACKWARD ? RB_TRAFFIC_GRADIENT
                                               : RB_TRAFFIC_CONTROL;
    for (size_t i = 0; i < bytes; i++) m->payload[i] = (uint8_t)(i * 31 + h.microbatch + h.step * 7);
    return m;
}

static void put(rb_link *l, int to, rb_frame_header h, size_t bytes) {
    rb_err err;
    assert_ok(rb_link_send(l, to, message(h, bytes), in_ms(5000), &err), &err);
}

/* Receives the message and compares every byte. */
static void expect(rb_link *l, int from, rb_frame_header h, size_t bytes) {
    rb_err err;
    rb_message *m, *want = message(h, bytes);
    assert_ok(rb_link_recv(l, from, &h, in_ms(8000), &m, &err), &err);
    assert_ok(rb_frame_expect(&m->head, &want->head, &err), &err);
    assert_int_equal(m->traffic, want->traffic);
    if (bytes) assert_memory_equal(m->payload, want->payload, bytes);
    rb_message_free(m);
    rb_message_free(want);
}

static uint64_t sum(const uint64_t x[RB_TRAFFIC_COUNT]) {
    uint64_t s = 0;
    for (int i = 0; i < RB_TRAFFIC_COUNT; i++) s += x[i];
    return s;
}

static rb_link_stats stats_of(rb_link *l, int peer) {
    rb_link_stats s;
    rb_link_get_stats(l, peer, &s);
    return s;
}

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
            rb_link_recv_any(p.b, i % 2 ? 1 : RB_PEER_ANY, RB_FRAME_CONTROL, in_ms(5000), &from, &m, &err),
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
        assert_ok(rb_link_recv_any(coordinator, RB_PEER_ANY, RB_FRAME_CONTROL, in_ms(5000), &from, &m, &err),
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
    assert_ok(rb_link_send(p.a, 2, m, in_ms(1000), &err), &err);
    rb_frame_header g = forward(1, 0), c = {.kind = RB_FRAME_CONTROL, .epoch = 5};
    g.kind = RB_FRAME_BACKWARD;
    g.direction = 1;
    put(p.a, 2, g, 300000);
    put(p.a, 2, c, 77);
    expect(p.b, 1, c, 77);
    assert_ok(rb_link_stop(p.a, in_ms(1000), &err), &err);
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
    for (int64_t until = in_ms(2000); n < 3 && rb_now_ns() < until;)
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
    assert_non_null(strstr(err.text, "stage 1 waited 0.06"));
    assert_true(rb_now_ns() - t0 >= 60 * RB_MS && rb_now_ns() - t0 < 500 * RB_MS);
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
    w->st = rb_link_recv(w->l, 2, &want, in_ms(10000), &m, &w->err);
    return NULL;
}

static void peer_that_dies_ends_the_wait(void **state) {
    pair p = open_pair(*state);
    waiting w = {.l = p.a};
    pthread_t t;
    rb_err err;
    put(p.b, 1, forward(16, 0), 10); /* came whole before the end: still delivered */
    assert_ok(rb_link_stop(p.b, in_ms(1000), &err), &err);
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
    assert_fails(rb_link_recv(p.a, 2, &want, in_ms(2000), &m, &err), RESBM_E_PEER, "closed", &err);
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
    int64_t t0 = rb_now_ns();
    rb_link_close(p.a);
    pthread_join(t, NULL);
    assert_true(rb_now_ns() - t0 < 500 * RB_MS);
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
    int64_t t0 = rb_now_ns();
    while (st == RESBM_OK && n < 200) {
        int64_t deadline = in_ms(300);
        st = rb_link_send(p.a, 2, message(forward(1, n++), 200000), deadline, &err);
        assert_true(st == RESBM_OK || rb_now_ns() >= deadline);
    }
    assert_int_equal(st, RESBM_E_TIMEOUT);
    assert_non_null(strstr(err.text, "to stage 2, which does not take its bytes"));
    assert_true(rb_now_ns() - t0 < 5 * RB_SEC);
    assert_fails(rb_link_stop(p.a, in_ms(20), &err), RESBM_E_TIMEOUT, "stage 1 could not send its last",
                 &err);
    for (uint32_t i = 0; i + 1 < n; i++) expect(p.b, 1, forward(1, i), 200000); /* nothing was lost */
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
    assert_fails(rb_link_recv(p.b, 1, &want, in_ms(100), &m, &err), RESBM_E_TIMEOUT, "its inbox is full",
                 &err);
    close_pair(p);
}

/* -- bad bytes: a hand-made peer ------------------------------------------------------------------------- */

typedef struct stranger {
    rb_link *l; /* stage 1 */
    int fd;     /* plays stage 2 */
} stranger;

static rb_hello hello_of(int self, int peer) {
    return (rb_hello){.version = RB_PROTOCOL_VERSION,
                      .self = self,
                      .peer = peer,
                      .stages = STAGES,
                      .token = token,
                      .fingerprint = rb_token_fingerprint(token)};
}

static int dial_raw(const char *address) {
    int fd;
    bool retry;
    rb_err err;
    assert_ok(rb_socket_dial(address, in_ms(2000), &fd, &retry, &err), &err);
    return fd;
}

static void write_all(int fd, const uint8_t *p, size_t n) {
    assert_int_equal(write(fd, p, n), (ssize_t)n);
}

static stranger open_stranger(const variant *v) {
    rb_listener *listener;
    rb_err err;
    rb_link_options o = options(v, 1);
    o.limits.frame_bytes = 10000;
    stranger s = {.l = open_link(&o)};
    uint8_t b[RB_HELLO_BYTES];
    rb_hello h = hello_of(2, 1);
    int peer;
    assert_ok(rb_listen(v->address, &listener, &err), &err);
    s.fd = dial_raw(rb_listener_address(listener));
    rb_hello_put(b, &h);
    write_all(s.fd, b, sizeof b);
    assert_ok(rb_link_accept(s.l, listener, in_ms(2000), &peer, &err), &err);
    assert_int_equal(peer, 2);
    assert_int_equal(read(s.fd, b, sizeof b), sizeof b);
    rb_listener_close(listener);
    return s;
}

/* The bytes as a frame from stage 2: the wait for another message must end with this fault, and so must all
 * that follows. */
static void bad_frame(const variant *v, const uint8_t *bytes, size_t n, resbm_status code, const char *text) {
    stranger s = open_stranger(v);
    rb_err err;
    rb_message *m;
    rb_frame_header want = forward(17, 3);
    write_all(s.fd, bytes, n);
    assert_fails(rb_link_recv(s.l, 2, &want, in_ms(2000), &m, &err), code, text, &err);
    assert_non_null(strstr(err.text, "stage 2 sent a bad frame"));
    assert_fails(rb_link_send(s.l, 2, message(want, 5), in_ms(100), &err), code, text, &err);
    uint8_t byte;
    assert_true(rb_socket_wait(s.fd, 1 /* POLLIN */, in_ms(1000)));
    assert_int_equal(read(s.fd, &byte, 1) > 0, 0); /* and it was shut off */
    close(s.fd);
    rb_link_fini(s.l);
}

static void bad_frames_are_refused(void **state) {
    const variant *v = *state;
    uint8_t b[RB_FRAME_HEADER_BYTES + 100];
    rb_frame_header h = forward(1, 4);
    h.payload_bytes = 100;
    memset(b, 9, sizeof b);
    rb_frame_put(b, &h, b + RB_FRAME_HEADER_BYTES);
    b[RB_FRAME_HEADER_BYTES + 50] ^= 1;
    bad_frame(v, b, sizeof b, RESBM_E_CORRUPT, "checksum");
    b[4] = 9;
    bad_frame(v, b, sizeof b, RESBM_E_FORMAT, "version 9, this program speaks 1");
    h.payload_bytes = 10000 - RB_FRAME_HEADER_BYTES + 1;
    uint8_t *big = calloc(1, 20000);
    rb_frame_put(big, &h, big + RB_FRAME_HEADER_BYTES);
    bad_frame(v, big, RB_FRAME_HEADER_BYTES, RESBM_E_CORRUPT,
              "payload of 9945 bytes, at most 9944 are accepted");
    rb_put64(big + 40, UINT64_MAX);
    bad_frame(v, big, RB_FRAME_HEADER_BYTES, RESBM_E_CORRUPT, "at most 9944 are accepted");
    memset(big, 'x', 100);
    bad_frame(v, big, 100, RESBM_E_FORMAT, "begins with 78787878");
    free(big);
}

static void peer_that_stops_within_a_frame(void **state) {
    stranger s = open_stranger(*state);
    uint8_t b[RB_FRAME_HEADER_BYTES];
    rb_frame_header h = forward(1, 4), want = forward(1, 4);
    rb_err err;
    rb_message *m;
    h.payload_bytes = 0;
    rb_frame_put(b, &h, NULL);
    write_all(s.fd, b, 30);
    close(s.fd);
    assert_fails(rb_link_recv(s.l, 2, &want, in_ms(2000), &m, &err), RESBM_E_PEER,
                 "stage 2 closed the connection in the middle of a frame while stage 1 waited", &err);
    rb_link_fini(s.l);
}

/* A process that dies with unread bytes resets a TCP connection instead of ending it. */
static void peer_that_resets(void **state) {
    stranger s = open_stranger(*state);
    struct linger now = {.l_onoff = 1};
    rb_frame_header want = forward(1, 4);
    rb_err err;
    rb_message *m;
    put(s.l, 2, forward(1, 1), 5000);
    assert_true(rb_socket_wait(s.fd, 1 /* POLLIN */, in_ms(1000)));
    assert_int_equal(setsockopt(s.fd, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
    close(s.fd);
    assert_fails(rb_link_recv(s.l, 2, &want, in_ms(2000), &m, &err), RESBM_E_PEER,
                 "stage 2 closed the connection while stage 1 waited", &err);
    rb_link_fini(s.l);
}

/* A peer that takes nothing: the sender's deadline ends the wait, not a hang. */
static void peer_that_does_not_read(void **state) {
    stranger s = open_stranger(*state);
    rb_err err;
    resbm_status st = RESBM_OK;
    for (uint32_t i = 0; i < 20000 && st == RESBM_OK; i++)
        st = rb_link_send(s.l, 2, message(forward(1, i), 9000), in_ms(500), &err);
    assert_int_equal(st, RESBM_E_TIMEOUT);
    assert_non_null(strstr(err.text, "stage 1 waited 0.50"));
    close(s.fd);
    rb_link_fini(s.l);
}

static void refused(const variant *v, rb_hello h, rb_verdict verdict, const char *text) {
    rb_listener *listener;
    rb_err err;
    rb_link_options o = options(v, 1);
    rb_link *l = open_link(&o);
    uint8_t b[RB_HELLO_BYTES];
    int peer;
    rb_hello answer;
    assert_ok(rb_listen(v->address, &listener, &err), &err);
    int fd = dial_raw(rb_listener_address(listener)), silent = dial_raw(rb_listener_address(listener));
    rb_hello_put(b, &h);
    if (verdict == RB_WELCOME) memcpy(b, "GET / HT", 8);
    write_all(fd, b, sizeof b);
    assert_fails(rb_link_accept(l, listener, in_ms(80), &peer, &err), RESBM_E_TIMEOUT, text, &err);
    if (verdict != RB_WELCOME) {
        assert_int_equal(read(fd, b, sizeof b), sizeof b);
        assert_ok(rb_hello_get(b, &answer, &err), &err);
        assert_int_equal(answer.verdict, verdict);
        assert_int_equal(answer.token, 0);
    }
    close(fd);
    close(silent);
    rb_listener_close(listener);
    rb_link_fini(l);
}

static void strangers_are_refused(void **state) {
    const variant *v = *state;
    rb_hello h = hello_of(2, 1);
    h.version = 9;
    refused(v, h, RB_REFUSED_VERSION, "speaks protocol version 9, this program 1");
    h = hello_of(2, 1);
    h.token = 1;
    refused(v, h, RB_REFUSED_TOKEN, "it belongs to run");
    h = hello_of(2, 3);
    refused(v, h, RB_REFUSED_NUMBER, "stage 2 called for stage 3, but this is stage 1 of 4");
    h = hello_of(2, 1);
    h.stages = 3;
    refused(v, h, RB_REFUSED_STAGES, "started for 3 stages, this one for 4");
    refused(v, h, RB_WELCOME, "not a hello of resbm");
}

typedef struct accepting {
    rb_link *l;
    rb_listener *from;
    resbm_status st;
    rb_err err;
} accepting;

static void *accept_peer(void *arg) {
    accepting *a = arg;
    int peer;
    a->st = rb_link_accept(a->l, a->from, in_ms(300), &peer, &a->err);
    return NULL;
}

/* The dialing side of a refusal names both values too. */
static void refusal_reaches_the_caller(void **state) {
    const variant *v = *state;
    rb_err err;
    pthread_t t;
    rb_link_options ob = options(v, 2), oa = options(v, 1);
    oa.token = 77;
    rb_link *a = open_link(&oa), *b = open_link(&ob);
    accepting w = {.l = b};
    char both[80];
    assert_ok(rb_listen(v->address, &w.from, &err), &err);
    assert_int_equal(pthread_create(&t, NULL, accept_peer, &w), 0);
    snprintf(both, sizeof both, "stage 2 refused: it belongs to run %08x, this is run %08x",
             rb_token_fingerprint(token), rb_token_fingerprint(77));
    assert_fails(rb_link_connect(a, 2, rb_listener_address(w.from), in_ms(1000), &err), RESBM_E_PEER, both,
                 &err);
    pthread_join(t, NULL);
    assert_int_equal(w.st, RESBM_E_TIMEOUT);
    rb_listener_close(w.from);
    rb_link_fini(a);
    rb_link_fini(b);
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

#define STAMP(f)                                                                                             \
    {#f " (unix)", f, NULL, NULL, (void *)(uintptr_t)&unix_plain},                                           \
        {#f " (tcp)", f, NULL, NULL, (void *)(uintptr_t)&tcp_plain},                                         \
        {#f " (unix, shaped)", f, NULL, NULL, (void *)(uintptr_t)&unix_shaped}, {                            \
#f " (tcp, shaped)", f, NULL, NULL, (void *)(uintptr_t)&tcp_shaped                                   \
    }

int main(void) {
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
        STAMP(bad_frames_are_refused),
        STAMP(peer_that_stops_within_a_frame),
        STAMP(peer_that_does_not_read),
        STAMP(peer_that_resets),
        STAMP(strangers_are_refused),
        STAMP(refusal_reaches_the_caller),
        STAMP(nobody_listens),
        STAMP(wrong_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
