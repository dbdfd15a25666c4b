/* Over a carrier a peer is who the carrier says it is, not who its hello says: the token is known to all of an epoch. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include "link/hello.h"
#include "link/socket.h"
#include "link/testing.h"
#include "link/testing_door.h"

static int knock(const char *from);
static int dials;

/* A slow way: an answer takes more than a second. And the first stream that comes about is closed at once. */
static resbm_status dial(void *c, const char *to, const char *service, int64_t deadline_ns, int *fd,
                         rb_err *err) {
    (void)c;
    (void)service;
    int64_t left = deadline_ns - rb_now_ns();
    if (left < 1500 * RB_MS) {
        rb_sleep_ns(left);
        return rb_fail(err, RESBM_E_TIMEOUT, "%s did not answer", to);
    }
    if (dials++) {
        *fd = knock("p1");
        return RESBM_OK;
    }
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    *fd = ends[0];
    close(ends[1]);
    return RESBM_OK;
}

static const rb_carrier_module module = {
    .name = "fake", .dial = dial, .listen = listen_on, .unlisten = unlisten};
static char noted[4000];
static int notes;

static void on_refused(void *ctx, const char *text) {
    (void)ctx;
    notes++;
    snprintf(noted, sizeof noted, "%s", text);
}

static int knock(const char *from) {
    int fd[2];
    rb_carrier_stream s = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
    s.fd = fd[1];
    snprintf(s.from, sizeof s.from, "%s", from);
    assert_int_equal(write(door, &s, sizeof s), sizeof s);
    return fd[0];
}

static void say_hello(int fd, int self) {
    uint8_t b[RB_HELLO_BYTES];
    rb_hello h = {.version = RB_PROTOCOL_VERSION,
                  .self = self,
                  .peer = 3,
                  .stages = STAGES,
                  .token = token,
                  .fingerprint = rb_token_fingerprint(token)};
    rb_hello_put(b, &h);
    assert_int_equal(write(fd, b, sizeof b), sizeof b);
}

static int verdict_of(int fd) {
    uint8_t b[RB_HELLO_BYTES];
    rb_hello h;
    rb_err err;
    assert_int_equal(read(fd, b, sizeof b), sizeof b);
    assert_ok(rb_hello_get(b, &h, &err), &err);
    if (h.verdict) assert_int_equal(h.token, 0);
    return h.verdict;
}

typedef struct place {
    rb_carrier carrier;
    rb_link *l; /* stage 3; p1 is to be stage 1, p2 stage 2 */
    rb_listener *from;
} place;

static void open_place(place *p) {
    rb_err err;
    rb_link_options o = options(&unix_plain, 3);
    *p = (place){.carrier = {.module = &module}};
    o.carrier = &p->carrier;
    o.refused = on_refused;
    p->l = open_link(&o);
    rb_link_expect(p->l, 1, "p1");
    rb_link_expect(p->l, 2, "p2");
    assert_ok(rb_listen_over(&p->carrier, "nats:me/stage-1-3", &p->from, &err), &err);
    notes = 0;
    *noted = 0;
}

static void close_place(place *p) {
    rb_listener_close(p->from);
    rb_link_fini(p->l);
}

static void accepts(place *p, int64_t ms, int who) {
    rb_err err;
    int peer = -1;
    resbm_status st = rb_link_accept(p->l, p->from, in_ms(ms), &peer, &err);
    if (who < 0) {
        assert_int_equal(st, RESBM_E_TIMEOUT);
        return;
    }
    assert_ok(st, &err);
    assert_int_equal(peer, who);
}

/* It comes first, and the real one is taken nevertheless. */
static void another_ones_number(void **state) {
    place p;
    (void)state;
    open_place(&p);
    int enemy = knock("p1"), friend = knock("p2");
    say_hello(enemy, 2);
    accepts(&p, 200, -1);
    assert_int_equal(verdict_of(enemy), RB_REFUSED_NAME);
    assert_string_equal(noted, "refused a connection of p1: it called as stage 2, which is p2");
    say_hello(friend, 2);
    accepts(&p, 30000, 2);
    assert_int_equal(verdict_of(friend), RB_WELCOME);
    assert_int_equal(notes, 1);
    close(enemy);
    close(friend);
    close_place(&p);
}

