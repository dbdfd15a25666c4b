#include "pipeline/picture.h"
#include "pipeline/testing.h"

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
                        for (int g = 0; g < segments; g++)
                            assert_int_equal(slots[g], (*k)->in_flight(&a, s.stage_of[g]));
                        rb_schedule_free(&s);
                        built++;
                    }
                }
            }
        }
    }
    assert_int_equal(built, 3 * 36 * 8 * 3);
}

static void messages_stand_where_stages_meet(void **state) {
    (void)state;
    rb_schedule s = build("gpipe", 2, 2, 2, 0);
    assert_list(&s, 0, "0F0 0SF0 0F1 0SF1 0RB0 0B0 0RB1 0B1");
    assert_list(&s, 1, "1RF0 1F0 1RF1 1F1 1B0 1SB0 1B1 1SB1");
    rb_schedule_free(&s);
    s = build("1f1b", 2, 2, 3, 0);
    assert_list(&s, 0, "0F0 0SF0 0F1 0SF1 0RB0 0B0 0F2 0SF2 0RB1 0B1 0RB2 0B2");
    assert_list(&s, 1, "1RF0 1F0 1B0 1SB0 1RF1 1F1 1B1 1SB1 1RF2 1F2 1B2 1SB2");
    rb_schedule_free(&s);
}

/* Two segments of one stage hand over without a message. */
static void a_stage_hosts_several_segments(void **state) {
    (void)state;
    rb_schedule s = build("1f1b", 2, 3, 1, 0);
    assert_list(&s, 0, "0F0 1F0 1SF0 1RB0 1B0 0B0");
    assert_list(&s, 1, "2RF0 2F0 2B0 2SB0");
    rb_schedule_free(&s);
    s = build("gpipe", 1, 3, 2, 0);
    assert_list(&s, 0, "0F0 1F0 2F0 0F1 1F1 2F1 2B0 1B0 0B0 2B1 1B1 0B1");
    rb_schedule_free(&s);
    s = build("forward", 2, 2, 2, 0);
    assert_list(&s, 0, "0F0 0SF0 0F1 0SF1");
    assert_list(&s, 1, "1RF0 1F0 1RF1 1F1");
    rb_schedule_free(&s);
}

static void the_halves_take_their_messages_apart(void **state) {
    (void)state;
    const int stage_of[] = {0, 1};
    rb_err err;
    rb_schedule s = parse_schedule("0F0 0I0 0W0\n1F0 1I0 1W0\n", 2, stage_of, 1);
    assert_ok(rb_schedule_communicate(&s, &err), &err);
    assert_list(&s, 0, "0F0 0SF0 0RB0 0I0 0W0");
    assert_list(&s, 1, "1RF0 1F0 1I0 1SB0 1W0");
    rb_schedule_free(&s);
}

