/* Weights that change between a microbatch's forward and its backward: with the version its forward saw put in use
 * again, the gradient is that of weights that never changed; without, it is another. */
#include <math.h>
#include "model/testing.h"

static world small_world(bool recompute) {
    world w = {
        .model = small_model(), .boundary = small_boundary(), .B = 2, .T = 7, .codec = true, .slots = 1};
    w.model.recompute = recompute;
    return w;
}

/* What an update does: every weight moves. */
static void disturb(world *w) {
    rb_err err;
    for (int r = 0; r < w->table.count; r++) {
        rb_view v = rb_stage_weight(w->stage, r);
        if (rb_role_trained(w->table.rows[r].role)) assert_ok(rb_axpby(w->q, 0.3f, v, 1, v, &err), &err);
    }
}

static void use(world *w, int copy) {
    rb_err err;
    for (int s = 0; s < w->model.segments; s++)
        assert_ok(rb_stage_use_version(w->stage, s, copy, &err), &err);
}

typedef enum what { STILL, STASHED, NOT_STASHED, OLDER_FORWARD } what;

/* All gradients of one microbatch, one after the other; the caller frees. */
static float *gradients(what how_to, bool recompute, int64_t *count) {
    world w = small_world(recompute);
    rb_err err;
    const int copies[8] = {2, 2, 2, 2, 2, 2, 2, 2};
    world_open(&w, "cpu", 1, true);
    assert_ok(rb_stage_open_versions(w.stage, copies, &err), &err);
    for (int s = 0; s < w.model.segments; s++)
        assert_ok(rb_stage_keep_version(w.stage, w.q, s, 1, &err), &err);
    if (how_to == OLDER_FORWARD) {
        disturb(&w);
        use(&w, 1);
    }
    world_random_tokens(&w, 3);
    world_forward(&w, 0, 1.0f / 14);
    if (how_to == STASHED || how_to == NOT_STASHED) disturb(&w);
    if (how_to == STASHED) use(&w, 1);
    world_backward(&w, 0, FUSED);
    use(&w, -1);
    int64_t n = 0;
    for (int r = 0; r < w.table.count; r++)
        if (rb_role_trained(w.table.rows[r].role)) n += rb_tensor_count(&w.table.rows[r]);
    float *all = malloc((size_t)n * sizeof *all), *at = all;
    for (int r = 0; r < w.table.count; r++) {
        if (!rb_role_trained(w.table.rows[r].role)) continue;
        float *g = get(&w, rb_stage_grad(w.stage, r));
        memcpy(at, g, (size_t)rb_tensor_count(&w.table.rows[r]) * sizeof *g);
        at += rb_tensor_count(&w.table.rows[r]);
        free(g);
    }
    world_close(&w);
    *count = n;
    return all;
}

static void a_backward_sees_what_its_forward_saw(void **state) {
    (void)state;
    for (int recompute = 0; recompute < 2; recompute++) {
        int64_t n, m;
        float *still = gradients(STILL, recompute, &n);
        for (what w = STASHED; w <= OLDER_FORWARD; w++) {
            float *other = gradients(w, recompute, &m);
            assert_int_equal(n, m);
            bool same = !memcmp(still, other, (size_t)n * sizeof *still);
            assert_int_equal(same, w != NOT_STASHED);
            free(other);
        }
        free(still);
    }
}

static void weights_and_updates_are_the_newest(void **state) {
    (void)state;
    world w = small_world(false);
    rb_err err;
    const int copies[8] = {1, 0, 1, 1, 1, 1, 1, 1};
    world_open(&w, "cpu", 1, true);
    assert_ok(rb_stage_open_versions(w.stage, copies, &err), &err);
    rb_view before = rb_stage_weight(w.stage, 0);
    assert_ok(rb_stage_keep_version(w.stage, w.q, 0, 0, &err), &err);
    assert_ok(rb_stage_use_version(w.stage, 0, 0, &err), &err);
    assert_ptr_equal(rb_stage_weight(w.stage, 0).data, before.data);
    assert_fails(rb_stage_use_version(w.stage, 1, 0, &err), RESBM_E_ARG,
                 "version 0 of segment 1's weights: there is room for 0", &err);
    assert_fails(rb_stage_keep_version(w.stage, w.q, 0, 1, &err), RESBM_E_ARG, "there is room for 1", &err);
    world_close(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_backward_sees_what_its_forward_saw),
        cmocka_unit_test(weights_and_updates_are_the_newest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
