#include "pipeline/picture.h"
#include "pipeline/testing.h"

/* The promised bound is reached, not only kept. */
static void check_slots(const rb_schedule_kind *k, const rb_schedule_args *a, const rb_schedule *s,
                        const int *slots) {
    int nth[8] = {0};
    for (int g = 0; g < a->segments; g++)
        assert_int_equal(slots[g], k->in_flight(a, s->stage_of[g], nth[s->stage_of[g]]++));
}

/* The rules by which kinds refuse, said once more: then the sentence names the kind and a remedy that works. */
static bool refused(const rb_schedule_kind *k, const rb_schedule_args *a) {
    bool rule = (k == &rb_schedule_zbv && a->segments != 2 * a->stages) ||
                (k == &rb_schedule_2bw && a->microbatches < a->stages) ||
                (k == &rb_schedule_interleaved && (a->segments % a->stages || a->microbatches % a->stages));
    rb_schedule s;
    rb_err err;
    if (!rule) return false;
    assert_fails(rb_schedule_build(k, a, &s, NULL, &err), RESBM_E_CONFIG, k->name, &err);
    assert_non_null(strstr(err.text, "set "));
    rb_schedule_free(&s);
    return true;
}

static void every_schedule_up_to_8_builds(void **state) {
    (void)state;
    int built = 0;
    for (const rb_schedule_kind *const *k = rb_schedules; *k; k++) {
        for (int stages = 1; stages <= 8; stages++) {
            for (int segments = stages; segments <= 8; segments++) {
                for (int m = 1; m <= 8; m++) {
                    for (int extra = 0; extra <= 4; extra += 2) {
                        rb_schedule_args a = ARGS(stages, segments, m, extra, NULL);
                        a.trunks = (rb_trunks)(extra / 2);
                        rb_schedule s;
                        rb_err err;
                        int slots[8];
                        if (refused(*k, &a)) continue;
                        assert_ok(rb_schedule_build(*k, &a, &s, slots, &err), &err);
                        check_slots(*k, &a, &s, slots);
                        rb_schedule_free(&s);
                        built++;
                    }
                }
            }
        }
    }
    assert_int_equal(built, (5 * 36 * 8 + 204 + 4 * 8 + 92) * 3);
}

/* Lists that flow, over as many steps as it takes until one is like the next: what is promised in flight and of older
 * weights is what is needed, at any depth, with vertical sync and without; and each step's part ends with the update. */
