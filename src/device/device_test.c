/* What every device refuses, by name, and what device "late" promises: order, hidden memory, the first fault.
 */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#include "rb_busy.h"
#include "device/testing.h"

static resbm_status holed_open(const rb_device_options *opt, rb_device **out, rb_err *err);
static const rb_device_table holed = {.name = "holed", .open = holed_open};

static void holed_close(rb_device *dev) {
    free((void *)(uintptr_t)dev->table);
    free(dev);
}

/* variant names the slot to leave empty. */
static resbm_status holed_open(const rb_device_options *opt, rb_device **out, rb_err *err) {
    rb_device_table *t = malloc(sizeof *t);
    rb_device *dev = malloc(sizeof *dev);
    (void)err;
    *t = rb_ref_table;
    t->close = holed_close;
    for (int k = 0; k < RB_OP_COUNT; k++)
        if (!strcmp(opt->variant, rb_op_info((rb_op_kind)k)->name)) t->kernel[k] = NULL;
    if (!strcmp(opt->variant, "event_wait")) t->event_wait = NULL;
    *dev = (rb_device){.table = t, .opt = *opt};
    *out = dev;
    return RESBM_OK;
}

static void test_holes_are_refused(void **state) {
    (void)state;
    rb_err err;
    rb_device *dev;
    for (int k = -1; k < RB_OP_COUNT; k++) {
        const char *slot = k < 0 ? "event_wait" : rb_op_info((rb_op_kind)k)->name;
        rb_device_options opt = {.threads = 1, .variant = slot};
        assert_fails(rb_device_open_table(&holed, &opt, &dev, &err), RESBM_E_INTERNAL, slot, &err);
        assert_null(dev);
    }
}

static void test_wrong_names_are_refused(void **state) {
    (void)state;
    rb_err err;
    rb_device *dev;
    rb_device_options opt = {.threads = 1}, no_threads = {.threads = 0};
    assert_fails(rb_device_open("gpu", &opt, &dev, &err), RESBM_E_ARG, "gpu", &err);
    assert_fails(rb_device_open("cpu:v9", &opt, &dev, &err), RESBM_E_ARG, "v9", &err);
    assert_fails(rb_device_open("ref:x", &opt, &dev, &err), RESBM_E_ARG, "x", &err);
    assert_fails(rb_device_open("late:gpu", &opt, &dev, &err), RESBM_E_ARG, "gpu", &err);
    assert_fails(rb_device_open("cpu", &no_threads, &dev, &err), RESBM_E_ARG, "0 threads", &err);
}

