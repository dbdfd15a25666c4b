/* Vectors in eight bits: how far off, that nothing is lost for good, and what is refused. */
#include "rb_cmocka.h"

#include <math.h>
#include <stdlib.h>
#include "codec/group8.h"
#include "core/bytes.h"
#include "core/rng.h"

enum { N = 1000 };

static void fill(float *v, uint64_t seed) {
    for (int i = 0; i < N; i++)
        v[i] = (float)((double)(rb_mix64(seed + 1, (uint64_t)i) >> 11) / 9007199254740992.0 - 0.5) *
               (i < 500 ? 1e-6f : 3);
}

static void within_half_a_step(void **state) {
    static float v[N], back[N];
    static uint8_t bytes[N * 2];
    rb_err err;
    (void)state;
    fill(v, 1);
    assert_int_equal(rb_group8_bytes(N), N + 4 * 16);
    rb_group8_pack(bytes, v, NULL, N);
    assert_ok(rb_group8_unpack(back, bytes, N, &err), &err);
    for (int g = 0; g < N; g += RB_GROUP8) {
        float most = 0;
        int end = g + RB_GROUP8 < N ? g + RB_GROUP8 : N;
        for (int i = g; i < end; i++) most = fmaxf(most, fabsf(v[i]));
        for (int i = g; i < end; i++) assert_true(fabsf(back[i] - v[i]) <= most / 127 * 0.5001f);
    }
}

/* Over many steps the sum of what came over is the sum of what was given, to the last step's rounding. */
static void what_is_lost_comes_later(void **state) {
    static float v[N], back[N], lost[N];
    static double given[N], came[N];
    static uint8_t bytes[N * 2];
    rb_err err;
    (void)state;
    for (uint64_t step = 0; step < 50; step++) {
        fill(v, step);
        rb_group8_pack(bytes, v, lost, N);
        assert_ok(rb_group8_unpack(back, bytes, N, &err), &err);
        for (int i = 0; i < N; i++) {
            given[i] += (double)v[i];
            came[i] += (double)back[i];
        }
    }
    for (int i = 0; i < N; i++) assert_true(fabs(given[i] - came[i] - (double)lost[i]) <= 1e-5 * 3);
    for (int i = 0; i < 448; i++) assert_true(fabs((double)lost[i]) < 1e-8);
}

static void zeros_and_the_smallest(void **state) {
    float v[3] = {0, 1e-45f, -1e-45f}, back[3], lost[3] = {0};
    uint8_t bytes[16];
    rb_err err;
    (void)state;
    rb_group8_pack(bytes, v, lost, 3);
    assert_ok(rb_group8_unpack(back, bytes, 3, &err), &err);
    for (int i = 0; i < 3; i++) assert_true(back[i] + lost[i] == v[i]);
}

static void not_finite_is_refused(void **state) {
    static float v[N], back[N];
    static uint8_t bytes[N * 2];
    rb_err err;
    (void)state;
    fill(v, 3);
    v[130] = INFINITY;
    rb_group8_pack(bytes, v, NULL, N);
    assert_fails(rb_group8_unpack(back, bytes, N, &err), RESBM_E_CORRUPT, "group 2 of 16", &err);
    fill(v, 3);
    rb_group8_pack(bytes, v, NULL, N);
    rb_put32(bytes, 0xbf800000); /* -1 */
    assert_fails(rb_group8_unpack(back, bytes, N, &err), RESBM_E_CORRUPT, "group 0 of 16 is -1", &err);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(within_half_a_step),
        cmocka_unit_test(what_is_lost_comes_later),
        cmocka_unit_test(zeros_and_the_smallest),
        cmocka_unit_test(not_finite_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
