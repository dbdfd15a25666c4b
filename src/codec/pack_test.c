/* pack, unpack and code_stats through the typed wrappers: every device's bytes are the reference's, and the
 * promises of device/pack_layout.h hold. */
#include <math.h>
#include <stdlib.h>
#include "rb_cmocka.h"
#include "codec/codec.h"
#include "core/bytes.h"
#include "core/rng.h"
#include "device/pack_look.h"

enum { DEVICES = 5, GUARD = 16, MOST = 40000, K_MOST = 2500 };
/* The first two exist in every build; the rest where the build or the processor has them. */
static const char *const names[DEVICES] = {"ref", "cpu", "cpu:v2", "cpu:v3", "cpu:v4"};

typedef struct rig {
    rb_device *dev[DEVICES];
    rb_queue *q[DEVICES];
    float x[MOST], y[DEVICES][MOST], steps[K_MOST];
} rig;

static int open_devices(void **state) {
    rig *r = calloc(1, sizeof *r);
    rb_err err;
    rb_device_options opt = {.threads = 3};
    assert_non_null(r);
    for (int d = 0; d < DEVICES; d++) {
        resbm_status st = rb_device_open(names[d], &opt, &r->dev[d], &err);
        if (d >= 2 && st != RESBM_OK) continue;
        assert_ok(st, &err);
        assert_ok(rb_queue_open(r->dev[d], &r->q[d], &err), &err);
    }
    for (int i = 0; i < K_MOST; i++) r->steps[i] = 0.1f + 0.003f * (float)(i % 300);
    *state = r;
    return 0;
}

static int close_devices(void **state) {
    rig *r = *state;
    for (int d = 0; d < DEVICES; d++) {
        rb_queue_close(r->q[d]);
        rb_device_close(r->dev[d]);
    }
    free(r);
    return 0;
}

static void fill_x(float *x, int64_t n, uint64_t key) {
    rb_normal_fill(key, x, n, 0, 1);
    for (int64_t i = 0; i < n; i += 17) x[i] *= 50;
    for (int64_t i = 5; i < n; i += 101) x[i] = 0;
}

/* Every kind of odd number, each in a group or token of its own where there is room. */
static void spoil(float *x, int64_t n) {
    const float odd[] = {NAN, INFINITY, -INFINITY, 3.4e38f, -0.0f, 1e-40f, 0x1p-101f, 0x1p126f};
    for (int64_t i = 0; i < 8; i++) x[(i * 131 + n - 1) % n] = odd[i];
}

static rb_pack_args args_of(int code, int scale, bool stochastic) {
    return (rb_pack_args){.code = (rb_code)code,
                          .scale = (rb_scale)scale,
                          .stochastic = stochastic,
                          .seed = 5,
                          .step = 9,
                          .sequence = 0xfffffffeu,
                          .boundary = 2,
                          .direction = stochastic};
}

static bool takes_finite_only(const rb_pack_args *a) {
    return a->scale == RB_SCALE_STEP && (a->code == RB_CODE_INT2 || a->code == RB_CODE_INT1);
}
static float most_of(int code) {
    static const float most[] = {
        [RB_CODE_INT8] = 127, [RB_CODE_INT4] = 7, [RB_CODE_INT2] = 1.5f, [RB_CODE_INT1] = 0.5f};
    return most[code];
}

/* Packs (B,T,k) with `gap` unused columns beside each row, into guarded memory; the caller frees. */
static uint8_t *pack_on(rig *r, int d, const rb_pack_args *a, float *x, int64_t B, int64_t T, int64_t k,
                        int64_t gap) {
    rb_err err;
    int64_t n = rb_packed_bytes(a, B, T, k);
    uint8_t *out = malloc((size_t)n + 2 * GUARD);
    assert_non_null(out);
    memset(out, 0xa5, (size_t)n + 2 * GUARD);
    rb_view v = rb_view3(x, RB_F32, B, T, k + gap);
    v.shape[2] = k;
    assert_ok(rb_pack(r->q[d], rb_view1(out + GUARD, RB_U8, n), v, rb_view1(r->steps, RB_F32, k), a, &err),
              &err);
    for (int i = 0; i < GUARD; i++) assert_true(out[i] == 0xa5 && out[n + GUARD + i] == 0xa5);
    return out;
}

