#include "pipeline/schedules.h"
#include "rb_cmocka.h"

static void every_schedule_up_to_8_builds(void **state) {
    (void)state;
    int built = 0;
    for (const rb_schedule_kind *const *k = rb_schedules; *k; k++) {
        for (int stages = 1; stages <= 8; stages++) {
            for (int segments = stages; segments <= 8; segments++) {
                for (int m = 1; m <= 8; m++) {
                    for (int extra = 0; extra <= 4; extra += 2) {
                        rb_schedule_args a = {stages, segments, m, extra, NULL};
                        rb_schedule s;
                        rb_err err;
                        int slots[8];
                        assert_ok(rb_schedule_build(*k, &a, &s, slots, &err), &err);
                        for (int g = 0; g < segments; g++) assert_in_range(slots[g], 1, m);
                        rb_schedule_free(&s);
                        built++;
                    }
                }
            }
        }
    }
    assert_int_equal(built, 3 * 36 * 8 * 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_schedule_up_to_8_builds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
