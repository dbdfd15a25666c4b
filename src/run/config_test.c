/* The configuration: every key's round trip, and every class of fault with its place and remedy. */
#include "run/config.h"
#include "run/keys.h"
#include "rb_cmocka.h"

#include <stdlib.h>
#include <unistd.h>

static rb_config conf, other;
static rb_err err;

static void fresh(rb_config *c) {
    assert_ok(rb_config_defaults(c, &err), &err);
}

static resbm_status load(const char *yaml) {
    fresh(&conf);
    return rb_config_load_text(&conf, "run.yaml", yaml, strlen(yaml), &err);
}

static resbm_status load_and_validate(const char *yaml) {
    resbm_status st = load(yaml);
    return st == RESBM_OK ? rb_config_validate(&conf, &err) : st;
}

static void defaults_are_valid(void **state) {
    (void)state;
    fresh(&conf);
    assert_int_equal(conf.model.kv_heads, 0);
    assert_int_equal(conf.boundary.hidden, -1);
    assert_ok(rb_config_validate(&conf, &err), &err);
    assert_int_equal(conf.model.kv_heads, 4);
    assert_int_equal(conf.boundary.k, 2);
    assert_int_equal(conf.boundary.hidden, 64);
    assert_int_equal(conf.data.distribute, RB_DISTRIBUTE_SHARED);
    assert_int_equal(conf.model.seed, 1);
    assert_string_equal(conf.engine, "local");
}

/* Every default lies within its own key's range, and every row points at a field nobody else has. */
static void the_table_is_sound(void **state) {
    (void)state;
    for (int i = 0; i < rb_key_count; i++) {
        const rb_key *k = &rb_keys[i];
        assert_true(k->offset + k->size <= sizeof(rb_config));
        if (k->type == RB_KEY_INT) assert_true(k->size == sizeof(int64_t) || k->size == sizeof(int));
        if (k->type == RB_KEY_INT && k->size == sizeof(int)) assert_true(k->max <= INT32_MAX);
        assert_non_null(k->doc);
        assert_ptr_equal(rb_key_find(k->section, k->name), k);
        for (int j = 0;
             j < i && k->type != RB_KEY_SEGMENTS && k->type != RB_KEY_ADDRESSES && k->type != RB_KEY_REPLICAS;
             j++)
            if (rb_keys[j].type != RB_KEY_SEGMENTS && rb_keys[j].type != RB_KEY_ADDRESSES &&
                rb_keys[j].type != RB_KEY_REPLICAS)
                assert_int_not_equal(k->offset, rb_keys[j].offset);
    }
}

static void the_sample_of_the_design_loads(void **state) {
    (void)state;
    assert_ok(
        load_and_validate(
            "model:    {d: 512, layers: 8, heads: 4, kv_heads: 2, ffn: 704, vocab: 50257, context: 256, "
            "segments: [1, 3, 4], rope_theta: 10000}\n"
            "boundary:\n"
            "  kind: linear   # a comment\n"
            "  ratio: 64\n"
            "  codec_fwd: 'bf16'\n"
            "data:     {train: \"corpus/train-*.bin\", val: \"corpus/val: x.bin\", tokenizer: bytes}\n"
            "train:    {steps: 350, batch: 24, microbatches: 6, recompute: true, seed: 7, max_seconds: 1.5}\n"
            "pipeline: {stages: 3, schedule: gpipe, inflight: auto, memory: 8G, transport: tcp, addresses: "
            "[a:1, \"[::1]:2\", c.example:65535], deadline: 90s}\n"
            "link:     {up: 80mbit, down: 1.5Mbit, latency: 20ms, jitter: 250us, loss: 0.01, duplex: half}\n"
            "engine:   local\n"),
        &err);
    assert_int_equal(conf.model.d, 512);
    assert_int_equal(conf.model.segments, 3);
    assert_int_equal(conf.model.segment_layers[2], 4);
    assert_true(conf.model.rope_theta == 10000);
    assert_true(conf.model.recompute);
    assert_int_equal(conf.model.seed, 7);
    assert_int_equal(conf.boundary.k, 8);
    assert_string_equal(conf.boundary.codec_fwd, "bf16");
    assert_string_equal(conf.data.val, "corpus/val: x.bin");
    assert_true(conf.train.max_seconds == 1.5);
    assert_int_equal(conf.pipeline.memory, 8LL << 30);
    assert_int_equal(conf.pipeline.addresses, 3);
    assert_string_equal(conf.pipeline.address[1], "[::1]:2");
    assert_int_equal(conf.pipeline.deadline_ns, 90000000000LL);
    assert_true(conf.link.up_bits == 80e6 && conf.link.down_bits == 1.5e6);
    assert_int_equal(conf.link.latency_ns, 20000000);
    assert_int_equal(conf.link.jitter_ns, 250000);
    assert_true(conf.link.half_duplex);
}

