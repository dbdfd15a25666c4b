/* Who holds up the others, and from when on: by simulated clocks and by what stages say. */
#include "run/held.h"
#include <stdlib.h>
#include <string.h>
#include "core/clock.h"
#include "rb_cmocka.h"

enum { WORKERS = 5 };
#define MOST (600 * RB_SEC)

static rb_held h;
static bool owes[WORKERS], answered[WORKERS];

static rb_usual took(const double *s, int n, int times) {
    rb_usual u = {0};
    for (int i = 0; i < n * times; i++) rb_usual_note(&u, (int64_t)(s[i % n] * 1e9));
    return u;
}

static double deadline(const double *s, int n, int times, int slack) {
    rb_usual u = took(s, n, times);
    return (double)(rb_step_deadline_ns(&u, slack, MOST) / RB_MS) / 1e3;
}

static void learned_from_steps(void **state) {
    (void)state;
    assert_true(deadline((double[]){0.3}, 1, 7, 1) == 0);      /* too few */
    assert_true(deadline((double[]){0.3}, 1, 8, 1) == 5);      /* the floor */
    assert_true(deadline((double[]){2}, 1, 20, 0) == 24);      /* twelve medians */
    assert_true(deadline((double[]){2, 2.5}, 2, 20, 1) == 38); /* and sixteen deviations */
    assert_true(deadline((double[]){2, 2.5, 3}, 3, 20, 1) == 38);
    assert_true(deadline((double[]){9}, 1, 20, 1) == 60);   /* long ones: a minute, */
    assert_true(deadline((double[]){40}, 1, 20, 1) == 160); /* then four medians */
    assert_true(deadline((double[]){40, 60}, 2, 20, 1) == 560);
    assert_true(deadline((double[]){200}, 1, 20, 1) == 0); /* a wait's own is shorter */
    assert_true(deadline((double[]){0.3}, 1, 8, 4) == 20); /* those before passed theirs */
    assert_true(deadline((double[]){0.3}, 1, 8, 120) == 0);
    rb_usual u = took((double[]){0.5}, 1, 40); /* one long step changes nothing, many do */
    rb_usual_note(&u, 3600 * RB_SEC);
    assert_true(rb_step_deadline_ns(&u, 1, MOST) == 6 * RB_SEC);
    for (int i = 0; i < 40; i++) rb_usual_note(&u, RB_SEC);
    assert_true(rb_step_deadline_ns(&u, 1, MOST) == 12 * RB_SEC);
}

static int begin(void **state) {
    (void)state;
    memset(answered, 0, sizeof answered);
    for (int w = 0; w < WORKERS; w++) owes[w] = true;
    h = (rb_held){.deadline_ns = 8 * RB_SEC, .usual_ns = RB_SEC / 2, .steps = 20};
    rb_held_begin(&h, 1000 * RB_SEC);
    return 0;
}

static bool says(int from, const char *text) {
    json_t *j = json_loads(text, 0, NULL);
    assert_non_null(j);
    bool good = rb_held_note(&h, from, j, WORKERS);
    json_decref(j);
    return good;
}

static void waits(int from, int on) {
    char text[64];
    snprintf(text, sizeof text, "{\"on\": %d, \"kind\": 1, \"step\": 7}", on);
    assert_true(says(from, text));
}

static void answers(int worker) {
    answered[worker] = true;
    owes[worker] = false;
}

static void found(int worker, int other) {
    int also;
    assert_int_equal(rb_held_find(&h, owes, answered, WORKERS, &also), worker);
    assert_int_equal(also, other);
}

static void the_one_that_does_not_wait(void **state) {
    (void)state;
    found(-1, -1); /* all work */
    waits(3, 2);
    waits(4, 3);
    found(2, -1); /* of those that work, the one that others wait for */
    waits(0, 1);
    found(1, -1); /* of equals the first */
    waits(1, 2);
    found(2, -1);
    assert_int_equal(rb_held_behind(&h, 0), 2);
    assert_int_equal(rb_held_behind(&h, 4), 2);
    assert_int_equal(rb_held_behind(&h, 2), -1); /* it has not said that it waits */
    waits(4, -1);                                /* it goes on, nobody waits for it */
    found(2, -1);
    assert_int_equal(rb_held_behind(&h, 4), -1);
}

static void who_has_answered_waits_too(void **state) {
    (void)state;
    for (int w = 0; w < WORKERS; w++)
        if (w != 1) answers(w);
    found(1, -1);
    answers(1);
    found(-1, -1);
}

static void nobody_is_blamed_while_all_work(void **state) {
    (void)state;
    waits(2, 1);
    waits(2, -1);
    found(-1, -1);
}

