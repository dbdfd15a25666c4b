/* A delayed update (optim.delay: 1) against a plain one: gradients depend on the weights, so that it matters which weights they
 * are of. The plain optimizer updates its weights at once; gradients are of a copy that lacks the newest update. */
#include <math.h>
#include <string.h>
#include "core/clock.h"
#include "optim/testing.h"

enum { TILE = 4096, DONE = 4 };

static int delay_rows(rb_tensor *rows) {
    int n = 0;
    rows[n++] = make_row("q", 130, 67, RB_ROLE_MATRIX);
    rows[n++] = make_row("norm", 130, 0, RB_ROLE_NORM);
    rows[n++] = make_row("steps", 3, 0, RB_ROLE_STEP);
    rows[n++] = make_row("embed", 513, 33, RB_ROLE_EMBEDDING);
    return n;
}

/* d/dw of half the square of what w is away from something, and a little that changes with the step. */
static void gradient_of(const char *name, int step, const float *w, float *g, int64_t n) {
    char key[120];
    snprintf(key, sizeof key, "%s.g%d", name, step);
    make_weight(key, g, n);
    for (int64_t i = 0; i < n; i++) g[i] = 3 * w[i] + 0.2f * g[i];
}

static void give_gradient(bench *b, int i, int step, const float *of) {
    int64_t n = elements(&b->row[i]);
    float *g = malloc((size_t)n * 4);
    gradient_of(b->row[i].name, step, of, g, n);
    upload(b, b->tensor[i].grad, g);
    free(g);
}

static void update(bench *b) {
    static const float scale[MOST] = {1, 0.5f, 1, 0.25f};
    rb_err err;
    assert_ok(rb_optim_step(b->optim, b->q, 1, scale, &err), &err);
    assert_ok(rb_optim_settle(b->optim, &err), &err);
    assert_ok(rb_queue_sync(b->q, &err), &err);
}

static void delayed_steps(bench *b, int from, int to) {
    for (int s = from; s < to; s++) {
        for (int i = 0; i < b->count; i++) {
            float *w = download(b, b->tensor[i].weight);
            give_gradient(b, i, s, w);
            free(w);
        }
        update(b);
    }
}

/* The plain optimizer's weights, and `used` those one update behind. */
typedef struct reference {
    bench b;
    float *used[MOST];
} reference;

static void reference_open(reference *r, const char *device, const rb_optim_config *c, const rb_tensor *rows,
                           int count) {
    rb_optim_config plain = *c;
    plain.delay = 0;
    bench_open(&r->b, device, 2, &plain, rows, count);
    for (int i = 0; i < count; i++) r->used[i] = download(&r->b, r->b.tensor[i].weight);
}

static void reference_steps(reference *r, int from, int to) {
    for (int s = from; s < to; s++) {
        for (int i = 0; i < r->b.count; i++) {
            give_gradient(&r->b, i, s, r->used[i]);
            free(r->used[i]);
            r->used[i] = download(&r->b, r->b.tensor[i].weight);
        }
        update(&r->b);
    }
}

static void reference_close(reference *r) {
    for (int i = 0; i < r->b.count; i++) free(r->used[i]);
    bench_close(&r->b);
}

static void assert_follows(reference *r, bench *b) {
    for (int i = 0; i < b->count; i++) {
        size_t bytes = (size_t)elements(&b->row[i]) * 4;
        float *w = download(b, b->tensor[i].weight), *n = newest_of(b, i),
              *want = download(&r->b, r->b.tensor[i].weight);
        assert_memory_equal(w, r->used[i], bytes);
        assert_memory_equal(n, want, bytes);
        if (rb_role_trained(b->row[i].role)) assert_memory_not_equal(w, n, bytes);
        free(w);
        free(n);
        free(want);
    }
}

typedef struct away {
    bench b;
    rb_spill *spill;
} away;

