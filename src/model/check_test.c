/* Configurations that cannot be, and what is filled in for those that can; the tensor table. */
#include "model/testing.h"

static rb_model_config model_of(int64_t d, int64_t layers, int64_t segments) {
    return (rb_model_config){.d = d,
                             .layers = layers,
                             .heads = 4,
                             .kv_heads = 2,
                             .ffn = 3 * d,
                             .vocab = 256,
                             .context = 64,
                             .segments = segments};
}
static rb_boundary_config ratio_of(int64_t ratio) {
    return (rb_boundary_config){.kind = "residual", .ratio = ratio, .hidden = -1};
}

static void refuse(rb_model_config m, rb_boundary_config b, const char *part) {
    rb_err err;
    assert_fails(rb_model_check(&m, &b, &err), RESBM_E_CONFIG, part, &err);
}

static void sizes(void **state) {
    (void)state;
    rb_boundary_config b = ratio_of(8);
    rb_model_config m = model_of(250, 4, 2);
    refuse(m, b, "model.d 250 is not a multiple of model.heads 4; nearest: 1 or 5");
    m = model_of(252, 4, 2);
    refuse(m, b, "model.heads 4 is a head width of 63");
    m = model_of(256, 4, 2);
    m.kv_heads = 3;
    refuse(m, b, "model.heads 4 is not a multiple of model.kv_heads 3; nearest: 2 or 4");
    refuse(model_of(256, 4, 5), b, "model.segments 5: 1 to 4");
    refuse(model_of(256, 4, 0), b, "model.segments 0");
    refuse(model_of(0, 4, 1), b, "model.d 0");
    refuse(model_of(-256, 4, 1), b, "model.d -256");
    m = model_of(256, 4, 2);
    m.tied = true;
    refuse(m, b, "model.tied with model.segments 2");
    m = model_of(256, 4, 1);
    m.rope_theta = -1;
    refuse(m, b, "model.rope_theta -1");
}

static void layers_are_never_lost(void **state) {
    (void)state;
    rb_err err;
    rb_boundary_config b = ratio_of(8);
    rb_model_config m = model_of(256, 10, 4);
    assert_ok(rb_model_check(&m, &b, &err), &err);
    int64_t want[] = {3, 3, 2, 2};
    assert_memory_equal(m.segment_layers, want, sizeof want);
    m = model_of(256, 10, 3);
    m.segment_layers[0] = 1, m.segment_layers[1] = 7, m.segment_layers[2] = 1;
    refuse(m, b, "add up to 9, model.layers is 10");
    m.segment_layers[2] = 2;
    assert_ok(rb_model_check(&m, &b, &err), &err);
    assert_int_equal(m.segment_layers[1], 7);
    m.segment_layers[0] = 0, m.segment_layers[2] = 3;
    refuse(m, b, "segment 0 has no layer");
    m.segment_layers[0] = 1, m.segment_layers[2] = 1, m.segment_layers[3] = 1;
    refuse(m, b, "entry 3 is 1, with 3 segments");
}

static void boundaries(void **state) {
    (void)state;
    rb_err err;
    rb_model_config m = model_of(256, 4, 2);
    refuse(m, ratio_of(100), "boundary.ratio 100: 256 is not divisible; nearest: 64 or 128");
    refuse(m, ratio_of(0), "boundary.ratio 0");
    refuse(m, ratio_of(1000), "boundary.ratio 1000");
    rb_boundary_config b = ratio_of(8);
    snprintf(b.kind, sizeof b.kind, "residuel");
    refuse(m, b, "boundary.kind \"residuel\": there are none, linear, residual, topk, subspace");
    b = ratio_of(8);
    snprintf(b.codec_fwd, sizeof b.codec_fwd, "int5");
    refuse(m, b, "boundary.codec_fwd \"int5\"");
    b = ratio_of(8);
    snprintf(b.scale_fwd, sizeof b.scale_fwd, "group");
    refuse(m, b, "boundary.scale_fwd \"group\"");
    b = ratio_of(128);
    assert_ok(rb_model_check(&m, &b, &err), &err);
    assert_int_equal(b.k, 2);
    assert_int_equal(b.hidden, 64);
    assert_string_equal(b.codec_fwd, "int4");
    assert_string_equal(b.scale_fwd, "step");
    rb_boundary_config again = b;
    assert_ok(rb_model_check(&m, &again, &err), &err);
    assert_memory_equal(&b, &again, sizeof b);
}

