/* What opening a card and taking its memory say when they cannot, and whose memory it is: on emulated cards, of which the second one
 * computes in f16. */
#include <stdbool.h>
#include <stdlib.h>
#include "rb_cmocka.h"
#include "device/ops.h"

static const rb_device_options options = {.threads = 1};
static bool missing; /* a build for sanitizers has no emulation */

static rb_device *open_card(const char *name) {
    rb_err err;
    rb_device *dev;
    assert_ok(rb_device_open(name, &options, &dev, &err), &err);
    return dev;
}

static int find_plugin(void **state) {
    rb_err err;
    rb_device *dev;
    (void)state;
    resbm_status st = rb_device_open("cuda:emulated", &options, &dev, &err);
    if (st == RESBM_OK) rb_device_close(dev);
    missing = st == RESBM_E_UNSUPPORTED && strstr(err.text, "this build has no");
    if (st) printf("%s\n", err.text);
    return st && !missing;
}

/* An illegal access shows at the next call, which may be one for memory: more of it would not help. */
static void test_only_want_of_memory_is_called_that(void **state) {
    rb_err err;
    void *p;
    (void)state;
    if (missing) skip();
    rb_device *dev = open_card("cuda:emulated");
    setenv("RB_CUDA_EMU_BROKEN", "1", 1);
    resbm_status st = rb_alloc(dev, 1000, &p, &err);
    unsetenv("RB_CUDA_EMU_BROKEN");
    assert_fails(st, RESBM_E_INTERNAL, "a kernel queued before): illegal access", &err);
    assert_fails(rb_alloc(dev, (size_t)1 << 40, &p, &err), RESBM_E_MEMORY,
                 "no memory for 1099511627776 bytes", &err);
    rb_device_close(dev);
}

static void refuse_code(const char *code, const char *name, rb_math math, const char *part) {
    rb_err err;
    rb_device *dev;
    rb_device_options o = {.threads = 1, .math = math};
    setenv("RB_CUDA_EMU_CODE", code, 1);
    resbm_status st = rb_device_open(name, &o, &dev, &err);
    unsetenv("RB_CUDA_EMU_CODE");
    if (!part) {
        assert_ok(st, &err);
        rb_device_close(dev);
        return;
    }
    assert_fails(st, RESBM_E_UNSUPPORTED, part, &err);
}

/* PTX for 7.5 runs on newer cards too, with the 16-bit numbers of 7.5. */
static void test_kernels_of_other_numbers_are_refused(void **state) {
    (void)state;
    if (missing) skip();
    refuse_code("75", "cuda:emulated", RB_MATH_AUTO,
                "no code for compute capability 8.0 (its kernels for 7.5 compute in f16): "
                "make cuda CUDA_ARCHITECTURES=80");
    refuse_code("90", "cuda:emulated:1", RB_MATH_AUTO,
                "no code for compute capability 7.5 (its kernels for 9.0 compute in bf16)");
    refuse_code("0", "cuda:emulated", RB_MATH_F32, "no kernel image");
    refuse_code("75", "cuda:emulated", RB_MATH_F32, NULL);
    refuse_code("86", "cuda:emulated", RB_MATH_AUTO, NULL);
}

static void refuse_driver(const char *variable, const char *value, const char *part) {
    rb_err err;
    rb_device *dev;
    setenv(variable, value, 1);
    resbm_status st = rb_device_open("cuda:emulated", &options, &dev, &err);
    unsetenv(variable);
    assert_fails(st, RESBM_E_UNSUPPORTED, part, &err);
}

/* CUDA's runtime says the same of a driver that is not there and of one that is too old. */
static void test_what_is_wrong_with_the_driver_is_said(void **state) {
    (void)state;
    if (missing) skip();
    refuse_driver("RB_CUDA_EMU_DRIVER", "0", "no NVIDIA driver is installed");
    refuse_driver("RB_CUDA_EMU_DRIVER", "12040",
                  "the NVIDIA driver is for CUDA 12.4, too old for this plugin, which was built with CUDA 13.0: update the "
                  "driver to one for CUDA 13 (R580 or later), or build the plugin with a toolkit of CUDA 12");
    refuse_driver("RB_CUDA_EMU_CARDS", "0", "the NVIDIA driver, for CUDA 13.0, finds none");
}

/* Working memory is of the queue's card, whichever the thread used last. */
static void test_working_memory_is_the_queues_cards(void **state) {
    enum { N = 512 };
    rb_err err;
    rb_queue *q;
    void *x, *other;
    (void)state;
    if (missing) skip();
    rb_device *first = open_card("cuda:emulated"), *second = open_card("cuda:emulated:1");
    assert_ok(rb_queue_open(second, &q, &err), &err);
    assert_ok(rb_alloc(second, 3 * N * N * 4, &x, &err), &err);
    rb_view a = rb_view2(x, RB_F32, N, N), b = a, c = a;
    b.data = (char *)x + N * N * 4, c.data = (char *)x + 2 * N * N * 4;
    assert_ok(rb_fill(q, rb_view1(x, RB_F32, 2 * N * N), 1, &err), &err);
    size_t before = rb_room(second);
    assert_ok(rb_alloc(first, 64, &other, &err), &err);
    assert_ok(rb_gemm(q, false, true, 1, rb_rows(a, 0, 2), b, 0, rb_rows(c, 0, 2), &err), &err);
    assert_ok(rb_queue_sync(q, &err), &err);
    assert_true(before - rb_room(second) >= 2 * N * N); /* b in f16 */
    rb_queue_close(q);
    rb_device_close(second);
    rb_device_close(first);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_only_want_of_memory_is_called_that),
        cmocka_unit_test(test_kernels_of_other_numbers_are_refused),
        cmocka_unit_test(test_what_is_wrong_with_the_driver_is_said),
        cmocka_unit_test(test_working_memory_is_the_queues_cards),
    };
    return cmocka_run_group_tests(tests, find_plugin, NULL);
}
