/* What opening a card and taking its memory say when they cannot, whose memory it is, and copies larger than the pinned memory that they
 * pass through: on emulated cards, of which the second one computes in f16. */
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

/* --- copies, on a card that is a millisecond late with everything it is asked for */

enum { LARGE = 83 << 20 /* more than twice the ring of pinned memory (transfer.cc) */, ODD = LARGE + 12 };

static rb_queue *late_queue(rb_device *dev) {
    rb_err err;
    rb_queue *q;
    setenv("RB_CUDA_EMU_LATE_US", "1000", 1);
    assert_ok(rb_queue_open(dev, &q, &err), &err);
    unsetenv("RB_CUDA_EMU_LATE_US");
    return q;
}

static unsigned char *filled(size_t bytes, uint32_t state) {
    unsigned char *p = malloc(bytes);
    assert_non_null(p);
    for (size_t i = 0; i < bytes; i++) p[i] = (unsigned char)((state = state * 1664525 + 1013904223) >> 24);
    return p;
}

/* A card that completes late, and so much of its memory. */
typedef struct late_card {
    rb_device *dev;
    rb_queue *q;
    void *x;
} late_card;

static late_card open_late(size_t bytes) {
    rb_err err;
    late_card c = {.dev = open_card("cuda:emulated")};
    c.q = late_queue(c.dev);
    assert_ok(rb_alloc(c.dev, bytes, &c.x, &err), &err);
    return c;
}

static void close_late(const late_card *c) {
    rb_queue_close(c->q);
    rb_device_close(c->dev);
}

/* Everything in the order of the calls, and nothing read of the host's memory behind an upload's return, though neither copy
 * fits into the ring: what was up first comes down with the operation behind it, and is replaced. */
static void test_copies_larger_than_the_ring(void **state) {
    enum { HEAD = 1 << 10 };
    rb_err err;
    (void)state;
    if (missing) skip();
    late_card c = open_late(ODD);
    void *x = c.x;
    rb_queue *q = c.q;
    unsigned char *first = filled(ODD, 1), *second = filled(ODD, 2), *up = malloc(ODD), *a = malloc(ODD), *b = malloc(ODD);
    memcpy(up, first, ODD);
    assert_ok(rb_upload(q, x, up, ODD, &err), &err);
    memcpy(up, second, ODD); /* the first is the queue's alone by now */
    assert_ok(rb_fill(q, rb_view1(x, RB_U8, HEAD), 7, &err), &err);
    assert_ok(rb_download(q, a, x, ODD, &err), &err);
    assert_ok(rb_upload(q, x, up, ODD, &err), &err);
    memset(up, 0, ODD);
    assert_ok(rb_download(q, b, (char *)x + 5, ODD - 5, &err), &err);
    assert_ok(rb_queue_sync(q, &err), &err);
    memset(first, 7, HEAD);
    assert_memory_equal(a, first, ODD);
    assert_memory_equal(b, second + 5, ODD - 5);
    free(first), free(second), free(up), free(a), free(b);
    close_late(&c);
}

/* Copies of all sizes in turns, with events between: pieces end anywhere in the ring, and an event is behind them. */
static void test_copies_of_many_sizes(void **state) {
    enum { COPIES = 90 };
    rb_err err;
    (void)state;
    if (missing) skip();
    late_card c = open_late(LARGE);
    void *x = c.x;
    rb_queue *q = c.q;
    unsigned char *host = filled(LARGE, 3), *got = malloc(LARGE);
    size_t at = 0, from = 0;
    for (int i = 0; i < COPIES; i++) {
        rb_event e;
        size_t n = i % 7 ? (size_t)(i * 7919 % 300000) : (size_t)(i % 9 + 4) * 1234567;
        n = n < LARGE - at ? n : LARGE - at;
        assert_ok(rb_upload(q, (char *)x + at, host + at, n, &err), &err);
        at += n;
        if (i % 5) continue;
        assert_ok(rb_download(q, got + from, (char *)x + from, at - from, &err), &err);
        assert_ok(c.dev->table->event_record(q, &e, &err), &err);
        if (i % 2) assert_ok(c.dev->table->event_wait(q, e, &err), &err);
        if (i % 2) assert_memory_equal(got, host, at);
        from = at;
    }
    assert_ok(rb_queue_sync(q, &err), &err);
    assert_true(from > LARGE / 2);
    assert_memory_equal(got, host, from);
    free(host), free(got);
    close_late(&c);
}

/* A download that fails half way has no more business with the memory it was given. */
static void test_a_failed_download_writes_nothing_later(void **state) {
    static const int32_t ids[4] = {0, 9, 1, 2};
    rb_err err;
    (void)state;
    if (missing) skip();
    late_card c = open_late(LARGE);
    void *x = c.x;
    rb_queue *q = c.q;
    unsigned char *got = malloc(LARGE), *then = malloc(LARGE);
    memset(got, 1, LARGE);
    assert_ok(rb_fill(q, rb_view1(x, RB_U8, LARGE), 2, &err), &err);
    assert_ok(rb_upload(q, x, ids, sizeof ids, &err), &err);
    rb_view id = rb_view1(x, RB_I32, 4), table = rb_view2((char *)x + 64, RB_F32, 3, 4),
            out = rb_view2((char *)x + 256, RB_F32, 4, 4);
    assert_ok(rb_embed_forward(q, out, table, id, &err), &err);
    assert_fails(rb_download(q, got, x, LARGE, &err), RESBM_E_ARG, "token 1 is 9", &err);
    memcpy(then, got, LARGE);
    assert_fails(rb_queue_sync(q, &err), RESBM_E_ARG, "token 1 is 9", &err);
    assert_memory_equal(got, then, LARGE);
    free(got), free(then);
    close_late(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_only_want_of_memory_is_called_that),
        cmocka_unit_test(test_kernels_of_other_numbers_are_refused),
        cmocka_unit_test(test_what_is_wrong_with_the_driver_is_said),
        cmocka_unit_test(test_working_memory_is_the_queues_cards),
        cmocka_unit_test(test_copies_larger_than_the_ring),
        cmocka_unit_test(test_copies_of_many_sizes),
        cmocka_unit_test(test_a_failed_download_writes_nothing_later),
    };
    return cmocka_run_group_tests(tests, find_plugin, NULL);
}
