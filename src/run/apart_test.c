/* What a snapshot of another participant may not hold. */
#include "run/apart.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>
#include "checkpoint/checkpoint.h"
#include "rb_cmocka.h"

static char folder[] = "/tmp/resbm-apart-XXXXXX";

/* A file of one tensor of four values. */
static resbm_status check_of(bool computed, const char *name, rb_dtype dtype, const void *data, rb_err *err) {
    rb_tensor_out t = {.name = name, .dtype = dtype, .rank = 1, .shape = {4}, .data = data};
    rb_part_file f;
    char path[100];
    assert_ok(rb_checkpoint_write_part(folder, "a.safetensors", &t, 1, &f, err), err);
    snprintf(path, sizeof path, "%s/a.safetensors", folder);
    resbm_status st = rb_apart_check_weights(path, computed, err);
    unlink(path);
    return st;
}

static resbm_status check(const char *name, rb_dtype dtype, const void *data, rb_err *err) {
    return check_of(true, name, dtype, data, err);
}

static void every_type_of_number(void **state) {
    (void)state;
    rb_err err;
    for (int bad = 0; bad < 3; bad++) {
        float f[4] = {1, -2, 3e38f, bad == 1 ? NAN : bad == 2 ? -INFINITY : 4};
        double d[4] = {1, -2, 1e300, (double)f[3]};
        uint16_t b[4] = {0x3f80, 0x7f7f, 0xff7f, bad == 1 ? 0x7fc0 : bad == 2 ? 0xff80 : 0};
        int64_t whole[4] = {-1, INT64_MAX, 0x7ff0000000000000, 0x7f800000};
        const char *part = "tensor x is not finite";
        if (bad) {
            assert_fails(check("x", RB_F32, f, &err), RESBM_E_FORMAT, part, &err);
            assert_fails(check("x", RB_F64, d, &err), RESBM_E_FORMAT, part, &err);
            assert_fails(check("x", RB_BF16, b, &err), RESBM_E_FORMAT, part, &err);
        } else {
            assert_ok(check("x", RB_F32, f, &err), &err);
            assert_ok(check("x", RB_F64, d, &err), &err);
            assert_ok(check("x", RB_BF16, b, &err), &err);
        }
        assert_ok(check("x", RB_I64, whole, &err), &err);
    }
}

static void what_cannot_be(void **state) {
    (void)state;
    rb_err err;
    float v[4] = {1, 2, 3, 0.5f};
    assert_ok(check("boundary.0.decoder.steps", RB_F32, v, &err), &err);
    assert_ok(check("exp_avg_sq.a", RB_F32, v, &err), &err);
    v[2] = -1e-3f;
    const char *part = "has values that it cannot have";
    assert_fails(check("boundary.0.decoder.steps", RB_F32, v, &err), RESBM_E_FORMAT, part, &err);
    assert_fails(check("replica-1.exp_avg_sq.a", RB_F32, v, &err), RESBM_E_FORMAT, part, &err);
    assert_ok(check("exp_avg.a", RB_F32, v, &err), &err);
    v[2] = 0;
    assert_fails(check("boundary.0.decoder.steps", RB_F32, v, &err), RESBM_E_FORMAT, part, &err);
    assert_ok(check("exp_avg_sq.a", RB_F32, v, &err), &err);
    assert_ok(check_of(false, "boundary.0.decoder.steps", RB_F32, v, &err), &err);
    v[2] = NAN;
    assert_fails(check_of(false, "boundary.0.decoder.steps", RB_F32, v, &err), RESBM_E_FORMAT, "finite",
                 &err);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_type_of_number),
                                       cmocka_unit_test(what_cannot_be)};
    assert_non_null(mkdtemp(folder));
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return failed;
}
