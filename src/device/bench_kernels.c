#include "device/bench_kernels.h"

#include <dnnl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "core/clock.h"
#include "core/rng.h"
#include "device/cpu/cpu.h"
#include "device/cpu/sgemm.h"
#include "device/ops.h"

enum { PEAK_N = 512, PEAK_CALLS = 4, PEAK_ROUNDS = 12, MAX_BUFFERS = 16 };

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

typedef struct bench {
    rb_device *dev;
    rb_queue *q;
    rb_bench_sizes s;
    rb_buf *out;
    double peak;
    void *mem[MAX_BUFFERS];
    int used;
} bench;

/* A new f32 array of normal numbers (ids: zeros and ones) on the device. */
static resbm_status array(bench *b, int64_t n, bool ids, void **p, rb_err *err) {
    if (b->used == MAX_BUFFERS) return rb_fail(err, RESBM_E_INTERNAL, "bench: too many arrays");
    float *host = malloc((size_t)n * sizeof *host);
    if (!host) return rb_fail(err, RESBM_E_MEMORY, "bench: no memory for %lld numbers", (long long)n);
    rb_normal_fill((uint64_t)b->used + 1, host, n, 0, 1);
    for (int64_t i = 0; ids && i < n; i++) ((int32_t *)host)[i] = i & 1;
    resbm_status st = rb_alloc(b->dev, (size_t)n * sizeof *host, p, err);
    if (st == RESBM_OK) {
        b->mem[b->used++] = *p;
        st = rb_upload(b->q, *p, host, (size_t)n * sizeof *host, err);
    }
    if (st == RESBM_OK) st = rb_queue_sync(b->q, err);
    free(host);
    return st;
}

static void free_arrays(bench *b) {
    while (b->used) rb_free(b->dev, b->mem[--b->used]);
}

/* Times one record and prints its line. flops > 0: GF/s and share of peak; else bytes: GB/s. */
static resbm_status time_op(bench *b, const char *label, const rb_op *op, double flops, double bytes,
                            rb_err *err) {
    double best = INFINITY, limit = (b->s.seconds > 0 ? b->s.seconds : 0.1) * 1e9;
    int64_t start = rb_now_ns();
    for (int i = 0; i < 3 || (double)(rb_now_ns() - start) < limit; i++) {
        int64_t t = rb_now_ns();
        RB_TRY(rb_run(b->q, op, err));
        RB_TRY(rb_queue_sync(b->q, err));
        best = fmin(best, (double)(rb_now_ns() - t));
    }
    rb_buf_printf(b->out, "%-34s %9.3f ms ", label, best * 1e-6);
    if (flops > 0)
        rb_buf_printf(b->out, "%8.1f GF/s %5.1f%% of peak\n", flops / best, 100 * flops / best / b->peak);
    else
        rb_buf_printf(b->out, "%8.1f GB/s\n", bytes / best);
    return RESBM_OK;
}

/* The three products of a linear map of K inputs to N outputs over M rows. */
static resbm_status bench_linear(bench *b, const char *name, int64_t N, int64_t K, rb_err *err) {
    int64_t M = b->s.batch * b->s.context;
    void *x, *w, *y;
    char label[64];
    RB_TRY(array(b, M * K, false, &x, err));
    RB_TRY(array(b, N * K, false, &w, err));
    RB_TRY(array(b, M * N, false, &y, err));
    rb_view vx = rb_view2(x, RB_F32, M, K), vw = rb_view2(w, RB_F32, N, K), vy = rb_view2(y, RB_F32, M, N);
    rb_op op[] = {{.kind = RB_OP_GEMM, .t = {vy, vx, vw}, .f = {1, 0}, .i = {0, 1}},
                  {.kind = RB_OP_GEMM, .t = {vx, vy, vw}, .f = {1, 0}, .i = {0, 0}},
                  {.kind = RB_OP_GEMM, .t = {vw, vy, vx}, .f = {1, 1}, .i = {1, 0}}};
    static const char *const what[] = {"forward", "input gradient", "weight gradient"};
    for (int i = 0; i < 3; i++) {
        snprintf(label, sizeof label, "%s %lldx%lld %s", name, (long long)N, (long long)K, what[i]);
        RB_TRY(time_op(b, label, &op[i], 2.0 * (double)(M * N * K), 0, err));
    }
    free_arrays(b);
    return RESBM_OK;
}