/* Unpacks into y[d], of whose gaps nothing may be written. */
static void unpack_on(rig *r, int d, const rb_pack_args *a, uint8_t *bytes, int64_t B, int64_t T, int64_t k,
                      int64_t gap) {
    rb_err err;
    for (int64_t i = 0; i < B * T * (k + gap) + GUARD && i < MOST; i++) r->y[d][i] = 12345;
    rb_view v = rb_view3(r->y[d], RB_F32, B, T, k + gap),
            b = rb_view1(bytes, RB_U8, rb_packed_bytes(a, B, T, k));
    v.shape[2] = k;
    assert_ok(rb_unpack(r->q[d], v, b, rb_view1(r->steps, RB_F32, k), a, &err), &err);
    for (int64_t i = 0; i < B * T * (k + gap); i++)
        if (i % (k + gap) >= k) assert_true(r->y[d][i] == 12345);
    for (int64_t i = B * T * (k + gap); i < B * T * (k + gap) + GUARD && i < MOST; i++)
        assert_true(r->y[d][i] == 12345);
}

static void same_stats(rig *r, int d, const rb_pack_args *a, uint8_t *bytes, int64_t B, int64_t T,
                       int64_t k) {
    static int64_t stats[2][K_MOST];
    rb_err err;
    int64_t n = rb_packed_bytes(a, B, T, k);
    for (int64_t j = 0; j < k; j++) stats[0][j] = stats[1][j] = j;
    for (int e = 0; e < 2; e++)
        assert_ok(rb_code_stats(r->q[e ? d : 0], rb_view1(stats[e], RB_I64, k), rb_view1(bytes, RB_U8, n), B,
                                T, a, &err),
                  &err);
    assert_memory_equal(stats[0], stats[1], (size_t)k * sizeof **stats);
}

static void check_devices(rig *r, const rb_pack_args *a, int64_t B, int64_t T, int64_t k, int64_t gap) {
    int64_t n = rb_packed_bytes(a, B, T, k);
    uint8_t *want = pack_on(r, 0, a, r->x, B, T, k, gap);
    unpack_on(r, 0, a, want + GUARD, B, T, k, gap);
    for (int d = 1; d < DEVICES; d++) {
        if (!r->q[d]) continue;
        uint8_t *got = pack_on(r, d, a, r->x, B, T, k, gap);
        for (int64_t i = 0; i < n; i++)
            if (got[GUARD + i] != want[GUARD + i])
                fail_msg(
                    "%s, code %d, scale %d, stochastic %d, (%d,%d,%d), gap %d: byte %d is %02x, ref has %02x",
                    names[d], (int)a->code, (int)a->scale, a->stochastic, (int)B, (int)T, (int)k, (int)gap,
                    (int)i, got[GUARD + i], want[GUARD + i]);
        unpack_on(r, d, a, want + GUARD, B, T, k, gap);
        assert_memory_equal(r->y[d], r->y[0], (size_t)(B * T * (k + gap)) * sizeof(float));
        if (a->scale == RB_SCALE_STEP) same_stats(r, d, a, want + GUARD, B, T, k);
        free(got);
    }
    free(want);
}

static void every_device_gives_the_bytes_of_ref(void **state) {
    static const int64_t shapes[][3] = {{1, 1, 1},   {3, 2, 2},    {3, 5, 3},    {2, 1, 63},   {2, 1, 64},
                                        {2, 13, 5},  {3, 40, 8},   {2, 33, 7},   {1, 64, 16},  {2, 40, 70},
                                        {1, 9, 600}, {3, 1100, 8}, {1, 5003, 1}, {2, 700, 13}, {1, 3, 2500}};
    rig *r = *state;
    int ran = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int j = 0; j < RB_CODE_COUNT * RB_SCALE_COUNT * 2; j++) {
            int64_t B = shapes[i][0], T = shapes[i][1], k = shapes[i][2], gap = j % 2 ? 0 : 3;
            rb_pack_args a = args_of(j / 2 / RB_SCALE_COUNT, j / 2 % RB_SCALE_COUNT, (j ^ (int)i) & 1);
            if (rb_packed_bytes(&a, B, T, k) < 0 || B * T * (k + gap) > MOST) continue;
            fill_x(r->x, B * T * (k + gap), i);
            if (B * T * k > 20 && j % 4 < 2 && !takes_finite_only(&a)) spoil(r->x, B * T * (k + gap));
            check_devices(r, &a, B, T, k, gap);
            ran++;
        }
    assert_int_equal(ran, 15 * 2 * (4 + 4 * 8));
}

