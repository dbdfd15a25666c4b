/* What must not change a bit: halves or fused, recomputation, slots, devices, threads; what must not see the
 * future. */
#include <math.h>
#include "model/testing.h"

static rb_boundary_config variant(int i) {
    rb_boundary_config b = small_boundary();
    b.trunk_blocks = 2, b.trunk_width = 8, b.trunk_heads = 2, b.trunk_ffn = 12;
    b.ratio = 4;
    switch (i) {
    case 0:
        break;
    case 1:
        b.identity = RB_IDENTITY_SPLIT, b.identity_width = 1, b.ratio = 2, b.tokens = RB_TOKENS_EMBEDDING;
        break;
    case 2:
        b.identity = RB_IDENTITY_FULL, b.hidden = 0;
        break;
    case 3:
        b.identity = RB_IDENTITY_NONE, b.tokens = RB_TOKENS_TRUNK;
        break;
    case 4:
        snprintf(b.kind, sizeof b.kind, "linear");
        break;
    case 5:
        b = (rb_boundary_config){.kind = "none", .codec_fwd = "bf16", .codec_bwd = "int8"};
        break;
    case 6:
        snprintf(b.codec_fwd, sizeof b.codec_fwd, "int2");
        snprintf(b.codec_bwd, sizeof b.codec_bwd, "int2");
        b.group_bwd = 8;
        break;
    case 7:
        b = (rb_boundary_config){.kind = "none",
                                 .codec_fwd = "int1",
                                 .codec_bwd = "int4",
                                 .scale_fwd = "step",
                                 .rounding_bwd = RB_ROUNDING_NEAREST};
        break;
    case 8:
        b.tokens = RB_TOKENS_TRUNK, b.trunk_width = 16; /* as wide as the model, where that is small */
        break;
    case 9:
        b.tokens = RB_TOKENS_EMBEDDING, b.decoder_init = RB_DECODER_INIT_ZERO;
        break;
    case 10:
        b = (rb_boundary_config){.kind = "topk",
                                 .k = 3,
                                 .codec_fwd = "int8",
                                 .codec_bwd = "int8",
                                 .feedback_rows = 282,
                                 .feedback = RB_FEEDBACK_GRADIENT,
                                 .tokens = RB_TOKENS_EMBEDDING};
        break;
    case 11:
        b = (rb_boundary_config){.kind = "subspace", .k = 5, .codec_fwd = "int8", .codec_bwd = "int4"};
        break;
    case 12:
        b.identity = RB_IDENTITY_ROTATE, b.tokens = RB_TOKENS_EMBEDDING;
        break;
    }
    return b;
}
enum { VARIANTS = 13 };

static world variant_world(int i) {
    world w = {.model = small_model(), .boundary = variant(i), .B = 2, .T = 7, .codec = true, .slots = 2};
    w.model.qk_norm = i % 2;
    w.model.cut = i % 3 ? RB_CUT_BETWEEN : RB_CUT_INSIDE;
    return w;
}

/* Trunks start with a decoder of zeros, behind which every gradient would be zero. */
static void fill_zeros(world *w) {
    for (int r = 0; r < w->table.count; r++) {
        const rb_tensor *t = &w->table.rows[r];
        if (t->role != RB_ROLE_BOUNDARY_MATRIX || t->init_std != 0) continue;
        float *x = malloc((size_t)rb_tensor_count(t) * 4);
        rb_normal_fill(5, x, rb_tensor_count(t), 0, 0.2f);
        put(w, rb_stage_weight(w->stage, r).data, x, (size_t)rb_tensor_count(t) * 4);
        free(x);
    }
}

/* Two microbatches: both forward, then both backward, in two slots. */
static double two_microbatches(world *w, how h) {
    double loss = 0;
    rb_segment_io kept[2][8];
    fill_zeros(w);
    for (int k = 0; k < 2; k++) {
        world_random_tokens(w, 3);
        loss += world_forward(w, k, 1.0f / 28);
        memcpy(kept[k], w->io, sizeof kept[k]);
    }
    for (int k = 0; k < 2; k++) {
        memcpy(w->io, kept[k], sizeof kept[k]);
        world_backward(w, k, h);
    }
    return loss;
}

static void assert_same_run(world *a, world *b, how ha, how hb) {
    double la = two_microbatches(a, ha), lb = two_microbatches(b, hb);
    assert_memory_equal(&la, &lb, sizeof la);
    assert_same_gradients(a, b);
    world_close(a);
    world_close(b);
}

static void halves_equal_fused(void **state) {
    (void)state;
    for (int i = 0; i < VARIANTS; i++) {
        world a = variant_world(i), b = variant_world(i);
        b.split = true;
        world_open(&a, "ref", 1, true);
        world_open(&b, "ref", 1, true);
        assert_same_run(&a, &b, FUSED, HALVES);
    }
}