static void every_flow_up_to_8_is_proved(void **state) {
    (void)state;
    int proved = 0;
    for (const rb_schedule_kind *const *k = rb_schedules; *k; k++) {
        for (int i = 0; (*k)->flows && i < 8 * 8 * 8 * 3 * 2; i++) {
            rb_schedule_args a = ARGS(i % 8 + 1, i / 8 % 8 + 1, i / 64 % 8 + 1, i / 512 % 3 * 2, NULL);
            a.vertical = i / 1536;
            if (a.segments < a.stages || refused(*k, &a)) continue;
            rb_flow f;
            rb_err err;
            int slots[8], stash[8], nth[8] = {0}, from, to, shift;
            assert_ok(rb_flow_build(*k, &a, &f, slots, stash, &err), &err);
            a.steps = f.list.microbatches / a.microbatches;
            for (int g = 0; g < a.segments; g++) {
                int stage = f.list.stage_of[g];
                assert_int_equal(slots[g], (*k)->in_flight(&a, stage, nth[stage]++));
                assert_int_equal(stash[g], (*k)->stash(&a, stage));
            }
            for (int s = 0; s < a.stages; s++) {
                rb_flow_part(&f, s, f.steady + 3, &from, &to, &shift);
                rb_action last = f.list.stage[s].items[to - 1];
                assert_true(to > from && last.kind == RB_ACT_UPDATE);
                assert_int_equal(last.microbatch + shift, (f.steady + 4) * a.microbatches - 1);
            }
            rb_schedule_free(&f.list);
            proved++;
        }
    }
    assert_int_equal(proved, (36 * 8 + 204) * 3 * 2);
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

/* Before a message that is waited for, behind one that another stage waits for; weight halves take the backward along; where
 * there is no message, nothing is moved. */
static void trunks_go_where_there_is_time(void **state) {
    (void)state;
    rb_schedule_args a = {.stages = 2, .segments = 3, .microbatches = 2, .trunks = RB_TRUNKS_APART};
    rb_schedule s;
    rb_err err;
    assert_ok(rb_schedule_build(&rb_schedule_1f1b, &a, &s, NULL, &err), &err);
    assert_list(&s, 0, "0F0 1F0 1SF0 0F1 1F1 1SF1 1RB0 1B0 0B0 1RB1 1B1 0B1");
    assert_list(&s, 1, "2TF0 2RF0 2F0 2B0 2SB0 2TB0 2TF1 2RF1 2F1 2B1 2SB1 2TB1");
    rb_schedule_free(&s);
    a.trunks = RB_TRUNKS_BEHIND;
    assert_ok(rb_schedule_build(&rb_schedule_1f1b, &a, &s, NULL, &err), &err);
    assert_list(&s, 1, "2RF0 2F0 2B0 2SB0 2TB0 2RF1 2F1 2B1 2SB1 2TB1");
    rb_schedule_free(&s);
    a.trunks = RB_TRUNKS_APART;
    assert_ok(rb_schedule_build(&rb_schedule_zb_h1, &a, &s, NULL, &err), &err);
    assert_list(&s, 1, "2TF0 2RF0 2F0 2I0 2SB0 2TF1 2RF1 2F1 2I1 2SB1 2W0 2W1");
    rb_schedule_free(&s);
    a = (rb_schedule_args){
        .stages = 2, .segments = 2, .microbatches = 2, .steps = 2, .trunks = RB_TRUNKS_APART};
    assert_ok(rb_schedule_build(&rb_schedule_2bw, &a, &s, NULL, &err), &err);
    assert_list(&s, 1,
                "1TF0 1RF0 1F0 1B0 1SB0 1TB0 1TF1 1RF1 1F1 1B1 1SB1 1TB1 1U1 "
                "1TF2-1 1RF2 1F2-1 1B2 1SB2 1TB2 1TF3-1 1RF3 1F3-1 1B3 1SB3 1TB3 1U3");
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

/* Evaluation under every placement that training uses. */
static void an_evaluation_takes_scattered_segments(void **state) {
    (void)state;
    for (int stages = 1; stages <= 8; stages++) {
        for (int m = 1; m <= 8; m++) {
            for (int kind = 0; kind < 2; kind++) {
                int place[24], segments = kind ? 2 * stages : 3 * stages;
                for (int g = 0; g < segments; g++)
                    place[g] = kind ? rb_schedule_zbv.place(stages, segments, g) : g % stages;
                rb_schedule_args a = ARGS(stages, segments, m, 0, place);
                rb_schedule s;
                rb_err err;
                assert_ok(rb_schedule_build(&rb_schedule_forward, &a, &s, NULL, &err), &err);
                rb_schedule_free(&s);
            }
        }
    }
    const int place[] = {0, 1, 0, 1};
    rb_schedule_args a = ARGS(2, 4, 3, 0, place);
    rb_schedule s;
    rb_err err;
    assert_ok(rb_schedule_build(&rb_schedule_forward, &a, &s, NULL, &err), &err);
    assert_list(&s, 0, "0F0 0SF0 0F1 0SF1 2RF0 2F0 2SF0 2RF1 2F1 2SF1 0F2 0SF2 2RF2 2F2 2SF2");
    assert_list(&s, 1, "1RF0 1F0 1SF0 1RF1 1F1 1SF1 3RF0 3F0 3RF1 3F1 1RF2 1F2 1SF2 3RF2 3F2");
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
    rb_schedule_args a = ARGS(2, 4, 2, 0, good);
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
    } bad[] = {{ARGS(4, 3, 1, 0, NULL), "set pipeline.stages to 3 or less, or model.segments to 4 or more"},
               {ARGS(0, 3, 1, 0, NULL), "0 stages"},
               {ARGS(1, 1, 0, 0, NULL), "train.microbatches is 0"},
               {ARGS(1, 1, 1, -1, NULL), "pipeline.inflight is -1"},
               {ARGS(1, 2000, 1, 0, NULL), "2000 segments"}};
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
        rb_schedule_args a = ARGS(4, 4, 16, c[i].extra, NULL);
        for (int s = 0; s < 4; s++) assert_int_equal(rb_schedule_1f1b.in_flight(&a, s, 0), c[i].want[s]);
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
    assert_picture(&rb_schedule_gpipe, (rb_schedule_args)ARGS(3, 3, 4, 0, NULL), 2,
                   "0  0F0 0F1 0F2 0F3 .   .   .   .   .   .   0B0 =   0B1 =   0B2 =   0B3 =\n"
                   "1  .   1F0 1F1 1F2 1F3 .   .   .   1B0 =   1B1 =   1B2 =   1B3 =   .   .\n"
                   "2  .   .   2F0 2F1 2F2 2F3 2B0 =   2B1 =   2B2 =   2B3 =   .   .   .   .\n");
    assert_picture(&rb_schedule_1f1b, (rb_schedule_args)ARGS(3, 3, 4, 0, NULL), 2,
                   "0  0F0 0F1 0F2 .   .   .   .   0B0 =   0F3 0B1 =   .   0B2 =   .   0B3 =\n"
                   "1  .   1F0 1F1 .   .   1B0 =   1F2 1B1 =   1F3 1B2 =   .   1B3 =   .   .\n"
                   "2  .   .   2F0 2B0 =   2F1 2B1 =   2F2 2B2 =   2F3 2B3 =   .   .   .   .\n");
    assert_picture(
        &rb_schedule_interleaved, (rb_schedule_args)ARGS(2, 4, 4, 0, NULL), 2,
        "0  0F0 0F1 2F0 2F1 0F2 .   2B0 =   0F3 2B1 =   2F2 0B0 =   2F3 0B1 =   .   2B2 =   .   2B3 =   0B2 "
        "=   0B3 =\n"
        "1  .   1F0 1F1 3F0 3B0 =   3F1 3B1 =   1F2 1B0 =   1F3 1B1 =   3F2 3B2 =   3F3 3B3 =   1B2 =   1B3 "
        "=   .   .\n");
    assert_picture(&rb_schedule_zb_h1, (rb_schedule_args)ARGS(3, 3, 4, 0, NULL), 2,
                   "0  0F0 0F1 0F2 .   .   0I0 0W0 0F3 0I1 0W1 0I2 0W2 0I3 0W3\n"
                   "1  .   1F0 1F1 .   1I0 1F2 1I1 1W0 1F3 1I2 1W1 1I3 1W2 1W3\n"
                   "2  .   .   2F0 2I0 2F1 2I1 2F2 2I2 2W0 2F3 2I3 2W1 2W2 2W3\n");
    assert_picture(&rb_schedule_zb_h1, (rb_schedule_args)ARGS(2, 2, 4, 1, NULL), 2,
                   "0  0F0 0F1 0F2 0I0 0W0 0F3 0I1 0W1 0I2 0W2 0I3 0W3 .\n"
                   "1  .   1F0 1I0 1F1 1I1 1F2 1I2 1W0 1F3 1I3 1W1 1W2 1W3\n");
    assert_picture(
        &rb_schedule_zbv, (rb_schedule_args)ARGS(2, 4, 4, 0, NULL), 2,
        "0  0F0 0F1 0F2 3F0 3I0 3W0 3F1 3I1 3W1 0F3 0I0 0W0 3F2 3I2 3W2 0I1 0W1 3F3 3I3 3W3 0I2 0W2 0I3 0W3 "
        ".\n"
        "1  .   1F0 2F0 1F1 2F1 2I0 2W0 1F2 1I0 1W0 2F2 2I1 2W1 1F3 1I1 1W1 2F3 2I2 2W2 1I2 2I3 1I3 1W2 2W3 "
        "1W3\n");
    assert_picture(&rb_schedule_pipedream, (rb_schedule_args)ARGS(3, 3, 5, 0, NULL), 2,
                   "0  0F0 0F1 0F2 .   .   .   .   0B0 =   0F3 0B1 =   0F4 0B2 =   .   0B3 =   .   0B4 =\n"
                   "1  .   1F0 1F1 .   .   1B0 =   1F2 1B1 =   1F3 1B2 =   1F4 1B3 =   .   1B4 =   .   .\n"
                   "2  .   .   2F0 2B0 =   2F1 2B1 =   2F2 2B2 =   2F3 2B3 =   2F4 2B4 =   .   .   .   .\n");
    assert_picture(&rb_schedule_2bw,
                   (rb_schedule_args){.stages = 2, .segments = 2, .microbatches = 3, .steps = 2}, 2,
                   "0  0F0   0F1   .     .     0B0   =     0F2   0B1   =     0F3   0B2   =     0F4-1 0B3   = "
                   "    0F5-1 0B4   =     .     "
                   "0B5   =\n"
                   "1  .     1F0   1B0   =     1F1   1B1   =     1F2   1B2   =     1F3-1 1B3   =     1F4-1 "
                   "1B4   =     1F5-1 1B5   =     .     "
                   ".\n");
    assert_picture(&rb_schedule_forward, (rb_schedule_args)ARGS(3, 3, 3, 0, NULL), 2,
                   "0  0F0 0F1 0F2 .   .\n"
                   "1  .   1F0 1F1 1F2 .\n"
                   "2  .   .   2F0 2F1 2F2\n");
}

static void fewer_microbatches_than_stages_and_several_segments(void **state) {
    (void)state;
    assert_picture(&rb_schedule_1f1b, (rb_schedule_args)ARGS(4, 4, 2, 0, NULL), 1,
                   "0  0F0 0F1 .   .   .   .   .   0B0 .   0B1\n"
                   "1  .   1F0 1F1 .   .   .   1B0 .   1B1 .\n"
                   "2  .   .   2F0 2F1 .   2B0 .   2B1 .   .\n"
                   "3  .   .   .   3F0 3B0 3F1 3B1 .   .   .\n");
    assert_picture(&rb_schedule_1f1b, (rb_schedule_args)ARGS(2, 3, 2, 0, NULL), 1,
                   "0  0F0 1F0 0F1 1F1 1B0 0B0 1B1 0B1\n"
                   "1  .   .   2F0 2B0 2F1 2B1 .   .\n");
}

static void every_schedule_prints_and_parses_back(void **state) {
    (void)state;
    for (const rb_schedule_kind *const *k = rb_schedules; *k; k++) {
        rb_schedule_args a = ARGS(3, 6, 6, 0, NULL);
        rb_schedule s, back;
        rb_buf text = {0};
        rb_err err;
        assert_ok(rb_schedule_build(*k, &a, &s, NULL, &err), &err);
        rb_schedule_print(&s, &text);
        assert_ok(rb_schedule_parse(text.data, text.len, "again", &back, &err), &err);
        assert_int_equal(back.stages, 3);
        assert_int_equal(back.segments, 6);
        assert_int_equal(back.microbatches, 6);
        assert_memory_equal(back.stage_of, s.stage_of, 6 * sizeof(int));
        for (int i = 0; i < 3; i++) {
            assert_int_equal(back.stage[i].count, s.stage[i].count);
            assert_memory_equal(back.stage[i].items, s.stage[i].items,
                                sizeof(rb_action) * (size_t)s.stage[i].count);
        }
        rb_schedule_free(&s);
        rb_schedule_free(&back);
        rb_buf_free(&text);
    }
}

static void refuse_text(const char *text, const char *sentence) {
    rb_schedule s;
    rb_err err;
    assert_fails(rb_schedule_parse(text, strlen(text), "a/b.sched", &s, &err), RESBM_E_FORMAT, sentence,
                 &err);
    rb_schedule_free(&s);
}

static void a_fault_in_a_text_has_its_place(void **state) {
    (void)state;
    refuse_text("0F0\n 1F0 2G0\n", "a/b.sched:2:6: \"2G0\" is no action");
    refuse_text("# nothing\n\n . . \n", "a/b.sched: there is no action in it");
    refuse_text("0F0\n\n1F0 0B0",
                "a/b.sched:3:5: 0B0: segment 0 lives on stage 0, where it stands first, and not on stage 1");
    refuse_text("0F0 2F0", "segment 1 has no action, but segment 2 has");
    refuse_text("1024F0", "a/b.sched:1:1: 1024F0: segments go to 1023");
    refuse_text("0F65536", "microbatches to 65535");
    refuse_text("0F0000000000000000000000000000000000000000000000000001", "is no action");
}

/* Comments, blank lines and idle cells are for people. */
static void a_text_becomes_a_schedule(void **state) {
    (void)state;
    const char *text = "# two stages\n0F0 . 0F1\t0B0 0B1 # the first\r\n\n . 1F0 1B0 1F1 1B1";
    rb_schedule_args a = ARGS(2, 2, 2, 0, NULL);
    rb_schedule s;
    rb_err err;
    int slots[2];
    assert_ok(rb_schedule_build_text(text, strlen(text), "x", &a, &s, slots, NULL, &err), &err);
    assert_list(&s, 0, "0F0 0SF0 0F1 0SF1 0RB0 0B0 0RB1 0B1");
    assert_list(&s, 1, "1RF0 1F0 1B0 1SB0 1RF1 1F1 1B1 1SB1");
    assert_int_equal(slots[0], 2);
    assert_int_equal(slots[1], 1);
    rb_schedule_free(&s);
    a.microbatches = 3;
    assert_fails(rb_schedule_build_text(text, strlen(text), "x", &a, &s, slots, NULL, &err), RESBM_E_CONFIG,
                 "x is for train.microbatches 2, but the run has 3", &err);
    rb_schedule_free(&s);
    a.microbatches = 2;
    const char *lame = "0F0 0F1 0B0 0B1\n1F0 1B0 1F1\n";
    assert_fails(rb_schedule_build_text(lame, strlen(lame), "dir/lame", &a, &s, slots, NULL, &err),
                 RESBM_E_STATE, "lame: stage 1, action 1B1: is missing", &err);
    rb_schedule_free(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_schedule_up_to_8_builds),
        cmocka_unit_test(every_flow_up_to_8_is_proved),
        cmocka_unit_test(messages_stand_where_stages_meet),
        cmocka_unit_test(trunks_go_where_there_is_time),
        cmocka_unit_test(a_stage_hosts_several_segments),
        cmocka_unit_test(an_evaluation_takes_scattered_segments),
        cmocka_unit_test(the_halves_take_their_messages_apart),
        cmocka_unit_test(stages_can_be_given),
        cmocka_unit_test(impossible_arguments_come_with_the_remedy),
        cmocka_unit_test(extra_in_flight_grows_towards_the_first_stage),
        cmocka_unit_test(schedules_look_like_their_pictures),
        cmocka_unit_test(every_schedule_prints_and_parses_back),
        cmocka_unit_test(a_fault_in_a_text_has_its_place),
        cmocka_unit_test(a_text_becomes_a_schedule),
        cmocka_unit_test(fewer_microbatches_than_stages_and_several_segments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
