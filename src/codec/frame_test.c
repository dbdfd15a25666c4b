#include "rb_cmocka.h"
#include "codec/frame.h"
#include "core/bytes.h"
#include "device/ops.h"

enum { PAYLOAD = 40 };

static rb_frame_header header(void) {
    return (rb_frame_header){.kind = RB_FRAME_FORWARD,
                             .direction = 0,
                             .code = RB_CODE_INT4,
                             .scale = RB_SCALE_STEP,
                             .boundary = 0x0102,
                             .attempt = 0x0304,
                             .epoch = 0x05060708,
                             .microbatch = 0x090a0b0c,
                             .B = 2,
                             .T = 4,
                             .k = 8,
                             .step = 0x1112131415161718,
                             .payload_bytes = PAYLOAD};
}

static void fill(uint8_t *payload) {
    for (int i = 0; i < PAYLOAD; i++) payload[i] = (uint8_t)(i * 7 + 1);
}

static void bytes_are_as_documented(void **state) {
    (void)state;
    const uint8_t want[48] = {'R',  'B',  'F',  '1',  1,    1,    0,    0x13, 0x08, 0x07, 0x06, 0x05,
                              0x02, 0x01, 0x04, 0x03, 0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11,
                              0x0c, 0x0b, 0x0a, 0x09, 2,    0,    0,    0,    4,    0,    0,    0,
                              8,    0,    0,    0,    40,   0,    0,    0,    0,    0,    0,    0};
    uint8_t out[RB_FRAME_HEADER_BYTES + 8], payload[PAYLOAD];
    memset(out, 0xa5, sizeof out);
    fill(payload);
    rb_frame_header h = header();
    rb_frame_put(out, &h, payload);
    assert_memory_equal(out, want, sizeof want);
    assert_int_equal(rb_get64(out + 48), 0x8f4e3fb46efc0734u);
    for (int i = RB_FRAME_HEADER_BYTES; i < (int)sizeof out; i++) assert_int_equal(out[i], 0xa5);
}

static void what_was_put_is_got(void **state) {
    (void)state;
    rb_err err;
    uint8_t out[RB_FRAME_HEADER_BYTES], payload[PAYLOAD];
    fill(payload);
    for (int kind = 1; kind < RB_FRAME_KIND_END; kind++) {
        rb_frame_header h = header(), got;
        h.kind = (uint8_t)kind;
        h.direction = kind == RB_FRAME_BACKWARD;
        if (kind > RB_FRAME_BACKWARD) h.code = h.scale = 0, h.B = h.T = h.k = 0, h.payload_bytes = 0;
        rb_frame_put(out, &h, h.payload_bytes ? payload : NULL);
        assert_ok(rb_frame_get(out, &got, &err), &err);
        assert_ok(rb_frame_expect(&got, &h, &err), &err);
        assert_int_equal(got.attempt, h.attempt);
        assert_ok(rb_frame_check_payload(&got, payload, &err), &err);
    }
}

