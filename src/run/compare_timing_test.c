#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "rb_cmocka.h"
#include "run/compare_timing.h"
#include "run/trace.h"

static bool near(double a, double b) {
    return fabs(a - b) <= 1e-9 * fmax(1, fabs(b));
}

/* d 8, one head, ffn 4, 2 segments of 1 block, vocabulary 16, 4 sequences of 8 tokens in 2 microbatches. */
static rb_config *config(const char *more) {
    static const char *const keys[] = {"model.d=8",
                                       "model.layers=2",
                                       "model.heads=1",
                                       "model.ffn=4",
                                       "model.vocab=16",
                                       "model.context=8",
                                       "model.segments=2",
                                       "train.batch=4",
                                       "train.microbatches=2",
                                       "pipeline.stages=2",
                                       "boundary.kind=none",
                                       "boundary.ratio=4",
                                       "boundary.codec_fwd=bf16"};
    rb_err err = {0};
    rb_config *c = malloc(sizeof *c);
    assert_non_null(c);
    assert_ok(rb_config_defaults(c, &err), &err);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        assert_ok(rb_config_override(c, keys[i], &err), &err);
    if (more) assert_ok(rb_config_override(c, more, &err), &err);
    assert_ok(rb_config_validate(c, &err), &err);
    return c;
}

static void operations_by_hand(void **state) {
    (void)state;
    rb_err err = {0};
    rb_cost c;
    rb_config *cfg = config(NULL);
    assert_ok(rb_cost_of(cfg, &c, &err), &err);
    double block = 4 * 8 * 8 + 3 * 8 * 4, attention = 2.0 * 32 * 8 * 8, head = 16 * 8;
    assert_true(near(c.forward[0], 2 * 32 * block + attention)); /* looking up an embedding is no product */
    assert_true(near(c.forward[1], 2 * 32 * (block + head) + attention));
    assert_true(near(c.params[0], block + 2 * 8 + 16 * 8) && near(c.params[1], block + 2 * 8 + head + 8));
    assert_true(c.boundary_params == 0 && c.boundary_forward == 0 && c.backward == 2);
    double square = 8 * 9 * 16 + 2 * 8 * 8 * 8, oblong = 4 * 5 * 12 + 2 * 4 * 4 * 8;
    assert_true(near(c.optimizer[0], 5 * (4 * square + 3 * oblong)) && near(c.optimizer[1], c.optimizer[0]));
    assert_true(near(rb_cost_optimizer(&c), 2 * c.optimizer[0]));
    assert_ok(rb_config_override(cfg, "optim.kind=adamw", &err), &err);
    assert_ok(rb_cost_of(cfg, &c, &err), &err);
    assert_true(rb_cost_optimizer(&c) == 0);
    assert_true(near(c.frame_forward, 56 + 2 * 2 * 8 * 8) && c.ids == 0 && c.tokens == 16);
    free(cfg);
}

static void boundaries_are_extra(void **state) {
    (void)state;
    rb_err err = {0};
    rb_cost plain, c;
    rb_config *none = config(NULL), *linear = config("boundary.kind=linear"),
              *again = config("train.recompute=true");
    assert_ok(rb_cost_of(none, &plain, &err), &err);
    free(none);
    assert_ok(rb_config_override(linear, "data.distribute=wire", &err), &err);
    assert_ok(rb_config_validate(linear, &err), &err);
    assert_ok(rb_cost_of(linear, &c, &err), &err);
    assert_true(c.boundary_params >= 2 * 2 * 8); /* d to k and back */
    assert_true(near(rb_cost_params(&c) - c.boundary_params, rb_cost_params(&plain)));
    assert_true(near(rb_cost_total(&c) - c.boundary_forward, rb_cost_total(&plain)));
    assert_true(near(c.frame_forward, 56 + 2 * 2 * 8 * 2 + 2 * 9)); /* latents in bf16, ids of 9 positions */
    assert_ok(rb_cost_of(again, &c, &err), &err);
    assert_true(c.backward == 3);
    free(linear);
    free(again);
}