/* Each wrong operand is named, on every device, and nothing runs. */
static void test_wrong_shapes_are_refused(void **state) {
    fixture *f = *state;
    rb_err err;
    float x[64] = {0};
    int32_t ids[4] = {0, 1, 2, 9};
    rb_view m = rb_view2(x, RB_F32, 4, 4), narrow = rb_view2(x, RB_F32, 4, 3),
            tall = rb_view2(x, RB_F32, 5, 4);
    rb_view v4 = rb_view1(x, RB_F32, 4), h = rb_view4(x, RB_F32, 1, 2, 3, 2),
            g2 = rb_view4(x, RB_F32, 1, 2, 2, 2);
    rb_view lse = rb_view3(x, RB_F32, 1, 3, 2), gappy = m, id = rb_view1(ids, RB_I32, 4), zero = m;
    gappy.stride[1] = 2;
    zero.shape[0] = 0;
    for (int i = 0; i < f->devices; i++) {
        rb_queue *q = f->d[i].q;
        assert_fails(rb_gemm(q, false, false, 1, m, m, 0, narrow, &err), RESBM_E_ARG, "gemm: c is 4x3", &err);
        assert_fails(rb_gemm(q, false, true, 1, m, narrow, 0, m, &err), RESBM_E_ARG, "gemm", &err);
        assert_fails(rb_syrk(q, false, 1, narrow, 0, narrow, &err), RESBM_E_ARG,
                     "syrk: c is 4x3, but op(a) is 4x3 and its square 4x4", &err);
        assert_fails(rb_syrk(q, true, 1, narrow, 0, m, &err), RESBM_E_ARG, "its square 3x3", &err);
        assert_fails(rb_swiglu_forward(q, m, tall, m, &err), RESBM_E_ARG, "swiglu_forward: gate is 5x4",
                     &err);
        assert_fails(rb_silu_forward(q, m, narrow, &err), RESBM_E_ARG, "silu_forward: x", &err);
        assert_fails(rb_silu_forward(q, m, gappy, &err), RESBM_E_ARG, "stride 2", &err);
        assert_fails(rb_silu_forward(q, zero, m, &err), RESBM_E_ARG, "dimension 0 of y is 0", &err);
        assert_fails(rb_silu_forward(q, m, rb_none(), &err), RESBM_E_ARG, "x has rank 0 (it is absent)",
                     &err);
        assert_fails(rb_embed_forward(q, m, m, v4, &err), RESBM_E_ARG, "embed_forward: ids has element type",
                     &err);
        assert_fails(rb_embed_forward(q, tall, m, id, &err), RESBM_E_ARG, "embed_forward: ids is 4", &err);
        assert_fails(rb_rope(q, h, narrow, narrow, 0, false, &err), RESBM_E_ARG, "rope", &err);
        assert_fails(rb_rope(q, h, rb_view2(x, RB_F32, 4, 1), rb_view2(x, RB_F32, 4, 1), 3, false, &err),
                     RESBM_E_ARG, "positions 3..4", &err);
        assert_fails(rb_attention_forward(q, h, lse, h, g2, g2, 0, 1, &err), RESBM_E_ARG, "3 heads", &err);
        assert_fails(rb_attention_forward(q, h, lse, h, h, h, 1, 1, &err), RESBM_E_ARG, "from offset 1",
                     &err);
        assert_fails(rb_rmsnorm_forward(q, m, v4, m, rb_view1(x, RB_F32, 3), 0, &err), RESBM_E_ARG,
                     "rmsnorm_forward: w is 3", &err);
        assert_fails(rb_run(q, &(rb_op){.kind = RB_OP_COUNT}, &err), RESBM_E_ARG, "operation", &err);
    }
    for (int i = 0; i < f->devices; i++) { /* what only the host can see */
        if (!f->d[i].dev->table->host_memory) continue;
        assert_fails(rb_embed_forward(f->d[i].q, m, m, id, &err), RESBM_E_ARG, "token 3 is 9", &err);
        assert_fails(rb_embed_backward(f->d[i].q, m, m, id, &err), RESBM_E_ARG, "token 3 is 9", &err);
        assert_fails(rb_xent(f->d[i].q, v4, m, id, 0, &err), RESBM_E_ARG, "target 3 is 9", &err);
    }
}

static open_device *late_device_of(fixture *f) {
    for (int i = 0; i < f->devices; i++)
        if (!strcmp(f->d[i].name, "late")) return &f->d[i];
    fail_msg("no late device");
    return NULL;
}