static void stages_can_be_given(void **state) {
    (void)state;
    const int good[] = {0, 1, 1, 1}, gap[] = {0, 0, 2, 2}, back[] = {0, 1, 0, 1}, late[] = {1, 1, 2, 2},
              few[] = {0, 0, 0, 0};
    rb_schedule_args a = {2, 4, 2, 0, good};
    rb_schedule s;
    rb_err err;
    assert_ok(rb_schedule_build(&rb_schedule_1f1b, &a, &s, NULL, &err), &err);
    assert_memory_equal(s.stage_of, good, sizeof good);
    rb_schedule_free(&s);
    const struct {
        const int *stage_of;
        const char *part;
    } bad[] = {{gap, "segment 2 is given to stage 2 after stage 0"},
               {back, "segment 2 is given to stage 0 after stage 1"},
               {late, "segment 0 is given to stage 1"},
               {few, "given to 1 stages, but there are 2"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        a.stage_of = bad[i].stage_of;
        assert_fails(rb_schedule_build(&rb_schedule_1f1b, &a, &s, NULL, &err), RESBM_E_CONFIG, bad[i].part,
                     &err);
        rb_schedule_free(&s);
    }
}

static void impossible_arguments_come_with_the_remedy(void **state) {
    (void)state;
    const struct {
        rb_schedule_args a;
        const char *part;
    } bad[] = {{{4, 3, 1, 0, NULL}, "set pipeline.stages to 3 or less, or model.segments to 4 or more"},
               {{0, 3, 1, 0, NULL}, "0 stages"},
               {{1, 1, 0, 0, NULL}, "train.microbatches is 0"},
               {{1, 1, 1, -1, NULL}, "pipeline.inflight is -1"},
               {{1, 2000, 1, 0, NULL}, "2000 segments"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        rb_schedule s;
        rb_err err;
        assert_fails(rb_schedule_build(&rb_schedule_gpipe, &bad[i].a, &s, NULL, &err), RESBM_E_CONFIG,
                     bad[i].part, &err);
        rb_schedule_free(&s);
    }
    assert_null(rb_schedule_find("zero"));
}

/* Extra in flight is shared out over the hops behind a stage. */
static void extra_in_flight_grows_towards_the_first_stage(void **state) {
    (void)state;
    const struct {
        int extra, want[4];
    } c[] = {
        {0, {4, 3, 2, 1}}, {1, {5, 4, 3, 1}}, {3, {7, 5, 3, 1}}, {6, {10, 7, 4, 1}}, {40, {16, 16, 16, 1}}};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        rb_schedule_args a = {4, 4, 16, c[i].extra, NULL};
        for (int s = 0; s < 4; s++) assert_int_equal(rb_schedule_1f1b.in_flight(&a, s), c[i].want[s]);
    }
}

static void assert_picture(const rb_schedule_kind *k, rb_schedule_args a, double backward, const char *want) {
    rb_segment_cost cost[8];
    rb_sim_options o = {.cost = cost};
    rb_buf got = {0};
    rb_schedule s;
    rb_err err;
    for (int i = 0; i < 8; i++) cost[i] = (rb_segment_cost){1, backward, 1, 1};
    assert_ok(rb_schedule_build(k, &a, &s, NULL, &err), &err);
    assert_ok(rb_schedule_picture(&s, &o, 1, &got, &err), &err);
    assert_string_equal(got.data, want);
    rb_buf_free(&got);
    rb_schedule_free(&s);
}

/* The pictures at the top of the generators' files. */
static void schedules_look_like_their_pictures(void **state) {
    (void)state;
    assert_picture(&rb_schedule_gpipe, (rb_schedule_args){3, 3, 4, 0, NULL}, 2,
                   "0  0F0 0F1 0F2 0F3 .   .   .   .   .   .   0B0 =   0B1 =   0B2 =   0B3 =\n"
                   "1  .   1F0 1F1 1F2 1F3 .   .   .   1B0 =   1B1 =   1B2 =   1B3 =   .   .\n"
                   "2  .   .   2F0 2F1 2F2 2F3 2B0 =   2B1 =   2B2 =   2B3 =   .   .   .   .\n");
    assert_picture(&rb_schedule_1f1b, (rb_schedule_args){3, 3, 4, 0, NULL}, 2,
                   "0  0F0 0F1 0F2 .   .   .   .   0B0 =   0F3 0B1 =   .   0B2 =   .   0B3 =\n"
                   "1  .   1F0 1F1 .   .   1B0 =   1F2 1B1 =   1F3 1B2 =   .   1B3 =   .   .\n"
                   "2  .   .   2F0 2B0 =   2F1 2B1 =   2F2 2B2 =   2F3 2B3 =   .   .   .   .\n");
    assert_picture(&rb_schedule_forward, (rb_schedule_args){3, 3, 3, 0, NULL}, 2,
                   "0  0F0 0F1 0F2 .   .\n"
                   "1  .   1F0 1F1 1F2 .\n"
                   "2  .   .   2F0 2F1 2F2\n");
}

static void fewer_microbatches_than_stages_and_several_segments(void **state) {
    (void)state;
    assert_picture(&rb_schedule_1f1b, (rb_schedule_args){4, 4, 2, 0, NULL}, 1,
                   "0  0F0 0F1 .   .   .   .   .   0B0 .   0B1\n"
                   "1  .   1F0 1F1 .   .   .   1B0 .   1B1 .\n"
                   "2  .   .   2F0 2F1 .   2B0 .   2B1 .   .\n"
                   "3  .   .   .   3F0 3B0 3F1 3B1 .   .   .\n");
    assert_picture(&rb_schedule_1f1b, (rb_schedule_args){2, 3, 2, 0, NULL}, 1,
                   "0  0F0 1F0 0F1 1F1 1B0 0B0 1B1 0B1\n"
                   "1  .   .   2F0 2B0 2F1 2B1 .   .\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_schedule_up_to_8_builds),
        cmocka_unit_test(messages_stand_where_stages_meet),
        cmocka_unit_test(a_stage_hosts_several_segments),
        cmocka_unit_test(the_halves_take_their_messages_apart),
        cmocka_unit_test(stages_can_be_given),
        cmocka_unit_test(impossible_arguments_come_with_the_remedy),
        cmocka_unit_test(extra_in_flight_grows_towards_the_first_stage),
        cmocka_unit_test(schedules_look_like_their_pictures),
        cmocka_unit_test(fewer_microbatches_than_stages_and_several_segments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
