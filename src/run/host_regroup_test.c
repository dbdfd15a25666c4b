/* Who gets another stage, and when: a slow machine's goes to a much faster spare one, by two snapshots in a row; a lost replica's place is
 * taken; what waits for links, or is only half as slow, stays. */
#include "core/clock.h"
#include "run/host_configured.h"

static void set_up(int replicas, int members) {
    char text[40];
    snprintf(text, sizeof text, "pipeline.replicas=%d", replicas);
    assert_int_equal(begin(NULL), 0);
    configured((const char *const[]){"pipeline.stages=2", text, "train.microbatches=4", NULL});
    h.members = members;
    for (int i = 0; i < members; i++) {
        snprintf(h.member[i].name, sizeof h.member[i].name, "p%d", i);
        h.member[i].seen = true;
        h.member[i].gflops = 10;
        h.member[i].stage = -1;
    }
    for (int w = 0; w < h.workers; w++) h.seat[w] = w;
}

static void tear_down(void) {
    end(NULL);
}

/* Steps in which each process takes its part of a second for four microbatches. */
static void steps(const double *computes) {
    double speed[RB_MAX_STAGES];
    for (int w = 0; w < h.workers; w++) speed[w] = 4 / computes[w];
    rb_step_record r = {.stages = h.workers, .speed = speed, .step_s = 1};
    for (int i = 0; i < 10; i++) rb_host_note_speeds(&h, &r);
}

static bool regroups(void) {
    rb_host_regroup(&h);
    bool is = h.regroup;
    if (is) rb_host_swap(&h);
    assert_int_equal(atomic_load(&h.stop), 0);
    return is;
}

static void slow_one_is_replaced(void **state) {
    (void)state;
    set_up(1, 3);
    double even = h.work[1] / h.work[0]; /* stage 1 has the head */
    steps((double[]){0.8, 0.1 * even});
    assert_false(regroups()); /* once is not enough */
    assert_true(regroups());
    assert_int_equal(h.seat[0], 2);
    assert_int_equal(h.seat[1], 1);
    assert_true(rb_member_share(&h.member[0]) < 0.2);
    steps((double[]){0.1, 0.1 * even});
    assert_false(regroups());
    assert_false(regroups());
    steps((double[]){0.1, 0.8 * even}); /* nobody else than the one that was slow */
    assert_false(regroups());
    assert_false(regroups());
    tear_down();
}

static void others_stay(void **state) {
    (void)state;
    set_up(1, 3);
    double even = h.work[1] / h.work[0];
    steps((double[]){0.5, 0.3 * even}); /* not twice as slow */
    assert_false(regroups() || regroups());
    steps((double[]){0.2, 0.02 * even}); /* most of a step is waiting */
    assert_false(regroups() || regroups());
    h.member[2].paused = true; /* nobody is spare */
    steps((double[]){0.8, 0.1 * even});
    assert_false(regroups() || regroups());
    h.member[2].paused = false;
    h.member[2].gflops = 1; /* slower still */
    assert_false(regroups() || regroups());
    h.member[2].gflops = 10;
    h.timed = 3; /* too early */
    assert_false(regroups() || regroups());
    tear_down();
}

static void lost_place_is_taken(void **state) {
    (void)state;
    set_up(2, 5);
    h.member[4].lapsed = true;
    rb_host_dropped(&h, 3, "was killed", false);
    h.member[3].lapsed = true;
    assert_int_equal(h.seat[3], -1);
    assert_int_equal(h.member[3].stage, -1);
    assert_false(regroups());
    h.member[4].lapsed = false;
    assert_true(regroups());
    tear_down();
}

/* Who held up the others is not the next one to take a place: others are preferred from the first time on. */
static void held_up_is_set_aside(void **state) {
    (void)state;
    set_up(2, 4);
    rb_host_dropped(&h, 3, "holds up the others", true);
    assert_true(h.member[3].aside_ns > rb_now_ns());
    assert_false(regroups()); /* there is no other */
    h.member[3].aside_ns = 0;
    assert_true(regroups());
    tear_down();
}

/* An epoch begins with all places taken: with one spare for two that are empty the run goes on as it is. */
static void all_places_are_taken_or_none(void **state) {
    (void)state;
    set_up(2, 5);
    rb_host_dropped(&h, 3, "was killed", false);
    h.member[3].lapsed = true;
    rb_host_dropped(&h, 1, NULL, false); /* left out with it, and away for a while */
    h.member[1].lapsed = true;
    assert_false(regroups());
    h.member[1].lapsed = false;
    assert_true(regroups());
    assert_int_equal(h.member[1].faults, 0);
    assert_int_equal(h.member[3].faults, 1);
    tear_down();
}

/* Bytes are counted by each process from its own begin; what a participant has given goes on over epochs. */
static void what_is_given_is_accounted(void **state) {
    (void)state;
    set_up(1, 2);
    int64_t packets[2][2] = {{100, 10}, {7, 70}};
    double speed[2] = {1, 1}, busy[2] = {0.5, 0.25};
    rb_step_record r = {.stages = 2, .speed = speed, .packets = (const int64_t(*)[2])packets, .busy_s = busy};
    rb_host_note_speeds(&h, &r);
    packets[0][0] = 150;
    rb_host_note_speeds(&h, &r);
    memset(h.packets, 0, sizeof h.packets); /* an epoch ends, others begin */
    packets[0][0] = 30;
    h.seat[1] = -1;
    rb_host_note_speeds(&h, &r);
    assert_int_equal(h.member[0].moved[0], 180);
    assert_int_equal(h.member[0].moved[1], 20);
    assert_int_equal(h.member[1].moved[1], 70);
    assert_int_equal(h.member[0].steps, 3);
    assert_int_equal(h.member[1].steps, 2);
    assert_true(h.member[0].busy_s == 1.5 && h.member[1].busy_s == 0.5);
    tear_down();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slow_one_is_replaced),         cmocka_unit_test(others_stay),
        cmocka_unit_test(lost_place_is_taken),          cmocka_unit_test(held_up_is_set_aside),
        cmocka_unit_test(all_places_are_taken_or_none), cmocka_unit_test(what_is_given_is_accounted)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
