#include <math.h>
#include "optim/lr_schedule.h"
#include "rb_cmocka.h"

static void assert_near(double got, double want) {
    if (!(fabs(got - want) < 1e-12)) fail_msg("%.15g is not %.15g", got, want);
}

static void wsd_warms_up_stays_and_falls(void **state) {
    (void)state;
    rb_lr_schedule s = {RB_DECAY_WSD, 4, 20, 0.25, 0.1};
    const double want[20] = {0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0.82, 0.64, 0.46, 0.28};
    for (int i = 0; i < 20; i++) assert_near(rb_lr_factor(&s, i), want[i]);
    assert_near(rb_lr_factor(&s, 20), 0.1);
    assert_near(rb_lr_factor(&s, 1000), 0.1);
}

static void cosine_falls_to_its_floor(void **state) {
    (void)state;
    rb_lr_schedule s = {RB_DECAY_COSINE, 2, 10, 0.5, 0.2};
    assert_near(rb_lr_factor(&s, 0), 0.5);
    assert_near(rb_lr_factor(&s, 1), 1);
    assert_near(rb_lr_factor(&s, 2), 1);
    assert_near(rb_lr_factor(&s, 6), 0.6);
    assert_near(rb_lr_factor(&s, 8), 0.2 + 0.4 * (1 - sqrt(0.5)));
    assert_near(rb_lr_factor(&s, 10), 0.2);
}

static void constant_is_one_after_the_warm_up(void **state) {
    (void)state;
    rb_lr_schedule s = {RB_DECAY_CONSTANT, 3, 10, 0.5, 0};
    assert_near(rb_lr_factor(&s, 0), 1.0 / 3);
    for (int i = 2; i < 30; i++) assert_near(rb_lr_factor(&s, i), 1);
}

static void no_warm_up_and_no_decay_are_fine(void **state) {
    (void)state;
    rb_lr_schedule s = {RB_DECAY_WSD, 0, 5, 0, 0};
    for (int i = 0; i < 5; i++) assert_near(rb_lr_factor(&s, i), 1);
    s = (rb_lr_schedule){RB_DECAY_COSINE, 5, 5, 0, 0};
    for (int i = 0; i < 5; i++) assert_near(rb_lr_factor(&s, i), (i + 1) / 5.0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wsd_warms_up_stays_and_falls),
        cmocka_unit_test(cosine_falls_to_its_floor),
        cmocka_unit_test(constant_is_one_after_the_warm_up),
        cmocka_unit_test(no_warm_up_and_no_decay_are_fine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