static void recompute_changes_nothing(void **state) {
    (void)state;
    for (int i = 0; i < 2 * VARIANTS; i++) {
        world a = variant_world(i % VARIANTS), b = variant_world(i % VARIANTS);
        b.model.recompute = true;
        b.split = i >= VARIANTS;
        world_open(&a, "ref", 1, true);
        world_open(&b, "ref", 1, true);
        assert_same_run(&a, &b, FUSED, b.split ? HALVES : FUSED);
    }
}

/* A device whose memory the host cannot read and that completes later. */
static void late_equals_ref(void **state) {
    (void)state;
    for (int i = 0; i < VARIANTS; i++) {
        world a = variant_world(i), b = variant_world(i);
        world_open(&a, "ref", 1, true);
        world_open(&b, "late", 1, true);
        assert_same_run(&a, &b, FUSED, FUSED);
    }
}

/* Large enough for every reduction to be cut in pieces, and no size a multiple of a tile. */
static world wide_world(int i) {
    world w = variant_world(i);
    w.model.d = 72, w.model.ffn = 150, w.model.vocab = 301, w.model.context = 50;
    w.B = 3, w.T = 47;
    return w;
}

static void cpu_threads(void **state) {
    (void)state;
    for (int i = 0; i < VARIANTS; i++)
        for (int threads = 2; threads <= 3; threads++) {
            world a = wide_world(i), b = wide_world(i);
            world_open(&a, "cpu", 1, true);
            world_open(&b, "cpu", threads, true);
            assert_same_run(&a, &b, FUSED, FUSED);
        }
}

static void cpu_halves_and_recompute(void **state) {
    (void)state;
    for (int i = 0; i < VARIANTS; i++) {
        world a = wide_world(i), b = wide_world(i);
        b.split = b.model.recompute = true;
        world_open(&a, "cpu", 2, true);
        world_open(&b, "cpu", 2, true);
        assert_same_run(&a, &b, FUSED, HALVES);
    }
}

static void cpu_near_ref(void **state) {
    (void)state;
    for (int i = 0; i < VARIANTS; i++) {
        world a = variant_world(i), b = variant_world(i);
        a.codec = b.codec = false; /* a code may flip at a rounding border */
        world_open(&a, "ref", 1, true);
        world_open(&b, "cpu", 2, true);
        double la = two_microbatches(&a, FUSED), lb = two_microbatches(&b, FUSED);
        assert_true(fabs(la - lb) < 1e-5 * fabs(la));
        for (int r = 0; r < a.table.count; r++) {
            rb_view v = rb_stage_grad(a.stage, r);
            if (!v.data) continue;
            float *x = get(&a, v), *y = get(&b, rb_stage_grad(b.stage, r));
            double diff = 0, size = 0;
            for (int64_t e = 0; e < rb_count(v); e++) {
                diff += (x[e] - y[e]) * (x[e] - y[e]);
                size += x[e] * x[e];
            }
            if (!(sqrt(diff) <= 2e-5 * sqrt(size)))
                fail_msg("variant %d, %s: %g of %g", i, a.table.rows[r].name, sqrt(diff), sqrt(size));
            free(x);
            free(y);
        }
        world_close(&a);
        world_close(&b);
    }
}

/* --- generation and causality
 * --------------------------------------------------------------------------------- */

/* Logits after feeding ids[from, from+T) of every sequence (B,T_total) to the cache. The caller frees. */
static float *feed(world *w, rb_kv_cache *c, const int32_t *ids, int64_t total, int64_t from, int64_t T) {
    rb_err err;
    rb_segment_io io[8] = {0};
    int32_t some[256];
    int64_t B = w->B, V = w->model.vocab;
    for (int64_t b = 0; b < B; b++) memcpy(some + b * T, ids + b * total + from, (size_t)T * 4);
    put(w, w->tokens, some, (size_t)(B * T) * 4);
    void *memory = device_memory(w, (size_t)(B * V) * 4);
    rb_view logits = rb_view2(memory, RB_F32, B, V);
    for (int s = 0; s < w->model.segments; s++) {
        io[s].tokens = rb_view2(w->tokens, RB_I32, B, T);
        if (s) cross(w, &io[s - 1], &io[s], s - 1, 0, B, T);
        assert_ok(rb_segment_decode(w->stage, w->q, c, s, from, &io[s], logits, &err), &err);
    }
    float *host = get(w, logits);
    rb_free(w->dev, memory);
    return host;
}