static void split_pays(void **state) {
    (void)state;
    rb_err err;
    rb_model_config m = model_of(256, 4, 2);
    rb_boundary_config b = ratio_of(8);
    b.identity = RB_IDENTITY_SPLIT;
    refuse(m, b, "boundary.identity_width 0");
    b.identity_width = 8;
    refuse(m, b, "takes the place of 32 int4 latents, and boundary.ratio 8 leaves 32; at most 7");
    b.identity_width = 7;
    for (int i = 0; i < 2; i++) {
        assert_ok(rb_model_check(&m, &b, &err), &err);
        assert_int_equal(b.k, 4); /* 32 - 7*16/4 */
    }
    snprintf(b.codec_fwd, sizeof b.codec_fwd, "bf16");
    assert_ok(rb_model_check(&m, &b, &err), &err);
    assert_int_equal(b.k, 25);
    refuse(m,
           (rb_boundary_config){
               .kind = "residual", .ratio = 128, .identity = RB_IDENTITY_SPLIT, .identity_width = 1},
           "take a smaller ratio");
}

static void whole_x(void **state) {
    (void)state;
    rb_err err;
    rb_model_config m = model_of(256, 4, 2);
    rb_boundary_config b = {.kind = "none", .ratio = 100};
    rb_wire wire;
    assert_ok(rb_model_check(&m, &b, &err), &err);
    assert_ok(rb_model_wire(&m, &b, 0, &wire, &err), &err);
    assert_int_equal(wire.parts, 1);
    assert_int_equal(wire.part[0].width, 256);
    assert_int_equal(wire.part[0].pack.code, RB_CODE_BF16);
    b.tokens = RB_TOKENS_EMBEDDING;
    refuse(m, b, "no token path");
}

static void picks_and_subspaces(void **state) {
    (void)state;
    rb_err err;
    rb_model_config m = model_of(256, 4, 2);
    rb_boundary_config b = {.kind = "topk",
                            .ratio = 64,
                            .feedback = RB_FEEDBACK_GRADIENT,
                            .feedback_rows = 64},
                       s = {.kind = "subspace", .ratio = 8};
    rb_wire w;
    rb_tensor_table t;
    assert_ok(rb_model_check(&m, &b, &err), &err);
    assert_ok(rb_model_wire(&m, &b, 1, &w, &err), &err);
    assert_int_equal(w.parts, 2);
    assert_int_equal(rb_packed_bytes(&w.part[1].pack, 1, 8, w.part[1].width), 8 * 4);
    m.d = 512;
    b.ratio = 128, b.k = 0;
    assert_ok(rb_model_check(&m, &b, &err), &err);
    assert_ok(rb_model_wire(&m, &b, 0, &w, &err), &err);
    assert_int_equal(rb_packed_bytes(&w.part[1].pack, 1, 8, w.part[1].width), 8 * 4 * 2);
    assert_ok(rb_tensor_table_build(&m, &b, &t, &err), &err);
    int residues = 0;
    for (int i = 0; i < t.count; i++) residues += !strcmp(t.rows[i].name, "boundary.0.decoder.residue");
    assert_int_equal(residues, 1);
    rb_tensor_table_free(&t);
    b.aux = RB_AUX_LATENT;
    refuse(m, b, "kind topk has no latents");
    m.d = 256;
    s.tokens = RB_TOKENS_TRUNK;
    refuse(m, s, "kind subspace has a token path of its own");
    s.tokens = RB_TOKENS_NONE, s.feedback = RB_FEEDBACK_GRADIENT;
    refuse(m, s, "kind subspace drops no coordinates");
    s.feedback = RB_FEEDBACK_NONE;
    assert_ok(rb_model_check(&m, &s, &err), &err);
    assert_int_equal(s.tokens, RB_TOKENS_FIXED);
    s = ratio_of(8);
    s.tokens = RB_TOKENS_FIXED;
    refuse(m, s, "belongs to kind subspace");
}

static void trunks(void **state) {
    (void)state;
    rb_err err;
    rb_model_config m = model_of(256, 4, 2);
    rb_boundary_config b = ratio_of(8);
    b.tokens = RB_TOKENS_TRUNK;
    assert_ok(rb_model_check(&m, &b, &err), &err);
    assert_int_equal(b.trunk_width, 64);
    b.trunk_heads = 3;
    refuse(m, b, "boundary.trunk_width 64 is not boundary.trunk_heads 3");
    b.trunk_heads = 1, b.trunk_blocks = 17;
    refuse(m, b, "boundary.trunk_blocks 17: 1 to 16");
}

