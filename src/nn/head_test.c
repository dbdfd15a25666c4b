/* The head in chunks: several chunks equal as many heads of one chunk each, bit for bit; kept or computed
 * again. */
#include <stdlib.h>
#include "rb_cmocka.h"
#include "core/rng.h"
#include "nn/head.h"

enum { D = 4, V = 300000, CHUNK = RB_HEAD_CHUNK / V, N = CHUNK + 5 };

typedef struct fixture {
    rb_device *dev;
    rb_queue *q;
    void *memory[8];
    int count;
} fixture;

static rb_view tensor(fixture *f, rb_dtype t, int64_t a, int64_t b, const void *values) {
    rb_err err;
    void *p = NULL;
    size_t bytes = (size_t)(a * (b ? b : 1)) * rb_dtype_size(t);
    assert_ok(rb_alloc(f->dev, bytes, &p, &err), &err);
    f->memory[f->count++] = p;
    assert_ok(rb_upload(f->q, p, values, bytes, &err), &err);
    assert_ok(rb_queue_sync(f->q, &err), &err);
    return b ? rb_view2(p, t, a, b) : rb_view1(p, t, a);
}

typedef struct result {
    double loss;
    float *dhead, *dnorm, *dx;
} result;

static void download(fixture *f, void *to, rb_view v) {
    rb_err err;
    assert_ok(rb_download(f->q, to, v.data, (size_t)rb_count(v) * rb_dtype_size(v.dtype), &err), &err);
    assert_ok(rb_queue_sync(f->q, &err), &err);
}

/* Rows [from, from+n) of the fixed input; adds to what r holds. */
static void run_head(fixture *f, rb_head *h, rb_view x, rb_view targets, rb_view dx, int64_t from, int64_t n,
                     double *loss) {
    rb_err err;
    rb_head_saved s;
    rb_head_scratch tmp;
    void *memory = NULL;
    rb_plan p = {0};
    for (int pass = 0; pass < 2; pass++) {
        rb_head_plan_saved(h, n, true, &p, &s);
        rb_head_plan_scratch(h, n, true, &p, &tmp);
        if (pass) break;
        assert_ok(rb_alloc(f->dev, p.used, &memory, &err), &err);
        p = (rb_plan){.base = memory};
    }
    assert_int_equal(!!s.dlogits.data, n <= CHUNK);
    rb_view part = rb_rows(x, from, n), ids = rb_rows(targets, from, n);
    assert_ok(rb_head_forward(h, f->q, part, ids, 0.01f, &s, &tmp, &err), &err);
    assert_ok(rb_head_backward_input(h, f->q, rb_rows(dx, from, n), 0, part, &s, &err), &err);
    assert_ok(rb_head_backward_weight(h, f->q, part, ids, &s, &tmp, &err), &err);
    double sum = 0;
    download(f, &sum, s.loss);
    *loss += sum;
    rb_free(f->dev, memory);
}

/* Whole: one call of N rows in two chunks; else two calls of a chunk or less. */
static result compute(bool whole) {
    fixture f = {0};
    rb_err err;
    rb_device_options o = {.threads = 2};
    int32_t ids[N];
    float *w = malloc((size_t)V * D * 4), *zero = calloc((size_t)V * D, 4);
    assert_ok(rb_device_open("cpu", &o, &f.dev, &err), &err);
    assert_ok(rb_queue_open(f.dev, &f.q, &err), &err);
    rb_normal_fill(1, w, (int64_t)V * D, 0, 1);
    for (int i = 0; i < N; i++) ids[i] = i % 4 == 3 ? -1 : i * 1000;
    rb_view head = tensor(&f, RB_F32, V, D, w), x = tensor(&f, RB_F32, N, D, w + 77),
            norm = tensor(&f, RB_F32, D, 0, w);
    rb_view targets = tensor(&f, RB_I32, N, 0, ids), dhead = tensor(&f, RB_F32, V, D, zero);
    rb_view dnorm = tensor(&f, RB_F32, D, 0, zero), dx = tensor(&f, RB_F32, N, D, zero);
    rb_head h = {
        .d = D, .vocab = V, .eps = 1e-5f, .norm = norm, .head = head, .dnorm = dnorm, .dhead = dhead};
    result r = {.dhead = w, .dnorm = malloc(D * 4), .dx = malloc(N * D * 4)};
    if (whole) run_head(&f, &h, x, targets, dx, 0, N, &r.loss);
    if (!whole) run_head(&f, &h, x, targets, dx, 0, CHUNK, &r.loss);
    if (!whole) run_head(&f, &h, x, targets, dx, CHUNK, N - CHUNK, &r.loss);
    download(&f, r.dhead, dhead);
    download(&f, r.dnorm, dnorm);
    download(&f, r.dx, dx);
    for (int i = 0; i < f.count; i++) rb_free(f.dev, f.memory[i]);
    rb_queue_close(f.q);
    rb_device_close(f.dev);
    free(zero);
    return r;
}

static void free_result(result *r) {
    free(r->dhead);
    free(r->dnorm);
    free(r->dx);
}

static void chunks_equal_heads(void **state) {
    (void)state;
    result a = compute(true), b = compute(false);
    float sum = 0;
    assert_true(a.loss > 0);
    assert_float_equal(a.loss, b.loss, 1e-9 * a.loss);
    assert_memory_equal(a.dhead, b.dhead, (size_t)V * D * 4);
    assert_memory_equal(a.dx, b.dx, N * D * 4);
    for (int i = 0; i < D; i++) assert_float_equal(a.dnorm[i], b.dnorm[i], 1e-6);
    for (int i = 0; i < N * D; i++) sum += a.dx[i] * a.dx[i];
    assert_true(sum > 0);
    for (int i = 0; i < D; i++) assert_true(a.dx[3 * D + i] == 0); /* an ignored target has no gradient */
    free_result(&a);
    free_result(&b);
}

static void rows_of_a_chunk(void **state) {
    (void)state;
    assert_int_equal(rb_head_chunk_rows(0, 256, 4096, RB_F32), 4096);
    assert_int_equal(rb_head_chunk_rows(0, 128256, 4096, RB_F32), 32);
    assert_int_equal(rb_head_chunk_rows(0, RB_HEAD_CHUNK + 1, 7, RB_F32), 1);
    assert_int_equal(rb_head_chunk_rows(RB_HEAD_CHUNK_APART, 128256, 4096, RB_F32), 1046);
    /* In bf16: what is kept takes its half, else half as much again; more than enough rows bring nothing. */
    assert_int_equal(rb_head_chunk_rows(1000, 10, 80, RB_BF16), 60);
    assert_int_equal(rb_head_chunk_rows(1000, 10, 100, RB_BF16), 50);
    assert_int_equal(rb_head_chunk_rows(1000, 10, 101, RB_BF16), 66);
    assert_int_equal(rb_head_chunk_rows(1000, 10, 30, RB_BF16), 30);
    assert_int_equal(rb_head_chunk_rows(1, 10, 1, RB_BF16), 1);
    assert_int_equal(rb_head_chunk_rows((int64_t)1 << 30, 50304, 16384, RB_BF16),
                     RB_HEAD_CHUNK_APART / 50304);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(chunks_equal_heads),
                                       cmocka_unit_test(rows_of_a_chunk)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
