/* When a participant works: --hours by the minute of the day, over midnight too. */
#include "run/join.h"
#include "data/utf8.h"
#include "rb_cmocka.h"

static bool works(int from, int to, int hour, int minute) {
    rb_join_options o = {.from_minute = from * 60, .to_minute = to * 60};
    return rb_join_within(&o, hour * 60 + minute);
}

static void hours_count(void **state) {
    (void)state;
    assert_true(works(22, 7, 22, 0) && works(22, 7, 23, 59) && works(22, 7, 0, 0) && works(22, 7, 6, 59));
    assert_false(works(22, 7, 7, 0) || works(22, 7, 12, 30) || works(22, 7, 21, 59));
    assert_true(works(9, 17, 9, 0) && works(9, 17, 16, 59));
    assert_false(works(9, 17, 8, 59) || works(9, 17, 17, 0) || works(9, 17, 0, 0));
    for (int m = 0; m < 1440; m++) assert_true(works(0, 0, m / 60, m % 60)); /* none given, or a whole day */
}

static void text_is_cut_between_characters(void **state) {
    char out[8];
    (void)state;
    rb_utf8_cut(out, sizeof out, "abc");
    assert_string_equal(out, "abc");
    rb_utf8_cut(out, sizeof out, "abcdefghij");
    assert_string_equal(out, "abcdefg");
    rb_utf8_cut(out, sizeof out, "a\u20ac\u20ac\u20ac");
    assert_string_equal(out, "a\u20ac\u20ac");
    rb_utf8_cut(out, sizeof out, "ab\u20ac\u20ac");
    assert_string_equal(out, "ab\u20ac");
    rb_utf8_cut(out, sizeof out, "a\xff\xe2\x82"); /* no UTF-8, and a character that is not whole */
    assert_string_equal(out, "a???");
    rb_utf8_cut(out, 1, "abc");
    assert_string_equal(out, "");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(hours_count),
                                       cmocka_unit_test(text_is_cut_between_characters)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
