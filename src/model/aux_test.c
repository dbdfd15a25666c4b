/* The auxiliary losses: finite differences of loss + weight * auxiliary losses, a plain reference, and the bits that
 * may not change. */
#include <math.h>
#include "model/stage.h"
#include "model/testing.h"

enum { VARIANTS = 7 };
static const char *const variants[VARIANTS] = {
    "stream", "stream of rank 5", "stream, linear", "stream of rank 5, none", "latent, split, embedding",
    "latent", "latent, linear"};

static world variant_world(int i) {
    world w = {.model = small_model(), .boundary = small_boundary(), .B = 2, .T = 7, .aux_scale = 0.3f};
    w.boundary.aux = RB_AUX_STREAM;
    w.boundary.aux_rank = i % 2 ? 5 : 0;
    if (i == 1) w.boundary.tokens = RB_TOKENS_EMBEDDING;
    if (i == 2) snprintf(w.boundary.kind, sizeof w.boundary.kind, "linear");
    if (i >= 4) w.boundary.aux = RB_AUX_LATENT, w.boundary.aux_rank = 6;
    if (i == 4) w.boundary.tokens = RB_TOKENS_EMBEDDING, w.boundary.identity = RB_IDENTITY_SPLIT;
    if (i == 4) w.boundary.identity_width = 1, w.boundary.ratio = 2;
    if (i == 6) snprintf(w.boundary.kind, sizeof w.boundary.kind, "linear");
    if (i == 3) w.boundary = (rb_boundary_config){.kind = "none", .aux = RB_AUX_STREAM, .aux_rank = 5};
    return w;
}

/* What the gradient is the gradient of. */
static double objective(world *w) {
    world_zero(w);
    double loss = world_forward(w, 0, 1);
    world_backward(w, 0, FUSED);
    for (int i = 0; i + 1 < w->model.segments; i++) loss += (double)w->aux_scale * w->aux_loss[i];
    return loss;
}

static double norm_of(const float *x, int64_t n) {
    double s = 0;
    for (int64_t i = 0; i < n; i++) s += (double)x[i] * x[i];
    return sqrt(s);
}

static double moved(world *w, rb_view v, const float *at, const float *dir, double by, float *tmp) {
    for (int64_t i = 0; i < rb_count(v); i++) tmp[i] = (float)(at[i] + by * dir[i]);
    put(w, v.data, tmp, (size_t)rb_count(v) * 4);
    return objective(w);
}

/* Fourth order, along a random direction of unit length that has the gradient's own in it. */
static void check_tensor(world *w, const char *variant, int row, const float *grad) {
    rb_view v = rb_stage_weight(w->stage, row);
    int64_t n = rb_count(v);
    float *at = get(w, v), *dir = malloc((size_t)n * 4), *tmp = malloc((size_t)n * 4);
    double size = norm_of(grad, n), want = 0, h = 0.01 / (1 + size / 4);
    if (size < 1e-4) fail_msg("%s: gradient of %s is %.3g", variant, w->table.rows[row].name, size);
    rb_normal_fill((uint64_t)row + 99, dir, n, 0, 1);
    double length = norm_of(dir, n);
    for (int64_t i = 0; i < n; i++) dir[i] = (float)(0.6 * dir[i] / length + 0.6 * grad[i] / size);
    for (int64_t i = 0; i < n; i++) want += (double)dir[i] * grad[i];
    double d1 = moved(w, v, at, dir, h, tmp) - moved(w, v, at, dir, -h, tmp);
    double d2 = moved(w, v, at, dir, 2 * h, tmp) - moved(w, v, at, dir, -2 * h, tmp);
    double got = (8 * d1 - d2) / (12 * h), tolerance = 2e-3 * size + 1e-3;
    put(w, v.data, at, (size_t)n * 4);
    if (!(fabs(want - got) <= tolerance))
        fail_msg("%s: gradient of %s is %.6g along a direction, finite differences say %.6g", variant,
                 w->table.rows[row].name, want, got);
    free(at);
    free(dir);
    free(tmp);
}

static void finite_differences(void **state) {
    (void)state;
    for (int i = 0; i < VARIANTS; i++) {
        world w = variant_world(i);
        world_open(&w, "ref", 1, true);
        world_random_tokens(&w, 3);
        objective(&w);
        float **grad = calloc((size_t)w.table.count, sizeof *grad);
        for (int r = 0; r < w.table.count; r++)
            if (rb_stage_grad(w.stage, r).data) grad[r] = get(&w, rb_stage_grad(w.stage, r));
        for (int r = 0; r < w.table.count; r++) {
            if (grad[r]) check_tensor(&w, variants[i], r, grad[r]);
            free(grad[r]);
        }
        free(grad);
        world_close(&w);
    }
}

/* --- a plain reference -------------------------------------------------------------------------------------------- */

static int row_named(const world *w, const char *name) {
    for (int r = 0; r < w->table.count; r++)
        if (!strcmp(w->table.rows[r].name, name)) return r;
    fail_msg("no tensor %s", name);
    return -1;
}

