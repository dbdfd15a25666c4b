/* Finite differences of the loss of a whole model against every parameter gradient, over boundary kinds,
 * identity modes, token paths and block variants. The transport codec is left out: it is straight-through on
 * purpose. */
#include <math.h>
#include "model/testing.h"

static double norm_of(const float *x, int64_t n) {
    double s = 0;
    for (int64_t i = 0; i < n; i++) s += (double)x[i] * x[i];
    return sqrt(s);
}

static double loss_along(world *w, rb_view v, const float *at, const float *dir, double eps, float *tmp) {
    for (int64_t i = 0; i < rb_count(v); i++) tmp[i] = (float)(at[i] + eps * dir[i]);
    put(w, v.data, tmp, (size_t)rb_count(v) * 4);
    return world_forward(w, 0, 0);
}

/* Derivative of the loss along dir (unit length): fourth order, so that the step can be long against
 * rounding. */
static double derivative(world *w, rb_view v, const float *at, const float *dir, double eps) {
    float *tmp = malloc((size_t)rb_count(v) * 4);
    double d1 = loss_along(w, v, at, dir, eps, tmp) - loss_along(w, v, at, dir, -eps, tmp);
    double d2 = loss_along(w, v, at, dir, 2 * eps, tmp) - loss_along(w, v, at, dir, -2 * eps, tmp);
    put(w, v.data, at, (size_t)rb_count(v) * 4);
    free(tmp);
    return (8 * d1 - d2) / (12 * eps);
}

static void compare(const char *variant, const char *name, const char *dir, double want, double got,
                    double size) {
    double tolerance = 2e-3 * size + 1e-3;
    if (fabs(want - got) > tolerance || !isfinite(got))
        fail_msg("%s: gradient of %s along %s is %.6g, finite differences say %.6g (tolerance %.2g)", variant,
                 name, dir, got, want, tolerance);
}

/* Along the gradient itself, where its size shows, and along a random direction, where a missing part shows.
 */
static void check_tensor(world *w, const char *variant, int row) {
    rb_view g = rb_stage_grad(w->stage, row), v = rb_stage_weight(w->stage, row);
    if (!g.data) return;
    int64_t n = rb_count(g);
    float *grad = get(w, g), *at = get(w, v), *dir = malloc((size_t)n * 4);
    double size = norm_of(grad, n), dot = 0, eps = 0.01;
    const char *name = w->table.rows[row].name;
    if (size < 1e-4) fail_msg("%s: gradient of %s is %.3g", variant, name, size);
    for (int64_t i = 0; i < n; i++) dir[i] = (float)(grad[i] / size);
    compare(variant, name, "itself", derivative(w, v, at, dir, eps / (1 + size / 4)), size, size);
    rb_normal_fill((uint64_t)row + 99, dir, n, 0, 1);
    double length = norm_of(dir, n);
    for (int64_t i = 0; i < n; i++) {
        dir[i] = (float)(dir[i] / length);
        dot += (double)dir[i] * grad[i];
    }
    compare(variant, name, "a random direction", derivative(w, v, at, dir, eps / (1 + size / 20)), dot, size);
    free(grad);
    free(at);
    free(dir);
}

static void check_variant(const char *variant, rb_model_config m, rb_boundary_config b) {
    world w = {.model = m, .boundary = b, .B = 2, .T = 5};
    rb_err err;
    world_open(&w, "ref", 1, true);
    world_random_tokens(&w, 3);
    /* A decoder that starts at zero hides what is before it. */
    for (int r = 0; r < w.table.count; r++) {
        const rb_tensor *t = &w.table.rows[r];
        if (t->role != RB_ROLE_BOUNDARY_MATRIX || t->init_std != 0) continue;
        float *x = malloc((size_t)rb_tensor_count(t) * 4);
        rb_normal_fill(5, x, rb_tensor_count(t), 0, 0.2f);
        put(&w, rb_stage_weight(w.stage, r).data, x, (size_t)rb_tensor_count(t) * 4);
        free(x);
    }
    world_forward(&w, 0, 1);
    world_backward(&w, 0, FUSED);
    for (int r = 0; r < w.table.count; r++) check_tensor(&w, variant, r);
    assert_ok(rb_queue_sync(w.q, &err), &err);
    world_close(&w);
}

