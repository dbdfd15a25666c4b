#include <math.h>
#include <stdlib.h>

#include "core/clock.h"
#include "rb_cmocka.h"
#include "run/progress.h"

static char written[1 << 16];

static rb_progress *start(rb_progress_options opt, FILE **f) {
    rb_err err = {0};
    rb_progress *p = NULL;
    memset(written, 0, sizeof written);
    *f = opt.file = fmemopen(written, sizeof written - 1, "w");
    assert_non_null(*f);
    assert_ok(rb_progress_new(&opt, &p, &err), &err);
    return p;
}

static rb_progress_state at(int64_t step) {
    return (rb_progress_state){.step = step,
                               .steps = 350,
                               .loss = 2.10342,
                               .val_loss = NAN,
                               .tokens_per_s = 18234,
                               .up_use = 0.971,
                               .down_use = 0.5,
                               .left_s = 71.2};
}

static int count(const char *text, const char *part) {
    int n = 0;
    for (const char *p = text; (p = strstr(p, part)); p += strlen(part)) n++;
    return n;
}

static void plain_lines_now_and_then(void **state) {
    (void)state;
    FILE *f;
    rb_progress *p = start((rb_progress_options){.every_s = 10}, &f);
    for (int64_t i = 1; i <= 350; i++) {
        rb_progress_state s = at(i);
        rb_progress_update(p, &s, i * RB_SEC); /* a step per second */
    }
    rb_progress_end(p);
    fclose(f);
    assert_int_equal(count(written, "\n"), 36); /* 1, 11, 21, ... 341, and 350 */
    assert_int_equal(count(written, "\r") + count(written, "\033"), 0);
    const char *first = "step 1/350  loss 2.1034  18.2k tok/s  up 97%  down 50%  1m12s left\n";
    assert_memory_equal(written, first, strlen(first));
    assert_non_null(strstr(written, "step 350/350"));
}

static void an_evaluation_always_gets_a_plain_line(void **state) {
    (void)state;
    FILE *f;
    rb_progress *p = start((rb_progress_options){.every_s = 1000}, &f);
    for (int64_t i = 1; i <= 40; i++) {
        rb_progress_state s = at(i);
        s.val_loss = i >= 20 ? 2.25 : NAN;
        s.evaluated = i == 20;
        rb_progress_update(p, &s, i * RB_SEC);
    }
    rb_progress_end(p);
    fclose(f);
    assert_int_equal(count(written, "\n"), 3); /* 1, 20 and where it ended */
    assert_non_null(strstr(written, "step 20/350  loss 2.1034  val 2.2500"));
    assert_non_null(strstr(written, "step 40/350"));
}

static void a_terminal_line_is_rewritten(void **state) {
    (void)state;
    FILE *f;
    rb_progress *p = start((rb_progress_options){.terminal = true, .width = 120}, &f);
    for (int64_t i = 1; i <= 100; i++) {
        rb_progress_state s = at(i);
        rb_progress_update(p, &s, RB_SEC + i * 10 * RB_MS); /* 100 steps in a second: 10 lines, not 100 */
    }
    rb_progress_note(p, "checkpoint step-100 written");
    rb_progress_end(p);
    fclose(f);
    int lines = count(written, "\r\033[K");
    assert_in_range(lines, 9, 13);
    assert_int_equal(count(written, "\n"), 2);
    assert_non_null(strstr(written, "\r\033[Kcheckpoint step-100 written\n\r\033[Kstep 100/350"));
    assert_int_equal(count(written, "\033[1m"), 0);
}

/* Columns between carriage returns, escapes left out. */
static int widest(const char *text) {
    int most = 0, n = 0;
    for (const char *c = text; *c; c++) {
        if (*c == '\033')
            while (*c && *c != 'm' && *c != 'K') c++;
        else if (*c == '\r' || *c == '\n')
            n = 0;
        else if (++n > most)
            most = n;
    }
    return most;
}

static void never_wider_than_the_terminal(void **state) {
    (void)state;
    for (int width = 1; width <= 120; width++) {
        FILE *f;
        rb_progress *p = start((rb_progress_options){.terminal = true, .colour = true, .width = width}, &f);
        rb_progress_state s = at(123);
        s.val_loss = 2.2;
        rb_progress_update(p, &s, RB_SEC);
        rb_progress_end(p);
        fclose(f);
        if (widest(written) >= width && width > 1)
            fail_msg("%d columns on a terminal of %d", widest(written), width);
        if (width >= 14) assert_non_null(strstr(written, "step 123/350"));
        if (width >= 27) assert_non_null(strstr(written, "loss 2.1034"));
        if (width >= 85) assert_non_null(strstr(written, "down 50%"));
    }
}

static void unknown_numbers_are_left_out(void **state) {
    (void)state;
    FILE *f;
    rb_progress *p = start((rb_progress_options){.every_s = 1}, &f);
    rb_progress_state s = {.step = 3,
                           .loss = NAN,
                           .val_loss = NAN,
                           .tokens_per_s = NAN,
                           .up_use = NAN,
                           .down_use = NAN,
                           .left_s = NAN};
    rb_progress_update(p, &s, RB_SEC);
    rb_progress_end(p);
    fclose(f);
    assert_string_equal(written, "step 3\n");
}

static void no_colour_when_asked(void **state) {
    (void)state;
    FILE *f = tmpfile();
    setenv("NO_COLOR", "1", 1);
    rb_progress_options o = rb_progress_detect(f);
    assert_false(o.terminal || o.colour);
    fclose(f);
    for (int colour = 0; colour < 2; colour++) {
        rb_progress *p = start((rb_progress_options){.terminal = true, .colour = colour, .width = 100}, &f);
        rb_progress_state s = at(1);
        rb_progress_update(p, &s, RB_SEC);
        rb_progress_end(p);
        fclose(f);
        assert_int_equal(count(written, "\033[1m"), colour);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_lines_now_and_then),
        cmocka_unit_test(an_evaluation_always_gets_a_plain_line),
        cmocka_unit_test(a_terminal_line_is_rewritten),
        cmocka_unit_test(never_wider_than_the_terminal),
        cmocka_unit_test(unknown_numbers_are_left_out),
        cmocka_unit_test(no_colour_when_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