static resbm_status bench_attention(bench *b, rb_err *err) {
    const rb_bench_sizes *s = &b->s;
    int64_t B = s->batch, T = s->context, H = s->heads, G = s->kv_heads, D = s->d / s->heads, n = B * T;
    void *p[9];
    int64_t size[] = {n * H * D, n * G * D, n * G * D, n * H * D, n * H * D,
                      n * H,     n * H * D, n * G * D, n * G * D};
    for (int i = 0; i < 9; i++) RB_TRY(array(b, size[i], false, &p[i], err));
#define HEADS(i)  rb_view4(p[i], RB_F32, B, T, H, D)
#define GROUPS(i) rb_view4(p[i], RB_F32, B, T, G, D)
    rb_view lse = rb_view3(p[5], RB_F32, B, H, T);
    float scale = 1 / sqrtf((float)D);
    rb_op fwd = {.kind = RB_OP_ATTN_FWD, .t = {HEADS(4), lse, HEADS(6), GROUPS(7), GROUPS(8)}, .f = {scale}};
    rb_op bwd = {
        .kind = RB_OP_ATTN_BWD,
        .t = {HEADS(0), GROUPS(1), GROUPS(2), HEADS(3), HEADS(4), lse, HEADS(6), GROUPS(7), GROUPS(8)},
        .f = {scale}};
#undef HEADS
#undef GROUPS
    double pairs = 0.5 * (double)(B * H * T * (T + 1)); /* only what causality leaves */
    RB_TRY(time_op(b, "attention forward", &fwd, 4 * pairs * (double)D, 0, err));
    RB_TRY(time_op(b, "attention backward", &bwd, 10 * pairs * (double)D, 0, err));
    free_arrays(b);
    return RESBM_OK;
}

static resbm_status bench_rowwise(bench *b, rb_err *err) {
    const rb_bench_sizes *s = &b->s;
    int64_t n = s->batch * s->context, D = s->d / s->heads;
    void *x, *y, *z, *w, *rstd;
    RB_TRY(array(b, n * s->d, false, &x, err));
    RB_TRY(array(b, n * s->d, false, &y, err));
    RB_TRY(array(b, n * s->d, false, &z, err));
    RB_TRY(array(b, s->d + s->context * D, false, &w, err));
    RB_TRY(array(b, n, false, &rstd, err));
    rb_view vx = rb_view2(x, RB_F32, n, s->d), vy = rb_view2(y, RB_F32, n, s->d),
            vz = rb_view2(z, RB_F32, n, s->d);
    rb_view vw = rb_view1(w, RB_F32, s->d), vr = rb_view1(rstd, RB_F32, n);
    rb_view angle = rb_view2((float *)w + s->d, RB_F32, s->context, D / 2);
    rb_view heads = rb_view4(x, RB_F32, s->batch, s->context, s->heads, D);
    double each = 4.0 * (double)(n * s->d);
    rb_op op[] = {{.kind = RB_OP_RMSNORM_FWD, .t = {vy, vr, vx, vw}, .f = {1e-5f}},
                  {.kind = RB_OP_RMSNORM_BWD_X, .t = {vz, vy, vx, vw, vr}, .f = {1}},
                  {.kind = RB_OP_RMSNORM_BWD_W, .t = {vw, vy, vx, vr}},
                  {.kind = RB_OP_ROPE, .t = {heads, angle, angle}},
                  {.kind = RB_OP_AXPBY, .t = {vy, vx}, .f = {0.5f, 0.5f}}};
    static const char *const name[] = {"rmsnorm forward", "rmsnorm backward, input",
                                       "rmsnorm backward, weight", "rope", "axpby (n,d)"};
    static const double moved[] = {2, 4, 2, 2, 3};
    for (int i = 0; i < 5; i++) RB_TRY(time_op(b, name[i], &op[i], 0, moved[i] * each, err));
    free_arrays(b);
    return RESBM_OK;
}