static void away_open(away *a, const char *device, const rb_optim_config *c, const rb_tensor *rows, int count,
                      int host_threads) {
    rb_err err;
    const rb_tensor *list[MOST];
    rb_optim_place place = {.tile = TILE, .host_threads = host_threads, .deadline_ns = 60 * RB_SEC};
    bench_device(&a->b, device, 2, rows, count);
    for (int i = 0; i < count; i++) list[i] = &a->b.row[i];
    rb_spill_options o = {.bytes = rb_optim_needs(a->b.dev, c, list, count, &place).spill + RB_SPILL_ALIGN,
                          .deadline_ns = 20 * RB_SEC};
    assert_ok(rb_spill_open(&o, &a->spill, &err), &err);
    place.spill = a->spill;
    assert_ok(rb_optim_open(a->b.dev, c, a->b.tensor, count, &place, &a->b.optim, &err), &err);
}

static void away_close(away *a) {
    rb_optim_close(a->b.optim);
    a->b.optim = NULL;
    rb_spill_close(a->spill);
    bench_close(&a->b);
}

static void weights_follow_one_update_behind(void **state) {
    (void)state;
    static const char *const devices[] = {"ref", "cpu", "late:cpu"};
    rb_tensor rows[MOST] = {0};
    int count = delay_rows(rows);
    for (int k = 0; rb_optims[k]; k++)
        for (int d = 0; d < 3; d++) {
            rb_optim_config c = config_of(rb_optims[k]->name);
            reference r;
            bench b;
            away a;
            c.delay = 1;
            c.weight_decay = 0.01;
            reference_open(&r, devices[d], &c, rows, count);
            bench_open(&b, devices[d], 2, &c, rows, count);
            reference_steps(&r, 0, DONE);
            delayed_steps(&b, 0, DONE);
            assert_follows(&r, &b);
            bench_close(&b);
            for (int host = 0; host < (d == 2 ? 2 : 1); host++) {
                away_open(&a, devices[d], &c, rows, count, 2 * host);
                delayed_steps(&a.b, 0, DONE);
                assert_follows(&r, &a.b);
                away_close(&a);
            }
            reference_close(&r);
        }
}

/* AdamW written out, in double: the optimizer above is not its own witness. */
static void against_adamw_written_out(void **state) {
    (void)state;
    enum { N = 130 };
    rb_tensor rows[] = {make_row("norm", N, 0, RB_ROLE_NORM)};
    rb_optim_config c = config_of("adamw");
    bench b;
    c.delay = 1;
    c.lr = 0.01;
    bench_open(&b, "cpu", 1, &c, rows, 1);
    float start[N], g[N], used[N];
    double w[N], m[N] = {0}, v[N] = {0};
    make_weight("norm", start, N);
    for (int i = 0; i < N; i++) w[i] = (double)(used[i] = start[i]);
    for (int t = 1; t <= DONE; t++) {
        gradient_of("norm", t - 1, used, g, N);
        for (int i = 0; i < N; i++) {
            used[i] = (float)w[i];
            m[i] = c.beta1 * m[i] + (1 - c.beta1) * (double)g[i];
            v[i] = c.beta2 * v[i] + (1 - c.beta2) * (double)g[i] * (double)g[i];
            w[i] -= c.lr * m[i] / (1 - pow(c.beta1, t)) / (sqrt(v[i] / (1 - pow(c.beta2, t))) + c.eps);
        }
        float *of = download(&b, b.tensor[0].weight);
        give_gradient(&b, 0, t - 1, of);
        free(of);
        rb_err err;
        assert_ok(rb_optim_step(b.optim, b.q, 1, NULL, &err), &err);
    }
    float *in_use = download(&b, b.tensor[0].weight), *ahead = newest_of(&b, 0);
    for (int i = 0; i < N; i++) {
        assert_true(fabs((double)in_use[i] - (double)used[i]) < 2e-6);
        assert_true(fabs((double)ahead[i] - w[i]) < 2e-6);
    }
    free(in_use);
    free(ahead);
    bench_close(&b);
}

