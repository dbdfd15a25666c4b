/* Updates against PyTorch's (tests/golden/make_optim.py) on every device, who gets which rule, resuming, and
 * that neither threads nor neighbours change a bit. */
#include <math.h>
#include <stdlib.h>
#include "core/buf.h"
#include "core/bytes.h"
#include "device/ops.h"
#include "optim/testing.h"

/* --- golden numbers --- */

static const uint8_t *golden_find(const rb_buf *file, const char *name, uint32_t *count) {
    const uint8_t *p = (const uint8_t *)file->data, *end = p + file->len;
    while (p < end) {
        uint32_t length = rb_get32(p);
        *count = rb_get32(p + 4 + length);
        if (length == strlen(name) && !memcmp(p + 4, name, length)) return p + 8 + length;
        p += 8 + length + 4 * (size_t)*count;
    }
    fail_msg("tests/golden/optim.golden has no %s", name);
    return NULL;
}

/* The largest difference between a weight and the file's. */
static double golden_distance(const rb_buf *file, const char *name, bench *b, int i) {
    uint32_t count = 0;
    const uint8_t *want = golden_find(file, name, &count);
    float *got = download(b, b->tensor[i].weight);
    double worst = 0;
    assert_int_equal(count, rb_count(b->tensor[i].weight));
    for (uint32_t j = 0; j < count; j++) {
        uint32_t u = rb_get32(want + 4 * j);
        float f;
        memcpy(&f, &u, 4);
        double d = fabs((double)got[j] - (double)f);
        if (!(d <= worst)) worst = d; /* a NaN stays */
    }
    free(got);
    return worst;
}

static int golden_rows(rb_tensor *rows) {
    rows[0] = make_row("tall", 24, 8, RB_ROLE_MATRIX);
    rows[1] = make_row("wide", 8, 20, RB_ROLE_MATRIX);
    rows[2] = make_row("square", 12, 12, RB_ROLE_MATRIX);
    rows[3] = make_row("pair", 2, 64, RB_ROLE_BOUNDARY_MATRIX);
    rows[4] = make_row("vector", 33, 0, RB_ROLE_NORM);
    return 5;
}

typedef struct golden_case {
    const char *name, *kind;
    double lr, decay;
    bool nesterov;
    rb_scaling scaling;
    double above, below; /* allowed distance */
} golden_case;

/* PyTorch's own Muon rounds its Newton-Schulz iterates to bfloat16 (8 bits of mantissa): after ten steps of lr 0.02 its
 * weights lie up to 1.1e-3 from f32's, 0.6 to 0.8% of the way walked, and never within f32 rounding. */
static const golden_case cases[] = {
    {"adamw", "adamw", 0.01, 0.1, true, RB_SCALING_ORIGINAL, 0, 1e-6},
    {"muon", "muon", 0.02, 0.1, true, RB_SCALING_ORIGINAL, 0, 1e-5},
    {"match_rms", "muon", 0.02, 0, true, RB_SCALING_MATCH_RMS, 0, 1e-5},
    {"plain", "muon", 0.02, 0, false, RB_SCALING_ORIGINAL, 0, 1e-5},
    {"torch", "muon", 0.02, 0.1, true, RB_SCALING_ORIGINAL, 1e-5, 2e-3},
};

static void check_golden(const rb_buf *file, const golden_case *g, const char *device) {
    rb_tensor rows[MOST];
    bench b;
    rb_optim_config c = config_of(g->kind);
    c.lr = g->lr, c.weight_decay = g->decay, c.nesterov = g->nesterov, c.scaling = g->scaling;
    bench_open(&b, device, 1, &c, rows, golden_rows(rows));
    steps(&b, 0, STEPS, 1, NULL);
    for (int i = 0; i < b.count; i++) {
        char name[120];
        if (b.row[i].rank == 1 && strcmp(g->name, "adamw")) continue;
        snprintf(name, sizeof name, "%s.%s", g->name, b.row[i].name);
        double d = golden_distance(file, name, &b, i);
        if (!(d >= g->above && d <= g->below))
            fail_msg("%s on %s: %g away from PyTorch, not %g to %g", name, device, d, g->above, g->below);
    }
    bench_close(&b);
}

/* Where products round their factors to bf16 the iteration is in bf16, as PyTorch's own: as near to f32's
 * weights as that one is, and to that one. */
