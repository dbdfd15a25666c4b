/* Stages: the same bits on any number of them, memory, misuse, and the search for what is not finite. */
#include <math.h>
#include "model/testing.h"

/* --- one stage against one stage per segment
 * -------------------------------------------------------------------- */

static rb_stage_model *open_part(world *w, int first, int count) {
    rb_err err;
    rb_stage_model *m = NULL;
    rb_stage_options o = {.model = &w->model,
                          .boundary = &w->boundary,
                          .table = &w->table,
                          .first_segment = first,
                          .segments = count,
                          .B = w->B,
                          .T = w->T,
                          .slots = 1,
                          .training = true};
    assert_ok(rb_stage_model_open(w->dev, &o, &m, &err), &err);
    return m;
}

static void assert_same_tensor(world *w, const char *what, rb_view a, rb_view b, const char *name) {
    if (!b.data) return;
    float *x = get(w, a), *y = get(w, b);
    if (memcmp(x, y, (size_t)rb_count(a) * 4)) fail_msg("%s %s differs", what, name);
    free(x);
    free(y);
}

static void stages_change_nothing(void **state) {
    (void)state;
    rb_err err;
    for (int tokens = 0; tokens < 3; tokens++) {
        world w = {.model = small_model(), .boundary = small_boundary(), .B = 2, .T = 6};
        rb_segment_io io[3] = {0};
        w.boundary.tokens = (rb_token_path)tokens;
        world_open(&w, "ref", 1, true);
        world_random_tokens(&w, 1);
        rb_stage_model *part[3] = {open_part(&w, 0, 1), open_part(&w, 1, 1), open_part(&w, 2, 1)};
        for (int s = 0; s < 3; s++)
            for (int r = 0; r < w.table.count; r++)
                assert_same_tensor(&w, "initial", rb_stage_weight(w.stage, r), rb_stage_weight(part[s], r),
                                   w.table.rows[r].name);
        double one = world_forward(&w, 0, 0.1f);
        world_backward(&w, 0, FUSED);
        for (int s = 0; s < 3; s++) {
            io[s] = w.io[s];
            if (s) memcpy(io[s].in, io[s - 1].out, sizeof io[s].in);
            assert_ok(rb_segment_forward(part[s], w.q, s, 0, &io[s], &err), &err);
        }
        double *many = get(&w, io[2].loss);
        assert_memory_equal(many, &one, sizeof one);
        free(many);
        for (int s = 2; s >= 0; s--) {
            if (s < 2) memcpy(io[s].in, io[s + 1].out, sizeof io[s].in);
            assert_ok(rb_segment_backward(part[s], w.q, s, 0, &io[s], &err), &err);
        }
        for (int s = 0; s < 3; s++)
            for (int r = 0; r < w.table.count; r++)
                assert_same_tensor(&w, "gradient of", rb_stage_grad(w.stage, r), rb_stage_grad(part[s], r),
                                   w.table.rows[r].name);
        for (int s = 0; s < 3; s++) rb_stage_model_close(part[s]);
        world_close(&w);
    }
}

/* --- weights
 * ------------------------------------------------------------------------------------------------------ */

static void initial_weights(void **state) {
    (void)state;
    world w = {.model = small_model(), .boundary = small_boundary(), .B = 1, .T = 4};
    w.model.d = 64, w.model.init_std = 0.02;
    w.boundary.tokens = RB_TOKENS_TRUNK;
    world_open(&w, "ref", 1, false);
    for (int r = 0; r < w.table.count; r++) {
        const rb_tensor *t = &w.table.rows[r];
        rb_view v = rb_stage_weight(w.stage, r);
        assert_false(rb_stage_grad(w.stage, r).data);
        assert_int_equal((uintptr_t)v.data % (t->joined ? 4 : 64), 0);
        float *x = get(&w, v);
        double sum = 0, sq = 0, n = (double)rb_count(v);
        for (int64_t i = 0; i < rb_count(v); i++) sum += x[i], sq += (double)x[i] * x[i];
        double mean = sum / n, std = sqrt(fmax(0, sq / n - mean * mean)), slack = 5 * t->init_std / sqrt(n);
        if (fabs(mean - t->init_mean) > slack + 1e-6 || fabs(std - t->init_std) > slack + 1e-6)
            fail_msg("%s: mean %g, std %g", t->name, mean, std);
        if (strstr(t->name, "layers.1.mlp.down_proj"))
            assert_float_equal(t->init_std, (strstr(t->name, "trunk") ? 0.01 : 0.02 / sqrt(6)), 1e-6);
        if (strstr(t->name, "decoder.fc2"))
            assert_true(t->init_std == 0); /* a trunk's decoder starts at zero */
        free(x);
    }
    world_close(&w);
}