/* Loss of one row x (d) with norm weight g (d) and head (V,d); adds the head's gradient to dhead. */
static double plain_row(const float *x, const float *g, const float *head, int64_t d, int64_t V, int target,
                        double scale, double *dhead) {
    double sq = 0, most = -INFINITY, sum = 0, n[64], logit[64];
    for (int64_t i = 0; i < d; i++) sq += (double)x[i] * x[i];
    for (int64_t i = 0; i < d; i++) n[i] = x[i] * g[i] / sqrt(sq / (double)d + 1e-5);
    for (int64_t v = 0; v < V; v++) {
        logit[v] = 0;
        for (int64_t i = 0; i < d; i++) logit[v] += n[i] * head[v * d + i];
        most = fmax(most, logit[v]);
    }
    for (int64_t v = 0; v < V; v++) sum += exp(logit[v] - most);
    for (int64_t v = 0; v < V; v++)
        for (int64_t i = 0; i < d; i++)
            dhead[v * d + i] += scale * (exp(logit[v] - most) / sum - (v == target)) * n[i];
    return most + log(sum) - logit[target];
}

static void plain_reference(void **state) {
    (void)state;
    world w = variant_world(0);
    int64_t d = w.model.d, V = w.model.vocab;
    world_open(&w, "cpu", 2, true);
    world_random_tokens(&w, 3);
    world_forward(&w, 0, 1);
    for (int b = 0; b < 2; b++) {
        char name[64];
        rb_segment *s = &w.stage->segment[b];
        float *x = get(&w, s->slot[0].acts.x[s->layers]);
        int32_t *target = get(&w, rb_view1(w.targets, RB_I32, w.B * w.T));
        double want = 0, dhead[16 * 13] = {0};
        snprintf(name, sizeof name, "boundary.%d.aux.norm.weight", b);
        float *g = get(&w, rb_stage_weight(w.stage, row_named(&w, name)));
        snprintf(name, sizeof name, "boundary.%d.aux.head.weight", b);
        float *head = get(&w, rb_stage_weight(w.stage, row_named(&w, name)));
        for (int64_t i = 0; i < w.B * w.T; i++)
            if (target[i] >= 0) want += plain_row(x + i * d, g, head, d, V, target[i], 0.3, dhead);
        world_zero(&w);
        world_backward(&w, 0, FUSED);
        assert_float_equal(w.aux_loss[b], want, 1e-5 * want);
        float *got = get(&w, rb_stage_grad(w.stage, row_named(&w, name)));
        for (int64_t i = 0; i < d * V; i++) assert_float_equal(got[i], dhead[i], 1e-5);
        free(x), free(target), free(g), free(head), free(got);
        world_forward(&w, 0, 1);
    }
    world_close(&w);
}

/* xent(W_h (silu(W_1 q) + E[token])) of one row. */
static double plain_latent_row(const float *q, int64_t k, const float *w1, const float *e, const float *head,
                               int64_t r, int64_t V, int target) {
    double u[8], most = -INFINITY, sum = 0, logit[64];
    for (int64_t j = 0; j < r; j++) {
        double a = 0;
        for (int64_t i = 0; i < k; i++) a += (double)w1[j * k + i] * q[i];
        u[j] = a / (1 + exp(-a)) + e[j];
    }
    for (int64_t v = 0; v < V; v++) {
        logit[v] = 0;
        for (int64_t j = 0; j < r; j++) logit[v] += u[j] * head[v * r + j];
        most = fmax(most, logit[v]);
    }
    for (int64_t v = 0; v < V; v++) sum += exp(logit[v] - most);
    return most + log(sum) - logit[target];
}

/* Through the codec: the head reads what the receiver reads. */
static void plain_latent_reference(void **state) {
    (void)state;
    world w = variant_world(4);
    w.codec = true;
    world_open(&w, "cpu", 2, true);
    int64_t k = w.boundary.k, V = w.model.vocab, r = 6;
    world_random_tokens(&w, 3);
    world_forward(&w, 0, 1);
    world_backward(&w, 0, FUSED);
    float *w1 = get(&w, rb_stage_weight(w.stage, row_named(&w, "boundary.1.aux.down.weight")));
    float *e = get(&w, rb_stage_weight(w.stage, row_named(&w, "boundary.1.aux.embed_tokens.weight")));
    float *head = get(&w, rb_stage_weight(w.stage, row_named(&w, "boundary.1.aux.head.weight")));
    float *steps = get(&w, rb_stage_weight(w.stage, row_named(&w, "boundary.1.encoder.steps")));
    float *q = get(&w, w.io[1].latents);
    int32_t *token = get(&w, rb_view1(w.tokens, RB_I32, 14)),
            *target = get(&w, rb_view1(w.targets, RB_I32, 14));
    double want = 0;
    for (int64_t i = 0; i < 14; i++) {
        for (int64_t c = 0; c < k; c++) /* whole steps: these are the quantized ones */
            assert_float_equal(q[i * k + c] / steps[c], roundf(q[i * k + c] / steps[c]), 1e-4);
        if (target[i] >= 0)
            want += plain_latent_row(q + i * k, k, w1, e + token[i] * r, head, r, V, target[i]);
    }
    assert_float_equal(w.aux_loss[1], want, 1e-5 * want);
    free(w1), free(e), free(head), free(steps), free(q), free(token), free(target);
    world_close(&w);
}

