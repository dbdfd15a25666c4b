#include "run/guard.h"

#include <math.h>
#include "rb_cmocka.h"

static void no_bound_before_it_has_seen_enough(void **state) {
    (void)state;
    rb_guard g = {0};
    for (int i = 0; i < RB_GUARD_LEAST - 1; i++) {
        assert_true(rb_guard_ratio(&g, 1e30) == 0);
        rb_guard_learn(&g, 2);
    }
    for (int i = 0; i < 100; i++) rb_guard_learn(&g, 0); /* a map that starts at zero */
    rb_guard_learn(&g, NAN);
    rb_guard_learn(&g, INFINITY);
    assert_true(rb_guard_ratio(&g, 1e30) == 0);
    rb_guard_learn(&g, 2);
    assert_true(rb_guard_ratio(&g, 1e30) == 5e29 && rb_guard_ratio(&g, 1) == 0.5);
}

static void follows_what_comes(void **state) {
    (void)state;
    rb_guard g = {0};
    for (int i = 0; i < 200; i++) { /* falls by a tenth each message, as gradients may at the start */
        double size = pow(0.9, i);
        assert_true(rb_guard_ratio(&g, size) < 2);
        rb_guard_learn(&g, size);
    }
    for (int i = 0; i < 200; i++) { /* and grows again */
        double size = pow(0.9, 199 - i);
        assert_true(rb_guard_ratio(&g, size) < RB_GUARD_SENDER);
        rb_guard_learn(&g, size);
    }
}

static void single_ones_move_nothing(void **state) {
    (void)state;
    rb_guard g = {0};
    for (int i = 0; i < 300; i++) rb_guard_learn(&g, i % 3 ? 1 : i % 2 ? 900 : 1e-9);
    assert_true(rb_guard_ratio(&g, 900) == 900);
    assert_true(rb_guard_ratio(&g, 5e6) > RB_GUARD_RECEIVER && rb_guard_ratio(&g, 3.9e6) < RB_GUARD_RECEIVER);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(no_bound_before_it_has_seen_enough),
                                       cmocka_unit_test(follows_what_comes),
                                       cmocka_unit_test(single_ones_move_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