/* The words of boundary.kind and of the registry are the same. */
static void every_boundary_kind_can_be_named(void **state) {
    (void)state;
    const char *list = rb_key_find("boundary", "kind")->choices, *word;
    int words = 0, kinds = 0;
    for (size_t n; (n = rb_choice_next(&list, &word)); words++) {
        char name[32];
        snprintf(name, sizeof name, "%.*s", (int)n, word);
        assert_non_null(rb_boundary_find(name));
    }
    while (rb_boundary_kinds[kinds]) kinds++;
    assert_int_equal(words, kinds);
}

/* The table's defaults are the optimizer's own. */
static void optimizer_defaults_agree(void **state) {
    (void)state;
    rb_optim_config want = rb_optim_defaults();
    fresh(&conf);
    const rb_optim_config *is = &conf.optim.rule;
    assert_string_equal(is->kind, want.kind);
    assert_true(is->lr == want.lr && is->adamw_lr == want.adamw_lr && is->weight_decay == want.weight_decay);
    assert_true(is->beta1 == want.beta1 && is->beta2 == want.beta2 && is->eps == want.eps);
    assert_true(is->momentum == want.momentum && is->nesterov == want.nesterov);
    assert_true(is->ns_steps == want.ns_steps && is->scaling == want.scaling);
}

static void empty_files_give_the_defaults(void **state) {
    (void)state;
    assert_ok(load(""), &err);
    assert_ok(load("# only a comment\n"), &err);
    assert_int_equal(conf.model.d, 256);
}

/* A value of each key that is not its default and that a careless writer would damage. */
static const char *other_value(const rb_key *k) {
    switch (k->type) {
    case RB_KEY_BOOL:
        return !strcmp(k->fallback, "true") ? "false" : "true";
    case RB_KEY_STRING:
        return "a \"b\" \\c: #d, [é] 'x'";
    case RB_KEY_ADDRESS:
        return "[::1]:0";
    case RB_KEY_RATE:
        return "1234567.1kbit";
    case RB_KEY_DURATION:
        return "1234567ns";
    case RB_KEY_SIZE:
        return "3145729K";
    case RB_KEY_SEGMENTS:
        return "[1, 2, 3]";
    case RB_KEY_REPLICAS:
        return "[1, 2, 3, 1]";
    case RB_KEY_ADDRESSES:
        return "[a:1, [::1]:22]";
    case RB_KEY_REAL:
        return "0.12345678901234566";
    default:
        return NULL;
    }
}

static void set_other(rb_config *c, const rb_key *k) {
    char text[256], name[64];
    const char *value = other_value(k), *list = k->choices, *word;
    if (k->choices)
        for (size_t n; (n = rb_choice_next(&list, &word));) {
            snprintf(text, sizeof text, "%.*s", (int)n, word);
            if (strcmp(text, k->fallback)) break;
        }
    else if (k->type == RB_KEY_INT || (k->type == RB_KEY_REAL && k->min > 0.12))
        snprintf(text, sizeof text, "%.0f", k->max == atof(k->fallback) ? k->min : k->max);
    else if (k->type == RB_KEY_REAL && k->max < 0.12)
        snprintf(text, sizeof text, "%.17g", k->max / 3);
    else
        snprintf(text, sizeof text, "%s", value);
    rb_buf line = {0};
    rb_buf_printf(&line, "%s=%s", rb_key_name(k, name), text);
    assert_ok(rb_config_override(c, line.data, &err), &err);
    rb_buf_free(&line);
}

