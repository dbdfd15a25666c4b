/* Single operations, forward and backward, against PyTorch's numbers (tests/golden/make_ops.py), on every
 * device whose memory the host can read. */
#include <math.h>
#include <stdlib.h>
#include "rb_cmocka.h"
#include "core/buf.h"
#include "core/bytes.h"
#include "device/ops.h"

enum { RECORDS = 128, MOST = 2048 /* numbers in one record */ };

typedef struct record {
    char name[48];
    float x[MOST];
    int64_t count;
} record;

typedef struct fixture {
    record *r;
    int records;
    bool used[RECORDS];
    rb_device *dev;
    rb_queue *q;
} fixture;

static const char *const device_names[] = {"ref", "cpu"};

static int read_records(const rb_buf *file, record *out) {
    const uint8_t *p = (const uint8_t *)file->data;
    size_t at = 0;
    int n = 0;
    for (; at < file->len; n++) {
        uint32_t length = rb_get32(p + at), count = rb_get32(p + at + 4 + length);
        assert_true(n < RECORDS && length < sizeof out->name && count <= MOST);
        memcpy(out[n].name, p + at + 4, length);
        out[n].count = count;
        at += 8 + length;
        for (uint32_t i = 0; i < count; i++, at += 4) {
            uint32_t bits = rb_get32(p + at);
            memcpy(&out[n].x[i], &bits, 4);
        }
    }
    return n;
}

static record *find(fixture *f, const char *name) {
    for (int i = 0; i < f->records; i++)
        if (!strcmp(f->r[i].name, name)) {
            f->used[i] = true;
            return &f->r[i];
        }
    fail_msg("ops.golden has no \"%s\"", name);
    return NULL;
}

/* The record's numbers as a view of rank 1 to 4 (zeros end the shape). */
static rb_view view(fixture *f, const char *name, int64_t a, int64_t b, int64_t c, int64_t d) {
    record *r = find(f, name);
    if (d) return rb_view4(r->x, RB_F32, a, b, c, d);
    if (c) return rb_view3(r->x, RB_F32, a, b, c);
    return b ? rb_view2(r->x, RB_F32, a, b) : rb_view1(r->x, RB_F32, a);
}

static void expect(fixture *f, const char *name, const float *got, double tolerance) {
    const record *r = find(f, name);
    double size = 0;
    for (int64_t i = 0; i < r->count; i++) size = fmax(size, fabs((double)r->x[i]));
    for (int64_t i = 0; i < r->count; i++)
        if (!(fabs((double)got[i] - (double)r->x[i]) <= tolerance * size))
            fail_msg("%s on %s: %s[%lld] is %.9g, PyTorch's is %.9g", name, f->dev->table->name, name,
                     (long long)i, (double)got[i], (double)r->x[i]);
}

static void integers(fixture *f, const char *name, int32_t *out) {
    const record *r = find(f, name);
    for (int64_t i = 0; i < r->count; i++) out[i] = (int32_t)r->x[i];
}

static void check_gemm(fixture *f) {
    rb_err e;
    float y[99], da[117], db[143];
    rb_view a = view(f, "gemm.a", 9, 13, 0, 0), b = view(f, "gemm.b", 11, 13, 0, 0),
            g = view(f, "gemm.dout", 9, 11, 0, 0);
    assert_ok(rb_gemm(f->q, false, true, 1, a, b, 0, rb_view2(y, RB_F32, 9, 11), &e), &e);
    assert_ok(rb_gemm(f->q, false, false, 1, g, b, 0, rb_view2(da, RB_F32, 9, 13), &e), &e);
    assert_ok(rb_gemm(f->q, true, false, 1, g, a, 0, rb_view2(db, RB_F32, 11, 13), &e), &e);
    expect(f, "gemm.out", y, 1e-6);
    expect(f, "gemm.da", da, 1e-6);
    expect(f, "gemm.db", db, 1e-6);
}

static void check_rmsnorm(fixture *f) {
    rb_err e;
    float y[240], rstd[10], dx[240], dw[24] = {0};
    rb_view x = view(f, "rmsnorm.x", 10, 24, 0, 0), w = view(f, "rmsnorm.w", 24, 0, 0, 0);
    rb_view g = view(f, "rmsnorm.dout", 10, 24, 0, 0), r = rb_view1(rstd, RB_F32, 10);
    assert_ok(rb_rmsnorm_forward(f->q, rb_view2(y, RB_F32, 10, 24), r, x, w, 1e-5f, &e), &e);
    assert_ok(rb_rmsnorm_backward_x(f->q, rb_view2(dx, RB_F32, 10, 24), 0, g, x, w, r, &e), &e);
    assert_ok(rb_rmsnorm_backward_w(f->q, rb_view1(dw, RB_F32, 24), g, x, r, &e), &e);
    expect(f, "rmsnorm.out", y, 1e-6);
    expect(f, "rmsnorm.dx", dx, 1e-6);
    expect(f, "rmsnorm.dw", dw, 1e-6);
}

