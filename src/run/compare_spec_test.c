#include <math.h>
#include <stdlib.h>

#include "rb_cmocka.h"
#include "run/compare_config.h"

static resbm_status parse(rb_compare_spec *s, const char *text, rb_err *err) {
    return rb_compare_spec_parse(s, "spec.yaml", text, strlen(text), err);
}

static const char whole[] =
    "base: {model: {d: 64, heads: 2, layers: 6, segments: [1, 2, 3], ffn: 64}, boundary: {ratio: 16}}\n"
    "set: [train.steps=100, optim.warmup=10]\n"
    "seeds: [4, 7]\n"
    "target: best uncompressed + 2%\n"
    "links: [80mbit/20ms, none]\n"
    "compute: 2gflops\n"
    "extend_sweeps: 2\n"
    "variants:\n"
    "  plain: {control: uncompressed, sweep: {optim.lr: [0.01, 0.02]}}\n"
    "  narrow: {boundary: {tokens: trunk, trunk_blocks: 2, trunk_width: 64, trunk_ffn: 64}, model.qk_norm: "
    "true}\n"
    "  narrower: {like: narrow, set: boundary.ratio=32 boundary.codec_bwd=int8}\n"
    "  alone: {control: alone of narrower}\n"
    "  same: {control: same size as narrow}\n";

static void reads_a_specification(void **state) {
    (void)state;
    rb_err err = {0};
    rb_compare_spec s;
    assert_ok(parse(&s, whole, &err), &err);
    assert_ok(rb_compare_spec_finish(&s, &err), &err);
    assert_int_equal(s.variants, 6); /* alone's twin too */
    assert_true(s.seeds == 2 && s.seed[1] == 7 && isnan(s.target) && fabs(s.target_slack - 0.02) < 1e-12);
    assert_true(s.links == 2 && s.link[0].shape.up_bits == 80e6 && s.link[0].shape.latency_ns == 20000000);
    assert_true(s.link[1].shape.down_bits == 0 && s.flops == 2e9 && s.extend_sweeps == 2);
    assert_true(s.variant[0].sweep.values == 2 && !strcmp(s.variant[0].sweep.value[1], "0.02"));
    assert_string_equal(s.variant[5].name, "alone-time");
    assert_int_equal(s.variant[5].control, RB_CONTROL_ALONE_AS_LONG);
    rb_compare_spec_free(&s);
}

static void resolve(const rb_compare_spec *s, const rb_compare_which *w, rb_config *out) {
    rb_err err = {0};
    rb_config *base = malloc(sizeof *base);
    assert_ok(rb_compare_base(s, base, &err), &err);
    assert_ok(rb_compare_config(s, base, w, out, &err), &err);
    free(base);
}

static void variants_become_configurations(void **state) {
    (void)state;
    rb_err err = {0};
    rb_compare_spec s;
    rb_config *c = malloc(sizeof *c);
    assert_ok(parse(&s, whole, &err), &err);
    assert_ok(rb_compare_spec_finish(&s, &err), &err);
    rb_compare_which w = {.variant = 0, .point = "0.02", .share = 0.5, .seed = 7};
    resolve(&s, &w, c); /* uncompressed, at half the steps */
    assert_true(rb_compare_uncompressed(c) && c->optim.rule.lr == 0.02 && c->train.seed == 7);
    assert_true(c->train.steps == 50 && c->optim.rates.warmup == 5 && c->pipeline.stages == 1 &&
                c->pipeline.threads == 1);
    strcpy(c->boundary.codec_fwd, "int8"); /* the whole stream, but not all of it */
    assert_false(rb_compare_uncompressed(c));
    w = (rb_compare_which){.variant = 2, .share = 1, .seed = 4};
    resolve(&s, &w, c);
    assert_true(c->boundary.ratio == 32 && c->boundary.tokens == RB_TOKENS_TRUNK && c->model.qk_norm &&
                c->train.steps == 100);
    assert_string_equal(c->boundary.codec_bwd, "int8");
    w.variant = 3;
    resolve(&s, &w, c); /* 3 blocks of the last segment, 2 of the trunk: as wide as the model's */
    assert_true(c->model.segments == 1 && c->model.layers == 5 && c->model.qk_norm &&
                c->boundary.tokens == RB_TOKENS_NONE);
    w.variant = 4;
    resolve(&s, &w, c); /* 6 blocks and 2 for each of 2 receivers */
    assert_true(c->model.segments == 3 && c->model.layers == 10 && rb_compare_uncompressed(c));
    w = (rb_compare_which){.variant = 5, .steps = 321, .share = 1, .seed = 4};
    resolve(&s, &w, c);
    assert_true(c->model.layers == 5 && c->train.steps == 321);
    free(c);
    rb_compare_spec_free(&s);
}

static void a_share_of_a_block_counts_as_one(void **state) {
    (void)state;
    rb_err err = {0};
    rb_compare_spec s;
    rb_config *c = malloc(sizeof *c);
    assert_ok(parse(&s,
                    "base: {model: {d: 256, layers: 8, segments: 4}}\nvariants:\n"
                    "  n: {boundary.tokens: trunk, boundary.trunk_width: 64, boundary.trunk_blocks: 1}\n"
                    "  a: {control: alone of n}\n  b: {control: same size as n}\n",
                    &err),
              &err);
    assert_ok(rb_compare_spec_finish(&s, &err), &err);
    assert_int_equal(s.variants, 3); /* without links nothing says how long the twin would train */
    rb_compare_which w = {.variant = 1, .share = 1, .seed = 1};
    resolve(&s, &w, c);
    assert_int_equal(c->model.layers, 3);
    w.variant = 2;
    resolve(&s, &w, c);
    assert_int_equal(c->model.layers, 9);
    free(c);
    rb_compare_spec_free(&s);
}