/* All wait: what was sent does not come. */
static void a_message_that_does_not_come(void **state) {
    (void)state;
    waits(0, 1);
    waits(1, 2);
    waits(2, 1);
    waits(3, 2);
    waits(4, 3);
    int other, worker = rb_held_find(&h, owes, answered, WORKERS, &other);
    assert_true((worker == 1 && other == 2) || (worker == 2 && other == 1));
    assert_int_equal(rb_held_behind(&h, 0), -1);
    rb_held_begin(&h, 0); /* or from one that has answered, as it has sent everything */
    for (int w = 0; w < WORKERS; w++)
        if (w != 0) answers(w);
    waits(0, 1);
    found(0, 1);
}

static void alone(void **state) {
    int other;
    (void)state;
    assert_int_equal(rb_held_find(&h, owes, answered, 1, &other), 0);
}

static void what_no_stage_says(void **state) {
    static const char *const bad[] = {"{}",           "{\"on\": \"1\"}", "{\"on\": 1.5}",
                                      "{\"on\": -2}", "{\"on\": 5}",     "{\"on\": 99999999999999}",
                                      "{\"on\": 3}"};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(says(3, bad[i]));
    assert_false(says(5, "{\"on\": 1}"));
    assert_false(says(-1, "{\"on\": 1}"));
    assert_true(says(3, "{\"on\": 1, \"microbatch\": -7, \"boundary\": 99999999999, \"kind\": 300}"));
    assert_int_equal(h.by[3].what.microbatch, 0);
    bool good = true;
    for (int i = 0; i < 70000 && good; i++) good = says(2, "{\"on\": 1}");
    assert_false(good); /* nor that often */
}

/* Looks every fifth of a second for so long. */
static bool due_within(int64_t *now, double s, bool connected) {
    bool due = false;
    for (int64_t until = *now + (int64_t)(s * 1e9); *now < until && !due;) {
        *now += RB_SEC / 5;
        due = rb_held_due(&h, *now, connected);
    }
    return due;
}

static void time_that_counts(void **state) {
    int64_t now = 1000 * RB_SEC;
    (void)state;
    assert_false(due_within(&now, 9.5, true)); /* eight, one for what they say, and two steps */
    assert_true(due_within(&now, 1, true));
    rb_held_begin(&h, now);
    assert_false(due_within(&now, 5, true));
    assert_false(due_within(&now, 100, false)); /* cut off */
    now += 3600 * RB_SEC;                       /* did not run itself */
    assert_false(rb_held_due(&h, now, true));
    assert_false(due_within(&now, 4.5, true));
    assert_true(due_within(&now, 1, true));
    h.deadline_ns = 0; /* not learned */
    assert_false(due_within(&now, 1000, true));
    rb_held_begin(&h, now); /* one writes longer than the others: those took five seconds */
    h.most_ns = 60 * RB_SEC;
    assert_false(due_within(&now, 5, true));
    rb_held_answers(&h, WORKERS - 1);
    rb_held_answers(&h, WORKERS - 1);
    assert_false(due_within(&now, 75.5, true)); /* 60, four times five, and one */
    assert_false(rb_held_hangs(&h));
    assert_true(due_within(&now, 1, true));
    assert_true(rb_held_hangs(&h));
    rb_held_begin(&h, now); /* of one alone nobody knows what it has to do */
    assert_false(due_within(&now, 1000, true));
    h.deadline_ns = 8 * RB_SEC; /* learned: it is late, and hangs only where all others are ready */
    rb_held_begin(&h, now);
    assert_true(due_within(&now, 20, true)); /* after ten */
    rb_held_answers(&h, WORKERS - 1);
    for (int i = 0; i < 455; i++, now += RB_SEC / 5) assert_true(rb_held_due(&h, now, true));
    assert_false(rb_held_hangs(&h));
    for (int i = 0; i < 5; i++, now += RB_SEC / 5) assert_true(rb_held_due(&h, now, true));
    assert_true(rb_held_hangs(&h)); /* 60, four times ten, and one */
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(learned_from_steps),
                                       cmocka_unit_test_setup(the_one_that_does_not_wait, begin),
                                       cmocka_unit_test_setup(who_has_answered_waits_too, begin),
                                       cmocka_unit_test_setup(nobody_is_blamed_while_all_work, begin),
                                       cmocka_unit_test_setup(a_message_that_does_not_come, begin),
                                       cmocka_unit_test_setup(alone, begin),
                                       cmocka_unit_test_setup(what_no_stage_says, begin),
                                       cmocka_unit_test_setup(time_that_counts, begin)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
