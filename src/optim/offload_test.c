/* States and gradients that are away change no bit, wherever they are, for every kind and device; a resumed optimizer may
 * keep them somewhere else than the one before. */
#include <string.h>
#include "core/bytes.h"
#include "core/clock.h"
#include "optim/testing.h"

enum { TILE = 4096 };
static int host_threads; /* of what is opened next */
static int64_t patience_ns = 60 * RB_SEC;
static rb_err err;

/* Larger and smaller than a tile, and tails that fill neither page nor vector. */
static int offload_rows(rb_tensor *rows) {
    int n = 0;
    rows[n++] = make_row("q", 130, 257, RB_ROLE_MATRIX);
    rows[n++] = make_row("norm", 130, 0, RB_ROLE_NORM);
    rows[n++] = make_row("steps", 3, 0, RB_ROLE_STEP);
    rows[n++] = make_row("up", 64, 64, RB_ROLE_MATRIX);
    rows[n++] = make_row("embed", 513, 33, RB_ROLE_EMBEDDING);
    return n;
}

/* An optimizer whose states, and with `grads` the gradients, are in a spill. */
typedef struct away {
    bench b;
    rb_spill *spill;
    bool grads;
    char *memory; /* gradients on their way into the spill */
} away;

static void away_open(away *a, const char *device, const rb_optim_config *c, const rb_tensor *rows, int count,
                      const char *dir, bool grads) {
    const rb_tensor *list[MOST];
    rb_optim_place place = {.tile = TILE, .host_threads = host_threads, .deadline_ns = patience_ns};
    a->grads = grads;
    bench_device(&a->b, device, 2, rows, count);
    for (int i = 0; i < count; i++) list[i] = &a->b.row[i];
    uint64_t states = rb_optim_needs(a->b.dev, c, list, count, &place).spill, at = states + 3 * sizeof(float);
    assert_int_equal(states % RB_SPILL_ALIGN, 0);
    for (int i = 0; i < count; i++) { /* one straight behind the other, aligned to nothing */
        a->b.tensor[i].grad_at = at;
        at += (uint64_t)elements(&rows[i]) * sizeof(float);
        if (!grads) continue;
        rb_free(a->b.dev, a->b.tensor[i].grad.data);
        a->b.tensor[i].grad.data = NULL;
    }
    rb_spill_options o = {
        .dir = dir, .bytes = grads ? at : states + RB_SPILL_ALIGN, .deadline_ns = 20 * RB_SEC};
    assert_ok(rb_spill_open(&o, &a->spill, &err), &err);
    place.spill = a->spill;
    assert_ok(rb_optim_open(a->b.dev, c, a->b.tensor, count, &place, &a->b.optim, &err), &err);
    a->memory = rb_spill_memory(at - states);
}

static void away_close(away *a) {
    rb_optim_close(a->b.optim);
    a->b.optim = NULL;
    rb_spill_close(a->spill);
    free(a->memory);
    bench_close(&a->b);
}

static void put_gradients(away *a, int step, float factor) {
    uint64_t first = a->b.tensor[0].grad_at / RB_SPILL_ALIGN * RB_SPILL_ALIGN, bytes = 0;
    for (int i = 0; i < a->b.count; i++) {
        char name[120];
        uint64_t at = a->b.tensor[i].grad_at - first, n = (uint64_t)elements(&a->b.row[i]);
        float *g = (float *)(void *)(a->memory + at);
        snprintf(name, sizeof name, "%s.g%d", a->b.row[i].name, step);
        make_weight(name, g, (int64_t)n);
        for (uint64_t j = 0; j < n; j++) g[j] *= factor;
        bytes = at + n * sizeof(float);
    }
    assert_ok(rb_spill_write(a->spill, first, a->memory, rb_spill_round(bytes), NULL, &err), &err);
}

static void away_steps(away *a, int from, int to, const float *scale) {
    if (!a->grads) {
        steps(&a->b, from, to, 0.5f, scale);
        return;
    }
    for (int s = from; s < to; s++) {
        put_gradients(a, s, 0.5f);
        assert_ok(rb_optim_step(a->b.optim, a->b.q, 1, scale, &err), &err);
        assert_ok(rb_queue_sync(a->b.q, &err), &err);
    }
}

static void same_states(bench *a, bench *b) {
    for (int i = 0; i < rb_optim_state_count(a->optim); i++) {
        size_t n = (size_t)elements(rb_optim_state_at(a->optim, i).tensor) * 4;
        char *x = malloc(n), *y = malloc(n);
        assert_ok(rb_optim_state_read(a->optim, a->q, i, 0, x, n, &err), &err);
        assert_ok(rb_optim_state_read(b->optim, b->q, i, 0, y, n, &err), &err);
        assert_memory_equal(x, y, n);
        free(x);
        free(y);
    }
}

