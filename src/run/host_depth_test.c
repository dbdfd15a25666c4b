/* How deep an epoch's pipeline is: by its machines' latency and speed, within their memory. */
#include "run/fit.h"
#include "run/host_configured.h"

static rb_err err;

#define MODEL                                                                                                \
    "model.d=64", "model.layers=4", "model.heads=4", "model.ffn=96", "model.vocab=256", "model.context=64",  \
        "model.segments=4", "pipeline.stages=4", "boundary.kind=residual", "boundary.ratio=8",               \
        "train.batch=16", "train.microbatches=16"

static void configure(const char *const *settings) {
    configured(settings);
    for (int w = 0; w < h.workers; w++) {
        h.seat[w] = w;
        h.member[w] = (rb_member){.seen = true, .gflops = 1, .up_bits = 1e8, .down_bits = 1e8};
    }
    h.members = h.workers;
}

/* All are so far from the host and back, and so fast. */
static int depth(double latency_s, double gflops) {
    int extra = -1;
    for (int w = 0; w < h.workers; w++) {
        h.member[w].latency_s = latency_s;
        h.member[w].gflops = gflops;
    }
    assert_ok(rb_host_plan_depth(&h, &extra, &err), &err);
    return extra;
}

static void the_farther_the_deeper(void **state) {
    (void)state;
    configure((const char *const[]){MODEL, NULL});
    assert_int_equal(depth(0, 1), 0);
    int near = depth(0.02, 1), far = depth(0.1, 1);
    assert_true(near > 0 && far > near);
    assert_true(depth(0.02, 0.05) < near); /* computing takes longer than the way */
    h.cfg->link.latency_ns = 100000000;    /* shaped links come on top */
    assert_true(depth(0, 1) == far);
}

/* One that is far holds up both of its neighbours. */
static void one_is_far(void **state) {
    (void)state;
    int extra;
    configure((const char *const[]){MODEL, NULL});
    h.member[3].latency_s = 0.1;
    assert_ok(rb_host_plan_depth(&h, &extra, &err), &err);
    assert_true(extra > 0);
}

static void memory_is_the_end(void **state) {
    (void)state;
    rb_fit_need plain, deep;
    configure((const char *const[]){MODEL, NULL});
    int all = depth(0.1, 1), extra;
    assert_true(all > 3);
    assert_ok(rb_fit_stage(h.cfg, 0, 0, &plain, &err), &err);
    assert_ok(rb_fit_stage(h.cfg, 0, 3, &deep, &err), &err);
    assert_true(deep.total > plain.total);
    h.member[0].memory = h.need[0] + (double)(deep.total - plain.total);
    assert_int_equal(depth(0.1, 1), 3);
    h.member[0].memory -= 1;
    extra = depth(0.1, 1);
    assert_true(extra < 3);
    h.member[0].memory = h.need[0];
    assert_ok(rb_fit_stage(h.cfg, 0, depth(0.1, 1), &deep, &err), &err);
    assert_int_equal(deep.total, plain.total);
}

static void what_is_not_planned(void **state) {
    (void)state;
    configure((const char *const[]){MODEL, "pipeline.inflight=2", NULL});
    assert_int_equal(depth(0.1, 1), 2); /* as it is said */
    configure((const char *const[]){MODEL, "pipeline.schedule=gpipe", NULL});
    assert_int_equal(depth(0.1, 1), 0); /* all are in flight anyway */
    configure((const char *const[]){MODEL, NULL});
    assert_int_equal(depth(0.1, 0), 0); /* who has not measured */
    configure((const char *const[]){MODEL, "pipeline.speed=1e9", NULL});
    assert_true(depth(0.1, 0) > 0); /* but that it is stated */
}

/* Two machines are twice as fast as one. */
static void replicas_add_up(void **state) {
    (void)state;
    configure((const char *const[]){MODEL, NULL});
    int one = depth(0.05, 1), fast = depth(0.05, 2);
    assert_true(fast > one);
    configure((const char *const[]){MODEL, "pipeline.replicas=2", NULL});
    assert_int_equal(depth(0.05, 1), fast);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {TEST(the_farther_the_deeper), TEST(one_is_far),
                                       TEST(memory_is_the_end), TEST(what_is_not_planned),
                                       TEST(replicas_add_up)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
