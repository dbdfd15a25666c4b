/* Boundaries of kind subspace change nothing but rounding: loss and gradients are those of the same weights with whole
 * activations; and weights come back to the subspace after an update. */
#include <math.h>
#include "model/testing.h"

enum { K = 5 };

static world open_world(const char *kind, const char *device) {
    world w = {.model = small_model(), .boundary = {.kind = "none"}, .B = 2, .T = 7};
    snprintf(w.boundary.kind, sizeof w.boundary.kind, "%s", kind);
    if (!strcmp(kind, "subspace")) w.boundary.k = K;
    world_open(&w, device, 2, true);
    return w;
}

static int find(const world *w, const char *name) {
    for (int r = 0; r < w->table.count; r++)
        if (!strcmp(w->table.rows[r].name, name)) return r;
    fail_msg("no tensor %s", name);
    return -1;
}

/* to takes from's weights, by name. */
static void take_weights(world *to, world *from) {
    for (int r = 0; r < to->table.count; r++) {
        rb_view v = rb_stage_weight(to->stage, r);
        float *x = get(from, rb_stage_weight(from->stage, find(from, to->table.rows[r].name)));
        put(to, v.data, x, (size_t)rb_count(v) * 4);
        free(x);
    }
}

typedef struct looking {
    world *w;
    float **grad; /* by row */
} looking;

static resbm_status keep(void *ctx, int row, rb_view g, rb_err *err) {
    looking *l = ctx;
    (void)err;
    l->grad[row] = get(l->w, g);
    return RESBM_OK;
}

/* |(1 - P) x| of the columns, or rows, of a tensor, against |x|. */
static double outside(world *w, const char *name, const float *less) {
    int row = find(w, name);
    const rb_tensor *t = &w->table.rows[row];
    float *x = get(w, rb_stage_weight(w->stage, row));
    float *b = get(w, rb_stage_weight(w->stage, find(w, "boundary.0.encoder.basis")));
    int64_t d = w->model.d, vectors = rb_tensor_count(t) / d;
    int64_t step = t->constraint == RB_CONSTRAINT_COLUMNS ? vectors : 1, from = step == 1 ? d : 1;
    double left = 0, all = 0;
    for (int64_t v = 0; v < vectors; v++) {
        double r[64], whole[64];
        for (int64_t j = 0; j < d; j++) {
            int64_t at = v * from + j * step;
            r[j] = whole[j] = (double)x[at] - (less ? (double)less[at] : 0);
        }
        for (int64_t i = 0; i < K; i++) {
            double along = 0;
            for (int64_t j = 0; j < d; j++) along += (double)b[i * d + j] * whole[j];
            for (int64_t j = 0; j < d; j++) r[j] -= along * (double)b[i * d + j];
        }
        for (int64_t j = 0; j < d; j++) left += r[j] * r[j], all += whole[j] * whole[j];
    }
    free(x);
    free(b);
    return sqrt(left / all);
}

static void the_loss_is_that_of_whole_activations(void **state) {
    (void)state;
    for (int device = 0; device < 2; device++) {
        world s = open_world("subspace", device ? "cpu" : "ref"),
              n = open_world("none", device ? "cpu" : "ref");
        take_weights(&n, &s);
        world_random_tokens(&s, 3);
        world_random_tokens(&n, 3);
        double ls = world_forward(&s, 0, 1.0f / 14), ln = world_forward(&n, 0, 1.0f / 14);
        if (fabs(ls - ln) > 1e-5 * ln) fail_msg("losses %.9g and %.9g", ls, ln);
        world_backward(&s, 0, FUSED);
        world_backward(&n, 0, FUSED);
        int compared = 0;
        for (int r = 0; r < n.table.count; r++) {
            int o = find(&s, n.table.rows[r].name);
            if (s.table.rows[o].constraint)
                continue; /* what is outside of those is not meant to be the same */
            rb_view v = rb_stage_grad(n.stage, r);
            float *x = get(&n, v), *y = get(&s, rb_stage_grad(s.stage, o));
            double apart = 0, size = 0;
            for (int64_t i = 0; i < rb_count(v); i++) {
                apart += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
                size += (double)x[i] * (double)x[i];
            }
            if (!(apart <= 1e-8 * size) || size == 0)
                fail_msg("gradient of %s: %g apart, of %g", n.table.rows[r].name, sqrt(apart), sqrt(size));
            compared++;
            free(x);
            free(y);
        }
        assert_int_equal(compared,
                         3 * 9 + 2 -
                             2 * 2); /* all but the embedding, and two matrices of the first two blocks */
        world_close(&s);
        world_close(&n);
    }
}

static const char *const held[] = {"model.layers.0.self_attn.o_proj.weight",
                                   "model.layers.1.mlp.down_proj.weight"};

