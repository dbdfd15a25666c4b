/* What the tests of pipeline/ share. */
#ifndef RB_PIPELINE_TESTING_H
#define RB_PIPELINE_TESTING_H

#include <stdlib.h>
#include "pipeline/schedules.h"
#include "pipeline/validate.h"
#include "rb_cmocka.h"

#define ARGS(s, g, m, x, places)                                                                             \
    { .stages = s, .segments = g, .microbatches = m, .extra = x, .stage_of = places }

static inline rb_schedule build(const char *name, int stages, int segments, int microbatches, int extra) {
    rb_schedule_args a = ARGS(stages, segments, microbatches, extra, NULL);
    rb_schedule s;
    rb_err err;
    assert_ok(rb_schedule_build(rb_schedule_find(name), &a, &s, NULL, &err), &err);
    return s;
}

/* A schedule from text: one line per stage, actions apart by blanks, so that tests read like the lists. */
static inline rb_schedule parse_schedule(const char *text, int segments, const int *stage_of,
                                         int microbatches) {
    rb_schedule s = {.name = "text", .segments = segments, .microbatches = microbatches};
    rb_err err;
    s.stages = stage_of[segments - 1] + 1;
    s.stage_of = malloc(sizeof(int) * (size_t)segments);
    s.stage = calloc((size_t)s.stages, sizeof *s.stage);
    memcpy(s.stage_of, stage_of, sizeof(int) * (size_t)segments);
    for (int stage = 0; *text;) {
        size_t n = strcspn(text, " \n");
        char cell[RB_ACTION_TEXT] = "";
        rb_action a;
        assert_true(n < sizeof cell && stage < s.stages);
        memcpy(cell, text, n);
        if (n) {
            assert_ok(rb_action_parse(cell, &a, &err), &err);
            assert_ok(rb_action_push(&s.stage[stage], a, &err), &err);
        }
        text += n;
        stage += *text == '\n';
        text += *text != 0;
    }
    return s;
}

static inline void print_list(const rb_action_list *l, char *out, size_t size) {
    size_t n = 0;
    out[0] = 0;
    for (int i = 0; i < l->count; i++) {
        if (i) n += (size_t)snprintf(out + n, size - n, " ");
        n += (size_t)rb_action_print(out + n, size - n, l->items[i]);
    }
}

static inline void assert_list(const rb_schedule *s, int stage, const char *want) {
    char got[4096];
    print_list(&s->stage[stage], got, sizeof got);
    assert_string_equal(got, want);
}

#endif
