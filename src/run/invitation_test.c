/* An invitation comes back as it was given; one that is cut, changed or of something else is refused, whatever it holds. */
#include "run/invitation.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/rng.h"
#include "rb_cmocka.h"

static rb_access sample(void) {
    rb_access a = {.url = "tls://host.example.org:4222",
                   .run = "r1",
                   .name = RB_INVITED,
                   .seed = "SUAB",
                   .up_bits = 2.5e6};
    memset(a.certificate, 'c', 900);
    strcpy(a.certificate + 900, "\n\"quoted\" \\ \xc3\xa9");
    return a;
}

static void comes_back(void **state) {
    rb_access a = sample(), b;
    rb_buf line = {0};
    rb_err err;
    (void)state;
    assert_int_equal(rb_invitation_print(&a, &line, &err), RESBM_OK);
    assert_null(strpbrk(line.data, " \n\"'$&"));
    assert_int_equal(rb_invitation_read(line.data, &b, &err), RESBM_OK);
    assert_memory_equal(&a, &b, sizeof a);
    rb_buf_puts(&line, "\n"); /* as from a file or a terminal */
    assert_int_equal(rb_invitation_read(line.data, &b, &err), RESBM_OK);
    rb_buf_free(&line);
}

static void damaged_is_refused(void **state) {
    rb_access a = sample(), b;
    rb_buf line = {0};
    rb_err err;
    rb_rng r = {.key = 4};
    (void)state;
    assert_int_equal(rb_invitation_print(&a, &line, &err), RESBM_OK);
    for (size_t n = 7; n + 2 < line.len; n++) {
        char *cut = strndup(line.data, n);
        assert_int_equal(rb_invitation_read(cut, &b, &err), RESBM_E_FORMAT);
        assert_non_null(strstr(err.text, "no invitation"));
        free(cut);
    }
    for (int i = 0; i < 2000; i++) { /* a changed one is refused, or still well-formed */
        char *changed = strdup(line.data);
        changed[7 + rb_rng_below(&r, line.len - 7)] = (char)(1 + rb_rng_below(&r, 126));
        resbm_status st = rb_invitation_read(changed, &b, &err);
        assert_true(st == RESBM_OK || st == RESBM_E_FORMAT);
        if (st == RESBM_OK)
            assert_true(strlen(b.name) > 0 && strlen(b.seed) < sizeof b.seed && !strpbrk(b.run, ".*> "));
        free(changed);
    }
    rb_buf_free(&line);
}

static void names_stay_plain(void **state) {
    rb_access a = sample(), b;
    rb_err err;
    (void)state;
    static const char *const bad[] = {"",    "a.b",  "a>",      "*",
                                      "a b", "../x", "\xc3\xa9"}; /* would change subjects or paths */
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *text;
        snprintf(a.name, sizeof a.name, "%s", bad[i]);
        assert_int_equal(rb_access_print(&a, &text, &err), RESBM_OK);
        assert_int_equal(rb_access_parse(text, &b, &err), RESBM_E_FORMAT);
        free(text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(comes_back), cmocka_unit_test(damaged_is_refused),
                                       cmocka_unit_test(names_stay_plain)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