static double norm_after_a_pass(world *w) {
    double sum = 0;
    world_random_tokens(w, 1);
    world_forward(w, 0, 1.0f / (float)(w->B * w->T));
    world_backward(w, 0, FUSED);
    for (int r = 0; r < w->table.count; r++) {
        rb_view g = rb_stage_grad(w->stage, r);
        if (!g.data) continue;
        float *x = get(w, g);
        for (int64_t i = 0; i < rb_count(g); i++) sum += (double)x[i] * x[i];
        free(x);
    }
    return sqrt(sum);
}

static double gradient_norm(const char *kind, int hidden, rb_identity identity, const char *codec) {
    world w = {.model = small_model(), .boundary = small_boundary(), .B = 4, .T = 16, .codec = true};
    w.model.d = 128, w.model.ffn = 64, w.model.init_std = 0.02;
    w.boundary.hidden = hidden, w.boundary.identity = identity, w.boundary.ratio = 16,
    w.boundary.identity_width = 1;
    snprintf(w.boundary.kind, sizeof w.boundary.kind, "%s", kind);
    snprintf(w.boundary.codec_fwd, sizeof w.boundary.codec_fwd, "%s", codec);
    snprintf(w.boundary.codec_bwd, sizeof w.boundary.codec_bwd, "f32");
    world_open(&w, "cpu", 1, true);
    double norm = norm_after_a_pass(&w);
    world_close(&w);
    return norm;
}

/* The codec's first steps fit what the encoder gives at the start. Steps that round every latent to zero once made
 * the first gradient a hundred thousand times as large, through the norms behind a stream of zeros. */
static void first_steps_fit(void **state) {
    static const struct {
        const char *kind;
        int hidden;
        rb_identity identity;
    } variant[] = {{"residual", 64, RB_IDENTITY_TRUNCATE}, {"residual", 0, RB_IDENTITY_TRUNCATE},
                   {"residual", 64, RB_IDENTITY_SPLIT},    {"residual", 256, RB_IDENTITY_NONE},
                   {"residual", 0, RB_IDENTITY_FULL},      {"linear", 0, RB_IDENTITY_NONE}};
    (void)state;
    for (int i = 0; i < 6; i++) {
        double exact = gradient_norm(variant[i].kind, variant[i].hidden, variant[i].identity, "f32");
        for (int c = 0; c < 2; c++) {
            const char *codec = c ? "int4" : "int8";
            double coded = gradient_norm(variant[i].kind, variant[i].hidden, variant[i].identity, codec);
            if (!(coded < 2 * exact && coded > exact / 2))
                fail_msg("%s, variant %d: the first gradient's norm is %g, with f32 latents %g", codec, i,
                         coded, exact);
        }
    }
}

/* Codes that are all zero: without an offset the receiver's stream is zero, and its norms blow the gradient up. */
static void a_silent_boundary(void **state) {
    (void)state;
    double norm[2];
    for (int i = 0; i < 2; i++) {
        world w = {.model = small_model(), .boundary = small_boundary(), .B = 4, .T = 16, .codec = true};
        w.model.d = 128, w.model.ffn = 64, w.model.init_std = 0.02;
        w.boundary.offset = i ? RB_OFFSET_AUTO : RB_OFFSET_NONE;
        world_open(&w, "cpu", 1, true);
        for (int r = 0; r < w.table.count; r++) {
            const float wide[4] = {1000, 1000, 1000, 1000};
            if (w.table.rows[r].role == RB_ROLE_STEP)
                put(&w, rb_stage_weight(w.stage, r).data, wide, sizeof wide);
        }
        norm[i] = norm_after_a_pass(&w);
        world_close(&w);
    }
    assert_true(norm[0] > 100);
    assert_true(norm[1] < 20);
}

