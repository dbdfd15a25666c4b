/* Who gets which stage: memory as the schedule keeps microbatches, the heaviest stage to the fastest machine that fits, a slow link
 * spare, and weights that are there already. */
#include <math.h>
#include "core/clock.h"
#include "run/fit.h"
#include "run/host_configured.h"

static rb_err err;
static char text[200];

#define MODEL                                                                                                \
    "model.d=64", "model.layers=4", "model.heads=4", "model.ffn=96", "model.vocab=256", "model.context=64",  \
        "model.segments=2", "pipeline.stages=2", "boundary.kind=residual", "boundary.ratio=8",               \
        "train.batch=16", "train.microbatches=16"

static rb_member *arrives(double gflops, double memory, double up, double down) {
    rb_member *m = &h.member[h.members];
    *m = (rb_member){.seen = true,
                     .stage = -1,
                     .gflops = gflops,
                     .memory = memory,
                     .up_bits = up,
                     .down_bits = down,
                     .latency_s = 0.01};
    snprintf(m->name, sizeof m->name, "p%d", h.members++);
    return m;
}

static void empty_seats(void) {
    for (int w = 0; w < RB_MAX_STAGES; w++) h.seat[w] = -1;
}

/* gpipe keeps every microbatch of the step, 1f1b as many as there are stages behind, and each stage what it has planned itself. */
static void memory_is_the_schedules_own(void **state) {
    double need[2];
    rb_fit_need own;
    (void)state;
    configured((const char *const[]){MODEL, "pipeline.schedule=1f1b", NULL});
    need[0] = h.need[0];
    need[1] = h.need[1];
    configured((const char *const[]){MODEL, "pipeline.schedule=gpipe", NULL});
    for (int s = 0; s < 2; s++) {
        assert_ok(rb_fit_stage(h.cfg, s, (int)h.cfg->pipeline.inflight, &own, &err), &err);
        assert_int_equal(own.slots, 16);
        double slot = (double)own.activations / own.slots;
        assert_true(h.need[s] >= (double)own.total);
        assert_true(h.need[s] - need[s] >= 13.9 * slot); /* 1f1b keeps two */
    }
    arrives(10, need[0] + 1e6, 1e8, 1e8);
    arrives(10, need[1] + 1e6, 1e8, 1e8);
    assert_false(rb_host_assign(&h, text, sizeof text));
    assert_non_null(strstr(text, "waits for 2 more participants"));
    configured((const char *const[]){MODEL, "pipeline.schedule=1f1b", NULL});
    assert_true(rb_host_assign(&h, text, sizeof text));
}

/* A stage that nobody will ever have room for is no matter of waiting. */
static void what_fits_nowhere_is_said(void **state) {
    (void)state;
    configured((const char *const[]){MODEL, NULL});
    assert_false(rb_host_assign(&h, text, sizeof text));
    assert_null(strstr(text, "lower model.d")); /* nobody is there yet */
    arrives(10, h.need[0] / 2, 1e8, 1e8);
    assert_false(rb_host_assign(&h, text, sizeof text));
    assert_non_null(strstr(text, ": none that is here has that much; more memory, or lower model.d"));
    arrives(10, 0, 1e8, 1e8); /* of unknown memory: it may */
    assert_false(rb_host_assign(&h, text, sizeof text));
    assert_null(strstr(text, "lower model.d"));
}

static void copies_for_replicas_count(void **state) {
    (void)state;
    configured((const char *const[]){MODEL, NULL});
    double alone = h.need[0];
    rb_fit_need own;
    assert_ok(rb_fit_stage(h.cfg, 0, 0, &own, &err), &err);
    double gradients = (double)own.part.gradients;
    configured((const char *const[]){MODEL, "pipeline.replicas=2", NULL});
    assert_true(h.need[0] >= alone + gradients);
    double plain = h.need[0];
    configured((const char *const[]){MODEL, "pipeline.replicas=2", "pipeline.replica_codec=int8", NULL});
    assert_true(h.need[0] >= plain + 1.9 * gradients);
    configured((const char *const[]){MODEL, "pipeline.replicas=2", "optim.local_steps=50",
                                     "train.eval_every=50", "train.checkpoint_every=50", NULL});
    assert_true(h.need[0] >= alone + 3 * gradients);
}

static void heaviest_goes_to_the_fastest(void **state) {
    (void)state;
    configured(
        (const char *const[]){MODEL, "model.vocab=4096", NULL}); /* the head makes stage 1 the heavier one */
    assert_true(h.work[1] > 1.5 * h.work[0]);
    arrives(50, 8e9, 1e9, 1e9); /* who comes first does not decide */
    arrives(10, 8e9, 1e9, 1e9);
    assert_true(rb_host_assign(&h, text, sizeof text));
    assert_int_equal(h.seat[1], 0);
    assert_int_equal(h.seat[0], 1);
    empty_seats();
    assert_true(h.need[1] > h.need[0]);
    h.member[0].memory = (h.need[0] + h.need[1]) / 2; /* the fastest that fits */
    assert_true(rb_host_assign(&h, text, sizeof text));
    assert_int_equal(h.seat[0], 0);
    assert_int_equal(h.seat[1], 1);
}