/* --- bits ---------------------------------------------------------------------------------------------------------- */

/* Two microbatches in two slots: forward, forward, backward, backward. */
static void two_microbatches(world *w, how h, double aux[2][8]) {
    rb_segment_io kept[2][8];
    for (int k = 0; k < 2; k++) {
        world_random_tokens(w, 3);
        world_forward(w, k, 1.0f / 28);
        memcpy(kept[k], w->io, sizeof kept[k]);
    }
    for (int k = 0; k < 2; k++) {
        memcpy(w->io, kept[k], sizeof kept[k]);
        world_backward(w, k, h);
        memcpy(aux[k], w->aux_loss, sizeof w->aux_loss);
    }
}

static void ways_agree(void **state) {
    static const struct {
        const char *device;
        int threads;
        bool split, recompute;
    } way[] = {{"ref", 1, true, false},  {"ref", 1, false, true},  {"ref", 1, true, true},
               {"late", 1, true, false}, {"cpu", 1, false, false}, {"cpu", 3, true, true}};
    (void)state;
    for (int i = 0; i < VARIANTS; i++)
        for (int k = 0; k < 6; k++) {
            double aux[2][2][8] = {0};
            world a = variant_world(i), b = variant_world(i);
            a.codec = b.codec = true;
            a.slots = b.slots = 2;
            b.split = way[k].split;
            b.model.recompute = way[k].recompute;
            world_open(&a, strcmp(way[k].device, "cpu") ? "ref" : "cpu", 2, true);
            world_open(&b, way[k].device, way[k].threads, true);
            two_microbatches(&a, FUSED, aux[0]);
            two_microbatches(&b, b.split ? HALVES : FUSED, aux[1]);
            assert_memory_equal(aux[0], aux[1], sizeof aux[0]);
            assert_true(aux[0][0][0] > 0 && aux[0][1][1] > 0);
            assert_same_gradients(&a, &b);
            world_close(&a);
            world_close(&b);
        }
}

/* Faded out: the rest of the model has the gradient it has without the heads, and they have none. */
static void weight_zero(void **state) {
    (void)state;
    world a = variant_world(0), b = variant_world(0);
    a.aux_scale = 0;
    b.boundary.aux = RB_AUX_NONE;
    world_open(&a, "ref", 1, true);
    world_open(&b, "ref", 1, true);
    for (int k = 0; k < 2; k++) {
        world *w = k ? &b : &a;
        world_random_tokens(w, 3);
        world_forward(w, 0, 1);
        world_backward(w, 0, FUSED);
    }
    assert_int_equal(a.table.count, b.table.count + 4);
    for (int r = 0; r < a.table.count; r++) {
        rb_view v = rb_stage_grad(a.stage, r);
        if (!v.data) continue;
        float *x = get(&a, v), *y = NULL;
        if (strstr(a.table.rows[r].name, "aux"))
            assert_true(norm_of(x, rb_count(v)) == 0);
        else
            assert_memory_equal(x, y = get(&b, rb_stage_grad(b.stage, row_named(&b, a.table.rows[r].name))),
                                (size_t)rb_count(v) * 4);
        free(x);
        free(y);
    }
    world_close(&a);
    world_close(&b);
}

static void refused(void **state) {
    (void)state;
    rb_err err;
    world w = variant_world(0);
    w.boundary.aux_rank = 16;
    assert_fails(rb_model_check(&w.model, &w.boundary, &err), RESBM_E_CONFIG, "boundary.aux_rank 16", &err);
    w.boundary.aux_rank = -1;
    assert_ok(rb_model_check(&w.model, &w.boundary, &err), &err);
    assert_int_equal(w.boundary.aux_rank, 0);
    w.boundary.aux = RB_AUX_LATENT, w.boundary.aux_rank = 0;
    assert_fails(rb_model_check(&w.model, &w.boundary, &err), RESBM_E_CONFIG, "needs a width", &err);
    w = variant_world(3);
    w.boundary.aux = RB_AUX_LATENT;
    assert_fails(rb_model_check(&w.model, &w.boundary, &err), RESBM_E_CONFIG, "kind none has no latents",
                 &err);
    w = variant_world(0);
    w.model.d = 128, w.model.vocab = 4096, w.boundary.aux_rank = -1;
    assert_ok(rb_model_check(&w.model, &w.boundary, &err), &err);
    assert_int_equal(w.boundary.aux_rank, 64);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finite_differences),
        cmocka_unit_test(plain_reference),
        cmocka_unit_test(plain_latent_reference),
        cmocka_unit_test(ways_agree),
        cmocka_unit_test(weight_zero),
        cmocka_unit_test(refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
