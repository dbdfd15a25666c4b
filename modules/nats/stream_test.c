/* ctest: timeout=120 */
/* Two ends of streams on a bus that loses, doubles and reorders packets, and is cut now and then: what is written comes
 * out whole, in order, once; and what is not well-formed changes nothing. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "core/bytes.h"
#include "core/clock.h"
#include "core/hash.h"
#include "core/rng.h"
#include "link/carrier.h"
#include "rb_cmocka.h"
#include "stream.h"

typedef struct side side;
typedef struct bus {
    pthread_mutex_t lock;
    rb_rng rng;
    double lost, twice, late;
    bool cut;
    int64_t give_up_ns;
    side *side[2];
} bus;
struct side {
    bus *bus;
    const char *name;
    rb_streams *streams;
    uint8_t held[65536];
    size_t held_bytes;
    struct {
        uint8_t p[1100];
        size_t n;
        char service[16]; /* empty: to the port */
    } old[64];            /* what it has sent last */
    unsigned sent;
};

static void deliver(side *to, const char *from, const char *service, const uint8_t *p, size_t n) {
    rb_streams_input(to->streams, from, service, p, n);
}

static bool publish(void *ctx, const char *to, const char *service, uint64_t port, const uint8_t *p,
                    size_t n) {
    side *me = ctx, *other = me->bus->side[me->bus->side[0] == me];
    bus *b = me->bus;
    (void)port;
    if (!strcmp(to, "stranger")) return true; /* an answer to nobody */
    assert_string_equal(to, other->name);
    assert_true(n <= sizeof me->old[0].p);
    pthread_mutex_lock(&me->bus->lock);
    unsigned slot = me->sent++ % 64;
    memcpy(me->old[slot].p, p, n);
    me->old[slot].n = n;
    snprintf(me->old[slot].service, sizeof me->old[slot].service, "%s", service ? service : "");
    pthread_mutex_unlock(&me->bus->lock);
    pthread_mutex_lock(&b->lock);
    bool cut = b->cut, lost = rb_rng_uniform(&b->rng) < b->lost, twice = rb_rng_uniform(&b->rng) < b->twice,
         late = rb_rng_uniform(&b->rng) < b->late && !service && !me->held_bytes && n <= sizeof me->held;
    pthread_mutex_unlock(&b->lock);
    if (cut) return false;
    if (lost) return true;
    if (late) {
        memcpy(me->held, p, n);
        me->held_bytes = n;
        return true;
    }
    deliver(other, me->name, service, p, n);
    if (twice) deliver(other, me->name, service, p, n);
    if (me->held_bytes) deliver(other, me->name, NULL, me->held, me->held_bytes);
    me->held_bytes = 0;
    return true;
}

static void open_bus(bus *b, side sides[2]) {
    rb_err err;
    memset(sides, 0, 2 * sizeof *sides);
    for (int i = 0; i < 2; i++) {
        sides[i].bus = b;
        sides[i].name = i ? "right" : "left";
        b->side[i] = &sides[i];
    }
    pthread_mutex_init(&b->lock, NULL);
    for (int i = 0; i < 2; i++) {
        rb_bus out = {.ctx = &sides[i], .publish = publish, .give_up_ns = b->give_up_ns};
        assert_int_equal(rb_streams_open(&out, 7 + (uint64_t)i, 1000, &sides[i].streams, &err), RESBM_OK);
    }
}

static void close_bus(side sides[2]) {
    for (int i = 0; i < 2; i++) rb_streams_drain(sides[i].streams, rb_now_ns() + 10 * RB_SEC);
    for (int i = 0; i < 2; i++) rb_streams_close(sides[i].streams, 0);
}

/* A stream from left to right: both ends. */
static void connect_sides(side sides[2], int *left, int *right) {
    rb_err err;
    int pipe;
    assert_int_equal(rb_streams_listen(sides[1].streams, "door", &pipe, &err), RESBM_OK);
    assert_int_equal(
        rb_streams_dial(sides[0].streams, "right", "door", rb_now_ns() + 20 * RB_SEC, left, &err), RESBM_OK);
    struct pollfd p = {.fd = pipe, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 20000), 1);
    rb_carrier_stream opened;
    assert_int_equal(read(pipe, &opened, sizeof opened), sizeof opened);
    assert_string_equal(opened.from, "left");
    *right = opened.fd;
    rb_streams_unlisten(sides[1].streams, pipe);
}

static uint8_t byte_at(uint64_t i, int way) {
    return (uint8_t)(rb_mix64((uint64_t)way, i / 8) >> (8 * (i % 8)));
}