/* Positions 2..6, from a table that begins at position 2, and again at offset 1 of its own rows. */
static void check_rope(fixture *f) {
    rb_err e;
    float x[240];
    rb_view v = rb_view4(x, RB_F32, 2, 5, 3, 8), cos = view(f, "rope.cos", 5, 4, 0, 0),
            sin = view(f, "rope.sin", 5, 4, 0, 0);
    memcpy(x, find(f, "rope.x")->x, sizeof x);
    assert_ok(rb_rope(f->q, v, cos, sin, 0, false, &e), &e);
    expect(f, "rope.out", x, 1e-6);
    memcpy(x, find(f, "rope.dout")->x, sizeof x);
    assert_ok(rb_rope(f->q, v, cos, sin, 0, true, &e), &e);
    expect(f, "rope.dx", x, 1e-6);
    rb_view later = v;
    memcpy(x, find(f, "rope.x")->x, sizeof x);
    later.data = x + 3 * 24; /* sequence 0, positions 3 and 4 of the table's rows */
    later.shape[0] = 1;
    later.shape[1] = 2;
    assert_ok(rb_rope(f->q, later, cos, sin, 3, false, &e), &e);
    assert_memory_equal(x, find(f, "rope.x")->x, 3 * 24 * sizeof(float));
    for (int i = 3 * 24; i < 5 * 24; i++) assert_true(fabsf(x[i] - find(f, "rope.out")->x[i]) < 1e-6f);
}

static const char *named(const char *op, const char *operand) {
    static _Thread_local char text[8][64];
    static _Thread_local int at;
    at = (at + 1) % 8;
    snprintf(text[at], sizeof text[at], "%s.%s", op, operand);
    return text[at];
}

static void check_attention(fixture *f, const char *op, int64_t G) {
    rb_err e;
    enum { B = 2, T = 19, H = 4, D = 8, N = B * T * H * D };
    float out[N], lse[B * H * T], dq[N], dk[N], dv[N], scale = 1 / sqrtf(D);
    rb_view q = view(f, named(op, "q"), B, T, H, D), k = view(f, named(op, "k"), B, T, G, D);
    rb_view v = view(f, named(op, "v"), B, T, G, D), g = view(f, named(op, "dout"), B, T, H, D);
    rb_view o = rb_view4(out, RB_F32, B, T, H, D), l = rb_view3(lse, RB_F32, B, H, T);
    assert_ok(rb_attention_forward(f->q, o, l, q, k, v, 0, scale, &e), &e);
    assert_ok(rb_attention_backward(f->q, rb_view4(dq, RB_F32, B, T, H, D), rb_view4(dk, RB_F32, B, T, G, D),
                                    rb_view4(dv, RB_F32, B, T, G, D), g, o, l, q, k, v, scale, &e),
              &e);
    expect(f, named(op, "out"), out, 2e-6);
    expect(f, named(op, "lse"), lse, 2e-6);
    expect(f, named(op, "dq"), dq, 2e-6);
    expect(f, named(op, "dk"), dk, 2e-6);
    expect(f, named(op, "dv"), dv, 2e-6);
}

static void check_activations(fixture *f) {
    rb_err e;
    float h[105], dgate[102], dup[102];
    rb_view gate = view(f, "swiglu.gate", 6, 17, 0, 0), up = view(f, "swiglu.up", 6, 17, 0, 0);
    rb_view vh = rb_view2(h, RB_F32, 6, 17), s = rb_view2(h, RB_F32, 5, 21);
    assert_ok(rb_swiglu_forward(f->q, vh, gate, up, &e), &e);
    expect(f, "swiglu.out", h, 1e-6);
    assert_ok(rb_swiglu_backward(f->q, rb_view2(dgate, RB_F32, 6, 17), rb_view2(dup, RB_F32, 6, 17), vh,
                                 view(f, "swiglu.dout", 6, 17, 0, 0), gate, up, &e),
              &e);
    expect(f, "swiglu.out", h, 1e-6);
    expect(f, "swiglu.dgate", dgate, 1e-6);
    expect(f, "swiglu.dup", dup, 1e-6);
    assert_ok(rb_silu_forward(f->q, s, view(f, "silu.x", 5, 21, 0, 0), &e), &e);
    expect(f, "silu.out", h, 1e-6);
    assert_ok(
        rb_silu_backward(f->q, s, view(f, "silu.dout", 5, 21, 0, 0), view(f, "silu.x", 5, 21, 0, 0), &e), &e);
    expect(f, "silu.dx", h, 1e-6);
}

