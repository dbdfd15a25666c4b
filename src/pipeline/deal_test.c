/* Replicas in schedules: how microbatches are shared out, the lists that come of it, and what the validator rejects. */
#include "pipeline/deal.h"
#include "pipeline/simulator.h"
#include "pipeline/testing.h"

enum { MOST = 64 };

static void shares_follow_speeds(void **state) {
    static const struct {
        int microbatches, n;
        double speed[4];
        int want[4];
    } cases[] = {{8, 2, {1, 1}, {4, 4}},
                 {8, 2, {3, 1}, {6, 2}},
                 {7, 2, {1, 1}, {4, 3}},
                 {8, 3, {1, 1, 1}, {3, 3, 2}},
                 {4, 2, {100, 1}, {3, 1}},
                 {8, 4, {5, 1, 1, 1}, {5, 1, 1, 1}},
                 {4, 4, {9, 1, 1, 1}, {1, 1, 1, 1}},
                 {1, 2, {1, 3}, {0, 1}}};
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        int got[4], sum = 0;
        rb_deal_share(cases[c].microbatches, cases[c].n, cases[c].speed, got);
        for (int i = 0; i < cases[c].n; i++) {
            assert_int_equal(got[i], cases[c].want[i]);
            sum += got[i];
        }
        assert_int_equal(sum, cases[c].microbatches);
    }
}

static void spread_is_even(void **state) {
    (void)state;
    static const int even[] = {2, 2}, uneven[] = {3, 1}, three[] = {2, 1, 3};
    static const int want_even[] = {0, 1, 0, 1}, want_uneven[] = {0, 0, 1, 0},
                     want_three[] = {2, 0, 1, 2, 0, 2};
    int got[MOST];
    rb_deal_spread(4, 2, even, got);
    assert_memory_equal(got, want_even, sizeof want_even);
    rb_deal_spread(4, 2, uneven, got);
    assert_memory_equal(got, want_uneven, sizeof want_uneven);
    rb_deal_spread(6, 3, three, got);
    assert_memory_equal(got, want_three, sizeof want_three);
}

static void lists_are_numbered_both_ways(void **state) {
    static const int replicas[] = {2, 1, 3};
    (void)state;
    assert_int_equal(rb_deal_lists(replicas, 3), 6);
    static const int want[6][2] = {{0, 0}, {1, 0}, {2, 0}, {0, 1}, {2, 1}, {2, 2}};
    for (int i = 0; i < 6; i++) {
        int stage, replica;
        rb_deal_place(replicas, 3, i, &stage, &replica);
        assert_int_equal(stage, want[i][0]);
        assert_int_equal(replica, want[i][1]);
        assert_int_equal(rb_deal_list(replicas, 3, stage, replica), i);
    }
}

static rb_schedule deal(const char *name, int stages, int segments, int microbatches, const int *replicas,
                        const int *replica) {
    rb_schedule_args a = ARGS(stages, segments, microbatches, 0, NULL);
    rb_deal d = {.stages = stages, .microbatches = microbatches, .replicas = replicas, .replica = replica};
    rb_schedule s;
    rb_err err;
    assert_ok(rb_schedule_build_dealt(rb_schedule_find(name), &a, &d, &s, NULL, &err), &err);
    return s;
}

/* Two pipelines side by side, each with 1F1B's own list. */
static void alike_deals_are_pipelines_side_by_side(void **state) {
    static const int replicas[] = {2, 2}, replica[] = {0, 1, 0, 1, 0, 1, 0, 1};
    (void)state;
    rb_schedule s = deal("1f1b", 2, 2, 4, replicas, replica);
    assert_int_equal(s.stages, 4);
    assert_list(&s, 0, "0F0 0SF0 0F2 0SF2 0RB0 0B0 0RB2 0B2");
    assert_list(&s, 1, "1RF0 1F0 1B0 1SB0 1RF2 1F2 1B2 1SB2");
    assert_list(&s, 2, "0F1 0SF1 0F3 0SF3 0RB1 0B1 0RB3 0B3");
    assert_list(&s, 3, "1RF1 1F1 1B1 1SB1 1RF3 1F3 1B3 1SB3");
    rb_schedule_free(&s);
}

/* A stage with one process between two with replicas: it takes every microbatch, in order. */
static void deals_of_their_own(void **state) {
    static const int replicas[] = {2, 1, 3},
                     replica[] = {0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 2};
    (void)state;
    rb_schedule s = deal("gpipe", 3, 3, 6, replicas, replica);
    assert_int_equal(s.stages, 6);
    assert_list(&s, 4, "2RF3 2F3 2B3 2SB3");
    assert_int_equal(s.stage[1].count, 6 * 6); /* F, B and a send and a receive for each */
    assert_int_equal(rb_schedule_host(&s, 2, 2), 5);
    rb_schedule_free(&s);
}

