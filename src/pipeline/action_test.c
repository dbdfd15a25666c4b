#include "pipeline/testing.h"

static void every_kind_prints_and_parses_back(void **state) {
    (void)state;
    const char *const text[RB_ACT_COUNT] = {"12F0",  "12B0",  "12I0",  "12W0",
                                            "12SF0", "12RF0", "12SB0", "12RB0"};
    for (int k = 0; k < RB_ACT_COUNT; k++) {
        char got[RB_ACTION_TEXT];
        rb_action a;
        rb_err err;
        assert_int_equal(rb_action_print(got, sizeof got, (rb_action){(rb_action_kind)k, 12, 0}),
                         strlen(text[k]));
        assert_string_equal(got, text[k]);
        assert_ok(rb_action_parse(text[k], &a, &err), &err);
        assert_true(a.kind == (rb_action_kind)k && a.segment == 12 && a.microbatch == 0);
    }
}

static void what_is_no_action_is_quoted(void **state) {
    (void)state;
    const char *const bad[] = {"",    "F0",   "2F",   "2X0",  "2F0 ",          " 2F0",
                               "2SF", "-1F0", "2F-1", "2SW0", "99999999999F0", "2F0F"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        rb_action a;
        rb_err err;
        char quoted[64];
        snprintf(quoted, sizeof quoted, "\"%s\" is no action", bad[i]);
        assert_fails(rb_action_parse(bad[i], &a, &err), RESBM_E_FORMAT, quoted, &err);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_prints_and_parses_back),
        cmocka_unit_test(what_is_no_action_is_quoted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