static rb_pack_sight look(rig *r, const rb_pack_args *a, uint8_t *bytes, int64_t B, int64_t T, int64_t k) {
    rb_pack_plan p;
    rb_err err;
    rb_pack_sight s = {0};
    assert_ok(rb_pack_sizes(&p, a->code, a->scale, B, T, k, &err), &err);
    p.bytes = bytes;
    p.steps = a->scale == RB_SCALE_STEP ? r->steps : NULL;
    rb_pack_look(&p, 200, &s);
    return s;
}

/* What the bytes say without a device is what comes out of them with one. */
static void looked_at_without_a_device(void **state) {
    rig *r = *state;
    const int64_t B = 2, T = 11, k = 7, n = B * T * k;
    int ran = 0, refused = 0;
    for (int j = 0; j < RB_CODE_COUNT * RB_SCALE_COUNT * 2; j++) {
        rb_pack_args a = args_of(j / 2 / RB_SCALE_COUNT, j / 2 % RB_SCALE_COUNT, false);
        if (rb_packed_bytes(&a, B, T, k) < 0) continue;
        bool places = a.code >= RB_CODEC_COUNT, odd = j % 2 && !takes_finite_only(&a);
        fill_x(r->x, n, (uint64_t)j);
        for (int64_t i = 0; i < n && places; i++) r->x[i] = (float)(i % 200);
        if (odd) r->x[j % n] = places ? 200 : j % 4 == 1 ? NAN : -INFINITY;
        uint8_t *p = pack_on(r, 0, &a, r->x, B, T, k, 0);
        unpack_on(r, 0, &a, p + GUARD, B, T, k, 0);
        rb_pack_sight s = look(r, &a, p + GUARD, B, T, k);
        double sum = 0;
        for (int64_t i = 0; i < n; i++) sum += (double)r->y[0][i] * (double)r->y[0][i];
        if (places)
            assert_true(s.outside == odd && s.count == 0 && s.sum == 0);
        else if (odd)
            assert_true(!isfinite(s.sum));
        else
            assert_true(s.count == n && fabs(s.sum / sum - 1) < 1e-6);
        refused += odd;
        ran++;
        free(p);
    }
    assert_true(ran > 60 && refused > 20);
}

/* The unit of the token, group or coordinate of value i of one sequence. */
static float unit_of(const rig *r, const rb_pack_args *a, const uint8_t *bytes, int64_t i, int64_t k) {
    if (a->scale == RB_SCALE_STEP) return r->steps[i % k];
    return rb_bf16_to_f32(
        rb_get16(bytes + 2 * (i / (a->scale == RB_SCALE_TOKEN ? k : rb_group_of(a->scale)))));
}

/* Within half a unit to the nearest, one unit stochastically; scales clip nothing and are at most 2^-7 too
 * large. */
static void error_is_bounded(void **state) {
    rig *r = *state;
    enum { T = 40, k = 24 };
    for (int code = RB_CODE_INT8; code < RB_CODEC_COUNT; code++)
        for (int j = 0; j < 2 * (RB_SCALE_COUNT - 1); j++) {
            rb_pack_args a = args_of(code, 1 + j / 2, j % 2);
            float qmax = most_of(code);
            fill_x(r->x, T * k, 3);
            uint8_t *p = pack_on(r, 1, &a, r->x, 1, T, k, 0);
            unpack_on(r, 1, &a, p + GUARD, 1, T, k, 0);
            for (int64_t i = 0; i < T * k; i++) {
                float u = unit_of(r, &a, p + GUARD, i, k), x = r->x[i];
                if (a.scale == RB_SCALE_STEP && fabsf(x) > qmax * u) x = copysignf(qmax * u, x);
                assert_true(fabsf(x - r->y[1][i]) <= u * (a.stochastic ? 1.0001f : 0.5001f));
                assert_true(fabsf(x) <= qmax * u * 1.000001f);
            }
            free(p);
        }
}

static void few_bits_repack_to_the_same_bytes(void **state) {
    rig *r = *state;
    enum { B = 2, T = 100, k = 12 };
    for (int j = 0; j < 3 * (RB_SCALE_COUNT - 1); j++) {
        rb_pack_args a = args_of(RB_CODE_INT4 + j % 3, RB_SCALE_STEP + j / 3, false);
        int64_t n = rb_packed_bytes(&a, B, T, k);
        fill_x(r->x, B * T * k, 4);
        uint8_t *p = pack_on(r, 1, &a, r->x, B, T, k, 0);
        unpack_on(r, 1, &a, p + GUARD, B, T, k, 0);
        uint8_t *again = pack_on(r, 1, &a, r->y[1], B, T, k, 0);
        assert_memory_equal(p, again, (size_t)n + 2 * GUARD);
        free(p);
        free(again);
    }
}