/* As much as the descriptor takes; how far it got. */
static uint64_t write_some(int fd, uint64_t at, uint64_t to, int way) {
    uint8_t b[3000];
    size_t n = to - at < sizeof b ? (size_t)(to - at) : sizeof b;
    for (size_t i = 0; i < n; i++) b[i] = byte_at(at + i, way);
    ssize_t wrote = n ? write(fd, b, n) : 0;
    return at + (wrote > 0 ? (uint64_t)wrote : 0);
}

static uint64_t read_some(int fd, uint64_t at, int way) {
    uint8_t b[5000];
    ssize_t n = read(fd, b, sizeof b);
    for (ssize_t i = 0; i < n; i++) assert_int_equal(b[i], byte_at(at + (uint64_t)i, way));
    return at + (n > 0 ? (uint64_t)n : 0);
}

static void exchange(bus *b, side sides[2], uint64_t bytes, bool cuts) {
    int fd[2];
    uint64_t wrote[2] = {0}, got[2] = {0};
    connect_sides(sides, &fd[0], &fd[1]);
    int64_t deadline = rb_now_ns() + 90 * RB_SEC, next_cut = rb_now_ns() + 20 * RB_MS;
    while ((got[0] < bytes || got[1] < bytes) && rb_now_ns() < deadline) {
        for (int i = 0; i < 2; i++) {
            wrote[i] = write_some(fd[i], wrote[i], bytes, i);
            got[i] = read_some(fd[1 - i], got[i], i);
        }
        struct pollfd p[2] = {{.fd = fd[0], .events = POLLIN}, {.fd = fd[1], .events = POLLIN}};
        poll(p, 2, 2);
        if (!cuts || rb_now_ns() < next_cut) continue;
        next_cut = rb_now_ns() + 30 * RB_MS;
        pthread_mutex_lock(&b->lock);
        b->cut = !b->cut;
        bool back = !b->cut;
        pthread_mutex_unlock(&b->lock);
        for (int i = 0; back && i < 2; i++) rb_streams_resumed(sides[i].streams);
    }
    pthread_mutex_lock(&b->lock);
    b->cut = false;
    pthread_mutex_unlock(&b->lock);
    assert_int_equal(got[0], bytes);
    assert_int_equal(got[1], bytes);
    close(fd[0]); /* and the end comes through */
    struct pollfd p = {.fd = fd[1], .events = POLLIN};
    assert_int_equal(poll(&p, 1, 20000), 1);
    char end;
    assert_int_equal(read(fd[1], &end, 1), 0);
    close(fd[1]);
}

static void whole_and_in_order(void **state) {
    static side sides[2];
    bus b = {.rng = {.key = 1}};
    (void)state;
    open_bus(&b, sides);
    exchange(&b, sides, 3 << 20, false); /* more than a window */
    close_bus(sides);
}

static void through_a_bad_bus(void **state) {
    static side sides[2];
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        bus b = {.rng = {.key = seed}, .lost = 0.02, .twice = 0.05, .late = 0.02};
        open_bus(&b, sides);
        exchange(&b, sides, 200000, seed == 3);
        rb_stream_counts n;
        rb_streams_count(sides[1].streams, &n);
        assert_true(n.doubles > 0);
        close_bus(sides);
    }
}

static void nobody_there(void **state) {
    static side sides[2];
    bus b = {.rng = {.key = 1}};
    rb_err err;
    int fd;
    (void)state;
    open_bus(&b, sides);
    assert_int_equal(rb_streams_dial(sides[0].streams, "right", "door", rb_now_ns() + 20 * RB_SEC, &fd, &err),
                     RESBM_E_PEER);
    assert_non_null(strstr(err.text, "right does not serve \"door\""));
    b.lost = 1;
    assert_int_equal(rb_streams_dial(sides[0].streams, "right", "door", rb_now_ns() + RB_SEC / 5, &fd, &err),
                     RESBM_E_TIMEOUT);
    close_bus(sides);
}

/* Packets that are right, once more: in the middle of the stream they belong to, in another's name, behind its end. */
static void again(side *from, side *to, const char *name) {
    for (unsigned i = 0; i < 64; i++) {
        uint8_t p[sizeof from->old[i].p];
        pthread_mutex_lock(&from->bus->lock);
        bool sent = i < from->sent;
        size_t n = from->old[i].n;
        char service[16];
        memcpy(p, from->old[i].p, n);
        memcpy(service, from->old[i].service, sizeof service);
        pthread_mutex_unlock(&from->bus->lock);
        if (!sent) break;
        deliver(to, name, *service ? service : NULL, p, n);
    }
}