static resbm_status bench_swiglu(bench *b, rb_err *err) {
    int64_t n = b->s.batch * b->s.context, f = b->s.ffn;
    void *g, *u, *h;
    RB_TRY(array(b, n * f, false, &g, err));
    RB_TRY(array(b, n * f, false, &u, err));
    RB_TRY(array(b, n * f, false, &h, err));
    rb_view vg = rb_view2(g, RB_F32, n, f), vu = rb_view2(u, RB_F32, n, f), vh = rb_view2(h, RB_F32, n, f);
    rb_op fwd = {.kind = RB_OP_SWIGLU_FWD, .t = {vh, vg, vu}};
    rb_op bwd = {.kind = RB_OP_SWIGLU_BWD, .t = {vg, vu, vh, vh, vg, vu}};
    RB_TRY(time_op(b, "swiglu forward", &fwd, 0, 12.0 * (double)(n * f), err));
    RB_TRY(time_op(b, "swiglu backward", &bwd, 0, 24.0 * (double)(n * f), err));
    free_arrays(b);
    return RESBM_OK;
}

static resbm_status bench_loss_and_embedding(bench *b, rb_err *err) {
    int64_t n = b->s.batch * b->s.context, V = b->s.vocab, d = b->s.d;
    void *logits, *loss, *ids, *table, *x;
    RB_TRY(array(b, n * V, false, &logits, err));
    RB_TRY(array(b, n, false, &loss, err));
    RB_TRY(array(b, n, true, &ids, err));
    RB_TRY(array(b, V * d, false, &table, err));
    RB_TRY(array(b, n * d, false, &x, err));
    rb_view vi = rb_view1(ids, RB_I32, n), vt = rb_view2(table, RB_F32, V, d), vx = rb_view2(x, RB_F32, n, d);
    rb_op xent = {
        .kind = RB_OP_XENT, .t = {rb_view1(loss, RB_F32, n), rb_view2(logits, RB_F32, n, V), vi}, .f = {1}};
    rb_op fwd = {.kind = RB_OP_EMBED_FWD, .t = {vx, vt, vi}},
          bwd = {.kind = RB_OP_EMBED_BWD, .t = {vt, vx, vi}};
    RB_TRY(time_op(b, "cross-entropy with gradient", &xent, 0, 8.0 * (double)(n * V), err));
    RB_TRY(time_op(b, "embedding forward", &fwd, 0, 8.0 * (double)(n * d), err));
    RB_TRY(time_op(b, "embedding backward", &bwd, 0, 8.0 * (double)(n * d), err));
    free_arrays(b);
    return RESBM_OK;
}

/* The symmetric products of Muon's iteration: whole, and the half of them that is computed. */
static resbm_status bench_squares(bench *b, rb_err *err) {
    int64_t d = b->s.d, f = b->s.ffn;
    void *x, *c;
    RB_TRY(array(b, d * f, false, &x, err));
    RB_TRY(array(b, d * d, false, &c, err));
    rb_view wide = rb_view2(x, RB_F32, d, f), tall = rb_view2(x, RB_F32, f, d),
            vc = rb_view2(c, RB_F32, d, d);
    rb_op op[] = {{.kind = RB_OP_GEMM, .t = {vc, wide, wide}, .f = {1, 0}, .i = {0, 1}},
                  {.kind = RB_OP_SYRK, .t = {vc, wide}, .f = {1, 0}, .i = {0}},
                  {.kind = RB_OP_GEMM, .t = {vc, tall, tall}, .f = {1, 0}, .i = {1, 0}},
                  {.kind = RB_OP_SYRK, .t = {vc, tall}, .f = {1, 0}, .i = {1}}};
    static const char *const name[] = {"x x^T (d x ffn), whole", "x x^T (d x ffn), half and mirrored",
                                       "x^T x (ffn x d), whole", "x^T x (ffn x d), half and mirrored"};
    for (int i = 0; i < 4; i++)
        RB_TRY(time_op(b, name[i], &op[i], (double)(d * (i % 2 ? d + 1 : 2 * d)) * (double)f, 0, err));
    free_arrays(b);
    return RESBM_OK;
}

