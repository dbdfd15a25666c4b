/* Tests of optim/: a few tensors with weights and gradients on a device, and an optimizer over them. */
#ifndef RB_OPTIM_TESTING_H
#define RB_OPTIM_TESTING_H

#include <stdio.h>
#include <stdlib.h>
#include "optim/optim.h"
#include "rb_cmocka.h"

#pragma GCC diagnostic ignored "-Wunused-function"

enum { MOST = 8, STEPS = 10 };

typedef struct bench {
    rb_device *dev;
    rb_queue *q;
    rb_tensor row[MOST];
    rb_optim_tensor tensor[MOST];
    int count;
    rb_optim *optim;
} bench;

/* The same numbers as make_model.py's weight(). */
static void make_weight(const char *name, float *w, int64_t n) {
    uint64_t state = 0xCBF29CE484222325u;
    for (const char *c = name; *c; c++) state = (state ^ (uint8_t)*c) * 0x100000001B3u;
    for (int64_t i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        w[i] = (float)(((double)(state >> 40) / 16777216.0 - 0.5) / 2);
    }
}

static rb_tensor make_row(const char *name, int64_t rows, int64_t columns, rb_role role) {
    rb_tensor t = {.rank = columns ? 2 : 1, .shape = {rows, columns ? columns : 1}, .role = role};
    snprintf(t.name, sizeof t.name, "%s", name);
    return t;
}

static int64_t elements(const rb_tensor *t) {
    return t->shape[0] * t->shape[1];
}

static void upload(bench *b, rb_view v, const float *x) {
    rb_err err;
    assert_ok(rb_upload(b->q, v.data, x, (size_t)rb_count(v) * 4, &err), &err);
    assert_ok(rb_queue_sync(b->q, &err), &err);
}

static float *download(bench *b, rb_view v) {
    rb_err err;
    float *x = malloc((size_t)rb_count(v) * 4);
    assert_ok(rb_download(b->q, x, v.data, (size_t)rb_count(v) * 4, &err), &err);
    assert_ok(rb_queue_sync(b->q, &err), &err);
    return x;
}

/* Puts the numbers made from `name` into v, times factor. */
static void make_into(bench *b, rb_view v, const char *name, float factor) {
    float *x = malloc((size_t)rb_count(v) * 4);
    make_weight(name, x, rb_count(v));
    for (int64_t i = 0; i < rb_count(v); i++) x[i] *= factor;
    upload(b, v, x);
    free(x);
}

static rb_view device_view(bench *b, const rb_tensor *t) {
    rb_err err;
    void *p;
    assert_ok(rb_alloc(b->dev, (size_t)elements(t) * 4, &p, &err), &err);
    return t->rank == 2 ? rb_view2(p, RB_F32, t->shape[0], t->shape[1]) : rb_view1(p, RB_F32, t->shape[0]);
}

static void bench_device_in(bench *b, const char *device, rb_math math, int threads, const rb_tensor *rows,
                            int count) {
    rb_err err;
    rb_device_options o = {.threads = threads, .math = math};
    *b = (bench){.count = count};
    assert_ok(rb_device_open(device, &o, &b->dev, &err), &err);
    assert_ok(rb_queue_open(b->dev, &b->q, &err), &err);
    for (int i = 0; i < count; i++) {
        b->row[i] = rows[i];
        b->tensor[i] = (rb_optim_tensor){
            .tensor = &b->row[i], .weight = device_view(b, &rows[i]), .grad = device_view(b, &rows[i])};
        make_into(b, b->tensor[i].weight, rows[i].name, 1);
    }
}

static void bench_device(bench *b, const char *device, int threads, const rb_tensor *rows, int count) {
    bench_device_in(b, device, RB_MATH_F32, threads, rows, count);
}

static void bench_open(bench *b, const char *device, int threads, const rb_optim_config *c,
                       const rb_tensor *rows, int count) {
    rb_err err;
    bench_device(b, device, threads, rows, count);
    assert_ok(rb_optim_open(b->dev, c, b->tensor, count, NULL, &b->optim, &err), &err);
}

static void bench_close(bench *b) {
    rb_optim_close(b->optim);
    rb_queue_close(b->q);
    for (int i = 0; i < b->count; i++) {
        rb_free(b->dev, b->tensor[i].weight.data);
        rb_free(b->dev, b->tensor[i].grad.data);
    }
    rb_device_close(b->dev);
}

static void steps(bench *b, int from, int to, float grad_factor, const float *scale) {
    rb_err err;
    for (int s = from; s < to; s++) {
        for (int i = 0; i < b->count; i++) {
            char name[120];
            snprintf(name, sizeof name, "%s.g%d", b->row[i].name, s);
            make_into(b, b->tensor[i].grad, name, grad_factor);
        }
        assert_ok(rb_optim_step(b->optim, b->q, 1, scale, &err), &err);
        assert_ok(rb_optim_settle(b->optim, &err), &err);
        assert_ok(rb_queue_sync(b->q, &err), &err);
    }
}

/* The newest weights of the ith tensor, wherever they are; and others in their place, in use. */
static float *newest_of(bench *b, int i) {
    rb_err err;
    size_t n = (size_t)elements(&b->row[i]) * 4;
    if (!rb_optim_keeps(b->optim, i)) return download(b, b->tensor[i].weight);
    float *x = malloc(n);
    assert_ok(rb_optim_weight_read(b->optim, b->q, i, 0, x, n / 8 * 4, &err), &err);
    assert_ok(rb_optim_weight_read(b->optim, b->q, i, (int64_t)(n / 8 * 4), (char *)x + n / 8 * 4,
                                   n - n / 8 * 4, &err),
              &err);
    return x;
}

static void give_weights(bench *b, int i, const float *x) {
    rb_err err;
    size_t n = (size_t)elements(&b->row[i]) * 4;
    if (!rb_optim_keeps(b->optim, i)) {
        upload(b, b->tensor[i].weight, x);
        return;
    }
    assert_ok(rb_optim_weight_write(b->optim, b->q, i, 0, x, n, &err), &err);
    assert_ok(rb_optim_use_newest(b->optim, b->q, &err), &err);
}

static void assert_same_weights(bench *a, bench *b) {
    for (int i = 0; i < a->count; i++) {
        float *x = download(a, a->tensor[i].weight), *y = download(b, b->tensor[i].weight);
        assert_memory_equal(x, y, (size_t)rb_count(a->tensor[i].weight) * 4);
        free(x);
        free(y);
    }
}

/* State i of one optimizer into another's, in two uneven pieces. */
static void copy_state(bench *from, bench *to, int i) {
    rb_err err;
    size_t n = (size_t)elements(rb_optim_state_at(from->optim, i).tensor) * 4, half = n / 12 * 4;
    char *x = malloc(n);
    assert_ok(rb_optim_state_read(from->optim, from->q, i, 0, x, half, &err), &err);
    assert_ok(rb_optim_state_read(from->optim, from->q, i, (int64_t)half, x + half, n - half, &err), &err);
    assert_ok(rb_optim_state_write(to->optim, to->q, i, 0, x, n - half, &err), &err);
    assert_ok(rb_optim_state_write(to->optim, to->q, i, (int64_t)(n - half), x + n - half, half, &err), &err);
    free(x);
}

static rb_optim_config config_of(const char *kind) {
    rb_optim_config c = rb_optim_defaults();
    snprintf(c.kind, sizeof c.kind, "%s", kind);
    return c;
}

#endif
