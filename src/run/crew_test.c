/* The coordinator and stages that do what no stage of ours does: threads that speak to it over links of their own. */
#include "run/crew.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include "core/clock.h"
#include "link/testing_door.h"
#include "rb_cmocka.h"
#include "run/control.h"

enum { MOST = 4 };
#define PATIENCE (60 * RB_SEC)

static bool connected(void *c) {
    (void)c;
    return true;
}

static const rb_carrier_module module = {
    .name = "fake", .listen = listen_on, .unlisten = unlisten, .connected = connected};
static rb_carrier carrier = {.module = &module};

typedef struct fake {
    pthread_t thread;
    int self;
    uint64_t token;
    rb_link *l;
    bool runs;
} fake;

static fake stage[MOST];
static int stages;
static atomic_bool called_twice, over, is_lost[MOST], chatters[MOST];
static atomic_int stop;

static rb_link *open_link(const fake *f) {
    rb_err err;
    rb_link *l;
    rb_link_options o = {
        .self = f->self, .stages = stages, .token = f->token, .limits = {1 << 20, 1 << 20, 1 << 20}};
    assert_ok(rb_link_open(&o, &l, &err), &err);
    return l;
}

/* Calls until it is taken: the connection before may not be seen to have ended. */
static void call(const fake *f, rb_link *l) {
    rb_err err;
    rb_carrier_stream s = {0};
    for (int64_t until = rb_now_ns() + PATIENCE;;) {
        int fd[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
        s.fd = fd[1];
        snprintf(s.from, sizeof s.from, "p%d", f->self);
        assert_int_equal(write(door, &s, sizeof s), sizeof s);
        resbm_status st = rb_link_attach(l, RB_PEER_COORDINATOR, fd[0], rb_now_ns() + PATIENCE, &err);
        if (!st) return;
        assert_true(rb_now_ns() < until);
    }
}

static void say(rb_link *l, json_t *j) {
    rb_err gone;
    rb_control_send(l, RB_PEER_COORDINATOR, j, rb_now_ns() + PATIENCE, &gone);
}

static bool hears(rb_link *l, const char *type) {
    rb_err gone;
    json_t *j = NULL;
    int from;
    bool heard = !rb_control_expect(l, RB_PEER_COORDINATOR, type, rb_now_ns() + PATIENCE, &from, &j, &gone);
    json_decref(j);
    return heard;
}

static void be_a_stage(fake *f) {
    char address[64];
    snprintf(address, sizeof address, "nats:p%d/stage-1-%d", f->self, f->self);
    if (!hears(f->l, "config")) return;
    say(f->l, json_pack("{s:s, s:s, s:f}", "t", "listening", "address", address, "gflops", 1.0));
    if (!hears(f->l, "peers")) return;
    say(f->l, json_pack("{s:s}", "t", "ready"));
    while (!atomic_load(&over)) {
        if (atomic_load(&chatters[f->self])) say(f->l, json_pack("{s:s, s:i}", "t", "step", "redeals", 0));
        rb_sleep_ns(2 * RB_MS);
    }
}

static atomic_bool twice; /* stage 0 calls, hangs up and calls again before stage 1 calls at all */

static void *live(void *arg) {
    fake *f = arg;
    f->l = open_link(f);
    if (atomic_load(&twice) && f->self == 1)
        while (!atomic_load(&called_twice)) rb_sleep_ns(RB_MS);
    call(f, f->l);
    if (atomic_load(&twice) && f->self == 0) {
        rb_link_fini(f->l);
        f->l = open_link(f);
        call(f, f->l);
        atomic_store(&called_twice, true);
    }
    be_a_stage(f);
    return NULL;
}

static resbm_status start(void *ctx, int i, const char *control, uint64_t token, rb_child *out, rb_err *err) {
    (void)ctx;
    (void)control;
    (void)out;
    stage[i] = (fake){.self = i, .token = token};
    stage[i].runs = !pthread_create(&stage[i].thread, NULL, live, &stage[i]);
    return stage[i].runs ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no thread");
}

static const char *who(void *ctx, int i) {
    static const char *const name[MOST] = {"p0", "p1", "p2", "p3"};
    (void)ctx;
    return name[i];
}

static bool lost(void *ctx, int i, char *text, size_t size) {
    (void)ctx;
    if (atomic_load(&is_lost[i])) snprintf(text, size, "is lost");
    return atomic_load(&is_lost[i]);
}

static resbm_status lose(void *ctx, int worker, const char *how, rb_err *err) {
    (void)ctx;
    (void)worker;
    (void)how;
    (void)err;
    return RESBM_OK;
}

static const rb_crew_outside outside = {
    .carrier = &carrier, .self = "host", .who = who, .start = start, .lost = lost};
static rb_config cfg;
static rb_blame blame;

static resbm_status open_crew(const char *text, rb_crew **out, rb_err *err) {
    rb_crew_options o = {
        .cfg = &cfg, .epoch = 1, .outside = &outside, .lose = lose, .blame = &blame, .stop = &stop};
    assert_ok(rb_config_defaults(&cfg, err), err);
    assert_ok(rb_config_load_text(&cfg, "test", text, strlen(text), err), err);
    assert_ok(rb_config_validate(&cfg, err), err);
    stages = rb_workers(&cfg);
    assert_true(stages <= MOST);
    atomic_store(&over, false);
    atomic_store(&stop, 0);
    for (int i = 0; i < MOST; i++) {
        atomic_store(&is_lost[i], false);
        atomic_store(&chatters[i], false);
    }
    return rb_crew_open(&o, out, err);
}

static void close_crew(rb_crew *c) {
    rb_crew_close(c);
    atomic_store(&over, true);
    for (int i = 0; i < stages; i++) {
        if (stage[i].runs) pthread_join(stage[i].thread, NULL);
        rb_link_fini(stage[i].l);
    }
}

/* It counts once, and the other is waited for. */
static void one_that_calls_twice(void **state) {
    rb_err err = {0};
    rb_crew *c = NULL;
    (void)state;
    atomic_store(&twice, true);
    resbm_status st = open_crew("pipeline: {stages: 2}\n", &c, &err);
    atomic_store(&twice, false);
    atomic_store(&called_twice, true);
    assert_ok(st, &err);
    close_crew(c);
}

static atomic_bool seen;

/* Nothing else would end a wait in which nobody is looked at. */
static void *watch(void *arg) {
    (void)arg;
    for (int64_t until = rb_now_ns() + 20 * RB_SEC; rb_now_ns() < until && !atomic_load(&seen);)
        rb_sleep_ns(10 * RB_MS);
    if (!atomic_load(&seen)) atomic_store(&stop, 2);
    return NULL;
}

/* Stage 1 is lost while the second replica of stage 0, which does not count any more, or whose answers are old, keeps speaking. */
static void who_does_not_count_hides_nobody(bool gone) {
    rb_err err = {0};
    rb_crew *c = NULL;
    json_t *replies[RB_MAX_STAGES];
    pthread_t t;
    assert_ok(open_crew("pipeline: {stages: 2, replicas: [2, 1]}\n", &c, &err), &err);
    assert_int_equal(stages, 3);
    if (gone)
        rb_crew_leave_out(c, 2, "a test");
    else
        c->redeals[2] = 1;
    atomic_store(&chatters[2], true);
    atomic_store(&is_lost[1], true);
    atomic_store(&seen, false);
    assert_int_equal(pthread_create(&t, NULL, watch, NULL), 0);
    resbm_status st = rb_crew_gather(c, "step", -1, rb_now_ns() + PATIENCE, replies, &err);
    atomic_store(&seen, true);
    pthread_join(t, NULL);
    assert_fails(st, RESBM_E_PEER, "stage 1 (p1) is lost", &err);
    assert_int_equal(blame.worker, 1);
    close_crew(c);
}

static void one_that_was_left_out(void **state) {
    (void)state;
    who_does_not_count_hides_nobody(true);
}

static void old_answers(void **state) {
    (void)state;
    who_does_not_count_hides_nobody(false);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_that_calls_twice),
        cmocka_unit_test(one_that_was_left_out),
        cmocka_unit_test(old_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