static const float scale[MOST] = {1, 0.5f, 1, 0.25f, 0.125f};

static void where_states_are_changes_no_bit(void **state) {
    (void)state;
    static const char *const devices[] = {"ref", "cpu", "late:cpu"}, *const dirs[] = {".", NULL};
    rb_tensor rows[MOST] = {0};
    int count = offload_rows(rows);
    for (int k = 0; rb_optims[k]; k++)
        for (int d = 0; d < 3; d++) {
            rb_optim_config c = config_of(rb_optims[k]->name);
            c.weight_decay = 0.01;
            bench here;
            bench_open(&here, devices[d], 2, &c, rows, count);
            steps(&here, 0, 3, 0.5f, scale);
            for (int form = 0; form < 4; form++) {
                away a;
                away_open(&a, devices[d], &c, rows, count, dirs[form / 2], form % 2);
                away_steps(&a, 0, 3, scale);
                assert_same_weights(&here, &a.b);
                same_states(&here, &a.b);
                away_close(&a);
            }
            bench_close(&here);
        }
}

/* Updates of some tensors alone, in one order and another, and of all: what was read ahead is for the run that came next the
 * last time, or of no use. */
static void some_steps(bench *b, away *a) {
    static const int runs[][2] = {{3, 2}, {0, 3}, {3, 2}, {0, 3}, {0, 3}, {0, 2},
                                  {3, 2}, {0, 5}, {0, 5}, {1, 1}, {4, 1}};
    for (int s = 0; s < (int)(sizeof runs / sizeof *runs); s++) {
        for (int i = 0; i < b->count; i++) {
            char name[120];
            snprintf(name, sizeof name, "%s.g%d", b->row[i].name, s);
            if (b->tensor[i].grad.data) make_into(b, b->tensor[i].grad, name, 0.5f);
        }
        if (a && a->grads) put_gradients(a, s, 0.5f);
        assert_ok(rb_optim_step_some(b->optim, b->q, s + 1, 1, scale, runs[s][0], runs[s][1], &err), &err);
        assert_ok(rb_optim_settle(b->optim, &err), &err);
        assert_ok(rb_queue_sync(b->q, &err), &err);
        if (s == 4)
            copy_state(b, b, 1); /* written anew between updates: windows filled ahead are read again */
    }
}

static void some_tensors_alone(void **state) {
    (void)state;
    rb_tensor rows[MOST] = {0};
    int count = offload_rows(rows);
    for (int k = 0; rb_optims[k]; k++) {
        rb_optim_config c = config_of(rb_optims[k]->name);
        bench here;
        bench_open(&here, "late:cpu", 2, &c, rows, count);
        some_steps(&here, NULL);
        for (int form = 0; form < 3; form++) { /* states; gradients too; what AdamW updates, on the host */
            away a;
            host_threads = form == 2 ? 2 : 0;
            away_open(&a, "late:cpu", &c, rows, count, ".", form == 1);
            host_threads = 0;
            some_steps(&a.b, &a);
            assert_same_weights(&here, &a.b);
            same_states(&here, &a.b);
            away_close(&a);
        }
        bench_close(&here);
    }
}

/* The host's code is device cpu's: its bits, and checkpoints that move between both. */
static void updates_on_the_host(void **state) {
    (void)state;
    rb_tensor rows[MOST] = {0};
    int count = offload_rows(rows);
    for (int k = 0; rb_optims[k]; k++) {
        rb_optim_config c = config_of(rb_optims[k]->name);
        c.weight_decay = 0.01;
        bench here;
        away a;
        bench_open(&here, "cpu", 2, &c, rows, count);
        steps(&here, 0, 3, 0.5f, scale);
        host_threads = 2;
        away_open(&a, "late:cpu", &c, rows, count, NULL, false);
        host_threads = 0;
        away_steps(&a, 0, 3, scale);
        assert_same_weights(&here, &a.b);
        same_states(&here, &a.b);
        away_close(&a);
        bench_close(&here);
    }
}

/* A device that has its weights in bf16 alone: masters are the CPU's, and what goes up is them, rounded. Gradients are asked
 * for one segment after the other, as a backward pass is done with them. */