/* Where there is an offset, and where it is refused. */
static void offsets(void **state) {
    static const struct {
        const char *kind;
        rb_identity identity;
        rb_token_path tokens;
        rb_offset offset;
        int found;
    } row[] = {{"residual", RB_IDENTITY_TRUNCATE, RB_TOKENS_NONE, RB_OFFSET_AUTO, 2},
               {"residual", RB_IDENTITY_FULL, RB_TOKENS_NONE, RB_OFFSET_AUTO, 0},
               {"residual", RB_IDENTITY_FULL, RB_TOKENS_NONE, RB_OFFSET_LEARNED, 2},
               {"residual", RB_IDENTITY_NONE, RB_TOKENS_EMBEDDING, RB_OFFSET_AUTO, 0},
               {"linear", RB_IDENTITY_NONE, RB_TOKENS_NONE, RB_OFFSET_AUTO, 2},
               {"linear", RB_IDENTITY_NONE, RB_TOKENS_NONE, RB_OFFSET_NONE, 0},
               {"none", RB_IDENTITY_NONE, RB_TOKENS_NONE, RB_OFFSET_AUTO, 0}};
    (void)state;
    rb_err err;
    for (int i = 0; i < 7; i++) {
        world w = {.model = small_model(), .boundary = small_boundary(), .B = 2, .T = 4};
        w.boundary.identity = row[i].identity, w.boundary.tokens = row[i].tokens,
        w.boundary.offset = row[i].offset;
        snprintf(w.boundary.kind, sizeof w.boundary.kind, "%s", row[i].kind);
        world_open(&w, "ref", 1, false);
        int found = 0;
        for (int r = 0; r < w.table.count; r++)
            found += strstr(w.table.rows[r].name, ".decoder.offset") != NULL;
        assert_int_equal(found, row[i].found);
        world_random_tokens(&w, 1);
        assert_true(isfinite(world_forward(&w, 0, 0)));
        world_close(&w);
    }
    world w = {.model = small_model(), .boundary = small_boundary()};
    w.boundary.tokens = RB_TOKENS_EMBEDDING, w.boundary.offset = RB_OFFSET_LEARNED;
    assert_fails(rb_model_check(&w.model, &w.boundary, &err), RESBM_E_CONFIG, "boundary.offset learned",
                 &err);
}

/* Joined rows are adjacent: one product makes q, k and v. */
static void joined_rows(void **state) {
    (void)state;
    world w = {.model = small_model(), .boundary = small_boundary(), .B = 1, .T = 4};
    int joined = 0;
    w.model.d = 20, w.model.heads = 2, w.model.ffn = 7; /* sizes that are no multiple of 64 bytes */
    w.model.kv_heads = 1;
    world_open(&w, "ref", 1, true);
    for (int r = 1; r < w.table.count; r++) {
        if (!w.table.rows[r].joined) continue;
        joined++;
        rb_view a = rb_stage_grad(w.stage, r - 1), b = rb_stage_weight(w.stage, r - 1);
        assert_ptr_equal((float *)a.data + rb_count(a), rb_stage_grad(w.stage, r).data);
        assert_ptr_equal((float *)b.data + rb_count(b), rb_stage_weight(w.stage, r).data);
    }
    assert_int_equal(joined, 9);
    world_random_tokens(&w, 1);
    assert_true(isfinite(world_forward(&w, 0, 1)));
    world_close(&w);
}

/* --- memory
 * ---------------------------------------------------------------------------------------------------------
 */

static size_t bytes_of(bool training, bool split, bool recompute, int slots) {
    world w = {.model = small_model(),
               .boundary = small_boundary(),
               .B = 4,
               .T = 16,
               .slots = slots,
               .split = split};
    w.model.layers = 6, w.model.recompute = recompute;
    world_open(&w, "ref", 1, training);
    size_t bytes = rb_stage_model_bytes(w.stage);
    world_close(&w);
    return bytes;
}

static void memory(void **state) {
    (void)state;
    size_t plain = bytes_of(true, false, false, 1), four = bytes_of(true, false, false, 4);
    size_t split = bytes_of(true, true, false, 1), recompute = bytes_of(true, false, true, 4);
    size_t eval = bytes_of(false, false, false, 4);
    assert_true(split > plain);
    assert_true(eval < plain / 2);
    assert_true(recompute < four / 2);
    /* What one more microbatch of 64 tokens costs, in numbers per token: six blocks, nine streams, two
     * boundaries' SiLU inputs (12 each way), rstd and three latents, and the head's gradients. Alignment may
     * add a little. */
    size_t block = 1 + 16 + 16 + 16 + 4 + 1 + 2 * 24 + 16, boundary = 12 + 12 + 1 + 3 * 4, head = 1 + 16 + 13;
    size_t want = 64 * 4 * (6 * block + 9 * 16 + 2 * boundary + head);
    assert_in_range((four - plain) / 3, want, want + 1024);
}

/* --- misuse
 * ---------------------------------------------------------------------------------------------------------
 */

static void calls_out_of_order(void **state) {
    (void)state;
    rb_err err;
    world w = {.model = small_model(), .boundary = small_boundary(), .B = 2, .T = 6};
    world_open(&w, "ref", 1, true);
    world_random_tokens(&w, 1);
    rb_segment_io io = {0}, *last = &w.io[2];
    assert_fails(rb_segment_backward(w.stage, w.q, 2, 0, &io, &err), RESBM_E_STATE, "slot 0 holds nothing",
                 &err);
    assert_fails(rb_segment_forward(w.stage, w.q, 3, 0, &io, &err), RESBM_E_ARG,
                 "segment 3 is not on this stage", &err);
    assert_fails(rb_segment_forward(w.stage, w.q, 0, 1, &io, &err), RESBM_E_ARG, "slot 1 of 1", &err);
    assert_fails(rb_segment_forward(w.stage, w.q, 0, 0, &io, &err), RESBM_E_ARG, "segment 0: tokens", &err);
    world_forward(&w, 0, 0);
    assert_fails(rb_segment_backward(w.stage, w.q, 2, 0, last, &err), RESBM_E_STATE, "grad_scale 0", &err);
    world_forward(&w, 0, 1);
    assert_fails(rb_segment_backward_input(w.stage, w.q, 2, 0, last, &err), RESBM_E_STATE, "split_backward",
                 &err);
    assert_fails(rb_segment_backward(w.stage, w.q, 1, 0, &io, &err), RESBM_E_ARG, "segment 1: part 0", &err);
    world_backward(&w, 0, FUSED);
    assert_fails(rb_segment_backward(w.stage, w.q, 2, 0, last, &err), RESBM_E_STATE, "holds nothing", &err);
    world_close(&w);
}

