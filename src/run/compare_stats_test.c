#include <math.h>

#include "rb_cmocka.h"
#include "run/compare_stats.h"

static bool near(double a, double b) {
    return fabs(a - b) <= 1e-12 * fmax(1, fabs(b));
}

static void mean_and_deviation(void **state) {
    (void)state;
    double m, d, x[] = {1, 2, 4, 9}, bad[] = {1, NAN};
    rb_mean_deviation(x, 4, &m, &d);
    assert_true(near(m, 4) && near(d, sqrt((9.0 + 4 + 0 + 25) / 3)));
    rb_mean_deviation(x, 1, &m, &d);
    assert_true(m == 1 && isnan(d)); /* one seed has no spread */
    rb_mean_deviation(x, 0, &m, &d);
    assert_true(isnan(m) && isnan(d));
    rb_mean_deviation(bad, 2, &m, &d);
    assert_true(isnan(m) && isnan(d));
}

static void steps_to_a_loss(void **state) {
    (void)state;
    double step[] = {10, 20, 40, 50}, loss[] = {4, 3, 2, 2.5};
    rb_curve c = {4, step, loss};
    assert_true(near(rb_curve_reach(&c, 3), 20));
    assert_true(near(rb_curve_reach(&c, 2.25), 35)); /* three quarters of the way from 20 to 40 */
    assert_true(near(rb_curve_reach(&c, 5), 10));    /* nothing is known before the first evaluation */
    assert_true(isnan(rb_curve_reach(&c, 1.999)));
    loss[1] = NAN; /* an evaluation that was no number is no crossing */
    assert_true(isnan(rb_curve_reach(&(rb_curve){2, step, loss}, 3.5)));
    assert_true(isnan(rb_curve_reach(&(rb_curve){0, step, loss}, 3)));
}

static void mean_curve_of_common_steps(void **state) {
    (void)state;
    rb_err err = {0};
    double s1[] = {5, 10, 15}, l1[] = {3, 2, 1}, s2[] = {10, 12, 15}, l2[] = {4, 9, 3};
    rb_curve c[] = {{3, s1, l1}, {3, s2, l2}}, m;
    assert_ok(rb_curve_mean(c, 2, &m, &err), &err);
    assert_int_equal(m.n, 2);
    assert_true(m.step[0] == 10 && m.loss[0] == 3 && m.step[1] == 15 && m.loss[1] == 2);
    rb_curve_free(&m);
    assert_ok(rb_curve_mean(c, 0, &m, &err), &err);
    assert_int_equal(m.n, 0);
    rb_curve_free(&m);
}

static void evaluations_of_a_run(void **state) {
    (void)state;
    rb_err err = {0};
    rb_step_metrics steps[] = {
        {.step = 1, .val_loss = NAN}, {.step = 2, .val_loss = 3.5}, {.step = 3, .val_loss = 3}};
    rb_metrics m = {steps, 3, NULL};
    rb_curve c;
    assert_ok(rb_curve_of(&m, &c, &err), &err);
    assert_int_equal(c.n, 2);
    assert_true(c.step[0] == 2 && c.loss[1] == 3);
    rb_curve_free(&c);
}

static void choice_of_a_sweep(void **state) {
    (void)state;
    double loss[] = {2.0, NAN, 1.5, 1.5}, none[] = {NAN, INFINITY};
    char value[4][64] = {"0.04", "0.01", "0.02", "0.005"}, words[2][64] = {"full", "none"}, next[64];
    assert_int_equal(rb_sweep_best(loss, 4), 2); /* the first of equals */
    assert_int_equal(rb_sweep_best(none, 2), -1);
    assert_int_equal(rb_sweep_edge(value, 4, 2), 0); /* by value, not by position */
    assert_int_equal(rb_sweep_edge(value, 4, 0), 1);
    assert_int_equal(rb_sweep_edge(value, 4, 3), -1);
    assert_int_equal(rb_sweep_edge(value, 4, -1), 0);
    assert_int_equal(rb_sweep_edge(words, 2, 0), 0); /* words have no edge */
    rb_sweep_beyond("0.04", 1, next);
    assert_string_equal(next, "0.08");
    rb_sweep_beyond("0.005", -1, next);
    assert_string_equal(next, "0.0025");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mean_and_deviation),         cmocka_unit_test(steps_to_a_loss),
        cmocka_unit_test(mean_curve_of_common_steps), cmocka_unit_test(evaluations_of_a_run),
        cmocka_unit_test(choice_of_a_sweep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