static void weights_go_up_in_bf16(void **state) {
    (void)state;
    rb_tensor rows[MOST] = {0};
    int count = offload_rows(rows);
    rb_optim_config c = config_of("adamw");
    bench here;
    away a = {0};
    const rb_tensor *list[MOST];
    rb_optim_place place = {.tile = TILE, .host_threads = 2, .deadline_ns = patience_ns};
    const uint64_t all = 4 * (130 * 257 + 130 + 64 * 64 + 513 * 33); /* bytes of the gradients */
    c.weight_decay = 0.01;
    for (int i = 0; i < count; i++) rows[i].segment = i / 2;
    bench_open(&here, "cpu", 2, &c, rows, count);
    bench_device(&a.b, "late:cpu", 2, rows, count);
    for (int i = 0; i < count; i++) {
        rb_optim_tensor *t = &a.b.tensor[i];
        void *half;
        list[i] = &a.b.row[i];
        if (!rb_role_trained(rows[i].role) || rows[i].rank < 2) continue;
        assert_ok(rb_alloc(a.b.dev, (size_t)elements(&rows[i]) * 2, &half, &err), &err);
        t->half = rb_view2(half, RB_BF16, rows[i].shape[0], rows[i].shape[1]);
        rb_free(a.b.dev, t->weight.data);
        t->weight.data = NULL;
    }
    rb_optim_need need = rb_optim_needs(a.b.dev, &c, list, count, &place);
    assert_int_equal(need.spill, 0);
    assert_int_equal(need.host, 4 * all);
    rb_spill_options o = {.bytes = RB_SPILL_ALIGN, .deadline_ns = 20 * RB_SEC};
    assert_ok(rb_spill_open(&o, &a.spill, &err), &err);
    place.spill = a.spill;
    assert_ok(rb_optim_open(a.b.dev, &c, a.b.tensor, count, &place, &a.b.optim, &err), &err);
    for (int i = 0; i < count; i++) {
        float *x = download(&here, here.tensor[i].weight);
        if (a.b.tensor[i].half.data) give_weights(&a.b, i, x);
        free(x);
    }
    for (int s = 0; s < 3; s++) {
        steps(&here, s, s + 1, 0.5f, scale);
        assert_ok(rb_optim_await_taken(a.b.optim, &err), &err);
        for (int i = 0; i < count; i++) {
            char name[120];
            snprintf(name, sizeof name, "%s.g%d", rows[i].name, s);
            make_into(&a.b, a.b.tensor[i].grad, name, 0.5f);
        }
        for (int g = 2; g > 0; g--)
            assert_ok(rb_optim_take(a.b.optim, a.b.q, g, &err), &err); /* 0: by the step */
        assert_ok(rb_optim_await_taken(a.b.optim, &err), &err);
        assert_int_equal(rb_optim_host_work(a.b.optim).down,
                         s * all + 4 * (64 * 64 + 513 * 33)); /* before the step */
        assert_ok(rb_optim_step(a.b.optim, a.b.q, 1, scale, &err), &err);
        for (int g = 0; g < 3; g++) assert_ok(rb_optim_await(a.b.optim, g, &err), &err);
        for (int i = 0; i < count; i++) {
            float *want = download(&here, here.tensor[i].weight), *master = newest_of(&a.b, i);
            int64_t n = elements(&rows[i]);
            assert_memory_equal(master, want, (size_t)n * 4);
            uint16_t *up = malloc((size_t)n * 2);
            rb_view half = a.b.tensor[i].half;
            if (half.data) {
                assert_ok(rb_download(a.b.q, up, half.data, (size_t)n * 2, &err), &err);
                assert_ok(rb_queue_sync(a.b.q, &err), &err);
                for (int64_t j = 0; j < n; j++) assert_int_equal(up[j], rb_bf16_from_f32(want[j]));
            }
            free(up);
            free(want);
            free(master);
        }
    }
    same_states(&here, &a.b);
    rb_host_work work = rb_optim_host_work(a.b.optim);
    assert_int_equal(work.down, 3 * all);
    assert_int_equal(work.early, 3 * 4 * (64 * 64 + 513 * 33));
    assert_true(work.up >= 3 * (2 * (130 * 257 + 64 * 64 + 513 * 33) + 4 * 130));
    bench_close(&here);
    for (int i = 0; i < count; i++) rb_free(a.b.dev, a.b.tensor[i].half.data);
    away_close(&a);
}

/* A fault of the host's thread is returned by whoever waits for it, and by all after it. */
static void faults_of_the_host_arrive(void **state) {
    (void)state;
    rb_tensor rows[] = {make_row("q", 8, 8, RB_ROLE_MATRIX)};
    rb_optim_config c = config_of("adamw");
    away a;
    host_threads = 1;
    away_open(&a, "late:cpu", &c, rows, 1, NULL, false);
    host_threads = 0;
    void *grad = a.b.tensor[0].grad.data;
    rb_free(a.b.dev, grad);
    a.b.tensor[0].grad.data = NULL;
    assert_ok(rb_optim_step(a.b.optim, a.b.q, 1, NULL, &err), &err);
    assert_fails(rb_optim_await(a.b.optim, 0, &err), RESBM_E_ARG, "download", &err);
    assert_fails(rb_optim_settle(a.b.optim, &err), RESBM_E_ARG, "download", &err);
    away_close(&a);
}

