/* Every backward against finite differences of its forward, on every device whose memory the host can read:
 * d/dx sum(r . f(x)) for a random r, four-point central differences. f32 outputs limit this to about 1e-3. */
#include <math.h>
#include <stdlib.h>
#include "rb_cmocka.h"
#include "core/rng.h"
#include "device/ops.h"

enum { INPUTS = 3, MOST = 4096 };

typedef struct problem {
    const char *name;
    int inputs;
    int64_t size[INPUTS], out;
    /* out from in */
    resbm_status (*forward)(rb_queue *q, float *const *in, float *out, rb_err *err);
    /* d[i] from in and dout; d is zero before */
    resbm_status (*backward)(rb_queue *q, float *const *in, float *dout, float *const *d, rb_err *err);
} problem;

enum { R = 5, W = 12 }; /* rows and columns of the elementwise problems */
#define ROWS(p) rb_view2(p, RB_F32, R, W)

static resbm_status norm_forward(rb_queue *q, float *const *in, float *out, rb_err *err) {
    float rstd[R];
    return rb_rmsnorm_forward(q, ROWS(out), rb_view1(rstd, RB_F32, R), ROWS(in[0]),
                              rb_view1(in[1], RB_F32, W), 1e-3f, err);
}
static resbm_status norm_backward(rb_queue *q, float *const *in, float *dout, float *const *d, rb_err *err) {
    float y[R * W], rstd[R];
    rb_view r = rb_view1(rstd, RB_F32, R), w = rb_view1(in[1], RB_F32, W);
    RB_TRY(rb_rmsnorm_forward(q, ROWS(y), r, ROWS(in[0]), w, 1e-3f, err));
    RB_TRY(rb_rmsnorm_backward_x(q, ROWS(d[0]), 1, ROWS(dout), ROWS(in[0]), w, r, err));
    return rb_rmsnorm_backward_w(q, rb_view1(d[1], RB_F32, W), ROWS(dout), ROWS(in[0]), r, err);
}

static resbm_status bare_norm_forward(rb_queue *q, float *const *in, float *out, rb_err *err) {
    float rstd[R * 3];
    return rb_rmsnorm_forward(q, rb_view3(out, RB_F32, R, 3, W / 3), rb_view1(rstd, RB_F32, R * 3),
                              rb_view3(in[0], RB_F32, R, 3, W / 3), rb_none(), 1e-3f, err);
}
static resbm_status bare_norm_backward(rb_queue *q, float *const *in, float *dout, float *const *d,
                                       rb_err *err) {
    float y[R * W], rstd[R * 3];
    rb_view x = rb_view3(in[0], RB_F32, R, 3, W / 3), v = x, g = x, dx = x, r = rb_view1(rstd, RB_F32, R * 3);
    v.data = y;
    g.data = dout;
    dx.data = d[0];
    RB_TRY(rb_rmsnorm_forward(q, v, r, x, rb_none(), 1e-3f, err));
    return rb_rmsnorm_backward_x(q, dx, 0, g, x, rb_none(), r, err);
}

static resbm_status swiglu_forward(rb_queue *q, float *const *in, float *out, rb_err *err) {
    return rb_swiglu_forward(q, ROWS(out), ROWS(in[0]), ROWS(in[1]), err);
}
static resbm_status swiglu_backward(rb_queue *q, float *const *in, float *dout, float *const *d,
                                    rb_err *err) {
    return rb_swiglu_backward(q, ROWS(d[0]), ROWS(d[1]), rb_none(), ROWS(dout), ROWS(in[0]), ROWS(in[1]),
                              err);
}

static resbm_status silu_forward(rb_queue *q, float *const *in, float *out, rb_err *err) {
    return rb_silu_forward(q, ROWS(out), ROWS(in[0]), err);
}
static resbm_status silu_backward(rb_queue *q, float *const *in, float *dout, float *const *d, rb_err *err) {
    return rb_silu_backward(q, ROWS(d[0]), ROWS(dout), ROWS(in[0]), err);
}