static void options_out_of_range(void **state) {
    (void)state;
    rb_err err;
    world w = {.model = small_model(), .boundary = small_boundary(), .B = 2, .T = 6};
    world_open(&w, "ref", 1, false);
    rb_stage_options o = {.model = &w.model,
                          .boundary = &w.boundary,
                          .table = &w.table,
                          .first_segment = 1,
                          .segments = 3,
                          .B = 2,
                          .T = 6,
                          .slots = 1};
    rb_stage_model *m = NULL;
    rb_kv_cache *c = NULL;
    assert_fails(rb_stage_model_open(w.dev, &o, &m, &err), RESBM_E_ARG, "segments 1..3: the model has 3",
                 &err);
    o.segments = 2, o.T = 17;
    assert_fails(rb_stage_model_open(w.dev, &o, &m, &err), RESBM_E_ARG, "model.context 16", &err);
    assert_fails(rb_kv_cache_open(w.stage, 1, 17, &c, &err), RESBM_E_ARG, "model.context is 16", &err);
    assert_ok(rb_kv_cache_open(w.stage, 2, 4, &c, &err), &err);
    rb_segment_io io = {.tokens = rb_view2(w.tokens, RB_I32, 2, 3)};
    assert_fails(rb_segment_decode(w.stage, w.q, c, 0, 2, &io, rb_none(), &err), RESBM_E_ARG, "at position 2",
                 &err);
    rb_kv_cache_close(c);
    assert_fails(rb_stage_zero_grads(w.stage, w.q, &err), RESBM_E_STATE, "without training", &err);
    world_close(&w);
}

/* --- what is not finite
 * ------------------------------------------------------------------------------------------------ */

static void expect_nonfinite(world *w, const char *want) {
    char name[160];
    rb_err err;
    assert_ok(rb_stage_find_nonfinite(w->stage, w->q, name, sizeof name, &err), &err);
    assert_string_equal(name, want);
}

static void spoil(world *w, const char *name, float value) {
    for (int r = 0; r < w->table.count; r++)
        if (!strcmp(w->table.rows[r].name, name))
            put(w, (float *)rb_stage_weight(w->stage, r).data + 3, &value, 4);
}

static void first_nonfinite(void **state) {
    (void)state;
    rb_err err;
    world w = {.model = small_model(), .boundary = small_boundary(), .B = 2, .T = 6, .slots = 2};
    world_open(&w, "ref", 1, true);
    world_random_tokens(&w, 1);
    expect_nonfinite(&w, "");
    world_forward(&w, 1, 1);
    expect_nonfinite(&w, "");
    spoil(&w, "model.layers.1.mlp.up_proj.weight", NAN);
    spoil(&w, "model.layers.2.mlp.up_proj.weight", INFINITY);
    expect_nonfinite(&w, "model.layers.1.mlp.up_proj.weight");
    spoil(&w, "model.layers.2.mlp.up_proj.weight", 0);
    world_forward(&w, 1, 1);
    spoil(&w, "model.layers.1.mlp.up_proj.weight", 0);
    expect_nonfinite(&w, "output of model.layers.1, microbatch slot 1");
    world_backward(&w, 1, FUSED);
    world_forward(&w, 1, 1);
    expect_nonfinite(&w, "gradient of lm_head.weight");
    assert_ok(rb_stage_zero_grads(w.stage, w.q, &err), &err);
    expect_nonfinite(&w, "");
    spoil(&w, "boundary.0.decoder.fc1.weight", -INFINITY);
    expect_nonfinite(&w, "boundary.0.decoder.fc1.weight");
    world_close(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stages_change_nothing),
        cmocka_unit_test(initial_weights),
        cmocka_unit_test(first_steps_fit),
        cmocka_unit_test(a_silent_boundary),
        cmocka_unit_test(offsets),
        cmocka_unit_test(joined_rows),
        cmocka_unit_test(memory),
        cmocka_unit_test(calls_out_of_order),
        cmocka_unit_test(options_out_of_range),
        cmocka_unit_test(first_nonfinite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
