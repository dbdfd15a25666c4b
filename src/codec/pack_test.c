#include <math.h>
#include <stdlib.h>
#include "rb_cmocka.h"
#include "codec/codec.h"
#include "codec/steps.h"
#include "core/rng.h"
#include "device/pack_layout.h"

typedef struct bench {
    rb_device *dev[2];
    rb_queue *q[2];
} bench;

static int open_devices(void **state) {
    static bench b;
    rb_err err;
    rb_device_options opt = {.threads = 2};
    const char *names[2] = {"ref", "cpu"};
    for (int i = 0; i < 2; i++) {
        assert_ok(rb_device_open(names[i], &opt, &b.dev[i], &err), &err);
        assert_ok(rb_queue_open(b.dev[i], &b.q[i], &err), &err);
    }
    *state = &b;
    return 0;
}

static int close_devices(void **state) {
    bench *b = *state;
    for (int i = 0; i < 2; i++) {
        rb_queue_close(b->q[i]);
        rb_device_close(b->dev[i]);
    }
    return 0;
}

enum { B = 3, most = 3 * 40 * 70 };

static void fill_x(float *x, int64_t n, uint64_t key) {
    rb_normal_fill(key, x, n, 0, 1);
    for (int64_t i = 0; i < n; i += 17) x[i] *= 50;
    for (int64_t i = 5; i < n; i += 101) x[i] = 0;
}

static rb_pack_args args_of(int code, int scale, bool stochastic) {
    return (rb_pack_args){.code = (rb_code)code, .scale = (rb_scale)scale, .stochastic = stochastic, .seed = 5, .step = 9,
                          .sequence = 0xfffffffeu, .boundary = 2, .direction = stochastic};
}

/* Packs on device d into guarded memory; returns the bytes (caller frees) behind 16 guard bytes. */
static uint8_t *pack_on(bench *b, int d, const rb_pack_args *a, float *x, int64_t T, int64_t k, float *steps) {
    rb_err err;
    int64_t n = rb_packed_bytes(a, B, T, k);
    uint8_t *out = malloc((size_t)n + 32);
    memset(out, 0xa5, (size_t)n + 32);
    assert_ok(rb_pack(b->q[d], rb_view1(out + 16, RB_U8, n), rb_view3(x, RB_F32, B, T, k), rb_view1(steps, RB_F32, k), a,
                      &err), &err);
    for (int i = 0; i < 16; i++) assert_true(out[i] == 0xa5 && out[n + 16 + i] == 0xa5);
    return out;
}

static void check_one(bench *b, const rb_pack_args *a, float *x, int64_t T, int64_t k, float *steps) {
    rb_err err;
    static float y[2][most];
    int64_t n = rb_packed_bytes(a, B, T, k);
    uint8_t *bytes[2];
    for (int d = 0; d < 2; d++) bytes[d] = pack_on(b, d, a, x, T, k, steps);
    assert_memory_equal(bytes[0], bytes[1], (size_t)n + 32);
    for (int d = 0; d < 2; d++)
        assert_ok(rb_unpack(b->q[d], rb_view3(y[d], RB_F32, B, T, k), rb_view1(bytes[0] + 16, RB_U8, n),
                            rb_view1(steps, RB_F32, k), a, &err), &err);
    assert_memory_equal(y[0], y[1], (size_t)(B * T * k) * sizeof(float));
    int64_t stats[2][70] = {{0}, {0}};
    for (int d = 0; d < 2 && a->scale == RB_SCALE_STEP; d++)
        assert_ok(rb_code_stats(b->q[d], rb_view1(stats[d], RB_I64, k), rb_view1(bytes[0] + 16, RB_U8, n), B, T, a, &err),
                  &err);
    assert_memory_equal(stats[0], stats[1], sizeof stats[0]);
    free(bytes[0]);
    free(bytes[1]);
}