static void one_segment(void **state) {
    (void)state;
    rb_model_config m = small_model();
    m.segments = 1;
    check_variant("one segment", m, small_boundary());
    m.tied = true;
    m.qk_norm = true;
    m.kv_heads = 1;
    check_variant("tied, qk_norm, one key/value head", m, small_boundary());
    m.qkv_bias = true;
    m.head = 6;
    m.rope = (rb_rope_scaling){RB_ROPE_LLAMA3, 4, 1, 4, 16};
    check_variant("biases, heads of another width, stretched angles", m, small_boundary());
}

static void whole_x(void **state) {
    (void)state;
    rb_boundary_config b = {.kind = "none"};
    check_variant("none", small_model(), b);
}

/* Every identity mode with every token path, with and without the hidden layer. */
static void every_identity(void **state) {
    static const char *const identities[] = {"truncate", "split", "full", "none", "rotate"};
    static const char *const paths[] = {"none", "embedding", "trunk"};
    char name[80];
    (void)state;
    for (int i = 0; i < 5; i++)
        for (int t = 0; t < 3; t++)
            for (int hidden = 0; hidden <= 12; hidden += 12) {
                rb_boundary_config b = small_boundary();
                b.identity = (rb_identity)i;
                b.identity_width = 1;
                b.ratio = i == RB_IDENTITY_SPLIT ? 2 : 4;
                b.tokens = (rb_token_path)t;
                b.hidden = hidden;
                b.trunk_blocks = 2, b.trunk_width = hidden ? 8 : 16, b.trunk_heads = 2, b.trunk_ffn = 12;
                snprintf(name, sizeof name, "identity %s, tokens %s, hidden %d", identities[i], paths[t],
                         hidden);
                check_variant(name, small_model(), b);
            }
}

static void linear(void **state) {
    (void)state;
    rb_boundary_config b = {.kind = "linear", .k = 5};
    check_variant("linear", small_model(), b);
    b.tokens = RB_TOKENS_TRUNK, b.trunk_blocks = 1, b.trunk_width = 8, b.trunk_heads = 2, b.trunk_ffn = 12;
    check_variant("linear, trunk", small_model(), b);
}

/* Exact below full width; and the picks of topk, where all are picked. */
static void fixed_maps(void **state) {
    (void)state;
    rb_boundary_config b = {.kind = "subspace", .k = 5};
    check_variant("subspace", small_model(), b);
    b = (rb_boundary_config){
        .kind = "topk", .k = 16, .feedback = RB_FEEDBACK_NONE, .tokens = RB_TOKENS_EMBEDDING};
    check_variant("topk of all", small_model(), b);
}

/* Half a block on either side of each boundary; segments of one block have no whole one. */
static void inside_a_block(void **state) {
    (void)state;
    rb_model_config m = small_model();
    rb_boundary_config b = {.kind = "none"};
    m.cut = RB_CUT_INSIDE;
    check_variant("inside, none", m, b);
    m.qk_norm = m.qkv_bias = true, m.layers = 5;
    b = small_boundary();
    b.identity = RB_IDENTITY_NONE;
    b.tokens = RB_TOKENS_TRUNK, b.trunk_blocks = 1, b.trunk_width = 16, b.trunk_heads = 2, b.trunk_ffn = 12;
    check_variant("inside, trunk, norms and biases of the heads", m, b);
    b = (rb_boundary_config){.kind = "subspace", .k = 5};
    check_variant("inside, subspace", m, b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_segment), cmocka_unit_test(whole_x),    cmocka_unit_test(every_identity),
        cmocka_unit_test(linear),      cmocka_unit_test(fixed_maps), cmocka_unit_test(inside_a_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