/* A device that no longer answers: whoever waits hears for what. Of one that is slow, but moves, nobody complains. */
static void a_device_that_hangs_is_named(void **state) {
    (void)state;
    rb_tensor rows[] = {make_row("q", 8, 8, RB_ROLE_MATRIX), make_row("up", 130, 257, RB_ROLE_MATRIX)};
    rb_optim_config c = config_of("adamw");
    away a;
    for (int hangs = 0, tries = 0; hangs < 2; hangs++) {
        host_threads = 1;
        patience_ns = hangs ? 100 * RB_MS : 60 * RB_SEC;
        away_open(&a, "late:cpu", &c, rows, 2, NULL, false);
        host_threads = 0;
        patience_ns = 60 * RB_SEC;
        __atomic_store_n(&a.b.dev->opt.late_ns, hangs ? 2 * RB_SEC : 2 * RB_MS, __ATOMIC_RELAXED);
        assert_ok(rb_optim_take(a.b.optim, a.b.q, rows[0].segment, &err), &err);
        resbm_status st = rb_optim_await_taken(a.b.optim, &err);
        if (hangs && !st && ++tries < 5) { /* a machine that stood still for the two seconds saw it answer */
            hangs--;
        } else if (hangs) {
            assert_fails(st, RESBM_E_TIMEOUT, "taking the gradient of q from the device", &err);
            assert_non_null(strstr(err.text, "pipeline.deadline"));
        } else {
            assert_ok(st, &err);
        }
        __atomic_store_n(&a.b.dev->opt.late_ns, 0, __ATOMIC_RELAXED);
        away_close(&a);
    }
}

static void copy_all(bench *from, bench *to) {
    for (int i = 0; i < rb_optim_state_count(from->optim); i++) copy_state(from, to, i);
    for (int i = 0; i < from->count; i++) {
        float *x = newest_of(from, i);
        give_weights(to, i, x);
        free(x);
    }
    rb_optim_set_steps_done(to->optim, rb_optim_steps_done(from->optim));
}

static void resuming_may_move_the_states(void **state) {
    (void)state;
    rb_tensor rows[MOST] = {0};
    int count = offload_rows(rows);
    for (int k = 0; rb_optims[k]; k++) {
        rb_optim_config c = config_of(rb_optims[k]->name);
        bench whole, here;
        away first, second;
        bench_open(&whole, "cpu", 2, &c, rows, count);
        bench_open(&here, "cpu", 2, &c, rows, count);
        away_open(&first, "cpu", &c, rows, count, ".", true);
        away_open(&second, "cpu", &c, rows, count, ".", false);
        steps(&whole, 0, 6, 0.5f, NULL);
        away_steps(&first, 0, 2, NULL);
        copy_all(&first.b, &here);
        steps(&here, 2, 4, 0.5f, NULL);
        away_steps(&second, 0, 3, NULL); /* what it held before does not matter */
        copy_all(&here, &second.b);
        away_steps(&second, 4, 5, NULL);
        away_close(&first);
        host_threads = 1;
        away_open(&first, "cpu", &c, rows, count, NULL, false);
        host_threads = 0;
        copy_all(&second.b, &first.b);
        away_steps(&first, 5, 6, NULL);
        copy_all(&first.b, &second.b);
        assert_same_weights(&whole, &second.b);
        same_states(&whole, &second.b);
        bench_close(&whole);
        bench_close(&here);
        away_close(&first);
        away_close(&second);
    }
}

static void states_outside_their_tensor_are_refused(void **state) {
    (void)state;
    rb_tensor rows[] = {make_row("q", 8, 8, RB_ROLE_MATRIX)};
    rb_optim_config c = config_of("adamw");
    char x[300];
    away a;
    away_open(&a, "ref", &c, rows, 1, NULL, false);
    assert_fails(rb_optim_state_read(a.b.optim, a.b.q, 1, 4, x, 256, &err), RESBM_E_ARG, "states of q", &err);
    assert_fails(rb_optim_state_write(a.b.optim, a.b.q, 0, -1, x, 8, &err), RESBM_E_ARG, "states of q", &err);
    away_close(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(where_states_are_changes_no_bit),
        cmocka_unit_test(some_tensors_alone),
        cmocka_unit_test(updates_on_the_host),
        cmocka_unit_test(weights_go_up_in_bf16),
        cmocka_unit_test(faults_of_the_host_arrive),
        cmocka_unit_test(a_device_that_hangs_is_named),
        cmocka_unit_test(resuming_may_move_the_states),
        cmocka_unit_test(states_outside_their_tensor_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