/* A value that is not finite reaches the receiver as NaN, and with learned steps or token scales only where
 * it was. */
static void not_finite_stays_not_finite(void **state) {
    rig *r = *state;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    enum { T = 20, k = 8, at = 37 };
    for (int code = 0; code < RB_CODEC_COUNT; code++)
        for (int j = 0; j < 3 * RB_SCALE_COUNT * 2; j++) {
            rb_pack_args a = args_of(code, j / 6, j % 2);
            if (rb_packed_bytes(&a, 1, T, k) < 0 || takes_finite_only(&a)) continue;
            for (int i = 0; i < T * k; i++) r->x[i] = 1;
            r->x[at] = bad[j / 2 % 3];
            uint8_t *p = pack_on(r, 1, &a, r->x, 1, T, k, 0);
            unpack_on(r, 1, &a, p + GUARD, 1, T, k, 0);
            assert_false(isfinite(r->y[1][at]));
            for (int i = 0; i < T * k; i++) {
                int64_t g = rb_group_of(a.scale);
                int hit = g ? i / g == at / g : a.scale == RB_SCALE_TOKEN ? i / k == at / k : i == at;
                assert_int_equal(!isfinite(r->y[1][i]), hit);
            }
            free(p);
        }
}

/* Bytes of a stranger: every non-finite scale and the unused code are NaN, on every device alike. */
static void strange_bytes_unpack_to_nan(void **state) {
    rig *r = *state;
    const uint16_t scales[] = {0x7f80, 0xff80, 0x7fc0, 0xffc1, 0x7f81, 0x3f80};
    for (int code = RB_CODE_INT8; code <= RB_CODE_INT4; code++)
        for (int s = 0; s < 6; s++) {
            rb_pack_args a = args_of(code, RB_SCALE_GROUP, false);
            uint8_t bytes[2 + 64] = {0};
            rb_put16(bytes, scales[s]);
            for (int i = 0; i < 64; i++) bytes[2 + i] = (uint8_t)(i * 37);
            bytes[2] = code == RB_CODE_INT8 ? 0x80 : 0x18; /* value 0 is the unused code */
            for (int d = 0; d < DEVICES; d++) {
                if (!r->q[d]) continue;
                unpack_on(r, d, &a, bytes, 1, 8, 8, 0);
                uint32_t first;
                memcpy(&first, r->y[d], 4);
                assert_int_equal(first, 0x7fc00000);
                for (int i = 1; i < 64 && s < 5; i++) assert_true(isnan(r->y[d][i]));
                if (s == 5) assert_true(r->y[d][1] == (code == RB_CODE_INT8 ? 37 : 1));
                assert_memory_equal(r->y[d], r->y[0], 64 * sizeof(float));
            }
        }
}

static void edges_of_scales(void **state) {
    rig *r = *state;
    const struct {
        float x;
        uint16_t scale;
    } edges[] = {{0, 0},
                 {-0.0f, 0},
                 {1e-44f, 0},
                 {0x1.fffffep-101f, 0},
                 {0x1p127f, 0x7fc0},
                 {-3.4e38f, 0x7fc0},
                 {7, 0x3f80},
                 {7.0000005f, 0x3f81},
                 {-14, 0x4000}};
    rb_pack_args a = args_of(RB_CODE_INT4, RB_SCALE_TOKEN, true);
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
        r->x[0] = edges[i].x;
        r->x[1] = r->x[2] = 0;
        uint8_t *p = pack_on(r, 1, &a, r->x, 1, 1, 3, 0);
        assert_int_equal(rb_get16(p + GUARD), edges[i].scale);
        bool none = edges[i].scale == 0 || edges[i].scale == 0x7fc0;
        assert_int_equal(p[GUARD + 2], none ? 0 : edges[i].x < 0 ? 9 : 7);
        assert_int_equal(p[GUARD + 3], 0);
        free(p);
    }
    r->x[0] = 0x1p-100f; /* the smallest that counts */
    uint8_t *p = pack_on(r, 1, &a, r->x, 1, 1, 3, 0);
    assert_true(rb_get16(p + GUARD) != 0 && p[GUARD + 2] != 0);
    free(p);
}