static void deployed(void **state) {
    (void)state;
    rb_err err = {0};
    rb_compare_spec s;
    rb_config *base = malloc(sizeof *base), *c = malloc(sizeof *c);
    assert_ok(
        parse(&s,
              "base: {train: {microbatches: 1}, pipeline: {stages: 1}}\ndeploy: {train.microbatches: 4}\n"
              "links: 8mbit\nvariants:\n  a: {}\n",
              &err),
        &err);
    assert_ok(rb_compare_spec_finish(&s, &err), &err);
    assert_ok(rb_compare_base(&s, base, &err), &err);
    rb_compare_which w = {.share = 1, .seed = 1};
    assert_ok(rb_compare_deployed(&s, base, &w, &s.link[0], c, &err), &err);
    assert_true(c->pipeline.stages == 4 && c->train.microbatches == 4 && c->link.up_bits == 8e6 &&
                !*c->data.val);
    assert_ok(rb_compare_config(&s, base, &w, c, &err), &err);
    assert_true(c->train.microbatches == 1 && c->link.up_bits == 0);
    free(base);
    free(c);
    rb_compare_spec_free(&s);
}

static void command_line(void **state) {
    (void)state;
    rb_err err = {0};
    rb_compare_spec s;
    assert_ok(parse(&s, "model: {d: 64}\n", &err), &err); /* a run's configuration is a base */
    assert_string_equal(s.base, "spec.yaml");
    assert_ok(rb_compare_spec_add_variant(
                  &s, "a:model.segments=[3,5],boundary.ratio=8,sweep.optim.lr=[0.1,0.2,0.4]", &err),
              &err);
    assert_ok(rb_compare_spec_add_variant(&s, "b:like=a,optim.kind=adamw", &err), &err);
    assert_ok(rb_compare_spec_add_variant(&s, "c", &err), &err);
    assert_string_equal(s.variant[0].set.text[0], "model.segments=[3,5]");
    assert_int_equal(s.variant[0].set.count, 2);
    assert_int_equal(s.variant[0].sweep.values, 3);
    assert_string_equal(s.variant[1].like, "a");
    assert_fails(rb_compare_spec_add_variant(&s, "c:", &err), RESBM_E_CONFIG, "twice", &err);
    assert_fails(rb_compare_spec_add_variant(&s, "a/b:", &err), RESBM_E_CONFIG, "names no variant", &err);
    assert_fails(rb_compare_spec_add_variant(&s, "d:boundary.rati=8", &err), RESBM_E_CONFIG,
                 "did you mean ratio", &err);
    rb_compare_spec_free(&s);
}

static void refuses_by_name(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } bad[] = {
        {"variants: {a: {optim.lrr: 1}}", "spec.yaml:1:16: optim.lrr=1: unknown key 'lrr'"},
        {"variants: {a: {sett: {}}}", "unknown entry of a variant 'sett': did you mean 'set'?"},
        {"variantz: {}", "spec.yaml:1:1: unknown entry 'variantz': did you mean 'variants'?"},
        {"seeds: 0\nvariants: {a: {}}", "from 1 to 64"},
        {"seeds: [1, 1]\nvariants: {a: {}}", "already"},
        {"links: [80]\nvariants: {a: {}}", "lacks a unit"},
        {"links: [8mbit/fast]\nvariants: {a: {}}", "link.latency"},
        {"target: low\nvariants: {a: {}}", "target 'low'"},
        {"compute: 5\nvariants: {a: {}}", "50gflops"},
        {"base: 3\nbase: 4\nvariants: {a: {}}", "there twice"},
        {"variants: {a: {}, a: {}}", "a is there twice"},
        {"variants: {a: {control: alone}}", "alone of VARIANT"},
        {"variants: {a: {sweep: {optim.lr: 0.1}}}", "list of 2 to"},
        {"variants: {a: {sweep: {optim.lr: [0.1, big]}}}", "optim.lr"},
        {"variants: {a: {sweep: {optim.lr: [1, 2], optim.clip: [1, 2]}}}", "sweeps optim.lr already"},
        {"variants: {a: {boundary.ratio: {x: 1}}}", "ratio"},
        {"variants: [a]", "map of names"},
        {"[a]", "a comparison is a map"},
        {"variants: {a: {}", "no valid YAML"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        rb_err err = {0};
        rb_compare_spec s;
        assert_fails(parse(&s, bad[i].text, &err), RESBM_E_CONFIG, bad[i].message, &err);
        rb_compare_spec_free(&s);
    }
}

static void refuses_across_entries(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } bad[] = {
        {"base: x", "no variants"},
        {"variants: {a: {control: alone of b}}", "control of 'b' is no other variant"},
        {"variants: {a: {like: a}}", "variant a: like itself: name another one"},
        {"variants: {a: {like: b}, b: {like: a}}", "defined by itself"},
        {"variants: {a: {like: b, control: alone of b}, b: {}}", "take one"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        rb_err err = {0};
        rb_compare_spec s;
        assert_ok(parse(&s, bad[i].text, &err), &err);
        assert_fails(rb_compare_spec_finish(&s, &err), RESBM_E_CONFIG, bad[i].message, &err);
        rb_compare_spec_free(&s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_specification),
        cmocka_unit_test(variants_become_configurations),
        cmocka_unit_test(a_share_of_a_block_counts_as_one),
        cmocka_unit_test(deployed),
        cmocka_unit_test(command_line),
        cmocka_unit_test(refuses_by_name),
        cmocka_unit_test(refuses_across_entries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