/* Any single flipped bit of header or payload is noticed: by get, or by the checksum. */
static void every_flipped_bit_is_noticed(void **state) {
    (void)state;
    uint8_t b[RB_FRAME_HEADER_BYTES + PAYLOAD];
    rb_frame_header h = header(), got;
    rb_err err;
    fill(b + RB_FRAME_HEADER_BYTES);
    rb_frame_put(b, &h, b + RB_FRAME_HEADER_BYTES);
    for (int i = 0; i < (int)sizeof b * 8; i++) {
        b[i / 8] ^= (uint8_t)(1 << i % 8);
        resbm_status st = rb_frame_get(b, &got, &err);
        if (!st && got.payload_bytes <= PAYLOAD)
            st = rb_frame_check_payload(&got, b + RB_FRAME_HEADER_BYTES, &err);
        else if (!st)
            st = RESBM_E_CORRUPT; /* a longer payload is the reader's limit to refuse */
        if (!st) fail_msg("bit %d of byte %d went unnoticed", i % 8, i / 8);
        b[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    assert_ok(rb_frame_get(b, &got, &err), &err);
    assert_ok(rb_frame_check_payload(&got, b + RB_FRAME_HEADER_BYTES, &err), &err);
}

typedef struct fault {
    int at;
    uint8_t value;
    resbm_status code;
    const char *text;
} fault;

static void each_fault_has_its_sentence(void **state) {
    (void)state;
    const fault faults[] = {
        {0, 'X', RESBM_E_FORMAT, "frame begins with 31464258, not with 31464252"},
        {4, 2, RESBM_E_FORMAT, "frame has version 2, this program speaks 1"},
        {5, 0, RESBM_E_FORMAT, "frame has unknown kind 0"},
        {5, RB_FRAME_KIND_END, RESBM_E_FORMAT, "frame has unknown kind"},
        {6, 2, RESBM_E_FORMAT, "frame has direction 2, not 0 or 1"},
        {7, 0x18, RESBM_E_FORMAT, "frame has unknown code 8 with scale 1"},
        {7, 0x93, RESBM_E_FORMAT, "frame has unknown code 3 with scale 9"},
        {7, 0x03, RESBM_E_CORRUPT, "shape (2,4,8) in code 3 with scale 0, which cannot be"},
        {5, RB_FRAME_CONTROL, RESBM_E_CORRUPT, "frame of kind 3 has shape (2,4,8), but holds no tensor"},
        {28, 0, RESBM_E_CORRUPT, "shape (0,4,8) in code 3 with scale 1, which cannot be"},
        {35, 0xff, RESBM_E_CORRUPT, "which cannot be"},
        {32, 5, RESBM_E_CORRUPT, ""},
        {36, 16, RESBM_E_CORRUPT, "shape (2,4,16) in code 3 with scale 1, 64 bytes, but a payload of 40"},
        {40, 31, RESBM_E_CORRUPT, "32 bytes, but a payload of 31"},
    };
    uint8_t b[RB_FRAME_HEADER_BYTES + PAYLOAD];
    rb_frame_header h = header(), got;
    rb_err err;
    fill(b + RB_FRAME_HEADER_BYTES);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        rb_frame_put(b, &h, b + RB_FRAME_HEADER_BYTES);
        b[faults[i].at] = faults[i].value;
        resbm_status st = rb_frame_get(b, &got, &err);
        if (!st)
            st = rb_frame_check_payload(&got, b + RB_FRAME_HEADER_BYTES,
                                        &err); /* (2,5,8): 40 bytes, plausible */
        if (st != faults[i].code || !strstr(err.text, faults[i].text))
            fail_msg("fault %zu: %d \"%s\", not %d \"%s\"", i, st, err.text, faults[i].code, faults[i].text);
    }
    rb_frame_put(b, &h, b + RB_FRAME_HEADER_BYTES);
    b[RB_FRAME_HEADER_BYTES + 3] ^= 0x10;
    assert_ok(rb_frame_get(b, &got, &err), &err);
    assert_fails(rb_frame_check_payload(&got, b + RB_FRAME_HEADER_BYTES, &err), RESBM_E_CORRUPT,
                 "frame of boundary 258, microbatch 151653132, step 1230066625199609624 has checksum", &err);
}

static void the_unexpected_is_named_with_both_values(void **state) {
    (void)state;
    rb_frame_header want = header(), got;
    rb_err err;
#define DIFFERS(field, value, text)                                                                          \
    do {                                                                                                     \
        got = want;                                                                                          \
        got.field = value;                                                                                   \
        assert_fails(rb_frame_expect(&got, &want, &err), RESBM_E_CORRUPT, text, &err);                       \
    } while (0)
    want.epoch = 3;
    want.step = 70;
    want.microbatch = 5;
    want.boundary = 1;
    DIFFERS(kind, RB_FRAME_BACKWARD, "frame has kind 2 where 1 was expected");
    DIFFERS(epoch, 2, "frame has run epoch 2 where 3 was expected");
    DIFFERS(step, 69, "frame has step 69 where 70 was expected");
    DIFFERS(boundary, 2, "frame has boundary 2 where 1 was expected");
    DIFFERS(direction, 1, "frame has direction 1 where 0 was expected");
    DIFFERS(microbatch, 6, "frame has microbatch 6 where 5 was expected");
    DIFFERS(B, 1, "frame has B (sequences) 1 where 2 was expected");
    DIFFERS(T, 9, "frame has T (positions) 9 where 4 was expected");
    DIFFERS(k, 9, "frame has k (width) 9 where 8 was expected");
    DIFFERS(code, RB_CODE_INT8, "frame has code 2 where 3 was expected");
    DIFFERS(scale, RB_SCALE_TOKEN, "frame has scale 2 where 1 was expected");
    DIFFERS(payload_bytes, 41, "frame has payload bytes 41 where 40 was expected");
#undef DIFFERS
    assert_ok(rb_frame_expect(&want, &want, &err), &err);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_as_documented),
        cmocka_unit_test(what_was_put_is_got),
        cmocka_unit_test(every_flipped_bit_is_noticed),
        cmocka_unit_test(each_fault_has_its_sentence),
        cmocka_unit_test(the_unexpected_is_named_with_both_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