/* A sequence's bytes do not depend on what it is packed with. */
static void microbatches_do_not_matter(void **state) {
    rig *r = *state;
    enum { B = 3, T = 33, k = 7 };
    for (int j = 0; j < 4 * (RB_SCALE_COUNT - 1); j++) {
        rb_pack_args a = args_of(RB_CODE_INT8 + j % 4, 1 + j / 4, true), one = a;
        int64_t each = rb_packed_bytes(&a, 1, T, k);
        fill_x(r->x, B * T * k, 8);
        uint8_t *all = pack_on(r, 1, &a, r->x, B, T, k, 0);
        assert_int_equal(rb_packed_bytes(&a, B, T, k), B * each);
        for (int i = 0; i < B; i++) {
            one.sequence = a.sequence + (uint64_t)i;
            uint8_t *single = pack_on(r, 1, &one, r->x + i * T * k, 1, T, k, 0);
            assert_memory_equal(single + GUARD, all + GUARD + i * each, (size_t)each);
            free(single);
        }
        free(all);
    }
}

/* All of seed, step, sequence (both words), boundary and direction key the bits; nothing does when to
 * nearest. */
static void bits_are_keyed(void **state) {
    rig *r = *state;
    enum { T = 64, k = 8 };
    fill_x(r->x, T * k, 8);
    for (int s = 0; s < 2; s++) {
        rb_pack_args a = args_of(RB_CODE_INT4, RB_SCALE_GROUP, s), other[6] = {a, a, a, a, a, a};
        int64_t n = rb_packed_bytes(&a, 1, T, k);
        other[0].seed++;
        other[1].step++;
        other[2].sequence++;
        other[3].sequence += (uint64_t)1 << 32;
        other[4].boundary++;
        other[5].direction ^= 1;
        uint8_t *p = pack_on(r, 1, &a, r->x, 1, T, k, 0);
        for (int i = 0; i < 6; i++) {
            uint8_t *o = pack_on(r, 1, &other[i], r->x, 1, T, k, 0);
            int64_t differ = 0;
            for (int64_t b = 0; b < n; b++) differ += p[GUARD + b] != o[GUARD + b];
            assert_true(s ? differ > n / 20 : differ == 0);
            free(o);
        }
        free(p);
    }
}

/* Forward scales are causal: token t decides nothing about another token. */
static void tokens_do_not_touch_each_other(void **state) {
    rig *r = *state;
    enum { T = 50, k = 5, t = 21 };
    for (int code = 0; code < RB_CODEC_COUNT; code++)
        for (int scale = RB_SCALE_NONE; scale <= RB_SCALE_TOKEN; scale++) {
            rb_pack_args a = args_of(code, scale, false);
            if (rb_packed_bytes(&a, 1, T, k) < 0) continue;
            float before[T * k], x_sign[k];
            fill_x(r->x, T * k, 8);
            for (int pass = 0; pass < 2; pass++) {
                uint8_t *p = pack_on(r, 1, &a, r->x, 1, T, k, 0);
                unpack_on(r, 1, &a, p + GUARD, 1, T, k, 0);
                free(p);
                if (!pass) memcpy(before, r->y[1], sizeof before);
                for (int j = 0; j < k && !pass; j++) x_sign[j] = r->x[t * k + j] < 0 ? -1 : 1;
                for (int j = 0; j < k; j++)
                    r->x[t * k + j] = j == 1 && !takes_finite_only(&a) ? NAN : -x_sign[j] * 1000;
            }
            assert_memory_equal(before, r->y[1], t * k * sizeof(float));
            assert_memory_equal(before + (t + 1) * k, r->y[1] + (t + 1) * k, (T - t - 1) * k * sizeof(float));
            assert_true(memcmp(before + t * k, r->y[1] + t * k, k * sizeof(float)) != 0);
        }
}

/* The mean of many roundings is the value, within four standard deviations, for fractions near and far from
 * 0. */
static void stochastic_rounding_has_no_bias(void **state) {
    rig *r = *state;
    const float fraction[] = {0.3f, -0.3f, 0.5f, 0.01f, -0.99f, 0.75f};
    enum { T = 600, k = 64, groups = T * k / 64, n = groups * 63 };
    for (int code = RB_CODE_INT8; code < RB_CODEC_COUNT; code++)
        for (int f = 0; f < 6; f++) {
            rb_pack_args a = args_of(code, RB_SCALE_GROUP, true);
            float unit = code == RB_CODE_INT1 ? 2 : 1;
            for (int i = 0; i < T * k; i++) r->x[i] = i % 64 ? fraction[f] : unit * most_of(code);
            uint8_t *p = pack_on(r, 1, &a, r->x, 1, T, k, 0);
            unpack_on(r, 1, &a, p + GUARD, 1, T, k, 0);
            double above = (double)fraction[f] / (double)unit - (code >= RB_CODE_INT2 ? 0.5 : 0);
            double sum = 0, q = above - floor(above);
            for (int i = 0; i < T * k; i++) sum += i % 64 ? (double)r->y[1][i] : 0;
            double bound = 4 * (double)unit * sqrt(q * (1 - q) / n) + 1e-9;
            if (fabs(sum / n - (double)fraction[f]) > bound)
                fail_msg("mean %.6f of %.2f, bound %.6f", sum / n, (double)fraction[f], bound);
            free(p);
        }
}

