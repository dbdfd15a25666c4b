/* Packed pieces of files: they come out as they went in, whatever they are, take fewer bytes where there is something to save, and
 * what is broken on the way is refused. */
#include "checkpoint/delta.h"
#include "rb_cmocka.h"

#include <stdlib.h>
#include "core/bytes.h"
#include "core/rng.h"

static rb_err err;
static rb_delta *delta;
static rb_rng rng = {.key = 7};

enum { RANDOM, ZEROS, FLOATS, KINDS };

static void fill(uint8_t *p, size_t n, int kind) {
    for (size_t i = 0; i < n; i++) p[i] = kind == ZEROS ? 0 : (uint8_t)rb_rng_u32(&rng);
    for (size_t i = 0; i + 4 <= n && kind == FLOATS; i += 4) {
        float v = (float)(rb_rng_uniform(&rng) + rb_rng_uniform(&rng) - 1) * 0.02f;
        memcpy(p + i, &v, 4);
    }
}

/* Some steps later: each value another by about a hundredth. */
static void move_on(uint8_t *p, const uint8_t *from, size_t n) {
    memcpy(p, from, n);
    for (size_t i = 0; i + 4 <= n; i += 4) {
        float v;
        memcpy(&v, p + i, 4);
        v += (float)(rb_rng_uniform(&rng) - 0.5) * 4e-4f;
        memcpy(p + i, &v, 4);
    }
}

/* Exactly as much memory as each may touch: a sanitizer sees more. Returns the packed length. */
static size_t there_and_back(const uint8_t *in, size_t n, const uint8_t *base) {
    uint8_t *packed = malloc(RB_DELTA_HEADER + n), *out = malloc(n);
    size_t len = rb_delta_pack(delta, in, n, base, packed), due;
    bool based;
    assert_true(len <= RB_DELTA_HEADER + n);
    assert_ok(rb_delta_look(packed, len, n, &due, &based, &err), &err);
    assert_true(due == len && (!based || base));
    memset(out, 0x5a, n);
    assert_ok(rb_delta_unpack(delta, packed, len, base, out, n, &err), &err);
    assert_memory_equal(out, in, n);
    free(packed);
    free(out);
    return len;
}

static void every_length_and_content(void **state) {
    (void)state;
    static const size_t longer[] = {4095, 16384, 65533, 65534, 65535, RB_DELTA_PIECE};
    for (size_t l = 1; l <= 70 + sizeof longer / sizeof *longer; l++) {
        size_t n = l <= 70 ? l : longer[l - 71];
        uint8_t *in = malloc(n), *base = malloc(n);
        for (int of = 0; of < KINDS; of++) {
            fill(in, n, of);
            there_and_back(in, n, NULL);
            for (int b = 0; b < KINDS; b++) {
                fill(base, n, b);
                there_and_back(in, n, base);
            }
            there_and_back(in, n, in);
            move_on(base, in, n);
            there_and_back(in, n, base);
        }
        free(in);
        free(base);
    }
}

static void saves_what_there_is_to_save(void **state) {
    (void)state;
    enum { N = RB_DELTA_PIECE };
    uint8_t *was = malloc(N), *now = malloc(N);
    fill(was, N, FLOATS);
    move_on(now, was, N);
    size_t with = there_and_back(now, N, was), without = there_and_back(now, N, NULL);
    assert_true(without < N - N / 8 && with < without - N / 32);
    assert_true(there_and_back(now, N, now) < 512);
    fill(was, N, RANDOM);
    assert_true(there_and_back(was, N, NULL) == N + RB_DELTA_HEADER); /* nothing: copied */
    size_t aside = there_and_back(now, N, was);                       /* a base that does not help */
    assert_int_equal(aside, without);
    free(was);
    free(now);
}

static void signs_and_ends_of_the_range(void **state) {
    (void)state;
    static const uint32_t odd[] = {0,          1,          0x7fffffff, 0x80000000, 0x80000001, 0xffffffff,
                                   0x7f800000, 0xff800000, 0x7fc00001, 0x3f800000, 0xbf800000, 0x00800000};
    enum { N = sizeof odd / sizeof *odd };
    uint8_t in[4 * N * N], base[sizeof in];
    for (int i = 0; i < N * N; i++) {
        rb_put32(in + 4 * i, odd[i / N]);
        rb_put32(base + 4 * i, odd[i % N]);
    }
    there_and_back(in, sizeof in, base);
    there_and_back(base, sizeof in, in);
}