/* What a boundary remembers, or has from the seed, is no parameter; a basis is computed with all the same. */
static void states_are_no_parameters(void **state) {
    (void)state;
    rb_err err = {0};
    rb_cost plain, c;
    const char *kinds[] = {"boundary.kind=topk", "boundary.kind=subspace"};
    rb_config *none = config(NULL);
    assert_ok(rb_cost_of(none, &plain, &err), &err);
    free(none);
    for (int i = 0; i < 2; i++) {
        rb_config *kind = config(kinds[i]);
        if (!i) assert_ok(rb_config_override(kind, "boundary.feedback=gradient", &err), &err);
        assert_ok(rb_config_validate(kind, &err), &err);
        assert_ok(rb_cost_of(kind, &c, &err), &err);
        assert_true(c.boundary_params == 0 && near(rb_cost_params(&c), rb_cost_params(&plain)));
        assert_true(near(c.boundary_forward, i ? 2 * 32 * 2 * (double)(8 * 2) : 0));
        free(kind);
    }
}

/* One stage: a step is the sum. Two stages with links: the slow one takes longer, and never less than its bytes do. */
static void steps_by_the_model(void **state) {
    (void)state;
    rb_err err = {0};
    rb_config *c = config("pipeline.stages=1"), *two = config(NULL);
    rb_cost cost;
    rb_segment_cost segment[] = {{1, 2, 1, 1}, {3, 6, 3, 3}};
    rb_timing t = {.known = true, .segments = 2, .segment = segment, .optimizer = 0.5, .rest = 0.25};
    rb_shape_options slow = {.up_bits = 1000, .down_bits = 1000};
    double s, fast, far;
    assert_ok(rb_cost_of(c, &cost, &err), &err);
    assert_ok(rb_timing_step(&t, &cost, c, &slow, &s, &err), &err);
    assert_true(near(s, 2 * (3 + 9) + 0.5 + 0.25)); /* one process: no link slows it */
    assert_ok(rb_timing_step(&t, &cost, two, NULL, &fast, &err), &err);
    double most = fmax(cost.optimizer[0], cost.optimizer[1]) / rb_cost_optimizer(&cost);
    assert_true(fast >= 2 * 9 + 1 + 2 + 0.25 + 0.5 * most - 1e-9 && fast < s);
    assert_ok(rb_timing_step(&t, &cost, two, &slow, &far, &err), &err);
    assert_true(far > fast + cost.frame_forward * 8 / 1000);
    free(c);
    free(two);
}

/* What is counted differs from paper by norms, activations and packing alone; an auxiliary loss that works for half of the steps counts
 * half; and a step is what the plan's simulator makes of it, in the configuration's own deployment. */
static void by_a_stated_rate(void **state) {
    (void)state;
    rb_err err = {0};
    rb_config *c = config(NULL), *half = config("train.aux_until=0.5");
    rb_cost cost;
    rb_timing t = {0}, h = {0}, whole = {0};
    assert_ok(rb_cost_of(c, &cost, &err), &err);
    assert_ok(rb_timing_by_rate(c, 1e6, &t, &err), &err);
    for (int g = 0; g < 2; g++) {
        double paper = cost.forward[g] / 2 / 1e6; /* at width 8 norms weigh much */
        printf("segment %d: %g on paper, %g and %g\n", g, paper, t.segment[g].forward, t.segment[g].backward);
        assert_true(t.segment[g].forward > paper && t.segment[g].forward < 1.5 * paper);
        assert_true(fabs((t.segment[g].forward + t.segment[g].backward) / paper - 3) < 0.3);
        assert_true(near(t.segment[g].input + t.segment[g].weight, t.segment[g].backward));
    }
    assert_true(near(t.optimizer, rb_cost_optimizer(&cost) / 1e6) && t.optimizer > 0);
    assert_true(near(t.update[0] + t.update[1], t.optimizer));
    half->boundary.aux = RB_AUX_STREAM;
    assert_ok(rb_config_validate(half, &err), &err);
    assert_ok(rb_timing_by_rate(half, 1e6, &h, &err), &err);
    half->train.aux_until = 1000;
    assert_ok(rb_timing_by_rate(half, 1e6, &whole, &err), &err);
    assert_true(whole.segment[0].backward > 1.01 * t.segment[0].backward);
    assert_true(near(h.segment[0].backward, (t.segment[0].backward + whole.segment[0].backward) / 2));
    assert_ok(rb_timing_by_rate(half, 1e6, &whole, &err), &err); /* in place of what was there */
    rb_timing_free(&t);
    rb_timing_free(&h);
    rb_timing_free(&whole);
    free(c);
    free(half);
}

