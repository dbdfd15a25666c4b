/* The window of addresses against a plain list of the last ones, through many turns of its ring. */
#include "rb_cmocka.h"

#include <stdlib.h>
#include "core/rng.h"
#include "link/internal.h"

static rb_frame_header address(uint64_t step) {
    return (rb_frame_header){
        .kind = RB_FRAME_BACKWARD, .direction = 1, .boundary = 2, .epoch = 3, .step = step};
}

static void window_equals_a_list(void **state) {
    (void)state;
    enum { DRAWS = 40000, NAMES = 3 * RB_SEEN_KEPT };
    rb_seen *s = calloc(1, sizeof *s);
    static uint32_t last[NAMES]; /* when a name was last remembered, 0 never */
    uint32_t kept = 0;
    rb_rng r = {.key = 9};
    assert_non_null(s);
    for (uint32_t i = 0; i < DRAWS; i++) {
        uint64_t name = rb_rng_below(&r, NAMES);
        rb_frame_header h = address(name);
        bool want = last[name] && kept - last[name] < RB_SEEN_KEPT;
        if (rb_seen_before(s, &h) != want) fail_msg("draw %u: name %llu", i, (unsigned long long)name);
        if (!want) last[name] = ++kept;
    }
    assert_true(kept > 4 * RB_SEEN_KEPT); /* the ring turned, or nothing was tested */
    free(s);
}

static void every_field_counts(void **state) {
    (void)state;
    rb_seen *s = calloc(1, sizeof *s);
    assert_non_null(s);
    rb_frame_header h[] = {address(1), address(2), address(1), address(1),
                           address(1), address(1), address(1), address(1)};
    h[2].microbatch = 1;
    h[3].boundary = 1;
    h[4].attempt = 1;
    h[5].epoch = 4;
    h[6].direction = 0;
    h[7].kind = RB_FRAME_FORWARD;
    for (size_t i = 0; i < sizeof h / sizeof *h; i++) assert_false(rb_seen_before(s, &h[i]));
    for (size_t i = 0; i < sizeof h / sizeof *h; i++) assert_true(rb_seen_before(s, &h[i]));
    rb_frame_header control = {.kind = RB_FRAME_CONTROL};
    assert_false(rb_seen_before(s, &control));
    assert_false(rb_seen_before(s, &control));
    free(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(window_equals_a_list),
                                       cmocka_unit_test(every_field_counts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