static void iterations_in_bf16_are_near(const rb_buf *file, const char *device) {
    static const char *const names[] = {"muon", "torch"};
    rb_tensor rows[MOST];
    rb_err err;
    bench b;
    rb_optim_config c = config_of("muon");
    c.lr = 0.02, c.weight_decay = 0.1;
    bench_device_in(&b, device, RB_MATH_AUTO, 1, rows, golden_rows(rows));
    assert_ok(rb_optim_open(b.dev, &c, b.tensor, b.count, NULL, &b.optim, &err), &err);
    steps(&b, 0, STEPS, 1, NULL);
    for (int i = 0; i < b.count && b.dev->factor == RB_BF16; i++)
        for (int k = 0; k < 2 && b.row[i].rank == 2; k++) {
            char name[120];
            snprintf(name, sizeof name, "%s.%s", names[k], b.row[i].name);
            double d = golden_distance(file, name, &b, i);
            if (!(d >= 1e-5 && d <= 2e-3)) fail_msg("%s on %s in bf16: %g away from PyTorch", name, device, d);
        }
    bench_close(&b);
}

/* A machine may lack a GPU, and a build CUDA's kernels: said, and left out. */
static void check_device(const rb_buf *file, const char *name) {
    rb_err err;
    rb_device *dev = NULL;
    rb_device_options o = {.threads = 1};
    if (rb_device_open(name, &o, &dev, &err)) {
        if (!strstr(name, "cuda")) fail_msg("%s", err.text);
        printf("left out: %s: %s\n", name, err.text);
        return;
    }
    rb_device_close(dev);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_golden(file, &cases[i], name);
    if (strstr(name, "cuda")) iterations_in_bf16_are_near(file, name);
}

static void ten_steps_equal_pytorch(void **state) {
    (void)state;
    rb_buf file = {0};
    rb_err err;
    assert_ok(rb_read_file(RB_SOURCE_DIR "/tests/golden/optim.golden", 1 << 20, &file, &err), &err);
    for (const rb_device_table *const *d = rb_devices; *d; d++) check_device(&file, (*d)->name);
    check_device(&file, "cuda:emulated");
    rb_buf_free(&file);
}

/* --- which tensor gets which rule --- */

static int mixed_rows(rb_tensor *rows) {
    rows[0] = make_row("model.embed_tokens.weight", 40, 16, RB_ROLE_EMBEDDING);
    rows[1] = make_row("model.layers.0.self_attn.q_proj.weight", 16, 16, RB_ROLE_MATRIX);
    rows[2] = make_row("model.layers.0.input_layernorm.weight", 16, 0, RB_ROLE_NORM);
    rows[3] = make_row("boundary.0.encoder.fc1.weight", 8, 16, RB_ROLE_BOUNDARY_MATRIX);
    rows[4] = make_row("boundary.0.encoder.fc2.weight", 1, 8, RB_ROLE_BOUNDARY_MATRIX);
    rows[5] = make_row("boundary.0.encoder.steps", 1, 0, RB_ROLE_STEP);
    rows[6] = make_row("lm_head.weight", 40, 16, RB_ROLE_HEAD);
    return 7;
}

static void roles_and_shapes_choose_the_rule(void **state) {
    (void)state;
    const rb_rule want[2][7] = {{RB_RULE_ADAMW, RB_RULE_MUON, RB_RULE_ADAMW, RB_RULE_MUON, RB_RULE_ADAMW,
                                 RB_RULE_NONE, RB_RULE_ADAMW},
                                {RB_RULE_ADAMW, RB_RULE_ADAMW, RB_RULE_ADAMW, RB_RULE_ADAMW, RB_RULE_ADAMW,
                                 RB_RULE_NONE, RB_RULE_ADAMW}};
    rb_tensor rows[MOST];
    int count = mixed_rows(rows);
    for (int i = 0; i < count; i++) {
        assert_int_equal(rb_optim_find("muon")->rule_of(&rows[i]), want[0][i]);
        assert_int_equal(rb_optim_find("adamw")->rule_of(&rows[i]), want[1][i]);
    }
    assert_null(rb_optim_find("sgd"));
}

static void describing_names_every_tensor(void **state) {
    (void)state;
    rb_tensor rows[MOST];
    rb_tensor_table t = {rows, mixed_rows(rows)};
    rb_optim_config c = config_of("muon");
    rb_buf out = {0};
    rb_optim_describe(&c, &t, &out);
    assert_string_equal(
        out.data,
        "muon: 2 tensors, 384 parameters, lr 0.01\n"
        "adamw: 4 tensors, 1304 parameters, lr 0.002\n"
        "  model.embed_tokens.weight                                40 x 16     adamw\n"
        "  model.layers.0.self_attn.q_proj.weight                   16 x 16     muon\n"
        "  model.layers.0.input_layernorm.weight                    16          adamw\n"
        "  boundary.0.encoder.fc1.weight                             8 x 16     muon\n"
        "  boundary.0.encoder.fc2.weight                             1 x 8      adamw\n"
        "  boundary.0.encoder.steps                                  1          none (the codec updates it)\n"
        "  lm_head.weight                                           40 x 16     adamw\n");
    rb_buf_free(&out);
}