/* Another optimizer takes states and both kinds of weights over, wherever each has them. */
static void a_resumed_run_goes_on_bit_for_bit(void **state) {
    (void)state;
    rb_tensor rows[MOST] = {0};
    int count = delay_rows(rows);
    for (int k = 0; rb_optims[k]; k++) {
        rb_optim_config c = config_of(rb_optims[k]->name);
        bench whole, first;
        away second;
        c.delay = 1;
        bench_open(&whole, "cpu", 2, &c, rows, count);
        bench_open(&first, "cpu", 2, &c, rows, count);
        away_open(&second, "late:cpu", &c, rows, count, 2);
        delayed_steps(&whole, 0, 6);
        delayed_steps(&first, 0, 3);
        for (int i = 0; i < count; i++) {
            float *w = newest_of(&first, i);
            give_weights(&second.b, i, w);
            free(w);
        }
        int behind = 0;
        for (int i = 0; i < rb_optim_state_count(first.optim); i++) {
            rb_optim_state from = rb_optim_state_at(first.optim, i);
            assert_string_equal(from.name, rb_optim_state_at(second.b.optim, i).name);
            if (from.behind) assert_int_equal(strncmp(from.name, "behind.", 7), 0);
            behind += from.behind;
            copy_state(&first, &second.b, i);
        }
        assert_int_equal(behind, count - 1); /* learned steps have no optimizer */
        rb_optim_set_steps_done(second.b.optim, rb_optim_steps_done(first.optim));
        delayed_steps(&second.b, 3, 6);
        assert_same_weights(&whole, &second.b);
        bench_close(&whole);
        bench_close(&first);
        away_close(&second);
    }
}

static void exchange_and_back(bench *b) {
    rb_err err;
    size_t bytes = (size_t)elements(&b->row[0]) * 4;
    delayed_steps(b, 0, 2);
    float *used = download(b, b->tensor[0].weight), *ahead = newest_of(b, 0);
    assert_memory_not_equal(used, ahead, bytes);
    assert_ok(rb_optim_exchange(b->optim, b->q, &err), &err);
    float *seen = download(b, b->tensor[0].weight);
    assert_memory_equal(seen, ahead, bytes);
    assert_ok(rb_optim_exchange(b->optim, b->q, &err), &err);
    float *again = download(b, b->tensor[0].weight);
    assert_memory_equal(again, used, bytes);
    delayed_steps(b, 2, 4);
    free(used);
    free(ahead);
    free(seen);
    free(again);
}

static void evaluations_see_the_newest(void **state) {
    (void)state;
    rb_tensor rows[MOST] = {0};
    int count = delay_rows(rows);
    for (int k = 0; rb_optims[k]; k++) {
        rb_optim_config c = config_of(rb_optims[k]->name);
        bench undisturbed, b;
        away a;
        c.delay = 1;
        bench_open(&undisturbed, "cpu", 2, &c, rows, count);
        bench_open(&b, "cpu", 2, &c, rows, count);
        away_open(&a, "late:cpu", &c, rows, count, 2);
        delayed_steps(&undisturbed, 0, 4);
        exchange_and_back(&b);
        exchange_and_back(&a.b);
        assert_same_weights(&undisturbed, &b);
        assert_same_weights(&undisturbed, &a.b);
        bench_close(&undisturbed);
        bench_close(&b);
        away_close(&a);
    }
}

static void other_delays_are_refused(void **state) {
    (void)state;
    rb_tensor rows[] = {make_row("q", 8, 8, RB_ROLE_MATRIX)};
    rb_tensor_table t = {rows, 1};
    rb_optim_config c = config_of("muon");
    rb_err err;
    c.delay = 2;
    assert_fails(rb_optim_check(&c, &t, &err), RESBM_E_CONFIG, "optim.delay is 2", &err);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_follow_one_update_behind),  cmocka_unit_test(against_adamw_written_out),
        cmocka_unit_test(a_resumed_run_goes_on_bit_for_bit), cmocka_unit_test(evaluations_see_the_newest),
        cmocka_unit_test(other_delays_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
