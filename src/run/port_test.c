/* Ports whose latents are narrowed while they run. */
#include <stdlib.h>
#include "core/rng.h"
#include "rb_cmocka.h"
#include "run/config.h"
#include "run/port.h"

enum { B = 2, T = 3, K = 8, LIVE = 3 };

static void configure(rb_config *c, const char *codec) {
    char set[64];
    rb_err err;
    const char *const sets[] = {
        "model.d=64",     "boundary.ratio=32", "boundary.anneal_from=8", "train.steps=10", set,
        "optim.warmup=0", "data.train=x"};
    snprintf(set, sizeof set, "boundary.codec_fwd=%s", codec);
    assert_ok(rb_config_defaults(c, &err), &err);
    for (int i = 0; i < 7; i++) assert_ok(rb_config_override(c, sets[i], &err), &err);
    assert_ok(rb_config_validate(c, &err), &err);
}

static void check(const char *device, const char *codec) {
    rb_config *c = malloc(sizeof *c);
    rb_err err;
    rb_device *dev;
    rb_queue *q;
    rb_port p;
    rb_device_options o = {.threads = 2};
    void *in, *out, *steps;
    float x[B * T * K], y[B * T * K], ones[K], after[K];
    configure(c, codec);
    assert_int_equal(c->boundary.k, K);
    assert_ok(rb_device_open(device, &o, &dev, &err), &err);
    assert_ok(rb_queue_open(dev, &q, &err), &err);
    assert_ok(rb_alloc(dev, sizeof x, &in, &err), &err);
    assert_ok(rb_alloc(dev, sizeof x, &out, &err), &err);
    assert_ok(rb_alloc(dev, sizeof ones, &steps, &err), &err);
    rb_normal_fill(1, x, B * T * K, 0, 3);
    for (int i = 0; i < K; i++) ones[i] = 1;
    assert_ok(rb_upload(q, in, x, sizeof x, &err), &err);
    assert_ok(rb_upload(q, out, x, sizeof x, &err), &err);
    assert_ok(rb_upload(q, steps, ones, sizeof ones, &err), &err);
    assert_ok(rb_port_open(dev, &c->model, &c->boundary, 0, 0, B, T, rb_view1(steps, RB_F32, K), &p, &err),
              &err);
    size_t whole = p.packed_bytes, most;
    assert_ok(rb_port_most_bytes(&c->model, &c->boundary, B, T, &most, &err), &err);
    assert_true(most >= whole + B * (T + 1) * (size_t)rb_id_bytes(c->model.vocab));
    assert_true(most <= 4 * B * (T + 1) * (K + 1)); /* backward in f32 at the most */
    assert_ok(rb_port_narrow(&p, LIVE, &err), &err);
    assert_true(p.packed_bytes < whole);
    assert_int_equal(p.packed_bytes, rb_packed_bytes(&p.wire.part[0].pack, B, T, LIVE));
    rb_view from = rb_view3(in, RB_F32, B, T, K), to = rb_view3(out, RB_F32, B, T, K);
    assert_ok(rb_port_pack(&p, q, &from, (rb_port_key){0}, &err), &err);
    assert_ok(rb_port_unpack(&p, q, &to, (rb_port_key){0}, &err), &err);
    assert_ok(rb_port_count(&p, q, &err), &err);
    assert_ok(rb_port_update_steps(&p, q, 0, B * T, &err), &err);
    assert_ok(rb_download(q, y, out, sizeof y, &err), &err);
    assert_ok(rb_download(q, after, steps, sizeof after, &err), &err);
    assert_ok(rb_queue_sync(q, &err), &err);
    for (int i = 0; i < B * T * K; i++) {
        if (i % K >= LIVE) assert_true(y[i] == 0);
        if (i % K < LIVE) assert_float_equal(y[i], x[i], strcmp(codec, "f32") ? 0.5001 : 0);
    }
    for (int i = 0; i < K; i++) assert_int_equal(after[i] != 1, i < LIVE && p.wire.part[0].learned_steps);
    assert_ok(rb_port_narrow(&p, K, &err), &err);
    assert_int_equal(p.packed_bytes, whole);
    rb_port_close(&p);
    rb_free(dev, in);
    rb_free(dev, out);
    rb_free(dev, steps);
    rb_queue_close(q);
    rb_device_close(dev);
    free(c);
}

static void what_is_left_out_is_zero(void **state) {
    (void)state;
    check("ref", "int8");
    check("cpu", "int8");
    check("cpu", "f32");
    check("late", "int8");
}

static void widths_over_a_run(void **state) {
    (void)state;
    rb_config *c = malloc(sizeof *c);
    const int want[] = {8, 7, 6, 5, 4, 2, 2, 2};
    configure(c, "int4");
    for (int i = 0; i < 8; i++) {
        int64_t live = rb_live_width(c, i);
        if (i < 5) assert_true(live > 2);
        assert_in_range(live, want[i] - 1, want[i] + 1);
        if (i) assert_true(live <= rb_live_width(c, i - 1));
    }
    assert_int_equal(rb_live_width(c, 0), 8);
    assert_int_equal(rb_live_width(c, 5), 2);
    c->boundary.anneal_from = 0;
    assert_int_equal(rb_live_width(c, 7), 8);
    free(c);
}

static void refused(void **state) {
    (void)state;
    rb_config *c = malloc(sizeof *c);
    rb_err err;
    static const char *const bad[] = {"boundary.anneal_from=32", "boundary.anneal_from=7",
                                      "boundary.identity=split"};
    for (int i = 0; i < 3; i++) {
        configure(c, "int4");
        assert_ok(rb_config_override(c, "boundary.identity_width=1", &err), &err);
        assert_ok(rb_config_override(c, bad[i], &err), &err);
        assert_fails(rb_config_validate(c, &err), RESBM_E_CONFIG, "boundary.anneal_from", &err);
    }
    free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_is_left_out_is_zero),
                                       cmocka_unit_test(widths_over_a_run), cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
