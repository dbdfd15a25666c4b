/* Where a boundary lies changes nothing where it carries everything: loss and gradients of a model cut between or inside its
 * blocks are those of the uncut one, bit for bit, under the same names. */
#include "model/testing.h"

static world cut_world(int64_t segments, rb_cut cut, int64_t layers) {
    world w = {.model = small_model(),
               .boundary = {.kind = "none", .codec_fwd = "f32", .codec_bwd = "f32"},
               .B = 2,
               .T = 7,
               .codec = true};
    w.model.layers = layers, w.model.segments = segments, w.model.cut = cut;
    w.model.qk_norm = w.model.qkv_bias = layers % 2;
    return w;
}

static double one_step(world *w, const char *device, how h) {
    world_open(w, device, 2, true);
    world_random_tokens(w, 3);
    double loss = world_forward(w, 0, 1.0f / 14);
    world_backward(w, 0, h);
    return loss;
}

static void a_cut_that_carries_all_changes_no_bit(void **state) {
    (void)state;
    for (int i = 0; i < 8; i++)
        for (int64_t layers = 3; layers <= 5; layers++) {
            const char *device = i & 1 ? "cpu" : "ref";
            world whole = cut_world(1, RB_CUT_BETWEEN, layers),
                  cut = cut_world(3, i & 2 ? RB_CUT_INSIDE : RB_CUT_BETWEEN, layers);
            cut.split = i & 4;
            double a = one_step(&whole, device, FUSED), b = one_step(&cut, device, i & 4 ? HALVES : FUSED);
            assert_memory_equal(&a, &b, sizeof a);
            for (int r = 0; r < whole.table.count; r++)
                assert_string_equal(whole.table.rows[r].name, cut.table.rows[r].name);
            assert_same_gradients(&whole, &cut);
            world_close(&whole);
            world_close(&cut);
        }
}

/* The stage that hosts the segment which a block's first half ends says so. */
static void halves_are_where_they_belong(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int between, inside;
    } want[] = {{"model.layers.1.mlp.down_proj.weight", 0, 0},
                {"model.layers.2.input_layernorm.weight", 1, 0},
                {"model.layers.2.self_attn.o_proj.weight", 1, 0},
                {"model.layers.2.post_attention_layernorm.weight", 1, 1},
                {"model.layers.3.self_attn.q_proj.weight", 1, 1},
                {"model.layers.4.self_attn.q_proj.weight", 2, 1},
                {"model.layers.4.mlp.gate_proj.weight", 2, 2}};
    for (int inside = 0; inside < 2; inside++) {
        world w = cut_world(3, inside ? RB_CUT_INSIDE : RB_CUT_BETWEEN, 5);
        int64_t attention = 0, mlp = 0;
        world_open(&w, "ref", 1, false);
        for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
            int found = -1;
            for (int r = 0; r < w.table.count; r++)
                if (!strcmp(w.table.rows[r].name, want[i].name)) found = w.table.rows[r].segment;
            assert_int_equal(found, inside ? want[i].inside : want[i].between);
        }
        for (int s = 0; s < 3; s++) {
            rb_segment_halves h = rb_halves_of(&w.model, s);
            attention += h.attention, mlp += h.mlp;
            assert_int_equal(h.attention - w.model.segment_layers[s], inside ? (s == 0) - (s == 2) : 0);
            assert_int_equal(h.mlp, w.model.segment_layers[s]);
        }
        assert_int_equal(attention, 5);
        assert_int_equal(mlp, 5);
        world_close(&w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cut_that_carries_all_changes_no_bit),
        cmocka_unit_test(halves_are_where_they_belong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