static void an_empty_muon_group_and_bad_numbers_are_refused(void **state) {
    (void)state;
    rb_err err;
    rb_tensor rows[] = {make_row("model.norm.weight", 16, 0, RB_ROLE_NORM),
                        make_row("boundary.0.encoder.fc2.weight", 1, 8, RB_ROLE_BOUNDARY_MATRIX)};
    rb_tensor_table t = {rows, 2};
    rb_optim_config c = config_of("muon");
    assert_fails(rb_optim_check(&c, &t, &err), RESBM_E_CONFIG, "none of the model's 2 tensors", &err);
    c = config_of("adamw");
    assert_ok(rb_optim_check(&c, &t, &err), &err);
    c.beta2 = 1;
    assert_fails(rb_optim_check(&c, &t, &err), RESBM_E_CONFIG, "optim.beta2 is 1", &err);
    c = config_of("adamw");
    c.lr = NAN;
    assert_fails(rb_optim_check(&c, &t, &err), RESBM_E_CONFIG, "optim.lr", &err);
    c = config_of("lion");
    assert_fails(rb_optim_check(&c, &t, &err), RESBM_E_CONFIG, "\"lion\"; it must be muon or adamw", &err);
}

static void a_gradient_of_another_shape_is_refused(void **state) {
    (void)state;
    rb_tensor rows[MOST];
    rb_optim_config c = config_of("muon");
    rb_optim *o;
    rb_err err;
    bench b;
    bench_open(&b, "ref", 1, &c, rows, golden_rows(rows));
    b.tensor[2].grad = rb_view2(b.tensor[2].grad.data, RB_F32, 6, 24);
    assert_fails(rb_optim_open(b.dev, &c, b.tensor, b.count, NULL, &o, &err), RESBM_E_ARG, "square", &err);
    assert_null(o);
    bench_close(&b);
}

/* --- what must not change a bit --- */

static void a_resumed_optimizer_goes_on_bit_for_bit(void **state) {
    (void)state;
    rb_tensor rows[MOST];
    rb_optim_config c = config_of("muon");
    bench whole, first, second;
    int count = golden_rows(rows);
    bench_open(&whole, "ref", 1, &c, rows, count);
    bench_open(&first, "ref", 1, &c, rows, count);
    bench_open(&second, "ref", 1, &c, rows, count);
    steps(&whole, 0, STEPS, 1, NULL);
    steps(&first, 0, 4, 1, NULL);
    assert_int_equal(rb_optim_state_count(first.optim), 4 + 2);
    for (int i = 0; i < rb_optim_state_count(first.optim); i++) {
        rb_optim_state from = rb_optim_state_at(first.optim, i), to = rb_optim_state_at(second.optim, i);
        assert_string_equal(from.name, to.name);
        copy_state(&first, &second, i);
    }
    for (int i = 0; i < count; i++) {
        float *x = download(&first, first.tensor[i].weight);
        upload(&second, second.tensor[i].weight, x);
        free(x);
    }
    rb_optim_set_steps_done(second.optim, rb_optim_steps_done(first.optim));
    steps(&second, 4, STEPS, 1, NULL);
    assert_int_equal(rb_optim_steps_done(second.optim), STEPS);
    assert_same_weights(&whole, &second);
    bench_close(&whole);
    bench_close(&first);
    bench_close(&second);
}

static void states_are_named_after_their_tensors(void **state) {
    (void)state;
    rb_tensor rows[] = {make_row("a.weight", 4, 6, RB_ROLE_MATRIX), make_row("steps", 3, 0, RB_ROLE_STEP),
                        make_row("norm.weight", 5, 0, RB_ROLE_NORM)};
    const char *want[] = {"momentum.a.weight", "exp_avg.norm.weight", "exp_avg_sq.norm.weight"};
    rb_optim_config c = config_of("muon");
    bench b;
    bench_open(&b, "ref", 1, &c, rows, 3);
    assert_int_equal(rb_optim_state_count(b.optim), 3);
    for (int i = 0; i < 3; i++) {
        rb_optim_state s = rb_optim_state_at(b.optim, i);
        assert_string_equal(s.name, want[i]);
        assert_ptr_equal(s.tensor, &b.row[i < 1 ? 0 : 2]);
    }
    const rb_tensor *list[] = {&rows[0], &rows[1], &rows[2]};
    /* states 96 + 2 * 20, scratch 2 * 96 + 2 * 64 + 8, each on lines of 64 */
    rb_optim_need need = rb_optim_needs(b.dev, &c, list, 3, NULL);
    assert_int_equal(need.states, 128 + 2 * 64);
    assert_int_equal(need.scratch, 2 * 128 + 2 * 64 + 64);
    assert_int_equal(need.windows + need.spill, 0);
    bench_close(&b);
}

