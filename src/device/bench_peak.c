#include "device/bench_peak.h"

#include <dnnl.h>
#include <math.h>
#include <stdlib.h>
#include "core/clock.h"
#include "core/rng.h"
#include "device/bench_call.h"
#include "device/cpu/cpu.h"
#include "device/cpu/sgemm.h"
#include "device/ops.h"

/* --- on processors */

enum { PEAK_N = 512, PEAK_CALLS = 4, PEAK_ROUNDS = 12 };

static int peak_round(int threads, const float *ab, float *c) {
    int worst = 0;
    (void)threads;
#pragma omp parallel num_threads(threads) reduction(max : worst)
    {
        rb_sgemm_one_thread();
        float *own = c + (int64_t)rb_thread_number() * PEAK_N * PEAK_N;
        for (int i = 0; i < PEAK_CALLS; i++) {
            int st = dnnl_sgemm('N', 'N', PEAK_N, PEAK_N, PEAK_N, 1, ab, PEAK_N, ab + PEAK_N * PEAK_N, PEAK_N,
                                0, own, PEAK_N);
            if (st > worst) worst = st;
        }
    }
    return worst;
}

/* The best of `rounds`, or of those begun before `until_ns`. */
static resbm_status sgemm_speed(int threads, int rounds, int64_t until_ns, double *gflops, rb_err *err) {
    size_t square = PEAK_N * PEAK_N;
#ifndef _OPENMP
    threads = 1;
#endif
    float *m = calloc(square * (size_t)(threads + 2), sizeof *m);
    if (!m) return rb_fail(err, RESBM_E_MEMORY, "bench: no memory for the peak's matrices");
    for (size_t i = 0; i < 2 * square; i++) m[i] = 1.0f / (float)(1 + i % 7);
    double best = INFINITY;
    int st = 0;
    for (int r = 0; r < rounds && !st && (r < 2 || rb_now_ns() < until_ns); r++) {
        int64_t t = rb_now_ns();
        st = peak_round(threads, m, m + 2 * square);
        best = fmin(best, (double)(rb_now_ns() - t));
    }
    free(m);
    if (st) return rb_fail(err, RESBM_E_INTERNAL, "bench: dnnl_sgemm returned status %d", st);
    *gflops = 2.0 * PEAK_N * PEAK_N * PEAK_N * PEAK_CALLS * threads / best;
    return RESBM_OK;
}

resbm_status rb_bench_sgemm_peak(int threads, double *gflops, rb_err *err) {
    return sgemm_speed(threads, PEAK_ROUNDS, INT64_MAX, gflops, err);
}

resbm_status rb_bench_sgemm_glance(int threads, double *gflops, rb_err *err) {
    return sgemm_speed(threads, PEAK_ROUNDS, rb_now_ns() + 25 * RB_MS, gflops, err);
}

/* --- on a device of any kind */

typedef struct square {
    rb_queue *q;
    rb_view a, b, c; /* (n,n) */
} square;

static resbm_status multiply(void *ctx, rb_err *err) {
    square *s = ctx;
    return rb_gemm(s->q, false, true, 1, s->a, s->b, 0, s->c, err);
}

enum { NOISE = 1 << 16 };

/* Normal numbers: constant ones would cost a GPU less power, and be faster than any that are trained with. */
static resbm_status make_noise(rb_queue *q, void **noise, rb_err *err) {
    float *host = malloc(NOISE * sizeof *host);
    if (!host) return rb_fail(err, RESBM_E_MEMORY, "bench: no memory for %d numbers", NOISE);
    rb_normal_fill(1, host, NOISE, 0, 1);
    resbm_status st = rb_alloc(q->dev, NOISE * sizeof *host, noise, err);
    if (!st) st = rb_upload(q, *noise, host, NOISE * sizeof *host, err);
    if (!st) st = rb_queue_sync(q, err);
    free(host);
    return st;
}

static resbm_status fill(rb_queue *q, void *noise, rb_view x, rb_err *err) {
    rb_view flat = rb_view1(x.data, x.dtype, rb_count(x));
    for (int64_t i = 0; i < rb_count(x); i += NOISE)
        RB_TRY(rb_axpby(q, 1, rb_view1(noise, RB_F32, NOISE), 0, rb_rows(flat, i, NOISE), err));
    return RESBM_OK;
}

/* n * n is a multiple of NOISE. */
static resbm_status square_speed(rb_queue *q, void *noise, int64_t n, int64_t budget_ns, double *ns,
                                 rb_err *err) {
    rb_dtype t = q->dev->factor;
    size_t one = (size_t)(n * n) * rb_dtype_size(t);
    char *m;
    RB_TRY(rb_alloc(q->dev, 3 * one, (void **)&m, err));
    square s = {q, rb_view2(m, t, n, n), rb_view2(m + one, t, n, n), rb_view2(m + 2 * one, t, n, n)};
    resbm_status st = fill(q, noise, s.a, err);
    if (!st) st = fill(q, noise, s.b, err);
    if (!st) st = rb_bench_call(q, multiply, &s, budget_ns, ns, err);
    rb_free(q->dev, m);
    return st;
}

static resbm_status device_speed(rb_device *dev, int64_t most, int64_t budget_ns, double *gflops,
                                 rb_err *err) {
    rb_queue *q;
    void *noise = NULL;
    double ns = 0;
    *gflops = 0;
    RB_TRY(rb_queue_open(dev, &q, err));
    resbm_status st = make_noise(q, &noise, err);
    for (int64_t n = 256; n <= most && ns < (double)budget_ns / 4 && !st; n *= 2) {
        st = square_speed(q, noise, n, budget_ns, &ns, err);
        if (!st) *gflops = fmax(*gflops, 2.0 * (double)(n * n * n) / ns);
    }
    rb_queue_close(q);
    rb_free(dev, noise);
    return st == RESBM_E_MEMORY && *gflops > 0 ? RESBM_OK : st;
}

resbm_status rb_bench_device_peak(rb_device *dev, double *gflops, rb_err *err) {
    return device_speed(dev, 8192, 80 * RB_MS, gflops, err);
}

resbm_status rb_bench_device_glance(rb_device *dev, double *gflops, rb_err *err) {
    return device_speed(dev, 4096, 8 * RB_MS, gflops, err);
}