static void from_a_trace(void **state) {
    (void)state;
    rb_err err = {0};
    rb_trace *trace;
    rb_timing t = {0};
    rb_trace_event e[] = {
        {.step = 1, .segment = 0, .begin_ns = 0, .end_ns = 10, .name = "0F0"}, /* the first step warms up */
        {.step = 2, .segment = 0, .begin_ns = 100, .end_ns = 4100, .name = "0F0"},
        {.step = 3, .segment = 0, .begin_ns = 5000, .end_ns = 8000, .name = "0F1"},
        {.step = 2, .segment = 0, .begin_ns = 9000, .end_ns = 16000, .name = "0B0"},
        {.step = 2,
         .segment = 0,
         .category = RB_TRACE_OPTIMIZER,
         .begin_ns = 20000,
         .end_ns = 25000,
         .name = "optimizer"},
    };
    assert_ok(rb_trace_new(4, &trace, &err), &err);
    assert_ok(rb_trace_add(trace, e, 5, 0, &err), &err);
    assert_ok(rb_trace_write(trace, "trace.json", &err), &err);
    rb_trace_free(trace);
    assert_ok(rb_timing_take_trace("trace.json", 1, &t, &err), &err);
    assert_true(near(t.segment[0].forward, 3e-6) && near(t.segment[0].backward, 7e-6) &&
                near(t.optimizer, 5e-6));
    assert_true(near(t.segment[0].input, 3.5e-6));
    rb_timing_free(&t);
    assert_fails(rb_timing_take_trace("trace.json", 2, &t, &err), RESBM_E_FORMAT, "segment 1", &err);
    rb_timing_free(&t);
    unlink("trace.json");
}

static void file_belongs_to_a_configuration(void **state) {
    (void)state;
    rb_err err = {0};
    rb_segment_cost segment[] = {{1, 2, 0.5, 1.5}};
    rb_timing t = {.segments = 1,
                   .segment = segment,
                   .optimizer = 0.125,
                   .step = NAN,
                   .least = 0.5,
                   .most = 2,
                   .rss = 1e6,
                   .stages = 3},
              r;
    assert_ok(rb_timing_write("timing.json", "a: 1\n", &t, &err), &err);
    assert_ok(rb_timing_read("timing.json", "a: 1\n", &r, &err), &err);
    assert_true(r.known && r.segments == 1 && r.segment[0].weight == 1.5 && r.optimizer == 0.125 &&
                isnan(r.step) && r.stages == 3 && r.least == 0.5 && r.most == 2);
    rb_timing_free(&r);
    assert_ok(rb_timing_read("timing.json", "a: 2\n", &r, &err), &err);
    assert_false(r.known);
    assert_ok(rb_timing_read("nowhere.json", "a: 1\n", &r, &err), &err);
    assert_false(r.known);
    unlink("timing.json");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operations_by_hand),
        cmocka_unit_test(boundaries_are_extra),
        cmocka_unit_test(states_are_no_parameters),
        cmocka_unit_test(steps_by_the_model),
        cmocka_unit_test(by_a_stated_rate),
        cmocka_unit_test(from_a_trace),
        cmocka_unit_test(file_belongs_to_a_configuration),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
