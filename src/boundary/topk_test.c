/* What kind topk sends, and that with error feedback nothing is lost, only late. */
#include <math.h>
#include "rb_cmocka.h"
#include "boundary/kinds.h"
#include "core/rng.h"
#include "nn/linear.h"

enum { N = 6, D = 12, K = 3, STEPS = 40 };

typedef struct rig {
    rb_device *dev;
    rb_queue *q;
    float residue[2 * N * D], x[N * D], y[N * D], values[N * K], index[N * K];
    rb_view w[1], parts[2];
    rb_boundary_config cfg;
    rb_boundary_end end;
} rig;

static void open_rig(rig *r, rb_feedback feedback) {
    rb_err err;
    *r = (rig){.cfg = {.kind = "topk", .k = K, .feedback = feedback, .feedback_rows = 2 * N}};
    assert_ok(rb_device_open("ref", &(rb_device_options){.threads = 1}, &r->dev, &err), &err);
    assert_ok(rb_queue_open(r->dev, &r->q, &err), &err);
    r->w[0] = rb_view2(r->residue, RB_F32, 2 * N, D);
    r->parts[0] = rb_view2(r->values, RB_F32, N, K);
    r->parts[1] = rb_view2(r->index, RB_F32, N, K);
    r->end = (rb_boundary_end){.cfg = &r->cfg, .dims = {.d = D}, .w = r->w, .q = r->q};
}
static void close_rig(rig *r) {
    rb_queue_close(r->q);
    rb_device_close(r->dev);
}

static void the_largest_cross(void **state) {
    (void)state;
    static rig r;
    rb_err err;
    open_rig(&r, RB_FEEDBACK_GRADIENT);
    const float row[D] = {1, -5, 2, 0, 5, -0.5f, 3, -3, 0, 0, 4.5f, -4};
    for (int i = 0; i < N * D; i++) r.x[i] = row[i % D] * (float)(1 + i / D);
    const rb_boundary_kind *k = &rb_boundary_topk;
    rb_view x = rb_view2(r.x, RB_F32, N, D), y = rb_view2(r.y, RB_F32, N, D);
    assert_ok(k->encode_forward(&r.end, x, r.parts, &err), &err);
    const float places[K] = {1, 4, 10}; /* of -5 and 5, equal in size, the first comes first */
    for (int i = 0; i < N; i++)
        for (int j = 0; j < K; j++) {
            assert_true(r.index[i * K + j] == places[j]);
            assert_true(r.values[i * K + j] == r.x[i * D + (int)places[j]]);
        }
    assert_ok(k->decode_forward(&r.end, y, false, r.parts, &err), &err);
    for (int i = 0; i < N * D; i++)
        assert_true(r.y[i] == (i % D == 1 || i % D == 4 || i % D == 10 ? r.x[i] : 0));
    for (int i = 0; i < 2 * N * D; i++)
        assert_true(r.residue[i] == 0); /* going forward there is no feedback */
    close_rig(&r);
}

/* Straight-through: dx is what crossed of dy. Without feedback, dy's K largest; with it, all that ever came has crossed
 * or lies in the residue, in the rows of this microbatch alone. */
static void nothing_is_lost_only_late(void **state) {
    (void)state;
    static rig r;
    rb_err err;
    const rb_boundary_kind *k = &rb_boundary_topk;
    for (int feedback = 0; feedback < 2; feedback++) {
        double came[N * D] = {0}, crossed[N * D] = {0}, lost = 0, size = 0;
        open_rig(&r, feedback ? RB_FEEDBACK_GRADIENT : RB_FEEDBACK_NONE);
        r.end.row = N;
        rb_view dy = rb_view2(r.x, RB_F32, N, D), dx = rb_view2(r.y, RB_F32, N, D);
        for (uint64_t s = 0; s < STEPS; s++) {
            rb_normal_fill(s, r.x, N * D, 0, 1);
            assert_ok(k->decode_backward_input(&r.end, r.parts, dy, &err), &err);
            assert_ok(k->encode_backward_input(&r.end, dx, r.parts, rb_none(), &err), &err);
            int sent = 0;
            for (int i = 0; i < N * D; i++) {
                came[i] += (double)r.x[i];
                crossed[i] += (double)r.y[i];
                sent += r.y[i] != 0;
                if (!feedback && r.y[i] != 0) assert_true(r.y[i] == r.x[i]);
            }
            assert_int_equal(sent, N * K);
        }
        for (int i = 0; i < N * D; i++) {
            double left = feedback ? (double)r.residue[N * D + i] : 0;
            lost = fmax(lost, fabs(came[i] - crossed[i] - left));
            size = fmax(size, fabs(left));
            assert_true(r.residue[i] == 0);
        }
        if (feedback) assert_true(lost < 1e-4 && size > 0.1 && size < 12);
        if (!feedback) assert_true(lost > 1);
        close_rig(&r);
    }
}

static void faults_are_named(void **state) {
    (void)state;
    static rig r;
    rb_err err;
    const rb_boundary_kind *k = &rb_boundary_topk;
    rb_view v = rb_view2(r.x, RB_F32, N, D);
    open_rig(&r, RB_FEEDBACK_GRADIENT);
    r.end.row = N + 1;
    assert_fails(k->decode_backward_input(&r.end, r.parts, v, &err), RESBM_E_ARG,
                 "rows 7 to 13 of a step of 12", &err);
    const float strange[] = {-1, D, NAN, INFINITY};
    for (int i = 0; i < 4; i++) {
        r.index[7] = strange[i];
        assert_fails(k->decode_forward(&r.end, v, false, r.parts, &err), RESBM_E_ARG,
                     "pick 1 of row 2 is coordinate", &err);
    }
    close_rig(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_largest_cross),
        cmocka_unit_test(nothing_is_lost_only_late),
        cmocka_unit_test(faults_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
