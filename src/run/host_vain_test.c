/* Epochs without a step: from the third on the next try waits, longer each time, until a step is made or another one comes. */
#include <string.h>
#include "core/clock.h"
#include "run/host_testing.h"
#include "rb_cmocka.h"

static rb_host h;
static rb_host_vain v;
static rb_place places[2] = {{0, 0}, {1, 0}};

static int begin(void **state) {
    (void)state;
    bool ok = testing_begin(&h, 3, fopen("said", "w"));
    h.workers = 2;
    h.place = places;
    for (int i = 0; ok && i < 3; i++) {
        h.member[i].stage = -1;
        h.member[i].heard_ns = rb_now_ns();
    }
    h.seat[1] = 1;
    v = (rb_host_vain){.member = -1, .stage = -1};
    return !ok;
}

static int end(void **state) {
    (void)state;
    testing_end(&h);
    return 0;
}

/* An epoch of so many steps; the pause behind it, s. */
static double epoch(int steps, bool moved) {
    rb_host_note_try(&h, &v);
    h.timed = steps;
    rb_host_note_vain(&h, &v, moved, -1, false, "stage 1 (p1-0000) ended with status 3 while starting");
    return (double)(rb_host_pause_ns(&v) / RB_MS) / 1e3;
}

static void longer_each_time(void **state) {
    static const double pause[] = {0, 0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30};
    (void)state;
    for (size_t i = 0; i < sizeof pause / sizeof *pause; i++) assert_true(epoch(0, false) == pause[i]);
    for (int i = 0; i < 10000; i++) assert_true(epoch(0, false) == 30);
}

static void a_step_ends_it(void **state) {
    (void)state;
    for (int i = 0; i < 5; i++) epoch(0, false);
    assert_true(epoch(3, true) == 0);
    assert_true(epoch(0, false) == 0 && epoch(0, false) == 0 && epoch(0, false) == 0.5);
    assert_true(epoch(3, false) == 0); /* or one that was done again */
    assert_true(epoch(0, false) == 0 && epoch(0, false) == 0 && epoch(0, false) == 0.5);
}

/* Another one has the place; those that had it before are no news. */
static void another_one_ends_it(void **state) {
    (void)state;
    for (int i = 0; i < 5; i++) epoch(0, false);
    h.seat[1] = 2;
    assert_true(epoch(0, false) == 0 && epoch(0, false) == 0 && epoch(0, false) == 0.5);
    h.seat[1] = 1;
    assert_true(epoch(0, false) == 1);
    h.seat[1] = 2;
    assert_true(epoch(0, false) == 2);
}

static void numbers_wait_as_before(void **state) {
    static const double pause[] = {0, 0, 1, 2, 4, 8};
    (void)state;
    for (size_t i = 0; i < sizeof pause / sizeof *pause; i++) {
        h.timed = 0;
        rb_host_note_vain(&h, &v, false, 1, false, "stage 1 sent a loss of -1");
        assert_true((double)(rb_host_pause_ns(&v) / RB_MS) / 1e3 == pause[i]);
    }
}

/* A disk that is full is not emptied by trying: whether or not steps came before. */
static void a_full_disk_waits(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        h.timed = 2;
        rb_host_note_vain(&h, &v, i == 0, -1, true, "this machine could not keep the snapshot of step 4");
        assert_true(rb_host_pause_ns(&v) == 30 * RB_SEC);
    }
    assert_true(epoch(2, false) == 0);
}

static char doing[sizeof h.doing]; /* while it waited, */
static int64_t next_try_ns;        /* and until when */

/* Once it waits. */
static void *comes(void *arg) {
    (void)arg;
    for (int64_t until = rb_now_ns() + 20 * RB_SEC; !next_try_ns && rb_now_ns() < until;
         rb_sleep_ns(10 * RB_MS)) {
        pthread_mutex_lock(&h.lock);
        next_try_ns = h.next_try_ns;
        memcpy(doing, h.doing, sizeof doing);
        pthread_mutex_unlock(&h.lock);
    }
    rb_sleep_ns(100 * RB_MS);
    pthread_mutex_lock(&h.lock);
    h.member[2].came_ns = rb_now_ns();
    pthread_mutex_unlock(&h.lock);
    return NULL;
}

static void who_comes_is_tried_at_once(void **state) {
    pthread_t t;
    (void)state;
    for (int i = 0; i < 9; i++) epoch(0, false); /* 30 s */
    next_try_ns = 0;
    int64_t before = rb_now_ns();
    assert_int_equal(pthread_create(&t, NULL, comes, NULL), 0);
    rb_host_back_off(&h, &v);
    assert_int_equal(pthread_join(t, NULL), 0);
    assert_string_equal(doing,
                        "waits before the next try: the last 9 epochs ended before a step, the last because "
                        "stage 1 (p1-0000) ended with status 3 while starting");
    assert_true(next_try_ns >= before + 30 * RB_SEC && rb_now_ns() < before + 15 * RB_SEC);
    assert_true(h.next_try_ns == 0);
}

/* Words that do not fit are cut between characters: status is JSON. */
static void long_words(void **state) {
    char words[400] = "x";
    (void)state;
    for (int i = 0; i < 120; i++) strcat(words, "€");
    h.timed = 0;
    for (int i = 0; i < 3; i++) rb_host_note_vain(&h, &v, false, -1, false, words);
    assert_true(strlen(v.why) < sizeof v.why && strlen(v.why) % 3 == 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(longer_each_time, begin, end),
        cmocka_unit_test_setup_teardown(a_step_ends_it, begin, end),
        cmocka_unit_test_setup_teardown(another_one_ends_it, begin, end),
        cmocka_unit_test_setup_teardown(numbers_wait_as_before, begin, end),
        cmocka_unit_test_setup_teardown(a_full_disk_waits, begin, end),
        cmocka_unit_test_setup_teardown(who_comes_is_tried_at_once, begin, end),
        cmocka_unit_test_setup_teardown(long_words, begin, end)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