static void printed_text_loads_back(void **state) {
    (void)state;
    rb_buf first = {0}, second = {0};
    fresh(&conf);
    for (int i = 0; i < rb_key_count; i++) {
        rb_buf was = {0}, is = {0};
        rb_key_print(&conf, &rb_keys[i], &was);
        set_other(&conf, &rb_keys[i]);
        rb_key_print(&conf, &rb_keys[i], &is);
        bool only_one = rb_keys[i].choices && !strchr(rb_keys[i].choices, '|');
        if (!only_one && !strcmp(was.data, is.data)) fail_msg("%s did not change", rb_keys[i].name);
        rb_buf_free(&was);
        rb_buf_free(&is);
    }
    rb_config_print(&conf, &first);
    fresh(&other);
    assert_ok(rb_config_load_text(&other, "again", first.data, first.len, &err), &err);
    rb_config_print(&other, &second);
    assert_string_equal(first.data, second.data);
    memset(conf.line, 0, sizeof conf.line);
    memset(other.line, 0, sizeof other.line);
    memset(conf.file, 0, sizeof conf.file);
    memset(other.file, 0, sizeof other.file);
    assert_memory_equal(&conf, &other, sizeof conf);
    rb_buf_free(&first);
    rb_buf_free(&second);
}

static void validated_text_loads_back(void **state) {
    (void)state;
    rb_buf first = {0}, second = {0};
    assert_ok(load_and_validate("model: {segments: 3, layers: 8}\npipeline: {stages: 2}\n"), &err);
    rb_config_print(&conf, &first);
    fresh(&other);
    assert_ok(rb_config_load_text(&other, "again", first.data, first.len, &err), &err);
    assert_ok(rb_config_validate(&other, &err), &err);
    rb_config_print(&other, &second);
    assert_string_equal(first.data, second.data);
    rb_buf_free(&first);
    rb_buf_free(&second);
}

