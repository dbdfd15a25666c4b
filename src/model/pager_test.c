/* Gradients that are away: the same bits as in memory after several microbatches, for every form of the backward pass and
 * on a device whose memory the host cannot read; what a step zeroes is zero; what is misused is refused. */
#include <string.h>
#include "core/clock.h"
#include "model/pager.h"
#include "model/testing.h"

static rb_err err;

/* Copies every gradient out. */
typedef struct copies {
    world *w;
    float *x[128];
} copies;

static resbm_status copy(void *ctx, int row, rb_view grad, rb_err *e) {
    copies *c = ctx;
    (void)e;
    assert_int_equal(rb_count(grad), rb_tensor_count(&c->w->table.rows[row]));
    c->x[row] = get(c->w, grad);
    return RESBM_OK;
}

static void copy_gradients(world *w, copies *c) {
    *c = (copies){.w = w};
    assert_true(w->table.count <= 128);
    assert_ok(rb_stage_look_at_grads(w->stage, w->q, copy, c, &err), &err);
}

static void free_copies(copies *c) {
    for (int i = 0; i < 128; i++) free(c->x[i]);
}

static void assert_same_copies(world *a, world *b, bool zero) {
    copies x, y;
    copy_gradients(a, &x);
    copy_gradients(b, &y);
    for (int r = 0; r < a->table.count; r++) {
        const rb_tensor *t = &a->table.rows[r];
        if (!x.x[r]) {
            assert_null(y.x[r]);
            continue;
        }
        size_t n = (size_t)rb_tensor_count(t);
        double sum = 0;
        if (memcmp(x.x[r], y.x[r], n * 4)) fail_msg("gradient of %s differs", t->name);
        for (size_t i = 0; i < n; i++) sum += (double)x.x[r][i] * (double)x.x[r][i];
        if ((sum == 0) != zero) fail_msg("gradient of %s: sum of squares %g", t->name, sum);
    }
    free_copies(&x);
    free_copies(&y);
}

static void microbatches(world *w, int n, how h) {
    world_zero(w);
    for (int i = 0; i < n; i++) {
        world_random_tokens(w, 40 + (uint64_t)i);
        world_forward(w, 0, 0.01f);
        world_backward(w, 0, h);
    }
}

static world make_world(bool away, bool tied, bool recompute, bool split) {
    world w = {
        .model = small_model(), .boundary = small_boundary(), .B = 2, .T = 6, .split = split, .away = away};
    w.model.tied = tied;
    if (tied) w.model.segments = 1;
    w.model.recompute = recompute;
    return w;
}

static void gradients_that_are_away_are_the_same(void **state) {
    (void)state;
    static const char *const devices[] = {"ref", "cpu", "late:cpu"};
    for (int form = 0; form < 6; form++) {
        bool split = form == 4 || form == 5;
        world here = make_world(false, form == 1, form == 2 || form == 5, split);
        world away = make_world(true, form == 1, form == 2 || form == 5, split);
        world_open(&here, devices[form % 3], 2, true);
        world_open(&away, devices[form % 3], 2, true);
        assert_null(rb_stage_grad(away.stage, 0).data);
        assert_same_copies(&here, &away, true);
        for (int n = 3; n > 0; n--) {
            microbatches(&here, n, split ? HALVES : FUSED);
            microbatches(&away, n, split ? HALVES : FUSED);
            assert_same_copies(&here, &away, false);
            assert_same_copies(&here, &away, false);
        }
        world_zero(&here);
        world_zero(&away);
        assert_same_copies(&here, &away, true);
        world_close(&here);
        world_close(&away);
    }
}

/* An update of one segment: its gradients are looked at and zeroed alone, between microbatches that add to the others'. */
static void segments_are_zeroed_alone(void **state) {
    (void)state;
    world here = make_world(false, false, false, false), away = make_world(true, false, false, false);
    world *const both[] = {&here, &away};
    world_open(&here, "late:cpu", 2, true);
    world_open(&away, "late:cpu", 2, true);
    for (int round = 0; round < 4; round++) {
        int segment = (2 * round) % 3;
        copies seen[2];
        for (int k = 0; k < 2; k++) {
            world *w = both[k];
            seen[k] = (copies){.w = w};
            if (!round) world_zero(w);
            world_random_tokens(w, 60 + (uint64_t)round);
            world_forward(w, 0, 0.01f);
            world_backward(w, 0, FUSED);
            assert_ok(rb_stage_look_at_segment_grads(w->stage, w->q, segment, copy, &seen[k], &err), &err);
            assert_ok(rb_stage_zero_segment_grads(w->stage, w->q, segment, &err), &err);
        }
        for (int r = 0; r < here.table.count; r++) {
            const rb_tensor *t = &here.table.rows[r];
            assert_int_equal(seen[0].x[r] != NULL, seen[1].x[r] != NULL);
            if (t->segment != segment) assert_null(seen[0].x[r]);
            if (seen[0].x[r]) assert_memory_equal(seen[0].x[r], seen[1].x[r], (size_t)rb_tensor_count(t) * 4);
        }
        free_copies(&seen[0]);
        free_copies(&seen[1]);
    }
    copies x, y;
    copy_gradients(&here, &x);
    copy_gradients(&away, &y);
    for (int r = 0; r < here.table.count; r++)
        if (x.x[r]) assert_memory_equal(x.x[r], y.x[r], (size_t)rb_tensor_count(&here.table.rows[r]) * 4);
    free_copies(&x);
    free_copies(&y);
    world_close(&here);
    world_close(&away);
}

