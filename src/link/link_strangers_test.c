/* What a link does with bytes that no link of ours would send: frames that lie, peers that stop in the middle, strangers
 * at the door. A hand-made peer plays stage 2 on a raw socket. */
#include "link/testing.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include "core/bytes.h"
#include "link/hello.h"
#include "link/socket.h"

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
    assert_ok(rb_socket_dial(address, in_ms(30000), &fd, &retry, &err), &err);
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
    assert_ok(rb_link_accept(s.l, listener, in_ms(30000), &peer, &err), &err);
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
    assert_fails(rb_link_recv(s.l, 2, &want, in_ms(30000), &m, &err), code, text, &err);
    assert_non_null(strstr(err.text, "stage 2 sent a bad frame"));
    assert_fails(rb_link_send(s.l, 2, message(want, 5), in_ms(100), &err), code, text, &err);
    uint8_t byte;
    assert_true(rb_socket_wait(s.fd, 1 /* POLLIN */, in_ms(30000)));
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
    assert_fails(rb_link_recv(s.l, 2, &want, in_ms(30000), &m, &err), RESBM_E_PEER,
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
    assert_true(rb_socket_wait(s.fd, 1 /* POLLIN */, in_ms(30000)));
    assert_int_equal(setsockopt(s.fd, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
    close(s.fd);
    assert_fails(rb_link_recv(s.l, 2, &want, in_ms(30000), &m, &err), RESBM_E_PEER,
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
    assert_waited(&err, 0.5);
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
    resbm_status st = RESBM_OK;
    err.text[0] = 0;
    for (int64_t ms = 80; ms < 10000 && !strstr(err.text, text);
         ms *= 3) /* a busy machine takes longer to hear it */
        st = rb_link_accept(l, listener, in_ms(ms), &peer, &err);
    assert_fails(st, RESBM_E_TIMEOUT, text, &err);
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
    atomic_bool answered;
    resbm_status st;
    rb_err err;
} accepting;

static void *accept_peer(void *arg) {
    accepting *a = arg;
    int peer;
    do a->st = rb_link_accept(a->l, a->from, in_ms(100), &peer, &a->err);
    while (a->st == RESBM_E_TIMEOUT && !atomic_load(&a->answered));
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
    assert_fails(rb_link_connect(a, 2, rb_listener_address(w.from), in_ms(30000), &err), RESBM_E_PEER, both,
                 &err);
    atomic_store(&w.answered, true);
    pthread_join(t, NULL);
    assert_int_equal(w.st, RESBM_E_TIMEOUT);
    rb_listener_close(w.from);
    rb_link_fini(a);
    rb_link_fini(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        STAMP(bad_frames_are_refused),  STAMP(peer_that_stops_within_a_frame),
        STAMP(peer_that_does_not_read), STAMP(peer_that_resets),
        STAMP(strangers_are_refused),   STAMP(refusal_reaches_the_caller),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