static void check_embedding(fixture *f) {
    rb_err e;
    int32_t ids[8];
    float out[48], dtable[42] = {0};
    integers(f, "embedding.ids", ids);
    rb_view id = rb_view1(ids, RB_I32, 8);
    assert_ok(
        rb_embed_forward(f->q, rb_view2(out, RB_F32, 8, 6), view(f, "embedding.table", 7, 6, 0, 0), id, &e),
        &e);
    assert_ok(rb_embed_backward(f->q, rb_view2(dtable, RB_F32, 7, 6), view(f, "embedding.dout", 8, 6, 0, 0),
                                id, &e),
              &e);
    expect(f, "embedding.out", out, 0);
    expect(f, "embedding.dtable", dtable, 1e-6);
}

static void check_xent(fixture *f) {
    rb_err e;
    int32_t targets[9];
    float loss[9], logits[297];
    integers(f, "xent.targets", targets);
    memcpy(logits, find(f, "xent.logits")->x, sizeof logits);
    rb_view l = rb_view1(loss, RB_F32, 9), x = rb_view2(logits, RB_F32, 9, 33),
            t = rb_view1(targets, RB_I32, 9);
    assert_ok(rb_xent(f->q, l, x, t, 0, &e), &e);
    expect(f, "xent.loss", loss, 1e-6);
    assert_memory_equal(logits, find(f, "xent.logits")->x, sizeof logits);
    assert_ok(rb_xent(f->q, l, x, t, 1.0f / 8, &e), &e);
    expect(f, "xent.loss", loss, 1e-6);
    expect(f, "xent.dlogits", logits, 1e-6);
}

static void check_adamw(fixture *f) {
    rb_err e;
    float p[40], m[40] = {0}, v[40] = {0}, g[40];
    memcpy(p, find(f, "adamw.start")->x, sizeof p);
    for (int step = 0; step < 4; step++) {
        char grad[] = "grad0", after[] = "p0";
        grad[4] = after[1] = (char)('0' + step);
        rb_adamw_args a = {0.01, 0.9, 0.95, 1e-8, 0.1, 1 - pow(0.9, step + 1), 1 - pow(0.95, step + 1), 0.25};
        for (int i = 0; i < 40; i++)
            g[i] = 4 * find(f, named("adamw", grad))->x[i]; /* grad_scale takes it back */
        assert_ok(rb_adamw(f->q, rb_view1(p, RB_F32, 40), rb_view1(m, RB_F32, 40), rb_view1(v, RB_F32, 40),
                           rb_view1(g, RB_F32, 40), &a, &e),
                  &e);
        expect(f, named("adamw", after), p, 3e-7);
    }
    expect(f, "adamw.m", m, 1e-6);
    expect(f, "adamw.v", v, 1e-6);
}

static void check_muon(fixture *f) {
    rb_err e;
    float buf[40] = {0}, update[40];
    for (int step = 0; step < 3; step++) {
        char grad[] = "grad0", after[] = "buf0", up[] = "update0";
        grad[4] = after[3] = up[6] = (char)('0' + step);
        assert_ok(rb_muon_momentum(f->q, rb_view2(buf, RB_F32, 5, 8), rb_view2(update, RB_F32, 5, 8),
                                   view(f, named("muon", grad), 5, 8, 0, 0), 0.95f, 1, true, &e),
                  &e);
        expect(f, named("muon", after), buf, 1e-6);
        expect(f, named("muon", up), update, 1e-6);
    }
}

static void test_every_record(void **state) {
    fixture f = {0};
    rb_buf file = {0};
    rb_err e;
    (void)state;
    assert_ok(rb_read_file(RB_SOURCE_DIR "/tests/golden/ops.golden", 1 << 20, &file, &e), &e);
    f.r = calloc(RECORDS, sizeof *f.r);
    f.records = read_records(&file, f.r);
    for (size_t i = 0; i < sizeof device_names / sizeof *device_names; i++) {
        rb_device_options opt = {.threads = 2};
        assert_ok(rb_device_open(device_names[i], &opt, &f.dev, &e), &e);
        assert_ok(rb_queue_open(f.dev, &f.q, &e), &e);
        check_gemm(&f);
        check_rmsnorm(&f);
        check_rope(&f);
        check_attention(&f, "attention", 4);
        check_attention(&f, "grouped", 2);
        check_activations(&f);
        check_embedding(&f);
        check_xent(&f);
        check_adamw(&f);
        check_muon(&f);
        rb_queue_close(f.q);
        rb_device_close(f.dev);
    }
    for (int i = 0; i < f.records; i++)
        if (!f.used[i]) fail_msg("ops.golden's %s is compared with nothing", f.r[i].name);
    free(f.r);
    rb_buf_free(&file);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_record)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