static void threads_do_not_matter(void **state) {
    rig *r = *state;
    rb_err err;
    enum { T = 3000, k = 13 };
    rb_device *one;
    rb_queue *q = r->q[1];
    assert_ok(rb_device_open("cpu", &(rb_device_options){.threads = 1}, &one, &err), &err);
    rb_pack_args a = args_of(RB_CODE_INT4, RB_SCALE_GROUP, true);
    fill_x(r->x, T * k, 8);
    uint8_t *three = pack_on(r, 1, &a, r->x, 1, T, k, 0);
    assert_ok(rb_queue_open(one, &r->q[1], &err), &err);
    uint8_t *single = pack_on(r, 1, &a, r->x, 1, T, k, 0);
    assert_memory_equal(three, single, (size_t)rb_packed_bytes(&a, 1, T, k));
    rb_queue_close(r->q[1]);
    r->q[1] = q;
    rb_device_close(one);
    free(three);
    free(single);
}

static void stats_are_sums_of_squares(void **state) {
    rig *r = *state;
    rb_err err;
    enum { B = 2, T = 2, k = 3 };
    const float x[B * T * k] = {1, -2, 9, 0, 2, -9, 3, NAN, 1, -3, 2, 0};
    const int64_t want[k] = {100 + 1 + 0 + 9 + 9, 4 + 4 + 64 + 4, 49 + 49 + 1 + 0};
    int64_t stats[k] = {100, 0, 0};
    rb_pack_args a = args_of(RB_CODE_INT4, RB_SCALE_STEP, false);
    float ones[k] = {1, 1, 1};
    uint8_t bytes[2 * 3];
    rb_view b = rb_view1(bytes, RB_U8, 6);
    memcpy(r->x, x, sizeof x);
    assert_ok(rb_pack(r->q[1], b, rb_view3(r->x, RB_F32, B, T, k), rb_view1(ones, RB_F32, k), &a, &err),
              &err);
    assert_ok(rb_code_stats(r->q[1], rb_view1(stats, RB_I64, k), b, B, T, &a, &err), &err);
    for (int j = 0; j < k; j++) assert_int_equal(stats[j], want[j]);
}

static void bytes_per_token(void **state) {
    (void)state;
    rb_pack_args f = args_of(RB_CODE_INT4, RB_SCALE_STEP, false),
                 g = args_of(RB_CODE_INT4, RB_SCALE_GROUP, true);
    assert_int_equal(rb_packed_bytes(&f, 4, 256, 8), 4096);
    assert_int_equal(rb_packed_bytes(&g, 4, 256, 8), 4096 + 256);
    assert_int_equal(rb_packed_bytes(&f, 1, 256, 2), 256);
    const int bits[] = {8, 4, 2, 1};
    for (int c = 0; c < 4; c++) {
        rb_pack_args a = args_of(RB_CODE_INT8 + c, RB_SCALE_STEP, false), t = a,
                     h = args_of(RB_CODE_INT8 + c, 0, true);
        t.scale = RB_SCALE_TOKEN;
        assert_int_equal(rb_packed_bytes(&a, 3, 5, 7), 3 * ((35 * bits[c] + 7) / 8));
        assert_int_equal(rb_packed_bytes(&t, 3, 5, 7), 3 * ((35 * bits[c] + 7) / 8 + 10));
        for (int each = 64, s = RB_SCALE_GROUP; each >= 2; each /= 2, s++) {
            h.scale = (rb_scale)s;
            assert_int_equal(rb_group_of(h.scale), each);
            assert_int_equal(rb_packed_bytes(&h, 3, 5, 7),
                             3 * ((35 * bits[c] + 7) / 8 + 2 * ((35 + each - 1) / each)));
        }
    }
    assert_int_equal(rb_packed_bytes(&f, 2, 3, 3), 10);
    assert_int_equal(rb_packed_bytes(&f, INT64_MAX / 4, INT64_MAX / 4, 8), -1);
    assert_int_equal(rb_packed_bytes(&f, 1, INT64_MAX / 2, 4), -1);
    assert_int_equal(rb_packed_bytes(&f, 1, 0, 4), -1);
    for (int c = 0; c < RB_CODE_COUNT; c++)
        for (int s = 0; s < RB_SCALE_COUNT; s++) {
            rb_pack_args a = args_of(c, s, false);
            assert_int_equal(rb_packed_bytes(&a, 1, 1, 1) > 0,
                             (c < RB_CODE_INT8 || c >= RB_CODEC_COUNT) == (s == RB_SCALE_NONE));
        }
    rb_pack_args wild = args_of(77, 0, false);
    assert_int_equal(rb_packed_bytes(&wild, 1, 1, 1), -1);
}