/* Numbers of whom nobody was told: stage 0, the coordinator. */
static void numbers_without_a_name(void **state) {
    place p;
    (void)state;
    open_place(&p);
    for (int number = -1; number <= 0; number++) {
        int fd = knock("p1");
        say_hello(fd, number);
        accepts(&p, 200, -1);
        assert_int_equal(verdict_of(fd), RB_REFUSED_NAME);
        close(fd);
    }
    assert_int_equal(notes, 2);
    assert_non_null(strstr(noted, "which is nobody"));
    close_place(&p);
}

static void strangers(void **state) {
    place p;
    uint8_t byte;
    (void)state;
    open_place(&p);
    int fd = knock("p9");
    accepts(&p, 100, -1);
    assert_int_equal(read(fd, &byte, 1), 0); /* closed without a word */
    assert_string_equal(noted, "refused a connection of p9: it has no part in this epoch");
    for (int i = 0; i < 300; i++) {
        close(knock("p9"));
        if (i % 50 == 0) accepts(&p, 1, -1);
    }
    accepts(&p, 1, -1);
    assert_int_equal(notes, 100);
    close(fd);
    close_place(&p);
}

/* Who opens streams and says nothing keeps nobody else out, and none of its own newer ones. */
static void silent_ones(void **state) {
    place p;
    int silent[40];
    (void)state;
    open_place(&p);
    for (int i = 0; i < 40; i++) silent[i] = knock("p1");
    int two = knock("p2");
    say_hello(two, 2);
    say_hello(silent[39], 1);
    int peer, got = 0;
    rb_err err;
    for (int i = 0; i < 2; i++) {
        assert_ok(rb_link_accept(p.l, p.from, in_ms(4000), &peer, &err), &err);
        got |= 1 << peer;
    }
    assert_int_equal(got, 2 | 4);
    for (int i = 0; i < 40; i++) close(silent[i]);
    close(two);
    close_place(&p);
}

typedef struct waiting {
    place *p;
    resbm_status st;
    rb_err err;
} waiting;

static void *wait_for_both(void *arg) {
    waiting *w = arg;
    bool missing[STAGES] = {false, true, true, false};
    w->st = rb_link_accept_all(w->p->l, w->p->from, missing, in_ms(20000), &w->err);
    return NULL;
}

/* Calls until it is taken; false: nobody answers any more. */
static bool is_taken(const char *name, int self, int *fd) {
    for (int64_t until = in_ms(20000); rb_now_ns() < until; close(*fd)) {
        *fd = knock(name);
        say_hello(*fd, self);
        if (!rb_socket_wait(*fd, POLLIN, in_ms(10000))) return false;
        if (verdict_of(*fd) == RB_WELCOME) return true;
    }
    return false;
}

/* One that comes again does not stand for the other. */
static void all_that_are_missing(void **state) {
    place p;
    pthread_t t;
    waiting w = {.p = &p};
    int fd = -1;
    (void)state;
    open_place(&p);
    assert_int_equal(pthread_create(&t, NULL, wait_for_both, &w), 0);
    for (int i = 0; i < 3; i++) {
        assert_true(is_taken("p1", 1, &fd));
        close(fd);
    }
    assert_true(is_taken("p2", 2, &fd));
    pthread_join(t, NULL);
    assert_ok(w.st, &w.err);
    close(fd);
    close_place(&p);
}

static void *wait_for_one(void *arg) {
    waiting *w = arg;
    bool missing[STAGES] = {false, true, false, false};
    w->st = rb_link_accept_all(w->p->l, w->p->from, missing, in_ms(30000), &w->err);
    return NULL;
}

/* Who dials gives a slow way more and more time, and who hangs up another chance. */
static void a_slow_way(void **state) {
    place p;
    pthread_t t;
    rb_err err;
    waiting w = {.p = &p};
    (void)state;
    open_place(&p);
    rb_link_options o = options(&unix_plain, 1);
    o.carrier = &p.carrier;
    rb_link *l = open_link(&o);
    dials = 0;
    assert_int_equal(pthread_create(&t, NULL, wait_for_one, &w), 0);
    assert_ok(rb_link_connect(l, 3, "nats:p3/stage-1-3", in_ms(20000), &err), &err);
    pthread_join(t, NULL);
    assert_ok(w.st, &w.err);
    assert_int_equal(dials, 2);
    rb_link_fini(l);
    close_place(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(another_ones_number),
        cmocka_unit_test(numbers_without_a_name),
        cmocka_unit_test(strangers),
        cmocka_unit_test(silent_ones),
        cmocka_unit_test(all_that_are_missing),
        cmocka_unit_test(a_slow_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
