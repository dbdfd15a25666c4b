/* The public interface where no processes are needed: configuration and codec. The rest: tests/public_api_test.sh. */
#include "rb_cmocka.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "resbm.h"

static void test_configuration_goes_through_text(void **state) {
    (void)state;
    resbm_config *c;
    resbm_error err;
    char *text;
    assert_int_equal(resbm_config_new(&c, &err), RESBM_OK);
    assert_int_equal(resbm_config_set(c, "model.d=512", &err), RESBM_OK);
    assert_int_equal(resbm_config_print(c, &text, &err), RESBM_OK);
    assert_non_null(strstr(text, "d: 512"));
    free(text);
    assert_int_equal(resbm_config_set(c, "model.layer=3", &err), RESBM_E_CONFIG);
    assert_non_null(strstr(err.text, "layers")); /* the nearest right name */
    assert_int_equal(resbm_config_load(c, "/nowhere/run.yaml", &err), RESBM_E_IO);
    assert_non_null(strstr(err.text, "/nowhere/run.yaml"));
    resbm_config_free(c);
}

static void test_misuse_is_refused(void **state) {
    (void)state;
    resbm_config *c = NULL;
    resbm_error err;
    resbm_eval_result r;
    assert_int_not_equal(resbm_config_of_checkpoint("/nowhere", &c, &err), RESBM_OK);
    assert_null(c);
    assert_int_equal(resbm_config_new(&c, &err), RESBM_OK);
    assert_int_equal(resbm_eval(c, "resbm", 1, &r, &err), RESBM_E_STATE);
    assert_int_equal(resbm_train(c, &(resbm_train_options){.dir = "x"}, &err), RESBM_E_ARG);
    resbm_config_free(c);
}

/* Largest difference between x and what comes back, as a share of the largest value. */
static double there_and_back(const char *name, int direction, uint64_t step, uint8_t *bytes, int64_t *n) {
    enum { B = 2, T = 5, k = 7 };
    float x[B * T * k], y[B * T * k];
    resbm_codec *c;
    resbm_error err;
    double worst = 0;
    for (int i = 0; i < B * T * k; i++) x[i] = (float)sin(i * 0.7) * 3;
    assert_int_equal(resbm_codec_open(name, direction, 9, 1, &c, &err), RESBM_OK);
    *n = resbm_packed_bytes(c, B, T, k);
    assert_true(*n > 0 && *n <= 4 * B * T * k);
    assert_int_equal(resbm_pack(c, x, B, T, k, step, 3, bytes, *n, &err), RESBM_OK);
    assert_int_equal(resbm_unpack(c, bytes, *n, B, T, k, y, &err), RESBM_OK);
    assert_int_equal(resbm_pack(c, x, B, T, k, step, 3, bytes, *n - 1, &err), RESBM_E_ARG);
    assert_int_equal(resbm_unpack(c, bytes, *n + 1, B, T, k, y, &err), RESBM_E_ARG);
    resbm_codec_close(c);
    for (int i = 0; i < B * T * k; i++) worst = fmax(worst, fabs((double)x[i] - (double)y[i]) / 3);
    return worst;
}

static void test_codecs_come_back_within_their_step(void **state) {
    (void)state;
    uint8_t bytes[4 * 2 * 5 * 7], other[sizeof bytes];
    int64_t n;
    assert_true(there_and_back("f32", 0, 1, bytes, &n) == 0);
    assert_true(there_and_back("bf16", 0, 1, bytes, &n) < 1.0 / 256);
    assert_true(there_and_back("int8", 0, 1, bytes, &n) < 0.51 / 127 * 1.01);
    assert_true(there_and_back("int4", 0, 1, bytes, &n) < 0.51 / 7 * 1.01);
    assert_true(there_and_back("int4", 1, 1, bytes, &n) < 1.0 / 7 * 1.01);
    there_and_back("int4", 1, 2, other, &n);
    assert_true(memcmp(bytes, other, (size_t)n) != 0); /* another step draws other random bits */
    there_and_back("int4", 1, 1, other, &n);
    assert_memory_equal(bytes, other, (size_t)n);
}