/* Who has a place already keeps it though another would do better: that machine has the weights. */
static void weights_stay(void **state) {
    (void)state;
    configured((const char *const[]){MODEL, "model.vocab=4096", NULL});
    arrives(10, 8e9, 1e9, 1e9);
    arrives(12, 8e9, 1e9, 1e9);
    assert_true(rb_host_assign(&h, text, sizeof text));
    int first = h.seat[0], second = h.seat[1];
    arrives(50, 8e9, 1e9, 1e9);
    assert_true(rb_host_assign(&h, text, sizeof text));
    assert_int_equal(h.seat[0], first);
    assert_int_equal(h.seat[1], second);
    h.member[first].lapsed = true;
    assert_true(rb_host_assign(&h, text, sizeof text));
    assert_int_equal(h.seat[0], 2);
    assert_int_equal(h.seat[1], second);
}

static void slow_link_is_spare(void **state) {
    (void)state;
    configured((const char *const[]){MODEL, NULL});
    arrives(40, 8e9, 1e5, 1e8); /* the fastest processor behind the slowest uplink, */
    arrives(10, 8e9, 1e8, 1e8);
    arrives(40, 8e9, 1e8, 1e5); /* or downlink */
    arrives(10, 8e9, 1e8, 1e8);
    assert_true(rb_host_step_s(&h, &h.member[0], 0) > 2 * rb_host_step_s(&h, &h.member[1], 0));
    assert_true(rb_host_assign(&h, text, sizeof text));
    assert_true(h.seat[0] % 2 == 1 && h.seat[1] % 2 == 1);
    empty_seats();
    h.member[1].paused = true; /* with too few others it takes part */
    assert_true(rb_host_assign(&h, text, sizeof text));
    assert_true(h.seat[0] == 3 || h.seat[1] == 3);
}

static void a_long_step_has_a_longer_wait(void **state) {
    (void)state;
    configured((const char *const[]){MODEL, NULL});
    arrives(10, 8e9, 1e9, 1e9);
    arrives(10, 8e9, 1e9, 1e9);
    int64_t stated = h.cfg->pipeline.deadline_ns;
    assert_true(rb_host_wait_ns(&h, 1) == stated); /* nobody has a place */
    assert_true(rb_host_assign(&h, text, sizeof text));
    assert_true(rb_host_wait_ns(&h, 1) == stated && rb_host_wait_ns(&h, 2) == 2 * stated);
    assert_true(rb_host_wait_ns(&h, 64) == 8 * stated);
    h.member[h.seat[1]].latency_s = 50;
    double first = rb_host_step_s(&h, &h.member[h.seat[0]], 0),
           second = rb_host_step_s(&h, &h.member[h.seat[1]], 1);
    assert_true(second > 100);
    assert_true(fabs((double)rb_host_wait_ns(&h, 1) * 1e-9 - 4 * (first + second)) < 1e-6);
    h.member[h.seat[1]].latency_s = INFINITY;
    assert_true(rb_host_wait_ns(&h, 1) == (int64_t)1e18);
}

/* The only one that fits the large stage may not sit on the small one. */
static void room_is_made(void **state) {
    (void)state;
    configured((const char *const[]){MODEL, "model.vocab=4096", NULL});
    arrives(10, h.need[1] * 1.01, 1e8, 1e8);
    h.seat[0] = 0;
    arrives(10, (h.need[0] + h.need[1]) / 2, 1e8, 1e8);
    assert_true(rb_host_assign(&h, text, sizeof text));
    assert_int_equal(h.seat[0], 1);
    assert_int_equal(h.seat[1], 0);
    h.member[1].memory = h.need[0] * 0.99;
    assert_false(rb_host_assign(&h, text, sizeof text));
    assert_non_null(strstr(text, "waits for 1 more participant (stage 0 needs"));
    assert_true(h.member[1].memory < rb_host_least_need(&h));
}

/* With measured steps: whose link takes most of them gives its place to a spare one, by two snapshots in a row. */
static bool regroups(void) {
    rb_host_regroup(&h);
    bool is = h.regroup;
    if (is) rb_host_swap(&h);
    return is;
}

static void steps(double step_s) {
    double speed[2] = {16 / (0.1 * step_s), 16 / (0.1 * step_s)};
    rb_step_record r = {.stages = 2, .speed = speed, .step_s = step_s};
    for (int i = 0; i < 10; i++) rb_host_note_speeds(&h, &r);
}

static void far_one_is_replaced(void **state) {
    (void)state;
    configured((const char *const[]){MODEL, NULL});
    arrives(10, 8e9, 1e5, 1e8);
    arrives(10, 8e9, 1e8, 1e8);
    assert_true(rb_host_assign(&h, text, sizeof text));
    int far = h.seat[0] == 0 ? 0 : 1;
    double s = rb_host_link_s(&h, &h.member[0], far);
    arrives(10, 8e9, 1e8, 1e8);
    steps(s * 0.5); /* steps are quicker: its link does more than was measured */
    assert_false(regroups() || regroups());
    steps(s * 4); /* steps take their time elsewhere */
    assert_false(regroups() || regroups());
    steps(s * 1.1);
    h.member[2].up_bits = 1.5e5; /* not much better */
    assert_false(regroups() || regroups());
    h.member[2].up_bits = 1e8;
    assert_false(regroups());
    assert_true(regroups());
    assert_int_equal(h.seat[far], 2);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {TEST(memory_is_the_schedules_own),
                                       TEST(what_fits_nowhere_is_said),
                                       TEST(copies_for_replicas_count),
                                       TEST(heaviest_goes_to_the_fastest),
                                       TEST(weights_stay),
                                       TEST(slow_link_is_spare),
                                       TEST(a_long_step_has_a_longer_wait),
                                       TEST(room_is_made),
                                       TEST(far_one_is_replaced)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