static void updates_come_back(void **state) {
    (void)state;
    rb_err err;
    world s = open_world("subspace", "cpu");
    float *before = get(&s, rb_stage_weight(s.stage, 0));
    for (int i = 0; i < 2; i++) assert_true(outside(&s, held[i], NULL) < 1e-6);
    for (int r = 0; r < s.table.count; r++) {
        rb_view v = rb_stage_weight(s.stage, r);
        if (!rb_role_trained(s.table.rows[r].role)) continue;
        float *x = get(&s, v), *add = malloc((size_t)rb_count(v) * 4);
        rb_normal_fill((uint64_t)r, add, rb_count(v), 0, 0.1f);
        for (int64_t i = 0; i < rb_count(v); i++) x[i] += add[i];
        put(&s, v.data, x, (size_t)rb_count(v) * 4);
        free(x);
        free(add);
    }
    for (int i = 0; i < 2; i++) assert_true(outside(&s, held[i], NULL) > 0.1);
    assert_true(outside(&s, "model.embed_tokens.weight", before) > 0.1);
    assert_ok(rb_stage_constrain(s.stage, s.q, &err), &err);
    for (int i = 0; i < 2; i++) assert_true(outside(&s, held[i], NULL) < 1e-6);
    /* the embedding moved, but only inside; the last segment's weights are free */
    assert_true(outside(&s, "model.embed_tokens.weight", before) < 1e-5);
    assert_true(outside(&s, "model.embed_tokens.weight", NULL) > 0.1);
    assert_int_equal(s.table.rows[find(&s, "model.layers.2.mlp.down_proj.weight")].constraint,
                     RB_CONSTRAINT_NONE);
    free(before);
    world_close(&s);
}

/* What norms and updates see lies in the subspace already. */
static void gradients_are_projected(void **state) {
    (void)state;
    rb_err err;
    world s = open_world("subspace", "cpu");
    float *grad[64] = {0};
    looking l = {&s, grad};
    assert_true(s.table.count <= 64);
    world_random_tokens(&s, 3);
    world_forward(&s, 0, 1);
    world_backward(&s, 0, FUSED);
    assert_ok(rb_stage_look_at_grads(s.stage, s.q, keep, &l, &err), &err);
    const char *names[] = {held[0], held[1], "model.embed_tokens.weight"};
    for (int i = 0; i < 3; i++) {
        int row = find(&s, names[i]);
        rb_view v = rb_stage_weight(s.stage, row);
        put(&s, v.data, grad[row], (size_t)rb_count(v) * 4);
        assert_true(outside(&s, names[i], NULL) < 1e-6);
    }
    for (int r = 0; r < s.table.count; r++) free(grad[r]);
    world_close(&s);
}

/* identity rotate: begins as truncate, and has orthonormal rows after any update. */
static void rotations_stay_rotations(void **state) {
    (void)state;
    rb_err err;
    world r = {.model = small_model(), .boundary = small_boundary(), .B = 2, .T = 7}, t = r;
    r.boundary.identity = RB_IDENTITY_ROTATE;
    world_open(&r, "cpu", 2, true);
    world_open(&t, "cpu", 2, true);
    world_random_tokens(&r, 3);
    world_random_tokens(&t, 3);
    double lr = world_forward(&r, 0, 1), lt = world_forward(&t, 0, 1);
    assert_true(fabs(lr - lt) < 1e-6 * lt);
    const char *names[] = {"boundary.1.encoder.rotation.weight", "boundary.0.decoder.rotation.weight"};
    for (int i = 0; i < 2; i++) {
        rb_view v = rb_stage_weight(r.stage, find(&r, names[i]));
        float *x = get(&r, v), *add = malloc((size_t)rb_count(v) * 4), *turned;
        int64_t k = v.shape[0], d = v.shape[1];
        for (int64_t j = 0; j < k * d; j++) assert_true(x[j] == (j / d == j % d ? 1 : 0));
        rb_normal_fill(9, add, rb_count(v), 0, 0.1f);
        for (int64_t j = 0; j < k * d; j++) x[j] += add[j];
        put(&r, v.data, x, (size_t)rb_count(v) * 4);
        assert_ok(rb_stage_constrain(r.stage, r.q, &err), &err);
        turned = get(&r, v);
        double moved = 0;
        for (int64_t a = 0; a < k; a++)
            for (int64_t b = 0; b < k; b++) {
                double dot = 0;
                for (int64_t j = 0; j < d; j++) dot += (double)turned[a * d + j] * (double)turned[b * d + j];
                assert_true(fabs(dot - (a == b)) < 1e-5);
            }
        for (int64_t j = 0; j < k * d; j++) moved += fabs((double)turned[j] - (double)x[j]);
        assert_true(moved < 0.1 * (double)(k * d)); /* the nearest one, not any */
        free(x);
        free(add);
        free(turned);
    }
    world_close(&r);
    world_close(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_loss_is_that_of_whole_activations),
        cmocka_unit_test(updates_come_back),
        cmocka_unit_test(gradients_are_projected),
        cmocka_unit_test(rotations_stay_rotations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