static resbm_status bench_optimizers(bench *b, rb_err *err) {
    int64_t n = b->s.d * b->s.ffn;
    void *p[4], *norm;
    for (int i = 0; i < 4; i++) RB_TRY(array(b, n, false, &p[i], err));
    RB_TRY(array(b, 2, false, &norm, err));
    rb_view v[4], one = rb_view1(norm, RB_F64, 1);
    for (int i = 0; i < 4; i++) v[i] = rb_view1(p[i], RB_F32, n);
    rb_op adamw = {
        .kind = RB_OP_ADAMW, .t = {v[0], v[1], v[2], v[3]}, .f = {1, 0.1f, 0.95f, 0.05f, 1e-6f, 1, 1e-8f, 1}};
    rb_op muon = {.kind = RB_OP_MUON_MOMENTUM, .t = {v[0], v[1], v[3]}, .f = {0.95f, 1}, .i = {1}};
    rb_op sumsq = {.kind = RB_OP_SUMSQ, .t = {one, v[3]}};
    RB_TRY(time_op(b, "adamw (d x ffn)", &adamw, 0, 28.0 * (double)n, err));
    RB_TRY(time_op(b, "muon momentum (d x ffn)", &muon, 0, 16.0 * (double)n, err));
    RB_TRY(time_op(b, "sum of squares (d x ffn)", &sumsq, 0, 4.0 * (double)n, err));
    free_arrays(b);
    return RESBM_OK;
}

static resbm_status run_all(bench *b, rb_err *err) {
    const rb_bench_sizes *s = &b->s;
    int64_t kv = s->d / s->heads * s->kv_heads;
    RB_TRY(bench_linear(b, "q, o", s->d, s->d, err));
    RB_TRY(bench_linear(b, "qkv", s->d + 2 * kv, s->d, err));
    RB_TRY(bench_linear(b, "gate, up", s->ffn, s->d, err));
    RB_TRY(bench_linear(b, "down", s->d, s->ffn, err));
    RB_TRY(bench_linear(b, "head", s->vocab, s->d, err));
    RB_TRY(bench_attention(b, err));
    RB_TRY(bench_rowwise(b, err));
    RB_TRY(bench_swiglu(b, err));
    RB_TRY(bench_loss_and_embedding(b, err));
    RB_TRY(bench_squares(b, err));
    return bench_optimizers(b, err);
}

resbm_status rb_bench_kernels(rb_device *dev, const rb_bench_sizes *sizes, rb_buf *out, rb_err *err) {
    bench b = {.dev = dev, .s = *sizes, .out = out};
    if (sizes->heads < 1 || sizes->kv_heads < 1 || sizes->d % sizes->heads || sizes->heads % sizes->kv_heads)
        return rb_fail(err, RESBM_E_ARG, "bench: d %lld, heads %lld and kv_heads %lld do not divide",
                       (long long)sizes->d, (long long)sizes->heads, (long long)sizes->kv_heads);
    RB_TRY(rb_bench_sgemm_peak(dev->opt.threads, &b.peak, err));
    rb_buf_printf(out, "device %s, %d threads, %lld x %lld tokens, d %lld, ffn %lld, heads %lld/%lld\n",
                  dev->table->name, dev->opt.threads, (long long)sizes->batch, (long long)sizes->context,
                  (long long)sizes->d, (long long)sizes->ffn, (long long)sizes->heads,
                  (long long)sizes->kv_heads);
    rb_buf_printf(out, "%-34s %22.1f GF/s\n", "peak of dnnl_sgemm", b.peak);
    RB_TRY(rb_queue_open(dev, &b.q, err));
    resbm_status st = run_all(&b, err);
    free_arrays(&b);
    rb_queue_close(b.q);
    return st != RESBM_OK ? st : rb_buf_status(out, err);
}