/* An address of the late device is not the host's to read: a child that tries dies. */
static void test_late_memory_is_hidden(void **state) {
    fixture *f = *state;
    rb_device *late = late_device_of(f)->dev;
    rb_err err;
    void *p;
    assert_ok(rb_alloc(late, 64, &p, &err), &err);
    pid_t child = fork();
    if (!child) {
        signal(SIGSEGV, SIG_DFL);
        _exit(*(volatile char *)p);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    rb_free(late, p);
}

static void test_late_refuses_host_memory(void **state) {
    fixture *f = *state;
    rb_queue *q = late_device_of(f)->q;
    float host[4] = {0};
    rb_err err;
    rb_view v = rb_view1(host, RB_F32, 4);
    assert_fails(rb_fill(q, v, 1, &err), RESBM_E_ARG, "fill: x does not lie in this device's memory", &err);
    assert_fails(rb_upload(q, host, host, sizeof host, &err), RESBM_E_ARG, "upload of 16 bytes", &err);
    assert_fails(rb_download(q, host, host, sizeof host, &err), RESBM_E_ARG, "download of 16 bytes", &err);
}

/* A view that runs over the end of its block is host memory too. */
static void test_late_refuses_a_view_past_its_block(void **state) {
    fixture *f = *state;
    open_device *late = late_device_of(f);
    rb_err err;
    void *p;
    assert_ok(rb_alloc(late->dev, 16, &p, &err), &err);
    assert_ok(rb_fill(late->q, rb_view1(p, RB_F32, 4), 1, &err), &err);
    assert_fails(rb_fill(late->q, rb_view1(p, RB_F32, 5), 1, &err), RESBM_E_ARG, "does not lie", &err);
    assert_ok(rb_queue_sync(late->q, &err), &err);
    rb_free(late->dev, p);
}

/* Returns before the work is done; the results are those of the order of the calls. */
static bool completes_late(const void *arg) {
    enum { N = 8, DELAY = 20 * RB_MS };
    rb_device_options opt = {.threads = 1, .late_ns = DELAY};
    rb_device *dev;
    rb_queue *q;
    rb_event filled;
    rb_err err;
    void *p;
    float got[N] = {0};
    (void)arg;
    assert_ok(rb_device_open("late", &opt, &dev, &err), &err);
    assert_ok(rb_queue_open(dev, &q, &err), &err);
    assert_ok(rb_alloc(dev, sizeof got, &p, &err), &err);
    rb_view v = rb_view1(p, RB_F32, N);
    int64_t start = rb_now_ns();
    assert_ok(rb_fill(q, v, 1, &err), &err);
    assert_ok(dev->table->event_record(q, &filled, &err), &err);
    assert_ok(rb_axpby(q, 2, v, 1, v, &err), &err);
    assert_ok(rb_download(q, got, p, sizeof got, &err), &err);
    int64_t returned = rb_now_ns() - start;
    assert_ok(dev->table->event_wait(q, filled, &err), &err);
    assert_true(rb_now_ns() - start >= DELAY);
    assert_ok(rb_queue_sync(q, &err), &err);
    assert_true(rb_now_ns() - start >= 3 * DELAY);
    for (int i = 0; i < N; i++) assert_true(got[i] == 3);
    rb_queue_close(q);
    rb_device_close(dev);        /* frees p */
    return returned < 3 * DELAY; /* the calls did not wait for the work */
}

static void test_late_completes_late_and_in_order(void **state) {
    (void)state;
    rb_measured(completes_late, NULL, "calls of device late");
}

/* A fault that only the worker can see comes back at the next wait, and stays the first. */
static void test_late_returns_the_first_fault(void **state) {
    rb_device_options opt = {.threads = 1};
    rb_device *dev;
    rb_queue *q;
    rb_err err;
    void *p;
    int32_t ids[4] = {0, 7, 9, 1};
    (void)state;
    assert_ok(rb_device_open("late:cpu", &opt, &dev, &err), &err);
    assert_ok(rb_queue_open(dev, &q, &err), &err);
    assert_ok(rb_alloc(dev, 4096, &p, &err), &err);
    rb_view id = rb_view1(p, RB_I32, 4), table = rb_view2((char *)p + 64, RB_F32, 5, 3);
    rb_view out = rb_view2((char *)p + 256, RB_F32, 4, 3);
    assert_ok(rb_upload(q, p, ids, sizeof ids, &err), &err);
    assert_ok(rb_embed_forward(q, out, table, id, &err), &err);
    assert_fails(rb_queue_sync(q, &err), RESBM_E_ARG, "token 1 is 7", &err);
    assert_ok(rb_embed_backward(q, table, out, id, &err), &err);
    assert_fails(rb_queue_sync(q, &err), RESBM_E_ARG, "embed_forward: token 1 is 7", &err);
    rb_queue_close(q);
    rb_device_close(dev);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_holes_are_refused),
        cmocka_unit_test(test_wrong_names_are_refused),
        cmocka_unit_test(test_wrong_shapes_are_refused),
        cmocka_unit_test(test_late_memory_is_hidden),
        cmocka_unit_test(test_late_refuses_host_memory),
        cmocka_unit_test(test_late_refuses_a_view_past_its_block),
        cmocka_unit_test(test_late_completes_late_and_in_order),
        cmocka_unit_test(test_late_returns_the_first_fault),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