static void the_scale_multiplies_each_gradient(void **state) {
    (void)state;
    rb_tensor rows[MOST];
    rb_optim_config c = config_of("muon");
    const float half[MOST] = {0.5f, 0.5f, 0.5f, 0.5f, 0.5f};
    bench a, b;
    int count = golden_rows(rows);
    bench_open(&a, "ref", 1, &c, rows, count);
    bench_open(&b, "ref", 1, &c, rows, count);
    steps(&a, 0, 3, 0.5f, NULL);
    steps(&b, 0, 3, 1, half);
    assert_same_weights(&a, &b);
    float *g = download(&b, b.tensor[0].grad), want[24 * 8];
    make_weight("tall.g2", want, 24 * 8);
    assert_memory_equal(g, want, sizeof want);
    free(g);
    bench_close(&a);
    bench_close(&b);
}

/* Another stage count means other neighbours in the optimizer. */
static void neighbours_do_not_change_a_tensor(void **state) {
    (void)state;
    rb_tensor rows[MOST];
    rb_optim_config c = config_of("muon");
    bench together, alone;
    int count = golden_rows(rows);
    bench_open(&together, "ref", 1, &c, rows, count);
    steps(&together, 0, 3, 1, NULL);
    for (int i = 0; i < count; i++) {
        bench_open(&alone, "ref", 1, &c, &rows[i], 1);
        steps(&alone, 0, 3, 1, NULL);
        float *x = download(&together, together.tensor[i].weight),
              *y = download(&alone, alone.tensor[0].weight);
        assert_memory_equal(x, y, (size_t)elements(&rows[i]) * 4);
        free(x);
        free(y);
        bench_close(&alone);
    }
    bench_close(&together);
}

static void threads_do_not_change_a_bit(void **state) {
    (void)state;
    rb_tensor rows[] = {make_row("q", 130, 257, RB_ROLE_MATRIX), make_row("up", 300, 96, RB_ROLE_MATRIX),
                        make_row("embed", 513, 33, RB_ROLE_EMBEDDING)};
    rb_optim_config c = config_of("muon");
    c.weight_decay = 0.01;
    bench one, more;
    bench_open(&one, "cpu", 1, &c, rows, 3);
    steps(&one, 0, 3, 1, NULL);
    for (int threads = 2; threads <= 4; threads++) {
        bench_open(&more, "cpu", threads, &c, rows, 3);
        steps(&more, 0, 3, 1, NULL);
        assert_same_weights(&one, &more);
        bench_close(&more);
    }
    bench_close(&one);
}

/* Half the scale is half the rate, for that tensor alone. */
static void a_rate_of_its_own(void **state) {
    (void)state;
    rb_tensor rows[] = {make_row("a", 24, 16, RB_ROLE_MATRIX), make_row("b", 24, 16, RB_ROLE_MATRIX)};
    rb_optim_config c = rb_optim_defaults(), half = c;
    half.lr /= 2;
    bench a = {0}, b = {0};
    rb_err err;
    bench_device(&a, "ref", 1, rows, 2);
    a.tensor[0].lr_scale = 0.5;
    assert_ok(rb_optim_open(a.dev, &c, a.tensor, 2, NULL, &a.optim, &err), &err);
    bench_open(&b, "ref", 1, &half, rows, 2);
    steps(&a, 0, 3, 1, NULL);
    steps(&b, 0, 3, 1, NULL);
    for (int i = 0; i < 2; i++) {
        float x[24 * 16], y[24 * 16];
        assert_ok(rb_download(a.q, x, a.tensor[i].weight.data, sizeof x, &err), &err);
        assert_ok(rb_download(b.q, y, b.tensor[i].weight.data, sizeof y, &err), &err);
        assert_ok(rb_queue_sync(a.q, &err), &err);
        assert_ok(rb_queue_sync(b.q, &err), &err);
        assert_int_equal(!memcmp(x, y, sizeof x), i == 0);
    }
    bench_close(&a);
    bench_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ten_steps_equal_pytorch),
        cmocka_unit_test(roles_and_shapes_choose_the_rule),
        cmocka_unit_test(describing_names_every_tensor),
        cmocka_unit_test(an_empty_muon_group_and_bad_numbers_are_refused),
        cmocka_unit_test(a_gradient_of_another_shape_is_refused),
        cmocka_unit_test(a_resumed_optimizer_goes_on_bit_for_bit),
        cmocka_unit_test(states_are_named_after_their_tensors),
        cmocka_unit_test(the_scale_multiplies_each_gradient),
        cmocka_unit_test(a_rate_of_its_own),
        cmocka_unit_test(neighbours_do_not_change_a_tensor),
        cmocka_unit_test(threads_do_not_change_a_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