/* Rotation by fixed angles of x (1,R,3,4). */
static resbm_status rotate(rb_queue *q, float *x, bool inverse, rb_err *err) {
    float c[(R + 1) * 2], s[(R + 1) * 2];
    for (int i = 0; i < (R + 1) * 2; i++) c[i] = cosf((float)i), s[i] = sinf((float)i);
    return rb_rope(q, rb_view4(x, RB_F32, 1, R, 3, W / 3), rb_view2(c, RB_F32, R + 1, 2),
                   rb_view2(s, RB_F32, R + 1, 2), 1, inverse, err);
}
static resbm_status rope_forward(rb_queue *q, float *const *in, float *out, rb_err *err) {
    memcpy(out, in[0], R * W * sizeof *out);
    return rotate(q, out, false, err);
}
static resbm_status rope_backward(rb_queue *q, float *const *in, float *dout, float *const *d, rb_err *err) {
    (void)in;
    memcpy(d[0], dout, R * W * sizeof *dout);
    return rotate(q, d[0], true, err);
}

static int32_t token[R] = {2, 0, 2, -1, 3};
enum { V = 4 };
static resbm_status embed_forward(rb_queue *q, float *const *in, float *out, rb_err *err) {
    int32_t ids[R] = {2, 0, 2, 1, 3};
    return rb_embed_forward(q, ROWS(out), rb_view2(in[0], RB_F32, V, W), rb_view1(ids, RB_I32, R), err);
}
static resbm_status embed_backward(rb_queue *q, float *const *in, float *dout, float *const *d, rb_err *err) {
    int32_t ids[R] = {2, 0, 2, 1, 3};
    (void)in;
    return rb_embed_backward(q, rb_view2(d[0], RB_F32, V, W), ROWS(dout), rb_view1(ids, RB_I32, R), err);
}

/* One loss per row; the gradient kernel takes one scale for all, so rows are weighted afterwards. */
static resbm_status xent_forward(rb_queue *q, float *const *in, float *out, rb_err *err) {
    return rb_xent(q, rb_view1(out, RB_F32, R), rb_view2(in[0], RB_F32, R, W), rb_view1(token, RB_I32, R), 0,
                   err);
}
static resbm_status xent_backward(rb_queue *q, float *const *in, float *dout, float *const *d, rb_err *err) {
    float loss[R];
    memcpy(d[0], in[0], R * W * sizeof(float));
    RB_TRY(rb_xent(q, rb_view1(loss, RB_F32, R), ROWS(d[0]), rb_view1(token, RB_I32, R), 0.5f, err));
    for (int i = 0; i < R * W; i++) d[0][i] *= 2 * dout[i / W];
    return RESBM_OK;
}

static resbm_status gemm_forward(rb_queue *q, float *const *in, float *out, rb_err *err) {
    return rb_gemm(q, false, true, 0.5f, ROWS(in[0]), rb_view2(in[1], RB_F32, 7, W), 0,
                   rb_view2(out, RB_F32, R, 7), err);
}
static resbm_status gemm_backward(rb_queue *q, float *const *in, float *dout, float *const *d, rb_err *err) {
    rb_view g = rb_view2(dout, RB_F32, R, 7), w = rb_view2(in[1], RB_F32, 7, W);
    RB_TRY(rb_gemm(q, false, false, 0.5f, g, w, 0, ROWS(d[0]), err));
    return rb_gemm(q, true, false, 0.5f, g, ROWS(in[0]), 1, rb_view2(d[1], RB_F32, 7, W), err);
}

enum { B = 2, T = 7, H = 4, G = 2, D = 6 };
#define HEADS(p)  rb_view4(p, RB_F32, B, T, H, D)
#define GROUPS(p) rb_view4(p, RB_F32, B, T, G, D)
static resbm_status attention_forward(rb_queue *q, float *const *in, float *out, rb_err *err) {
    float lse[B * H * T];
    return rb_attention_forward(q, HEADS(out), rb_view3(lse, RB_F32, B, H, T), HEADS(in[0]), GROUPS(in[1]),
                                GROUPS(in[2]), 0, 0.4f, err);
}
static resbm_status attention_backward(rb_queue *q, float *const *in, float *dout, float *const *d,
                                       rb_err *err) {
    float out[B * T * H * D], lse[B * H * T];
    rb_view l = rb_view3(lse, RB_F32, B, H, T);
    RB_TRY(rb_attention_forward(q, HEADS(out), l, HEADS(in[0]), GROUPS(in[1]), GROUPS(in[2]), 0, 0.4f, err));
    return rb_attention_backward(q, HEADS(d[0]), GROUPS(d[1]), GROUPS(d[2]), HEADS(dout), HEADS(out), l,
                                 HEADS(in[0]), GROUPS(in[1]), GROUPS(in[2]), 0.4f, err);
}