static void what_is_cut_or_flipped(void **state) {
    (void)state;
    enum { N = 1021, GUARD = 64 };
    uint8_t was[N], now[N], packed[RB_DELTA_HEADER + N], broken[sizeof packed], out[N + GUARD];
    size_t refused = 0, unread = 0, due;
    bool based;
    fill(was, N, FLOATS);
    move_on(now, was, N);
    size_t len = rb_delta_pack(delta, now, N, was, packed);
    assert_true(packed[1] && packed[2]); /* against the base, and compressed: all there is to break */
    memset(out, 0x5a, sizeof out);
    for (size_t n = 0; n < len; n++) {
        uint8_t *part = malloc(n + !n);
        memcpy(part, packed, n);
        assert_fails(rb_delta_unpack(delta, part, n, was, out, N, &err), RESBM_E_CORRUPT, "piece", &err);
        free(part);
    }
    for (size_t bit = 0; bit < 8 * len; bit++) {
        memcpy(broken, packed, len);
        broken[bit / 8] ^= (uint8_t)(1 << bit % 8);
        resbm_status st = rb_delta_unpack(delta, broken, len, was, out, N, &err);
        if (bit < 8 * RB_DELTA_HEADER && bit / 8 != 1) assert_int_equal(st, RESBM_E_CORRUPT);
        assert_true(!st || st == RESBM_E_CORRUPT);
        refused += st != RESBM_OK;
        unread +=
            !st && !memcmp(out, now, N); /* bits behind a stream's end; all else the file's hash finds */
        for (int i = 0; i < GUARD; i++) assert_int_equal(out[N + i], 0x5a);
    }
    assert_true(refused > 8 * RB_DELTA_HEADER && unread <= 4 * 7);
    assert_fails(rb_delta_unpack(delta, packed, len, NULL, out, N, &err), RESBM_E_CORRUPT,
                 "a file that is not here", &err);
    assert_fails(rb_delta_unpack(delta, packed, len, was, out, N - 1, &err), RESBM_E_CORRUPT,
                 "1021 bytes came where 1020 were due", &err);
    assert_fails(rb_delta_unpack(delta, packed, len, was, out, RB_DELTA_PIECE + 1, &err), RESBM_E_ARG,
                 "not 65537", &err);
    rb_put32(packed + 8, 0xfffffff0u);
    assert_fails(rb_delta_look(packed, len, N, &due, &based, &err), RESBM_E_CORRUPT, "cannot be of 256",
                 &err);
    assert_ok(rb_delta_unpack(delta, packed, rb_delta_pack(delta, now, N, was, packed), was, out, N, &err),
              &err);
}

/* A stream that would go on beyond its plane, or ends before it. */
static void a_plane_of_another_length(void **state) {
    (void)state;
    uint8_t zeros[4096] = {0}, more[8192] = {0}, a[4096 + RB_DELTA_HEADER], b[8192 + RB_DELTA_HEADER],
            out[8192];
    size_t n = rb_delta_pack(delta, zeros, sizeof zeros, NULL, a),
           m = rb_delta_pack(delta, more, sizeof more, NULL, b);
    assert_true(n < 200 && m < 200);
    rb_put32(b + 4, sizeof zeros); /* planes of 2048 bytes for 1024 */
    assert_fails(rb_delta_unpack(delta, b, m, NULL, out, sizeof zeros, &err), RESBM_E_CORRUPT,
                 "do not unpack to the 1024", &err);
    rb_put32(a + 4, sizeof more);
    assert_fails(rb_delta_unpack(delta, a, n, NULL, out, sizeof more, &err), RESBM_E_CORRUPT,
                 "do not unpack to the 2048", &err);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_length_and_content),    cmocka_unit_test(saves_what_there_is_to_save),
        cmocka_unit_test(signs_and_ends_of_the_range), cmocka_unit_test(what_is_cut_or_flipped),
        cmocka_unit_test(a_plane_of_another_length),
    };
    delta = rb_delta_new();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rb_delta_free(delta);
    return failed;
}
