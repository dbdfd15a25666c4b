/* Schedules as text: any bytes are refused with a message, or make lists that print and parse back to themselves
 * and that the validator judges without a fault of its own. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "pipeline/schedules.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_round_trip(const rb_schedule *s) {
    rb_schedule back;
    rb_buf text = {0}, again = {0};
    rb_err err;
    rb_schedule_print(s, &text);
    if (rb_schedule_parse(text.data, text.len, "printed", &back, &err)) __builtin_trap();
    rb_schedule_print(&back, &again);
    if (text.len != again.len || memcmp(text.data, again.data, text.len)) __builtin_trap();
    rb_buf_free(&text);
    rb_buf_free(&again);
    rb_schedule_free(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    rb_schedule s, built;
    rb_err err;
    if (rb_schedule_parse((const char *)data, size, "fuzz", &s, &err)) {
        if (!*err.text) __builtin_trap();
        rb_schedule_free(&s);
        return 0;
    }
    check_round_trip(&s);
    rb_schedule_args a = {.stages = s.stages, .segments = s.segments, .microbatches = s.microbatches};
    if ((int64_t)a.segments * a.microbatches < 4096) { /* the validator's memory grows with their product */
        if (rb_schedule_build_text((const char *)data, size, "fuzz", &a, &built, NULL, NULL, &err) &&
            !*err.text)
            __builtin_trap();
        rb_schedule_free(&built);
    }
    rb_schedule_free(&s);
    return 0;
}