static void test_codec_refuses(void **state) {
    (void)state;
    resbm_codec *c;
    resbm_error err;
    assert_int_equal(resbm_codec_open("int3", 0, 0, 0, &c, &err), RESBM_E_ARG);
    assert_non_null(strstr(err.text, "int3"));
    assert_int_equal(resbm_codec_open("int4", 2, 0, 0, &c, &err), RESBM_E_ARG);
    assert_int_equal(resbm_codec_open("int4", 0, 0, 0, &c, &err), RESBM_OK);
    assert_int_equal(resbm_packed_bytes(c, 0, 1, 1), -1);
    assert_int_equal(resbm_packed_bytes(c, INT64_MAX, 2, 2), -1);
    resbm_codec_close(c);
}

/* Both ends of a link, each with its own steps: from equal bytes they come to equal steps, which fit the values. */
static void test_learned_steps(void **state) {
    (void)state;
    enum { B = 2, T = 5, k = 7 };
    float x[B * T * k], y[B * T * k], steps[2][k];
    uint8_t bytes[B * T * k];
    resbm_codec *c;
    resbm_error err;
    for (int i = 0; i < B * T * k; i++) x[i] = (float)sin(i * 0.7) * 100;
    for (int j = 0; j < k; j++) steps[0][j] = steps[1][j] = 0.3f;
    assert_int_equal(resbm_codec_open("int4", 0, 9, 1, &c, &err), RESBM_OK);
    assert_int_equal(resbm_code_sums(c, bytes, 35, B, T, k, (int64_t[k]){0}, &err), RESBM_E_STATE);
    for (uint64_t update = 0; update < 40; update++) {
        assert_int_equal(resbm_codec_steps(c, steps[0], k, &err), RESBM_OK);
        assert_int_equal(resbm_packed_bytes(c, B, T, k), B * ((T * k + 1) / 2)); /* no scales */
        assert_int_equal(resbm_pack(c, x, B, T, k, update, 3, bytes, 36, &err), RESBM_OK);
        for (int end = 0; end < 2; end++) {
            int64_t sums[k] = {0};
            assert_int_equal(resbm_code_sums(c, bytes, 36, B, T, k, sums, &err), RESBM_OK);
            assert_int_equal(resbm_steps_update(c, steps[end], sums, k, (int64_t)B * T, update, &err),
                             RESBM_OK);
        }
        assert_memory_equal(steps[0], steps[1], sizeof steps[0]);
    }
    assert_int_equal(resbm_unpack(c, bytes, 36, B, T, k, y, &err), RESBM_OK);
    for (int i = 0; i < B * T * k; i++) assert_true(fabs((double)(x[i] - y[i])) < 100.0 / 3);
    assert_int_equal(resbm_pack(c, x, B, T, k - 1, 0, 3, bytes, 30, &err),
                     RESBM_E_ARG); /* steps of another k */
    assert_int_equal(resbm_codec_steps(c, NULL, 0, &err), RESBM_OK);
    assert_int_equal(resbm_packed_bytes(c, B, T, k), B * (2 * T + (T * k + 1) / 2));
    resbm_codec_close(c);
    assert_int_equal(resbm_codec_open("bf16", 0, 9, 1, &c, &err), RESBM_OK);
    assert_int_equal(resbm_codec_steps(c, steps[0], k, &err), RESBM_E_ARG);
    resbm_codec_close(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_configuration_goes_through_text),
        cmocka_unit_test(test_misuse_is_refused),
        cmocka_unit_test(test_codecs_come_back_within_their_step),
        cmocka_unit_test(test_codec_refuses),
        cmocka_unit_test(test_learned_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