static void cpu_gives_the_bytes_of_ref(void **state) {
    static float x[most];
    float steps[70];
    for (int i = 0; i < 70; i++) steps[i] = 0.1f + 0.02f * (float)i;
    const int64_t ks[] = {1, 2, 3, 7, 8, 32, 64, 70}, Ts[] = {1, 2, 5, 33, 40};
    int ran = 0;
    for (int code = 0; code < RB_CODE_COUNT; code++)
        for (int scale = 0; scale < RB_SCALE_COUNT; scale++)
            for (int s = 0; s < 2; s++)
                for (int i = 0; i < 8 * 5; i++) {
                    rb_pack_args a = args_of(code, scale, s);
                    int64_t T = Ts[i / 8], k = ks[i % 8];
                    if (rb_packed_bytes(&a, B, T, k) < 0) continue;
                    fill_x(x, B * T * k, (uint64_t)i);
                    if (i % 3 == 0) x[0] = NAN, x[B * T * k - 1] = INFINITY;
                    check_one(*state, &a, x, T, k, steps);
                    ran++;
                }
    assert_int_equal(ran, 2 * (2 + 2 * 3) * 40);
}

/* Error within half a step (nearest) or one (stochastic), against the group's largest value. */
static void error_is_bounded(void **state) {
    bench *b = *state;
    static float x[most], y[most];
    rb_err err;
    for (int s = 0; s < 2; s++) {
        rb_pack_args a = args_of(RB_CODE_INT4, RB_SCALE_TOKEN, s);
        int64_t T = 40, k = 64, n = rb_packed_bytes(&a, B, T, k);
        fill_x(x, B * T * k, 3);
        uint8_t *p = pack_on(b, 1, &a, x, T, k, NULL);
        assert_ok(rb_unpack(b->q[1], rb_view3(y, RB_F32, B, T, k), rb_view1(p + 16, RB_U8, n), rb_none(), &a, &err), &err);
        for (int64_t t = 0; t < B * T; t++) {
            float top = 0;
            for (int64_t i = 0; i < k; i++) top = fmaxf(top, fabsf(x[t * k + i]));
            for (int64_t i = 0; i < k; i++)
                assert_true(fabsf(x[t * k + i] - y[t * k + i]) <= top * 1.01f / 7 * (s ? 1.0f : 0.5f));
        }
        free(p);
    }
}