/* Any schedule under any deal validates, and is no slower than one replica alone. */
static void every_kind_takes_every_deal(void **state) {
    static const int replicas[][3] = {{2, 2, 2}, {1, 2, 3}, {3, 1, 1}};
    (void)state;
    for (int k = 0; rb_schedules[k]; k++) {
        const rb_schedule_kind *kind = rb_schedules[k];
        if (kind->flows || kind->forward_only) continue;
        for (int r = 0; r < 3; r++) {
            for (int skew = 0; skew < 2; skew++) {
                int replica[3 * 12],
                    segments = !strcmp(kind->name, "zbv") || !strncmp(kind->name, "inter", 5) ? 6 : 3;
                for (int s = 0; s < 3; s++) {
                    double speed[3] = {1 + skew * (s + 1), 1, 1 + skew};
                    int count[3];
                    rb_deal_share(12, replicas[r][s], speed, count);
                    rb_deal_spread(12, replicas[r][s], count, replica + 12 * s);
                }
                rb_schedule s = deal(kind->name, 3, segments, 12, replicas[r], replica);
                rb_sim_options o = {0};
                rb_sim_result got, alone;
                rb_err err;
                rb_schedule one = build(kind->name, 3, segments, 12, 0);
                assert_ok(rb_simulate(&s, &o, &got, &err), &err);
                assert_ok(rb_simulate(&one, &o, &alone, &err), &err);
                assert_true(got.step <= alone.step);
                if (!skew && r == 0) assert_true(got.step <= 0.75 * alone.step);
                rb_sim_free(&got);
                rb_sim_free(&alone);
                rb_schedule_free(&one);
                rb_schedule_free(&s);
            }
        }
    }
}

static void take_out(rb_action_list *l, rb_action_kind kind, int microbatch, rb_action *out) {
    int i = 0;
    while (l->items[i].kind != kind || l->items[i].microbatch != microbatch) i++;
    *out = l->items[i];
    memmove(l->items + i, l->items + i + 1, (size_t)(l->count - i - 1) * sizeof *l->items);
    l->count--;
}

static void refuse(const rb_schedule *s, const char *want) {
    rb_validate_options o = {.queue_bound = 16};
    rb_err err;
    rb_buf grid = {0};
    assert_fails(rb_schedule_validate(s, &o, NULL, &grid, &err), RESBM_E_STATE, want, &err);
    assert_non_null(strchr(grid.data, '['));
    rb_buf_free(&grid);
}

static void backward_elsewhere_is_rejected(void **state) {
    static const int replicas[] = {2, 2}, replica[] = {0, 1, 0, 1, 0, 1, 0, 1};
    rb_action a;
    rb_err err;
    (void)state;
    rb_schedule s = deal("gpipe", 2, 2, 4, replicas, replica);
    take_out(&s.stage[1], RB_ACT_BACKWARD, 2, &a);
    assert_ok(rb_action_push(&s.stage[3], a, &err), &err);
    refuse(&s, "action 1B2 (9 of 9): microbatch 2 is dealt to list 1, another replica of stage 1: a backward "
               "returns to where "
               "its forward ran");
    rb_schedule_free(&s);

    s = deal("gpipe", 2, 2, 4, replicas, replica); /* not even on its stage */
    take_out(&s.stage[1], RB_ACT_BACKWARD, 2, &a);
    assert_ok(rb_action_push(&s.stage[2], a, &err), &err);
    refuse(&s, "segment 1 lives on stage 1");
    rb_schedule_free(&s);

    s = deal("gpipe", 2, 2, 4, replicas, replica); /* forgotten */
    take_out(&s.stage[3], RB_ACT_BACKWARD, 3, &a);
    refuse(&s, "stage 3, action 1B3: is missing");
    rb_schedule_free(&s);
}

static void order_holds_on_each_replica(void **state) {
    static const int replicas[] = {2, 2}, replica[] = {0, 1, 0, 1, 0, 1, 0, 1};
    rb_action a;
    rb_err err;
    (void)state;
    rb_schedule s = deal("gpipe", 2, 2, 4, replicas, replica);
    static const rb_action_kind way_back[] = {RB_ACT_BACKWARD, RB_ACT_SEND_BACKWARD};
    for (int i = 0; i < 2; i++) {
        take_out(&s.stage[3], way_back[i], 1, &a);
        assert_ok(rb_action_push(&s.stage[3], a, &err), &err);
    }
    refuse(&s, "microbatches must accumulate in ascending order");
    rb_schedule_free(&s);
}

static void impossible_deals_are_refused(void **state) {
    static const int replicas[] = {2, 2}, wrong[] = {0, 1, 0, 2, 0, 1, 0, 1},
                     right[] = {0, 1, 0, 1, 0, 1, 0, 1};
    rb_schedule_args a = ARGS(2, 2, 4, 0, NULL);
    rb_deal d = {.stages = 2, .microbatches = 4, .replicas = replicas, .replica = wrong};
    rb_schedule s;
    rb_err err;
    (void)state;
    assert_fails(rb_schedule_build_dealt(&rb_schedule_1f1b, &a, &d, &s, NULL, &err), RESBM_E_ARG,
                 "to replica 2 of stage 0", &err);
    rb_schedule_free(&s);
    d.replica = right;
    assert_fails(rb_schedule_build_dealt(&rb_schedule_pipedream, &a, &d, &s, NULL, &err), RESBM_E_CONFIG,
                 "pipeline.replicas: 1", &err);
    rb_schedule_free(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_follow_speeds),
        cmocka_unit_test(spread_is_even),
        cmocka_unit_test(lists_are_numbered_both_ways),
        cmocka_unit_test(alike_deals_are_pipelines_side_by_side),
        cmocka_unit_test(deals_of_their_own),
        cmocka_unit_test(every_kind_takes_every_deal),
        cmocka_unit_test(backward_elsewhere_is_rejected),
        cmocka_unit_test(order_holds_on_each_replica),
        cmocka_unit_test(impossible_deals_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