static void numbers_keep_their_units(void **state) {
    (void)state;
    static const struct {
        const char *set, *printed;
    } cases[] = {
        {"link.up=80mbit", "80mbit"},
        {"link.up=80000kbit", "80mbit"},
        {"link.up=1500bit", "1.5kbit"},
        {"link.up=NONE", "none"},
        {"link.latency=1500us", "1500us"},
        {"link.latency=0.5s", "500ms"},
        {"link.latency=0", "0s"},
        {"pipeline.memory=8GB", "8G"},
        {"pipeline.memory=1048577", "1048577"},
        {"pipeline.memory=auto", "auto"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rb_buf out = {0};
        char name[64];
        fresh(&conf);
        assert_ok(rb_config_override(&conf, cases[i].set, &err), &err);
        const rb_key *k = NULL;
        for (int j = 0; j < rb_key_count; j++)
            if (strlen(rb_key_name(&rb_keys[j], name)) == strcspn(cases[i].set, "=") &&
                !strncmp(cases[i].set, name, strlen(name)))
                k = &rb_keys[j];
        assert_non_null(k);
        rb_key_print(&conf, k, &out);
        assert_string_equal(out.data, cases[i].printed);
        rb_buf_free(&out);
    }
}

/* Each faulty text, and two pieces its message must have: the place, and what to do. */
static void faults_say_where_and_what(void **state) {
    (void)state;
    static const struct {
        const char *yaml, *place, *say;
    } cases[] = {
        {"model: {d: 256, layes: 4}\n", "run.yaml:1:17:", "did you mean layers?"},
        {"model:\n  hedas: 4\n", "run.yaml:2:3:", "did you mean heads?"},
        {"modle: {d: 8}\n", "run.yaml:1:1:", "did you mean model?"},
        {"lr: 0.1\n", "run.yaml:1:1:", "did you mean optim.lr?"},
        {"model: {lr: 0.1}\n", "run.yaml:1:9:", "did you mean optim.lr?"},
        {"enigne: local\n", "run.yaml:1:1:", "did you mean engine?"},
        {"model: {d: 256, d: 512}\n", "run.yaml:1:17:", "given twice"},
        {"model: {d: 256}\nmodel: {heads: 4}\n", "run.yaml:2:1:", "section model is given twice"},
        {"engine: local\nengine: local\n", "run.yaml:2:1:", "given twice"},
        {"model: {d: 4}\n", "run.yaml:1:12:", "out of range; allowed: 8 to 65536"},
        {"model: {d: -256}\n", "run.yaml:1:12:", "allowed: 8 to 65536"},
        {"model: {d: 256.5}\n", "run.yaml:1:12:", "no whole number"},
        {"model: {d: many}\n", "run.yaml:1:12:", "model.d is 'many'"},
        {"model: {d: 0x100}\n", "run.yaml:1:12:", "no number"},
        {"model: {rope_theta: nan}\n", "run.yaml:1:21:", "no number"},
        {"model: {rope_theta: 1e999}\n", "run.yaml:1:21:", "out of range"},
        {"model: {d: [256]}\n", "run.yaml:1:12:", "takes one value, not a list"},
        {"model: {d: {x: 1}}\n", "run.yaml:1:12:", "not a map"},
        {"model: {segments: [1, [2]]}\n", "run.yaml:1:23:", "single value"},
        {"model: {segments: []}\n", "run.yaml:1:19:", "0 entries"},
        {"model: {segments: [1, 0]}\n", "run.yaml:1:19:", "allowed: 1 to 1024"},
        {"model: {tied: maybe}\n", "run.yaml:1:15:", "true or false"},
        {"model:\n  d:\n", "run.yaml:2:5:", "model.d has no value"},
        {"model: 5\n", "run.yaml:1:8:", "must hold keys"},
        {"optim: {kind: muno}\n", "run.yaml:1:15:", "'muno', perhaps muon is meant; allowed"},
        {"optim: {kind: sgd}\n", "run.yaml:1:15:", "one of muon, adamw"},
        {"link: {up: 80}\n", "run.yaml:1:12:", "lacks a unit"},
        {"link: {up: 80mbps}\n", "run.yaml:1:12:", "known unit"},
        {"link: {up: 10bit}\n", "run.yaml:1:12:", "1kbit to 1000gbit, or none"},
        {"link: {up: 0mbit}\n", "run.yaml:1:12:", "1kbit to 1000gbit, or none"},
        {"link: {latency: 20}\n", "run.yaml:1:17:", "lacks a unit"},
        {"link: {latency: -1ms}\n", "run.yaml:1:17:", "out of range"},
        {"link: {loss: 0.7}\n", "run.yaml:1:14:", "0 to 0.5"},
        {"pipeline: {memory: 8Q}\n", "run.yaml:1:20:", "known unit"},
        {"pipeline: {addresses: [here]}\n", "run.yaml:1:23:", "host:port"},
        {"pipeline: {addresses: ['a:99999']}\n", "run.yaml:1:23:", "host:port"},
        {"pipeline: {control: here}\n", "run.yaml:1:21:", "not host:port"},
        {"pipeline: {addresses: a:1}\n", "run.yaml:1:23:", "takes a list"},
        {"data: {train: \"a\\tb\"}\n", "run.yaml:1:15:", "control character"},
        {"data: {train: \"a\\0b\"}\n", "run.yaml:1:15:", "NUL"},
        {"data: {train: *x}\n", "run.yaml:1:15:", "aliases"},
        {"model: {d: 256\n", "run.yaml:2:1:", "no valid YAML"},
        {"model: {d: 256}\n---\nmodel: {d: 512}\n", "run.yaml:2:1:", "second document"},
        {"- a\n- b\n", "run.yaml:1:1:", "map of sections"},
        {"model: {[d]: 1}\n", "run.yaml:1:9:", "a key must be a name"},
        {"{[d]: 1}\n", "run.yaml:1:2:", "a section must be a name"},
        {"data: {train: a\xff}\n", "run.yaml: byte 15", "UTF-8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        resbm_status st = load(cases[i].yaml);
        if (st != RESBM_E_CONFIG || strncmp(err.text, cases[i].place, strlen(cases[i].place)) ||
            !strstr(err.text, cases[i].say))
            fail_msg("%s gave %d: %s\nwanted %s ... %s", cases[i].yaml, st, err.text, cases[i].place,
                     cases[i].say);
    }
}

static void keys_that_contradict_each_other(void **state) {
    (void)state;
    static const struct {
        const char *yaml, *say;
    } cases[] = {
        {"model: {d: 256}\nboundary: {ratio: 100}\n",
         "run.yaml:2: boundary.ratio = 100 does not divide model.d = 256; "
         "the nearest that do are 64 and 128"},
        {"boundary: {ratio: 512}\n", "the largest that works is 256"},
        {"train: {batch: 10, microbatches: 4}\n",
         "run.yaml:1: train.microbatches = 4 does not divide train.batch = "
         "10; the nearest that do are 2 and 5"},
        {"train: {batch: 2}\n", "above train.batch = 2"},
        {"pipeline: {stages: 5}\n", "model.segments = 4"},
        {"model: {segments: [1, 2]}\npipeline: {stages: 2}\n", "lists 3 blocks, but model.layers = 8"},
        {"model: {segments: 9}\n", "only model.layers = 8"},
        {"train: {steps: 20}\n", "optim.warmup = 30"},
        {"train: {steps: 35}\n", "overlap"},
        {"pipeline: {addresses: [a:1, b:1, c:1, d:1]}\n", "transport: tcp"},
        {"pipeline: {control: a:0}\n", "pipeline.control needs pipeline.transport: tcp"},
        {"pipeline: {transport: tcp, addresses: [a:1]}\n", "1 entries for pipeline.stages = 4"},
        {"pipeline: {transport: tcp, addresses: [a:1, b:1, a:1, d:1]}\n", "stages 0 and 2 share a:1"},
        {"pipeline: {deadline: 1s}\nlink: {latency: 600ms}\n", "round trip of 1.2s"},
        {"model: {heads: 3}\n", "heads"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_fails(load_and_validate(cases[i].yaml), RESBM_E_CONFIG, cases[i].say, &err);
}

static void a_model_of_one_segment_needs_no_ratio(void **state) {
    (void)state;
    assert_ok(load_and_validate("model: {segments: 1}\nboundary: {ratio: 100}\npipeline: {stages: 1}\n"),
              &err);
}

/* A truncated identity does harm beside a trunk (docs/quality.md). */
static void the_identity_follows_the_token_path(void **state) {
    (void)state;
    assert_ok(load_and_validate("boundary: {tokens: embedding}\n"), &err);
    assert_int_equal(conf.boundary.identity, RB_IDENTITY_TRUNCATE);
    assert_ok(load_and_validate("boundary: {tokens: trunk}\n"), &err);
    assert_int_equal(conf.boundary.identity, RB_IDENTITY_NONE);
    assert_ok(load_and_validate("boundary: {tokens: trunk, identity: truncate}\n"), &err);
    assert_int_equal(conf.boundary.identity, RB_IDENTITY_TRUNCATE);
}

static double rate_of(const char *name, int segment, rb_role role) {
    rb_tensor t = {.role = role, .segment = segment};
    snprintf(t.name, sizeof t.name, "%s", name);
    return rb_tensor_lr(&conf, &t);
}

static void rates_of_boundaries_and_segments(void **state) {
    (void)state;
    assert_ok(load_and_validate("optim: {segment_lr_scale: 0.5, boundary_lr_scale: 0.25}\n"), &err);
    assert_float_equal(rate_of("model.layers.7.mlp.up_proj.weight", 3, RB_ROLE_MATRIX), 1, 0);
    assert_float_equal(rate_of("model.layers.0.mlp.up_proj.weight", 0, RB_ROLE_MATRIX), 0.125, 0);
    assert_float_equal(rate_of("boundary.2.decoder.fc1.weight", 3, RB_ROLE_BOUNDARY_MATRIX), 0.25, 0);
    assert_float_equal(rate_of("boundary.2.encoder.fc2.weight", 2, RB_ROLE_BOUNDARY_MATRIX), 0.125, 0);
    assert_float_equal(rate_of("boundary.2.encoder.norm.weight", 2, RB_ROLE_NORM), 0.5, 0);
    assert_float_equal(rate_of("boundary.2.trunk.layers.0.mlp.up_proj.weight", 3, RB_ROLE_BOUNDARY_MATRIX), 1,
                       0);
}

static void auxiliary_weights_over_a_run(void **state) {
    (void)state;
    assert_ok(load_and_validate(
                  "boundary: {aux: stream}\noptim: {warmup: 0}\ntrain: {steps: 10, aux_weight: 0.5}\n"),
              &err);
    assert_float_equal(rb_aux_weight(&conf, 0), 0.5, 0);
    assert_float_equal(rb_aux_weight(&conf, 9), 0.5, 0);
    assert_ok(load_and_validate("boundary: {aux: stream}\noptim: {warmup: 0}\ntrain: {steps: 10, aux_weight: "
                                "0.5, aux_until: 0.5}\n"),
              &err);
    assert_float_equal(rb_aux_weight(&conf, 4), 0.1, 1e-9);
    assert_float_equal(rb_aux_weight(&conf, 5), 0, 0);
    assert_ok(load_and_validate("boundary: {aux: none}\n"), &err);
    assert_float_equal(rb_aux_weight(&conf, 0), 0, 0);
}

static void overrides_go_before_the_file(void **state) {
    (void)state;
    assert_ok(load("model: {d: 512}\nboundary: {ratio: 3}\n"), &err);
    assert_ok(rb_config_override(&conf, "model.d=1024", &err), &err);
    assert_ok(rb_config_override(&conf, "data.train=x=[0-9]*.bin", &err), &err);
    assert_ok(rb_config_override(&conf, "model.segments=[2, 2,4]", &err), &err);
    assert_ok(rb_config_override(&conf, "engine=local", &err), &err);
    assert_ok(rb_config_override(&conf, "pipeline.addresses=[]", &err), &err);
    assert_int_equal(conf.model.d, 1024);
    assert_string_equal(conf.data.train, "x=[0-9]*.bin");
    assert_int_equal(conf.model.segment_layers[2], 4);
    assert_fails(rb_config_override(&conf, "model.d", &err), RESBM_E_CONFIG, "section.key=value", &err);
    assert_fails(rb_config_override(&conf, "d=512", &err), RESBM_E_CONFIG, "did you mean model.d?", &err);
    assert_fails(rb_config_override(&conf, "model.layres=2", &err), RESBM_E_CONFIG, "did you mean layers?",
                 &err);
    assert_fails(rb_config_override(&conf, "model.d=2", &err), RESBM_E_CONFIG, "model.d=2: model.d is '2'",
                 &err);
    assert_fails(rb_config_override(&conf, "model.segments=[2", &err), RESBM_E_CONFIG, "lacks its ]", &err);
    assert_fails(rb_config_override(&conf, "data.train=a\nb", &err), RESBM_E_CONFIG, "control character",
                 &err);
    assert_ok(rb_config_override(&conf, "boundary.ratio=3", &err), &err);
    assert_fails(rb_config_validate(&conf, &err), RESBM_E_CONFIG, "command line: boundary.ratio = 3", &err);
}

static void resuming_protects_the_model(void **state) {
    (void)state;
    rb_buf warnings = {0};
    assert_ok(load_and_validate(""), &err);
    other = conf;
    other.pipeline.stages = 2;
    other.link.up_bits = 1e6;
    assert_ok(rb_config_resume_check(&conf, &other, &warnings, &err), &err);
    assert_int_equal(warnings.len, 0);
    other.optim.rule.lr = 0.5;
    assert_ok(rb_config_resume_check(&conf, &other, &warnings, &err), &err);
    assert_string_equal(warnings.data, "optim.lr: 0.01 -> 0.5\n");
    other.model.d = 512;
    strcpy(other.boundary.codec_fwd, "int8");
    assert_fails(rb_config_resume_check(&conf, &other, NULL, &err), RESBM_E_CONFIG,
                 "2 keys may not change on resume: model.d: 256 -> 512; boundary.codec_fwd: int4 -> int8",
                 &err);
    rb_buf_free(&warnings);
}

static void files_are_bounded(void **state) {
    (void)state;
    fresh(&conf);
    assert_fails(rb_config_load_file(&conf, "no-such.yaml", &err), RESBM_E_IO, "no-such.yaml", &err);
    assert_fails(rb_config_load_file(&conf, "/dev/zero", &err), RESBM_E_CONFIG, "/dev/zero", &err);
    assert_int_equal(err.code, RESBM_E_CONFIG);
}

static void distances(void **state) {
    (void)state;
    assert_int_equal(rb_edit_distance("", "abc"), 3);
    assert_int_equal(rb_edit_distance("heads", "heads"), 0);
    assert_int_equal(rb_edit_distance("hedas", "heads"), 1);
    assert_int_equal(rb_edit_distance("layes", "layers"), 1);
    assert_int_equal(rb_edit_distance("ca", "abc"),
                     3); /* optimal string alignment, not the unrestricted one */
}

/* docs/configuration.md is `resbm train --keys`, kept in the repository. */
static void the_reference_page_is_current(void **state) {
    (void)state;
    rb_buf page = {0}, kept = {0};
    assert_ok(rb_config_reference(&page, &err), &err);
    assert_ok(rb_write_file_atomic("configuration.md", page.data, page.len, &err), &err);
    for (int i = 0; i < rb_key_count; i++) assert_non_null(strstr(page.data, rb_keys[i].name));
    resbm_status st = rb_read_file(RB_SOURCE_DIR "/docs/configuration.md", 1 << 20, &kept, &err);
    if (st != RESBM_OK || strcmp(page.data, kept.data))
        fail_msg("docs/configuration.md is not what the key table says: resbm train --keys > "
                 "docs/configuration.md");
    rb_buf_free(&page);
    rb_buf_free(&kept);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_valid),
        cmocka_unit_test(the_table_is_sound),
        cmocka_unit_test(the_sample_of_the_design_loads),
        cmocka_unit_test(every_boundary_kind_can_be_named),
        cmocka_unit_test(optimizer_defaults_agree),
        cmocka_unit_test(empty_files_give_the_defaults),
        cmocka_unit_test(printed_text_loads_back),
        cmocka_unit_test(validated_text_loads_back),
        cmocka_unit_test(numbers_keep_their_units),
        cmocka_unit_test(faults_say_where_and_what),
        cmocka_unit_test(keys_that_contradict_each_other),
        cmocka_unit_test(a_model_of_one_segment_needs_no_ratio),
        cmocka_unit_test(the_identity_follows_the_token_path),
        cmocka_unit_test(rates_of_boundaries_and_segments),
        cmocka_unit_test(auxiliary_weights_over_a_run),
        cmocka_unit_test(overrides_go_before_the_file),
        cmocka_unit_test(resuming_protects_the_model),
        cmocka_unit_test(files_are_bounded),
        cmocka_unit_test(distances),
        cmocka_unit_test(the_reference_page_is_current),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