static void not_finite_stays_not_finite(void **state) {
    bench *b = *state;
    rb_err err;
    float steps[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    for (int scale = RB_SCALE_STEP; scale < RB_SCALE_COUNT; scale++)
        for (int bad = 0; bad < 2; bad++) {
            float x[B * 4 * 8] = {0}, y[B * 4 * 8];
            rb_pack_args a = args_of(RB_CODE_INT4, scale, false);
            x[37] = bad ? NAN : -INFINITY;
            uint8_t *p = pack_on(b, 1, &a, x, 4, 8, steps);
            assert_ok(rb_unpack(b->q[1], rb_view3(y, RB_F32, B, 4, 8),
                                rb_view1(p + 16, RB_U8, rb_packed_bytes(&a, B, 4, 8)), rb_view1(steps, RB_F32, 8), &a, &err),
                      &err);
            assert_true(isnan(y[37]));
            assert_true(y[0] == 0);
            free(p);
        }
}

/* A sequence's bytes do not depend on what it is packed with. */
static void microbatches_do_not_matter(void **state) {
    bench *b = *state;
    static float x[most];
    rb_err err;
    rb_pack_args a = args_of(RB_CODE_INT4, RB_SCALE_GROUP, true), one = a;
    int64_t T = 33, k = 7, n = rb_packed_bytes(&a, B, T, k), each = rb_packed_bytes(&a, 1, T, k);
    fill_x(x, B * T * k, 8);
    uint8_t *all = pack_on(b, 1, &a, x, T, k, NULL), *single = malloc((size_t)each);
    assert_int_equal(n, B * each);
    for (int i = 0; i < B; i++) {
        one.sequence = a.sequence + (uint64_t)i;
        assert_ok(rb_pack(b->q[1], rb_view1(single, RB_U8, each), rb_view3(x + i * T * k, RB_F32, 1, T, k), rb_none(), &one,
                          &err), &err);
        assert_memory_equal(single, all + 16 + i * each, (size_t)each);
    }
    free(all);
    free(single);
}

static void stochastic_rounding_has_no_bias(void **state) {
    bench *b = *state;
    enum { T = 512, k = 64 };
    static float x[B * T * k], y[B * T * k];
    rb_err err;
    for (int i = 0; i < B * T * k; i++) x[i] = i % 64 ? 0.3f : 7.0f; /* scale 7, so 0.3 is 0.3 of a code */
    rb_pack_args a = args_of(RB_CODE_INT4, RB_SCALE_GROUP, true);
    uint8_t *p = pack_on(b, 1, &a, x, T, k, NULL);
    assert_ok(rb_unpack(b->q[1], rb_view3(y, RB_F32, B, T, k), rb_view1(p + 16, RB_U8, rb_packed_bytes(&a, B, T, k)),
                        rb_none(), &a, &err), &err);
    double sum = 0;
    for (int i = 0; i < B * T * k; i++) sum += i % 64 ? y[i] : 0;
    double mean = sum / (B * T * 63);
    assert_true(mean > 0.29 && mean < 0.31);
    free(p);
}

static void bytes_per_token(void **state) {
    (void)state;
    rb_pack_args f = args_of(RB_CODE_INT4, RB_SCALE_STEP, false), g = args_of(RB_CODE_INT4, RB_SCALE_GROUP, true);
    assert_int_equal(rb_packed_bytes(&f, 4, 256, 8), 4096);
    assert_int_equal(rb_packed_bytes(&g, 4, 256, 8), 4096 + 256);
    assert_int_equal(rb_packed_bytes(&f, 1, 256, 2), 256);
    rb_pack_args wrong = args_of(RB_CODE_INT4, RB_SCALE_NONE, false);
    assert_int_equal(rb_packed_bytes(&wrong, 1, 1, 1), -1);
    assert_int_equal(rb_packed_bytes(&f, INT64_MAX / 4, INT64_MAX / 4, 8), -1);
}

/* From a poor start the steps come to sigma / sqrt(8.9) of each coordinate. */
static void learned_steps_converge(void **state) {
    bench *b = *state;
    enum { T = 256, k = 4 };
    static float x[B * T * k];
    rb_err err;
    float steps[k] = {RB_STEP_START, RB_STEP_START, RB_STEP_START, RB_STEP_START};
    const float sigma[k] = {0.01f, 1, 30, 1000};
    rb_pack_args a = args_of(RB_CODE_INT4, RB_SCALE_STEP, false);
    for (int u = 0; u < 60; u++) {
        rb_normal_fill((uint64_t)u, x, B * T * k, 0, 1);
        for (int i = 0; i < B * T * k; i++) x[i] *= sigma[i % k];
        int64_t stats[k] = {0};
        uint8_t *p = pack_on(b, 1, &a, x, T, k, steps);
        assert_ok(rb_code_stats(b->q[1], rb_view1(stats, RB_I64, k), rb_view1(p + 16, RB_U8, rb_packed_bytes(&a, B, T, k)), B,
                                T, &a, &err), &err);
        free(p);
        rb_steps_update(steps, stats, k, B * T, RB_CODE_INT4, (uint64_t)u);
    }
    for (int i = 0; i < k; i++) {
        float want = sigma[i] / sqrtf(8.9f);
        assert_true(steps[i] > 0.8f * want && steps[i] < 1.25f * want);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cpu_gives_the_bytes_of_ref),   cmocka_unit_test(error_is_bounded),
        cmocka_unit_test(not_finite_stays_not_finite),  cmocka_unit_test(microbatches_do_not_matter),
        cmocka_unit_test(stochastic_rounding_has_no_bias), cmocka_unit_test(bytes_per_token),
        cmocka_unit_test(learned_steps_converge),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
