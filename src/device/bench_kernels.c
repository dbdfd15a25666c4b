#include "device/bench_kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/bytes.h"
#include "core/rng.h"
#include "device/bench_call.h"
#include "device/bench_peak.h"
#include "device/ops.h"

enum { MAX_BUFFERS = 16 };

typedef struct bench {
    rb_device *dev;
    rb_queue *q;
    rb_bench_sizes s;
    rb_buf *out;
    rb_dtype half; /* of activations inside blocks, and of the weights that products take */
    double peak;
    void *mem[MAX_BUFFERS];
    int used;
} bench;

/* A new array of normal numbers (i32: zeros and ones) on the device, f32 or bf16. */
static resbm_status array(bench *b, int64_t n, rb_dtype t, void **p, rb_err *err) {
    if (b->used == MAX_BUFFERS) return rb_fail(err, RESBM_E_INTERNAL, "bench: too many arrays");
    size_t bytes = (size_t)n * rb_dtype_size(t);
    float *host = malloc((size_t)n * sizeof *host);
    if (!host) return rb_fail(err, RESBM_E_MEMORY, "bench: no memory for %lld numbers", (long long)n);
    rb_normal_fill((uint64_t)b->used + 1, host, n, 0, 1);
    for (int64_t i = 0; t == RB_I32 && i < n; i++) ((int32_t *)host)[i] = i & 1;
    for (int64_t i = 0; t == RB_BF16 && i < n; i++) {
        uint16_t half = rb_bf16_from_f32(host[i]);
        memcpy((char *)host + 2 * i, &half, 2);
    }
    resbm_status st = rb_alloc(b->dev, bytes, p, err);
    if (st == RESBM_OK) {
        b->mem[b->used++] = *p;
        st = rb_upload(b->q, *p, host, bytes, err);
    }
    if (st == RESBM_OK) st = rb_queue_sync(b->q, err);
    free(host);
    return st;
}

static void free_arrays(bench *b) {
    while (b->used) rb_free(b->dev, b->mem[--b->used]);
}

typedef struct one_op {
    rb_queue *q;
    const rb_op *op;
} one_op;

static resbm_status run_op(void *ctx, rb_err *err) {
    one_op *o = ctx;
    return rb_run(o->q, o->op, err);
}

/* Times one record and prints its line. flops > 0: GF/s and share of peak; else bytes: GB/s. */
static resbm_status time_op(bench *b, const char *label, const rb_op *op, double flops, double bytes,
                            rb_err *err) {
    double best, limit = (b->s.seconds > 0 ? b->s.seconds : 0.1) * 1e9;
    one_op o = {b->q, op};
    RB_TRY(rb_bench_call(b->q, run_op, &o, (int64_t)limit, &best, err));
    rb_buf_printf(b->out, "%-34s %9.3f ms ", label, best * 1e-6);
    if (flops > 0)
        rb_buf_printf(b->out, "%8.1f GF/s %5.1f%% of peak\n", flops / best, 100 * flops / best / b->peak);
    else
        rb_buf_printf(b->out, "%8.1f GB/s\n", bytes / best);
    return RESBM_OK;
}

