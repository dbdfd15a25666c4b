#include "pipeline/testing.h"

static void every_kind_prints_and_parses_back(void **state) {
    (void)state;
    const char *const text[RB_ACT_COUNT] = {"12F0", "12B0",  "12I0",  "12W0",  "12TF0", "12TB0",
                                            "12U0", "12SF0", "12RF0", "12SB0", "12RB0"};
    for (int k = 0; k < RB_ACT_COUNT; k++) {
        char got[RB_ACTION_TEXT];
        rb_action a;
        rb_err err;
        assert_int_equal(rb_action_print(got, sizeof got, rb_action_of((rb_action_kind)k, 12, 0)),
                         strlen(text[k]));
        assert_string_equal(got, text[k]);
        assert_ok(rb_action_parse(text[k], &a, &err), &err);
        assert_true(a.kind == (rb_action_kind)k && a.segment == 12 && a.microbatch == 0);
    }
}

static void an_older_version_prints_and_parses_back(void **state) {
    (void)state;
    rb_action a = {.kind = RB_ACT_FORWARD, .segment = 2, .microbatch = 5, .behind = 1}, b;
    char got[RB_ACTION_TEXT];
    rb_err err;
    rb_action_print(got, sizeof got, a);
    assert_string_equal(got, "2F5-1");
    assert_ok(rb_action_parse(got, &b, &err), &err);
    assert_true(b.kind == RB_ACT_FORWARD && b.segment == 2 && b.microbatch == 5 && b.behind == 1);
}

static void what_is_no_action_is_quoted(void **state) {
    (void)state;
    const char *const bad[] = {"",     "F0",   "2F",    "2X0",  "2F0 ", " 2F0",          "2SF",
                               "-1F0", "2F-1", "2B0-1", "2F0-", "2SW0", "99999999999F0", "2F0F"};
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
        cmocka_unit_test(an_older_version_prints_and_parses_back),
        cmocka_unit_test(what_is_no_action_is_quoted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