/* What the optimizer reads from the spill is what the model added up: after a look at them all is written. */
static void the_spill_holds_the_gradients(void **state) {
    (void)state;
    world w = make_world(true, false, false, false);
    copies c;
    uint64_t ticket = 0;
    world_open(&w, "cpu", 1, true);
    rb_stage_options o = {.table = &w.table, .segments = 3};
    rb_grads_away grads;
    assert_ok(rb_stage_grads_away(w.dev, &o, &grads, &err), &err);
    rb_stage_memory here = rb_stage_model_memory(w.stage);
    assert_int_equal(grads.windows, here.windows);
    assert_true(grads.saved <= grads.spill && here.gradients + grads.saved <= here.weights);
    uint64_t bytes = rb_spill_round(1 << 16);
    char *file = rb_spill_memory(bytes);
    for (int round = 0; round < 2; round++) { /* gradients, then zeros that nothing was added to */
        if (!round) microbatches(&w, 2, FUSED);
        if (round) world_zero(&w);
        copy_gradients(&w, &c);
        bytes = grads.spill;
        free(file);
        file = rb_spill_memory(bytes);
        assert_ok(rb_spill_read(w.spill, 0, file, bytes, &ticket, &err), &err);
        assert_ok(rb_spill_wait(w.spill, ticket, &err), &err);
        int found = 0;
        for (int r = 0; r < w.table.count; r++) {
            if (!rb_pager_takes(&w.table.rows[r])) continue;
            found++;
            assert_memory_equal(c.x[r], file + rb_stage_grad_at(w.stage, r),
                                (size_t)rb_tensor_count(&w.table.rows[r]) * 4);
        }
        assert_int_equal(found, 3 * 7 + 2);
        free_copies(&c);
    }
    free(file);
    world_close(&w);
}

static void misuse_is_refused(void **state) {
    (void)state;
    world w = make_world(true, false, false, false);
    world_open(&w, "ref", 1, true);
    bool hosted[128];
    memset(hosted, true, sizeof hosted);
    rb_spill *spill;
    rb_pager *p;
    void *memory[8];
    rb_spill_options o = {.bytes = rb_pager_spill_bytes(&w.table, hosted), .deadline_ns = 20 * RB_SEC};
    assert_ok(rb_spill_open(&o, &spill, &err), &err);
    assert_ok(rb_pager_open(w.dev, spill, 0, &w.table, hosted, false, &p, &err), &err);
    rb_lender l = rb_pager_lender(p);
    assert_fails(l.give(l.ctx, w.q, 0, true, &err), RESBM_E_STATE, "row 0 was not borrowed", &err);
    assert_fails(l.borrow(l.ctx, w.q, 1, memory, &err), RESBM_E_ARG, "row 1 ", &err); /* a norm */
    assert_fails(l.borrow(l.ctx, w.q, 3, memory, &err), RESBM_E_ARG, "row 3 ", &err); /* joined to row 2 */
    assert_fails(l.borrow(l.ctx, w.q, -1, memory, &err), RESBM_E_ARG, "row -1 ", &err);
    assert_ok(l.borrow(l.ctx, w.q, 0, &memory[0], &err), &err);
    assert_fails(l.borrow(l.ctx, w.q, 0, &memory[1], &err), RESBM_E_STATE, "borrowed already", &err);
    assert_ok(l.borrow(l.ctx, w.q, 2, &memory[1], &err), &err);
    assert_ok(l.borrow(l.ctx, w.q, 5, &memory[2], &err), &err);
    assert_fails(l.borrow(l.ctx, w.q, 7, &memory[3], &err), RESBM_E_STATE, "all 3 gradient windows", &err);
    assert_ok(l.give(l.ctx, w.q, 2, true, &err), &err);
    rb_pager_close(p);
    rb_spill_close(spill);
    world_close(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_that_are_away_are_the_same),
        cmocka_unit_test(segments_are_zeroed_alone),
        cmocka_unit_test(the_spill_holds_the_gradients),
        cmocka_unit_test(misuse_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