/* The three products of a linear map of K inputs to N outputs over M rows; gradients of weights are in f32. */
static resbm_status bench_linear(bench *b, const char *name, int64_t N, int64_t K, rb_dtype t, rb_err *err) {
    int64_t M = b->s.batch * b->s.context;
    void *x, *w, *y, *dw;
    char label[64];
    RB_TRY(array(b, M * K, t, &x, err));
    RB_TRY(array(b, N * K, b->half, &w, err));
    RB_TRY(array(b, M * N, t, &y, err));
    RB_TRY(array(b, N * K, RB_F32, &dw, err));
    rb_view vx = rb_view2(x, t, M, K), vw = rb_view2(w, b->half, N, K), vy = rb_view2(y, t, M, N),
            vd = rb_view2(dw, RB_F32, N, K);
    rb_op op[] = {{.kind = RB_OP_GEMM, .t = {vy, vx, vw}, .f = {1, 0}, .i = {0, 1}},
                  {.kind = RB_OP_GEMM, .t = {vx, vy, vw}, .f = {1, 0}, .i = {0, 0}},
                  {.kind = RB_OP_GEMM, .t = {vd, vy, vx}, .f = {1, 1}, .i = {1, 0}}};
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
    for (int i = 0; i < 9; i++) RB_TRY(array(b, size[i], i == 5 ? RB_F32 : b->half, &p[i], err));
#define HEADS(i)  rb_view4(p[i], b->half, B, T, H, D)
#define GROUPS(i) rb_view4(p[i], b->half, B, T, G, D)
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

/* x and its gradient (the residual stream) are f32; what is normed, and y's gradient, are the block's. */
static resbm_status bench_rowwise(bench *b, rb_err *err) {
    const rb_bench_sizes *s = &b->s;
    int64_t n = s->batch * s->context, D = s->d / s->heads;
    void *x, *y, *z, *w, *rstd;
    RB_TRY(array(b, n * s->d, RB_F32, &x, err));
    RB_TRY(array(b, n * s->d, b->half, &y, err));
    RB_TRY(array(b, n * s->d, RB_F32, &z, err));
    RB_TRY(array(b, s->d + s->context * D, RB_F32, &w, err));
    RB_TRY(array(b, n, RB_F32, &rstd, err));
    rb_view vx = rb_view2(x, RB_F32, n, s->d), vy = rb_view2(y, b->half, n, s->d),
            vz = rb_view2(z, RB_F32, n, s->d);
    rb_view vw = rb_view1(w, RB_F32, s->d), vr = rb_view1(rstd, RB_F32, n);
    rb_view angle = rb_view2((float *)w + s->d, RB_F32, s->context, D / 2);
    rb_view heads = rb_view4(y, b->half, s->batch, s->context, s->heads, D);
    double each = (double)(n * s->d), half = (double)rb_dtype_size(b->half);
    rb_op op[] = {{.kind = RB_OP_RMSNORM_FWD, .t = {vy, vr, vx, vw}, .f = {1e-5f}},
                  {.kind = RB_OP_RMSNORM_BWD_X, .t = {vz, vy, vx, vw, vr}, .f = {1}},
                  {.kind = RB_OP_RMSNORM_BWD_W, .t = {vw, vy, vx, vr}},
                  {.kind = RB_OP_ROPE, .t = {heads, angle, angle}},
                  {.kind = RB_OP_AXPBY, .t = {vz, vx}, .f = {0.5f, 0.5f}}};
    static const char *const name[] = {"rmsnorm forward", "rmsnorm backward, input",
                                       "rmsnorm backward, weight", "rope", "axpby (n,d)"};
    const double moved[] = {4 + half, 12 + half, 4 + half, 2 * half, 12};
    for (int i = 0; i < 5; i++) RB_TRY(time_op(b, name[i], &op[i], 0, moved[i] * each, err));
    free_arrays(b);
    return RESBM_OK;
}

static resbm_status bench_swiglu(bench *b, rb_err *err) {
    int64_t n = b->s.batch * b->s.context, f = b->s.ffn;
    void *g, *u, *h;
    RB_TRY(array(b, n * f, b->half, &g, err));
    RB_TRY(array(b, n * f, b->half, &u, err));
    RB_TRY(array(b, n * f, b->half, &h, err));
    rb_view vg = rb_view2(g, b->half, n, f), vu = rb_view2(u, b->half, n, f), vh = rb_view2(h, b->half, n, f);
    rb_op fwd = {.kind = RB_OP_SWIGLU_FWD, .t = {vh, vg, vu}};
    rb_op bwd = {.kind = RB_OP_SWIGLU_BWD, .t = {vg, vu, vh, vh, vg, vu}};
    double each = (double)(n * f) * (double)rb_dtype_size(b->half);
    RB_TRY(time_op(b, "swiglu forward", &fwd, 0, 3 * each, err));
    RB_TRY(time_op(b, "swiglu backward", &bwd, 0, 6 * each, err));
    free_arrays(b);
    return RESBM_OK;
}

static resbm_status bench_loss_and_embedding(bench *b, rb_err *err) {
    int64_t n = b->s.batch * b->s.context, V = b->s.vocab, d = b->s.d;
    void *logits, *loss, *ids, *table, *x;
    RB_TRY(array(b, n * V, RB_F32, &logits, err));
    RB_TRY(array(b, n, RB_F32, &loss, err));
    RB_TRY(array(b, n, RB_I32, &ids, err));
    RB_TRY(array(b, V * d, RB_F32, &table, err));
    RB_TRY(array(b, n * d, RB_F32, &x, err));
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
    RB_TRY(array(b, d * f, RB_F32, &x, err));
    RB_TRY(array(b, d * d, RB_F32, &c, err));
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
    for (int i = 0; i < 4; i++) RB_TRY(array(b, n, RB_F32, &p[i], err));
    RB_TRY(array(b, 2, RB_F32, &norm, err));
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

static resbm_status bench_products(bench *b, rb_err *err) {
    const rb_bench_sizes *s = &b->s;
    int64_t kv = s->d / s->heads * s->kv_heads;
    RB_TRY(bench_linear(b, "q, o", s->d, s->d, b->half, err));
    RB_TRY(bench_linear(b, "qkv", s->d + 2 * kv, s->d, b->half, err));
    RB_TRY(bench_linear(b, "gate, up", s->ffn, s->d, b->half, err));
    RB_TRY(bench_linear(b, "down", s->d, s->ffn, b->half, err));
    return bench_linear(b, "head", s->vocab, s->d, RB_F32, err);
}

static const struct {
    const char *name;
    resbm_status (*run)(bench *b, rb_err *err);
} parts[] = {{"products", bench_products},    {"attention", bench_attention},     {"rows", bench_rowwise},
             {"swiglu", bench_swiglu},        {"ends", bench_loss_and_embedding}, {"squares", bench_squares},
             {"optimizers", bench_optimizers}};
enum { PART_COUNT = sizeof parts / sizeof *parts };

static resbm_status check_sizes(const rb_bench_sizes *s, rb_err *err) {
    if (s->heads < 1 || s->kv_heads < 1 || s->d % s->heads || s->heads % s->kv_heads)
        return rb_fail(err, RESBM_E_ARG, "bench: d %lld, heads %lld and kv_heads %lld do not divide",
                       (long long)s->d, (long long)s->heads, (long long)s->kv_heads);
    for (int i = 0; i < PART_COUNT; i++)
        if (!s->only || !strcmp(s->only, parts[i].name)) return RESBM_OK;
    return rb_fail(err, RESBM_E_ARG,
                   "bench kernels has no part \"%s\": products, attention, rows, swiglu, ends, squares or "
                   "optimizers",
                   s->only);
}

static resbm_status run_parts(bench *b, rb_err *err) {
    for (int i = 0; i < PART_COUNT; i++)
        if (!b->s.only || !strcmp(b->s.only, parts[i].name)) RB_TRY(parts[i].run(b, err));
    return RESBM_OK;
}

resbm_status rb_bench_kernels(rb_device *dev, const rb_bench_sizes *sizes, rb_buf *out, rb_err *err) {
    bench b = {.dev = dev, .s = *sizes, .out = out, .half = dev->factor};
    bool host = dev->table->host_memory, half = b.half == RB_BF16;
    RB_TRY(check_sizes(sizes, err));
    RB_TRY(host ? rb_bench_sgemm_peak(dev->opt.threads, &b.peak, err)
                : rb_bench_device_peak(dev, &b.peak, err));
    rb_buf_printf(out, "device %s, %d threads, %lld x %lld tokens, d %lld, ffn %lld, heads %lld/%lld\n",
                  dev->table->name, dev->opt.threads, (long long)sizes->batch, (long long)sizes->context,
                  (long long)sizes->d, (long long)sizes->ffn, (long long)sizes->heads,
                  (long long)sizes->kv_heads);
    rb_buf_printf(out, "%-34s %22.1f GF/s\n",
                  host   ? "peak of dnnl_sgemm"
                  : half ? "peak of the device's bf16 products"
                         : "peak of the device's products",
                  b.peak);
    RB_TRY(rb_queue_open(dev, &b.q, err));
    resbm_status st = run_parts(&b, err);
    free_arrays(&b);
    rb_queue_close(b.q);
    return st != RESBM_OK ? st : rb_buf_status(out, err);
}
