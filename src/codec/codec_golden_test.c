/* Bytes and values against tests/golden/codec.bin, made by make_codec.py, which states the arithmetic on its
 * own. */
#include <stdlib.h>
#include "rb_cmocka.h"
#include "core/buf.h"
#include "core/bytes.h"
#include "device/ops.h"

enum { MOST = 1024 };

typedef struct reader {
    const uint8_t *at, *end;
} reader;

static const uint8_t *take(reader *r, size_t n) {
    assert_true(n <= (size_t)(r->end - r->at));
    r->at += n;
    return r->at - n;
}
static uint32_t take32(reader *r) {
    return rb_get32(take(r, 4));
}
static uint64_t take64(reader *r) {
    return rb_get64(take(r, 8));
}
static void take_floats(reader *r, float *out, int64_t n) {
    assert_true(n <= MOST);
    for (int64_t i = 0; i < n; i++) {
        uint32_t u = take32(r);
        memcpy(out + i, &u, 4);
    }
}

static void check_case(reader *r, rb_queue *q, int number) {
    static float x[MOST], want[MOST], got[MOST], steps[MOST];
    rb_err err;
    rb_pack_args a = {.code = (rb_code)take32(r), .scale = (rb_scale)take32(r), .stochastic = take32(r) != 0};
    int64_t B = take32(r), T = take32(r), k = take32(r);
    a.boundary = take32(r);
    a.direction = take32(r);
    a.seed = take64(r);
    a.step = take64(r);
    a.sequence = take64(r);
    if (a.scale == RB_SCALE_STEP) take_floats(r, steps, k);
    take_floats(r, x, B * T * k);
    int64_t n = take32(r);
    assert_int_equal(rb_packed_bytes(&a, B, T, k), n);
    const uint8_t *bytes = take(r, (size_t)n);
    take_floats(r, want, B * T * k);
    uint8_t *packed = malloc((size_t)n);
    rb_view b = rb_view1(packed, RB_U8, n), s = rb_view1(steps, RB_F32, k);
    assert_ok(rb_pack(q, b, rb_view3(x, RB_F32, B, T, k), s, &a, &err), &err);
    for (int64_t i = 0; i < n; i++)
        if (packed[i] != bytes[i])
            fail_msg("case %d (code %d, scale %d, stochastic %d): byte %lld is %02x, golden %02x", number,
                     (int)a.code, (int)a.scale, a.stochastic, (long long)i, packed[i], bytes[i]);
    assert_ok(rb_unpack(q, rb_view3(got, RB_F32, B, T, k), b, s, &a, &err), &err);
    assert_memory_equal(got, want, (size_t)(B * T * k) * sizeof *got);
    free(packed);
}

static void equals_golden(void **state) {
    rb_buf file = {0};
    rb_err err;
    rb_device *dev;
    rb_queue *q;
    assert_ok(rb_read_file(RB_SOURCE_DIR "/tests/golden/codec.bin", 1 << 20, &file, &err), &err);
    assert_ok(rb_device_open(*state, &(rb_device_options){.threads = 2}, &dev, &err), &err);
    assert_ok(rb_queue_open(dev, &q, &err), &err);
    reader r = {(const uint8_t *)file.data, (const uint8_t *)file.data + file.len};
    uint32_t cases = take32(&r);
    assert_int_equal(cases, 152);
    for (uint32_t i = 0; i < cases; i++) check_case(&r, q, (int)i);
    assert_ptr_equal(r.at, r.end);
    rb_queue_close(q);
    rb_device_close(dev);
    rb_buf_free(&file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        {"ref equals golden", equals_golden, NULL, NULL, (void *)"ref"},
        {"cpu equals golden", equals_golden, NULL, NULL, (void *)"cpu"},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