/* Logits after each prefix, (T,B,V), by feeding the whole prefix afresh, or token by token. */
static float *all_logits(world *w, const int32_t *ids, int64_t T, bool cached) {
    rb_err err;
    rb_kv_cache *c = NULL;
    int64_t BV = w->B * w->model.vocab;
    float *out = malloc((size_t)(T * BV) * 4);
    assert_ok(rb_kv_cache_open(w->stage, w->B, T, &c, &err), &err);
    for (int64_t t = 0; t < T; t++) {
        float *one = cached ? feed(w, c, ids, T, t, 1) : feed(w, c, ids, T, 0, t + 1);
        memcpy(out + t * BV, one, (size_t)BV * 4);
        free(one);
    }
    rb_kv_cache_close(c);
    return out;
}

static double cross_entropy(const float *logits, int64_t V, int32_t target) {
    double most = -INFINITY, sum = 0;
    for (int64_t v = 0; v < V; v++) most = fmax(most, logits[v]);
    for (int64_t v = 0; v < V; v++) sum += exp(logits[v] - most);
    return most + log(sum) - logits[target];
}

/* The loss of training's forward equals that of the logits generation makes; token by token equals whole
 * prefixes, on ref bit for bit. */
static void check_generation(const char *device, int i, bool exact) {
    world w = variant_world(i);
    int32_t ids[14];
    w.model.context = 8; /* fewer than the cache of the last test could hold */
    world_open(&w, device, 2, false);
    fill_zeros(&w);
    random_ids(ids, 14, w.model.vocab, 11);
    int64_t V = w.model.vocab, n = 7 * 2 * V;
    float *whole = all_logits(&w, ids, 7, false), *cached = all_logits(&w, ids, 7, true);
    for (int64_t e = 0; e < n; e++) {
        if (exact && memcmp(&whole[e], &cached[e], 4))
            fail_msg("variant %d, %lld: %g %g", i, (long long)e, whole[e], cached[e]);
        assert_true(fabs(whole[e] - cached[e]) <= 1e-5 * (1 + fabs(whole[e])));
    }
    double sum = 0;
    for (int64_t t = 0; t < 6; t++)
        for (int64_t b = 0; b < 2; b++) sum += cross_entropy(cached + (t * 2 + b) * V, V, ids[b * 7 + t + 1]);
    world_tokens(&w, ids);
    double loss = world_forward(&w, 0, 0);
    if (!(fabs(sum - loss) <= 1e-5 * loss))
        fail_msg("variant %d: loss %.9g, from generation %.9g", i, loss, sum);
    free(whole);
    free(cached);
    world_close(&w);
}

static void generation_equals_forward(void **state) {
    (void)state;
    for (int i = 0; i < VARIANTS; i++) {
        check_generation("ref", i, true);
        if (i < 5) check_generation("cpu", i, false); /* elsewhere a code may flip at a rounding border */
    }
}

/* Loss of position p of the first sequence alone, the whole sequence in one forward pass. */
static double loss_at(world *w, const int32_t *ids, int64_t p, int32_t target) {
    int32_t targets[14];
    for (int i = 0; i < 14; i++) targets[i] = -1;
    targets[p] = target;
    put(w, w->tokens, ids, sizeof targets);
    put(w, w->targets, targets, sizeof targets);
    return world_forward(w, 0, 0);
}

/* Changing token t changes no logit before t, bit for bit, with the codec in between: every position's loss
 * against a target, and of every sequence but the changed one. */
static void check_causality(const char *device, int i) {
    world w = variant_world(i);
    int32_t ids[14], other[14];
    int changes = 0;
    world_open(&w, device, 2, false);
    fill_zeros(&w);
    random_ids(ids, 14, w.model.vocab, 11);
    for (int t = 1; t < 7; t++) {
        memcpy(other, ids, sizeof ids);
        other[t] = (other[t] + 1) % (int32_t)w.model.vocab;
        for (int p = 0; p <= 7; p++) {
            bool may_change = p >= t && p < 7;
            double before = loss_at(&w, ids, p, (int32_t)(p % w.model.vocab));
            double after = loss_at(&w, other, p, (int32_t)(p % w.model.vocab));
            if (!may_change && memcmp(&before, &after, sizeof before))
                fail_msg("%s, variant %d: token %d changed position %d: %.17g %.17g", device, i, t, p, before,
                         after);
            changes += p == t && before != after;
        }
    }
    /* two tokens may have the same few signs */
    if (changes < (i < 6 ? 6 : 3))
        fail_msg("%s, variant %d: %d of 6 tokens change anything", device, i, changes);
    world_close(&w);
}

static void no_logit_sees_a_later_token(void **state) {
    (void)state;
    for (int i = 0; i < VARIANTS; i++) {
        check_causality("ref", i);
        check_causality("cpu", i);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(halves_equal_fused),        cmocka_unit_test(recompute_changes_nothing),
        cmocka_unit_test(late_equals_ref),           cmocka_unit_test(cpu_threads),
        cmocka_unit_test(cpu_halves_and_recompute),  cmocka_unit_test(cpu_near_ref),
        cmocka_unit_test(generation_equals_forward), cmocka_unit_test(no_logit_sees_a_later_token),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