static void registry(void **state) {
    (void)state;
    for (int c = 0; c < RB_CODEC_COUNT; c++) {
        assert_int_equal(rb_codecs[c].code, c);
        assert_ptr_equal(rb_codec_find(rb_codecs[c].name), &rb_codecs[c]);
        for (int direction = 0; direction < 2; direction++) {
            rb_pack_args a = rb_codec_args(&rb_codecs[c], direction,
                                           direction ? RB_SCALE_GROUP : RB_SCALE_STEP, direction);
            assert_int_equal(rb_packed_bytes(&a, 1, 16, 8),
                             16 * rb_codecs[c].bits + (a.scale == RB_SCALE_GROUP ? 4 : 0));
            assert_int_equal(a.stochastic, direction && rb_codecs[c].integers);
            assert_int_equal(a.direction, direction);
        }
    }
    assert_int_equal(rb_codec_args(rb_codec_find("int4"), 0, RB_SCALE_TOKEN, false).scale, RB_SCALE_TOKEN);
    assert_null(rb_codec_find("int3"));
}

/* int2 and int1 have no code to spare; scales of tokens and groups still tell. */
static void few_bits_refuse_what_is_not_finite(void **state) {
    rig *r = *state;
    rb_err err;
    uint8_t bytes[64];
    enum { T = 4, k = 5 };
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int d = 0; d < DEVICES; d++)
        for (int code = RB_CODE_INT2; r->q[d] && code < RB_CODEC_COUNT; code++)
            for (int i = 0; i < 3; i++) {
                rb_pack_args a = args_of(code, RB_SCALE_STEP, i % 2);
                fill_x(r->x, 2 * T * k, 8);
                r->x[T * k + 2 * k + 3] = bad[i];
                rb_view b = rb_view1(bytes, RB_U8, rb_packed_bytes(&a, 2, T, k)),
                        x = rb_view3(r->x, RB_F32, 2, T, k);
                assert_fails(rb_pack(r->q[d], b, x, rb_view1(r->steps, RB_F32, k), &a, &err), RESBM_E_NUMERIC,
                             "coordinate 3 of position 2 in sequence 1 of the microbatch is", &err);
            }
}

/* 4 levels half a unit off zero, and the sign. */
static void levels_of_few_bits(void **state) {
    rig *r = *state;
    const struct {
        float x, two, one;
    } cases[] = {{-9, -1.5f, -0.5f},     {-1.01f, -1.5f, -0.5f}, {-1, -0.5f, -0.5f},
                 {-0.99f, -0.5f, -0.5f}, {-1e-9f, -0.5f, -0.5f}, {0, 0.5f, 0.5f},
                 {0.99f, 0.5f, 0.5f},    {1, 1.5f, 0.5f},        {77, 1.5f, 0.5f}};
    enum { n = sizeof cases / sizeof *cases };
    float keep = r->steps[0];
    r->steps[0] = 2;
    for (int code = RB_CODE_INT2; code < RB_CODEC_COUNT; code++) {
        rb_pack_args a = args_of(code, RB_SCALE_STEP, false);
        for (int i = 0; i < n; i++) r->x[i] = 2 * cases[i].x;
        uint8_t *p = pack_on(r, 1, &a, r->x, 1, n, 1, 0);
        unpack_on(r, 1, &a, p + GUARD, 1, n, 1, 0);
        for (int i = 0; i < n; i++)
            assert_true(r->y[1][i] == 2 * (code == RB_CODE_INT2 ? cases[i].two : cases[i].one));
        free(p);
    }
    r->steps[0] = keep;
}