static void wires(void **state) {
    (void)state;
    rb_err err;
    rb_model_config m = model_of(256, 4, 2);
    rb_boundary_config b = ratio_of(8);
    rb_wire f, r;
    b.identity = RB_IDENTITY_FULL;
    assert_ok(rb_model_check(&m, &b, &err), &err);
    assert_ok(rb_model_wire(&m, &b, 0, &f, &err), &err);
    assert_ok(rb_model_wire(&m, &b, 1, &r, &err), &err);
    assert_int_equal(f.parts, 2);
    assert_int_equal(f.part[0].width, 32);
    assert_int_equal(f.part[0].pack.scale, RB_SCALE_STEP);
    assert_true(f.part[0].learned_steps && !f.part[0].pack.stochastic);
    assert_int_equal(f.part[1].width, 256);
    assert_int_equal(f.part[1].pack.code, RB_CODE_BF16);
    assert_int_equal(r.part[0].pack.scale, RB_SCALE_GROUP);
    assert_true(r.part[0].pack.stochastic && !r.part[0].learned_steps);
    assert_int_equal(r.part[1].pack.direction, 1);
    b.group_bwd = 16;
    b.rounding_bwd = RB_ROUNDING_NEAREST;
    snprintf(b.codec_bwd, sizeof b.codec_bwd, "int2");
    assert_ok(rb_model_check(&m, &b, &err), &err);
    assert_ok(rb_model_wire(&m, &b, 1, &r, &err), &err);
    assert_int_equal(r.part[0].pack.code, RB_CODE_INT2);
    assert_int_equal(rb_group_of(r.part[0].pack.scale), 16);
    assert_false(r.part[0].pack.stochastic);
    b.group_bwd = 48;
    refuse(m, b, "boundary.group_bwd 48");
}

/* --- the table
 * ------------------------------------------------------------------------------------------------- */

static void order_of_rows(void **state) {
    static const char *const want[] = {"model.embed_tokens.weight",
                                       "model.layers.0.input_layernorm.weight",
                                       "model.layers.0.self_attn.q_proj.weight",
                                       "model.layers.0.self_attn.k_proj.weight",
                                       "model.layers.0.self_attn.v_proj.weight",
                                       "model.layers.0.self_attn.q_norm.weight",
                                       "model.layers.0.self_attn.k_norm.weight",
                                       "model.layers.0.self_attn.o_proj.weight",
                                       "model.layers.0.post_attention_layernorm.weight",
                                       "model.layers.0.mlp.gate_proj.weight",
                                       "model.layers.0.mlp.up_proj.weight",
                                       "model.layers.0.mlp.down_proj.weight",
                                       "boundary.0.encoder.norm.weight",
                                       "boundary.0.encoder.fc1.weight",
                                       "boundary.0.encoder.fc2.weight",
                                       "boundary.0.encoder.steps",
                                       "boundary.0.decoder.fc1.weight",
                                       "boundary.0.decoder.fc2.weight",
                                       "boundary.0.decoder.tokens.embed_tokens.weight",
                                       "boundary.0.decoder.steps",
                                       "model.layers.1.input_layernorm.weight"};
    (void)state;
    rb_err err;
    rb_model_config m = model_of(64, 2, 2);
    rb_boundary_config b = ratio_of(8);
    rb_tensor_table t;
    m.qk_norm = true;
    b.tokens = RB_TOKENS_EMBEDDING;
    assert_ok(rb_model_check(&m, &b, &err), &err);
    assert_ok(rb_tensor_table_build(&m, &b, &t, &err), &err);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) assert_string_equal(t.rows[i].name, want[i]);
    assert_string_equal(t.rows[t.count - 2].name, "model.norm.weight");
    assert_string_equal(t.rows[t.count - 1].name, "lm_head.weight");
    assert_int_equal(t.rows[15].segment, 0);
    assert_int_equal(t.rows[16].segment, 1);
    assert_int_equal(t.rows[16].part, RB_PART_DECODER);
    for (int i = 0; i < t.count; i++)
        for (int j = 0; j < i; j++) assert_string_not_equal(t.rows[i].name, t.rows[j].name);
    rb_tensor_table_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes),
        cmocka_unit_test(layers_are_never_lost),
        cmocka_unit_test(boundaries),
        cmocka_unit_test(split_pays),
        cmocka_unit_test(whole_x),
        cmocka_unit_test(trunks),
        cmocka_unit_test(picks_and_subspaces),
        cmocka_unit_test(wires),
        cmocka_unit_test(order_of_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
