#include <math.h>
#include "optim/clip.h"
#include "rb_cmocka.h"

static rb_tensor row(int segment, rb_role role) {
    return (rb_tensor){.segment = segment, .role = role};
}

static void norms_add_in_table_order(void **state) {
    (void)state;
    rb_tensor rows[] = {row(0, RB_ROLE_EMBEDDING), row(0, RB_ROLE_MATRIX), row(0, RB_ROLE_STEP),
                        row(1, RB_ROLE_BOUNDARY_MATRIX), row(1, RB_ROLE_HEAD)};
    const double sumsq[] = {1e-17, 1, 1e9, 8, 16};
    rb_tensor_table t = {rows, 5};
    double segment[2];
    double norm = rb_grad_norm(&t, sumsq, 2, segment);
    assert_true(norm == sqrt(((1e-17 + 1) + 8) + 16));
    assert_true(segment[0] == sqrt(1e-17 + 1));
    assert_true(segment[1] == sqrt(24.0));
    assert_true(rb_grad_norm(&t, sumsq, 2, NULL) == norm);
}

static void the_factor_bounds_the_norm(void **state) {
    (void)state;
    assert_true(rb_clip_factor(0.5, 1) == 1);
    assert_true(rb_clip_factor(1e30, 0) == 1);
    assert_true(rb_clip_factor(4, 1) == (float)(1 / (4 + 1e-6)));
    assert_true(rb_clip_factor(0, 1) == 1);
    assert_true(rb_clip_factor(NAN, 1) == 0 && rb_clip_factor(INFINITY, 1) == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_add_in_table_order),
        cmocka_unit_test(the_factor_bounds_the_norm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