static void replays_change_nothing(void **state) {
    static side sides[2];
    bus b = {.rng = {.key = 1}};
    int fd[2];
    rb_stream_counts n;
    (void)state;
    open_bus(&b, sides);
    connect_sides(sides, &fd[0], &fd[1]);
    uint64_t wrote = 0, got = 0;
    for (int64_t until = rb_now_ns() + 30 * RB_SEC; got < 200000 && rb_now_ns() < until;) {
        wrote = write_some(fd[0], wrote, 200000, 0);
        again(&sides[0], &sides[1], "left");
        again(&sides[0], &sides[1], "stranger");
        got = read_some(fd[1], got, 0); /* every byte is looked at */
    }
    assert_int_equal(got, 200000);
    rb_streams_count(sides[1].streams, &n);
    assert_true(n.doubles > 0);
    assert_int_equal(n.refused, 0);
    close(fd[0]);
    close(fd[1]);
    rb_streams_drain(sides[1].streams, rb_now_ns() + 10 * RB_SEC);
    again(&sides[0], &sides[1], "left"); /* of a stream that is over, and the door is shut */
    struct pollfd none = {.fd = -1};
    poll(&none, 1, 50);
    close_bus(sides);
}

/* A thousand packets that are wrong in one way or another. */
static void nonsense_is_refused(void **state) {
    static side sides[2];
    bus b = {.rng = {.key = 1}};
    int fd[2];
    rb_rng r = {.key = 99};
    rb_stream_counts before, after;
    (void)state;
    open_bus(&b, sides);
    connect_sides(sides, &fd[0], &fd[1]);
    rb_streams_count(sides[1].streams, &before);
    for (int i = 0; i < 1000; i++) {
        uint8_t p[200];
        size_t n = rb_rng_below(&r, sizeof p);
        for (size_t k = 0; k < n; k++) p[k] = (uint8_t)rb_rng_u32(&r);
        if (n >= 8 && i % 2) { /* well begun */
            rb_put32(p, 0x31534252);
            p[4] = 1;
            p[5] = (uint8_t)(i % 9);
            p[6] = p[7] = 0;
        }
        deliver(&sides[1], i % 3 ? "left" : "stranger", i % 5 ? NULL : "door", p, n);
    }
    rb_streams_count(sides[1].streams, &after);
    assert_int_equal(after.refused - before.refused, 1000);
    uint64_t wrote = 0, got = 0;
    for (int64_t until = rb_now_ns() + 20 * RB_SEC; got < 5000 && rb_now_ns() < until;) {
        wrote = write_some(fd[0], wrote, 5000, 0);
        got = read_some(fd[1], got, 0);
    }
    assert_int_equal(got, 5000);
    close(fd[0]);
    close(fd[1]);
    close_bus(sides);
}

static unsigned streams_of(const side *s) {
    rb_stream_counts n;
    rb_streams_count(s->streams, &n);
    return n.streams;
}

/* The other side vanishes while more is written than a window takes: once the process has closed it, the stream goes, too. */
static void one_that_vanishes(void **state) {
    static side sides[2];
    bus b = {.rng = {.key = 1}, .give_up_ns = RB_SEC / 2};
    int fd[2];
    (void)state;
    open_bus(&b, sides);
    connect_sides(sides, &fd[0], &fd[1]);
    pthread_mutex_lock(&b.lock);
    b.lost = 1;
    pthread_mutex_unlock(&b.lock);
    uint64_t wrote = 0, before = 1;
    for (int64_t until = rb_now_ns() + 20 * RB_SEC; wrote != before || wrote <= RB_STREAM_WINDOW;) {
        struct pollfd p = {.fd = fd[0], .events = POLLOUT};
        before = wrote;
        wrote = write_some(fd[0], wrote, UINT64_MAX, 0);
        if (wrote == before) poll(&p, 1, 300);
        assert_true(rb_now_ns() < until);
    }
    assert_int_equal(streams_of(&sides[0]), 1); /* it may still come back */
    close(fd[0]);
    for (int64_t until = rb_now_ns() + 20 * RB_SEC; streams_of(&sides[0]) && rb_now_ns() < until;)
        rb_sleep_ns(20 * RB_MS);
    assert_int_equal(streams_of(&sides[0]), 0);
    close(fd[1]);
    for (int i = 0; i < 2; i++) rb_streams_close(sides[i].streams, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_and_in_order),  cmocka_unit_test(through_a_bad_bus),
        cmocka_unit_test(nobody_there),        cmocka_unit_test(replays_change_nothing),
        cmocka_unit_test(nonsense_is_refused), cmocka_unit_test(one_that_vanishes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