/* Places of coordinates: whole numbers as they are, anything else clamped. */
static void indices(void **state) {
    rig *r = *state;
    const float in[] = {0, 1, 255, 256, 65535, 65536, -3, 2.75f, NAN, INFINITY, -INFINITY, 3.4e38f};
    const float eight[] = {0, 1, 255, 255, 255, 255, 0, 2, 0, 255, 0, 255},
                sixteen[] = {0, 1, 255, 256, 65535, 65535, 0, 2, 0, 65535, 0, 65535};
    for (int d = 0; d < DEVICES; d++)
        for (int code = RB_CODE_INDEX8; r->q[d] && code <= RB_CODE_INDEX16; code++) {
            rb_pack_args a = args_of(code, RB_SCALE_NONE, false);
            memcpy(r->x, in, sizeof in);
            assert_int_equal(rb_packed_bytes(&a, 1, 12, 1), code == RB_CODE_INDEX8 ? 12 : 24);
            uint8_t *p = pack_on(r, d, &a, r->x, 1, 12, 1, 0);
            unpack_on(r, d, &a, p + GUARD, 1, 12, 1, 0);
            assert_memory_equal(r->y[d], code == RB_CODE_INDEX8 ? eight : sixteen, sizeof eight);
            free(p);
        }
}

static void faults_are_named(void **state) {
    rig *r = *state;
    rb_err err;
    uint8_t bytes[64];
    float steps[4] = {1, 1, 1, 1};
    int64_t stats[4] = {0};
    rb_queue *q = r->q[1];
    rb_pack_args a = args_of(RB_CODE_INT4, RB_SCALE_STEP, false),
                 g = args_of(RB_CODE_INT4, RB_SCALE_GROUP, false),
                 wrong = args_of(RB_CODE_BF16, RB_SCALE_GROUP, false);
    rb_view x = rb_view3(r->x, RB_F32, 1, 2, 4), four = rb_view1(bytes, RB_U8, 4),
            s = rb_view1(steps, RB_F32, 4);
    fill_x(r->x, 8, 1);
    assert_fails(rb_pack(q, rb_view1(bytes, RB_U8, 5), x, s, &a, &err), RESBM_E_ARG,
                 "bytes has 5, (1,2,4) in int4 with scale step is 4", &err);
    assert_fails(rb_unpack(q, x, four, s, &g, &err), RESBM_E_ARG, "scale group is 6", &err);
    assert_fails(rb_pack(q, four, x, rb_none(), &a, &err), RESBM_E_ARG, "scale step needs steps (4)", &err);
    assert_fails(rb_pack(q, four, x, rb_view1(steps, RB_F32, 3), &a, &err), RESBM_E_ARG, "steps", &err);
    assert_fails(rb_pack(q, four, x, s, &wrong, &err), RESBM_E_ARG,
                 "code bf16 takes no scale \"group\"; only none", &err);
    assert_fails(rb_code_stats(q, rb_view1(stats, RB_I64, 4), rb_view1(bytes, RB_U8, 6), 1, 2, &g, &err),
                 RESBM_E_ARG, "scale group has no learned steps", &err);
    assert_fails(rb_code_stats(q, rb_view1(stats, RB_I64, 4), rb_view1(bytes, RB_U8, 6), 1, 2, &a, &err),
                 RESBM_E_ARG, "bytes has 6", &err);
    const float bad[] = {0, -1, NAN, INFINITY, 1e-40f};
    for (int d = 0; d < 2; d++)
        for (int i = 0; i < 5; i++) {
            steps[2] = bad[i];
            assert_fails(rb_pack(r->q[d], four, x, s, &a, &err), RESBM_E_NUMERIC,
                         "learned step of coordinate 2 is ", &err);
            assert_fails(rb_unpack(r->q[d], x, four, s, &a, &err), RESBM_E_NUMERIC, "unpack", &err);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_device_gives_the_bytes_of_ref),
        cmocka_unit_test(error_is_bounded),
        cmocka_unit_test(few_bits_repack_to_the_same_bytes),
        cmocka_unit_test(not_finite_stays_not_finite),
        cmocka_unit_test(strange_bytes_unpack_to_nan),
        cmocka_unit_test(edges_of_scales),
        cmocka_unit_test(microbatches_do_not_matter),
        cmocka_unit_test(bits_are_keyed),
        cmocka_unit_test(tokens_do_not_touch_each_other),
        cmocka_unit_test(stochastic_rounding_has_no_bias),
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(stats_are_sums_of_squares),
        cmocka_unit_test(bytes_per_token),
        cmocka_unit_test(registry),
        cmocka_unit_test(few_bits_refuse_what_is_not_finite),
        cmocka_unit_test(levels_of_few_bits),
        cmocka_unit_test(indices),
        cmocka_unit_test(looked_at_without_a_device),
        cmocka_unit_test(faults_are_named),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