static const problem problems[] = {
    {"gemm", 2, {R * W, 7 * W}, R * 7, gemm_forward, gemm_backward},
    {"embedding", 1, {V * W}, R *W, embed_forward, embed_backward},
    {"rmsnorm", 2, {R * W, W}, R *W, norm_forward, norm_backward},
    {"rmsnorm without weight, rank 3", 1, {R * W}, R *W, bare_norm_forward, bare_norm_backward},
    {"rope", 1, {R * W}, R *W, rope_forward, rope_backward},
    {"attention",
     3,
     {B * T * H * D, B *T *G *D, B *T *G *D},
     B *T *H *D,
     attention_forward,
     attention_backward},
    {"swiglu", 2, {R * W, R *W}, R *W, swiglu_forward, swiglu_backward},
    {"silu", 1, {R * W}, R *W, silu_forward, silu_backward},
    {"xent", 1, {R * W}, R, xent_forward, xent_backward},
};

static double objective(const problem *p, rb_queue *q, float *const *in, const float *r) {
    float out[MOST];
    rb_err err;
    double sum = 0;
    if (p->forward(q, in, out, &err) != RESBM_OK) fail_msg("%s: %s", p->name, err.text);
    for (int64_t i = 0; i < p->out; i++) sum += (double)out[i] * (double)r[i];
    return sum;
}

/* (8 (f(x+h) - f(x-h)) - (f(x+2h) - f(x-2h))) / 12h, with h as f32 really moved. */
static double slope(const problem *p, rb_queue *q, float *const *in, float *x, const float *r) {
    const float h = 1.0f / 64, x0 = *x;
    double f[4];
    static const int at[] = {1, -1, 2, -2};
    for (int i = 0; i < 4; i++) {
        *x = x0 + (float)at[i] * h;
        f[i] = objective(p, q, in, r);
    }
    *x = x0;
    return (8 * (f[0] - f[1]) - (f[2] - f[3])) / (12 * (double)h);
}

static void check_problem(const problem *p, rb_device *dev, rb_queue *q) {
    float memory[2 * INPUTS][MOST] = {{0}}, r[MOST], *in[INPUTS], *d[INPUTS];
    rb_err err;
    rb_normal_fill(99, r, p->out, 0, 1);
    for (int i = 0; i < INPUTS; i++) {
        in[i] = memory[i];
        d[i] = memory[INPUTS + i];
        rb_normal_fill((uint64_t)i + 5, in[i], p->size[i], 0, 1);
    }
    if (p->backward(q, in, r, d, &err) != RESBM_OK) fail_msg("%s: %s", p->name, err.text);
    for (int i = 0; i < p->inputs; i++)
        for (int64_t j = 0; j < p->size[i]; j++) {
            double want = slope(p, q, in, &in[i][j], r), got = (double)d[i][j];
            if (!(fabs(want - got) <= 5e-4 * fmax(1, fabs(want))))
                fail_msg("%s on %s: input %d, number %lld: backward says %.7g, differences say %.7g", p->name,
                         dev->table->name, i, (long long)j, got, want);
        }
}

static void test_backwards(void **state) {
    static const char *const names[] = {"ref", "cpu"};
    (void)state;
    for (int n = 0; n < 2; n++) {
        rb_err err;
        rb_device *dev;
        rb_queue *q;
        rb_device_options opt = {.threads = 1};
        assert_ok(rb_device_open(names[n], &opt, &dev, &err), &err);
        assert_ok(rb_queue_open(dev, &q, &err), &err);
        for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) check_problem(&problems[i], dev, q);
        rb_queue_close(q);
        rb_device_close(dev);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_backwards)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
