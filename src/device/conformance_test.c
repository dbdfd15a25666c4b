/* Every device of the registry against the reference, every kind of operation: odd sizes, strided views,
 * absent operands, outputs that share memory with inputs where ops.h allows it, NaN and inf told apart, guard
 * bands round every buffer, and the same bits for 1, 2 and 3 threads. */
#include <math.h>
#include <stdlib.h>
#include "rb_cmocka.h"
#include "core/rng.h"
#include "device/check.h"
#include "device/ops.h"
#include "device/pack_layout.h"
#include "device/tables.h"
#include "device/view.h"

enum { GUARD = 128 /* bytes on each side of a buffer */, SENTINEL = 0xA5, PARTS = RB_MAX_VIEWS };

typedef enum init {
    NORMAL,
    POSITIVE,
    ANGLE_COS,
    ANGLE_SIN,
    NAN_FILL,
    IDS,
    TARGETS,
    BYTES,
    ZERO,
    SPECIAL
} init;

/* One operand: its view's shape, extra elements between rows, contents, and the operand whose memory it
 * shares. */
typedef struct part {
    rb_dtype dtype;
    int rank;
    int64_t shape[4], gap;
    init init;
    int64_t range; /* ids below this */
    int shares;    /* operand number + 1; 0 = memory of its own */
    void *host;    /* whole buffer with guards and gaps */
    size_t bytes;
} part;

typedef struct test_case {
    rb_op op; /* kind, scalars; views are filled per device */
    part t[PARTS];
    double tolerance; /* of max(|ref|, typical size of the output) */
    char name[160];
    double floor; /* least size of the output that the tolerance is taken of: for sums that cancel */
} test_case;

static uint64_t case_seed(const test_case *c, int j) {
    uint64_t h = rb_mix64((uint64_t)c->op.kind, (uint64_t)j);
    for (int i = 0; i < 4; i++) h = rb_mix64(h, (uint64_t)c->t[j].shape[i]);
    return h;
}

static rb_view view_of(const part *p, void *base) {
    rb_view v = {(char *)base + GUARD, p->dtype, p->rank, {1, 1, 1, 1}, {1, 1, 1, 1}};
    if (!p->rank) return rb_none();
    int64_t stride = 1;
    for (int i = p->rank - 1; i >= 0; i--) {
        v.shape[i] = p->shape[i];
        v.stride[i] = stride;
        stride *= p->shape[i];
        if (i == p->rank - 1) stride += p->rank > 1 ? p->gap : 0;
    }
    return v;
}

static size_t bytes_of(const part *p) {
    rb_view v = view_of(p, NULL);
    return (size_t)(v.stride[0] * v.shape[0]) * rb_dtype_size(p->dtype) + 2 * GUARD;
}

static double initial(const part *p, rb_rng *r, int64_t i) {
    float normal;
    switch (p->init) {
    case NORMAL:
        rb_normal_fill(r->key, &normal, 1, 0, 1);
        r->key++;
        return (double)normal;
    case POSITIVE:
        return 0.1 + rb_rng_uniform(r);
    case ANGLE_COS:
        return cos((double)i * 0.37);
    case ANGLE_SIN:
        return sin((double)i * 0.37);
    case NAN_FILL:
        return NAN;
    case IDS:
        return (double)rb_rng_below(r, (uint64_t)p->range);
    case TARGETS:
        return (double)rb_rng_below(r, (uint64_t)p->range + 1) - 1;
    case BYTES:
        return (double)rb_rng_below(r, 256);
    case ZERO:
        return 0;
    case SPECIAL:
        break;
    }
    static const double odd[] = {1.5, INFINITY, -2,   -INFINITY, NAN,  0,    -0.0,
                                 88,  -88,      3e38, -1e-40,    1000, -1000};
    return odd[i % (int64_t)(sizeof odd / sizeof *odd)];
}

static void put(const rb_view *v, int64_t at, double x) {
    switch (v->dtype) {
    case RB_F32:
        ((float *)v->data)[at] = (float)x;
        break;
    case RB_BF16:
        ((uint16_t *)v->data)[at] = isnan(x) ? 0x7fc0 : (uint16_t)(0x3f80 + (int)(x * 16));
        break;
    case RB_I32:
        ((int32_t *)v->data)[at] = (int32_t)x;
        break;
    case RB_U8:
        ((uint8_t *)v->data)[at] = (uint8_t)x;
        break;
    case RB_F64:
        ((double *)v->data)[at] = x;
        break;
    default:
        ((int64_t *)v->data)[at] = (int64_t)x;
        break;
    }
}

static double get(const rb_view *v, int64_t at) {
    uint32_t u;
    float f;
    switch (v->dtype) {
    case RB_F32:
        return (double)((const float *)v->data)[at];
    case RB_BF16:
        u = (uint32_t)((const uint16_t *)v->data)[at] << 16;
        memcpy(&f, &u, 4);
        return (double)f;
    case RB_I32:
        return ((const int32_t *)v->data)[at];
    case RB_U8:
        return ((const uint8_t *)v->data)[at];
    case RB_F64:
        return ((const double *)v->data)[at];
    default:
        return (double)((const int64_t *)v->data)[at];
    }
}

static void fill_part(const test_case *c, int j, part *p) {
    p->bytes = bytes_of(p);
    p->host = malloc(p->bytes);
    memset(p->host, SENTINEL, p->bytes);
    rb_view v = view_of(p, p->host);
    rb_rng r = {case_seed(c, j), 0};
    for (int64_t row = 0; row < rb_row_count(&v); row++)
        for (int64_t i = 0; i < rb_row_width(&v); i++)
            put(&v, rb_row_offset(&v, row) + i, initial(p, &r, row * rb_row_width(&v) + i));
}

static void make_case(test_case *c) {
    int views = rb_op_info(c->op.kind)->views;
    for (int j = 0; j < views; j++)
        if (c->t[j].rank && !c->t[j].shares) fill_part(c, j, &c->t[j]);
    int n = snprintf(c->name, sizeof c->name, "%s", rb_op_info(c->op.kind)->name);
    for (int j = 0; j < views; j++)
        for (int i = 0; i < c->t[j].rank && n < (int)sizeof c->name - 8; i++)
            n += snprintf(c->name + n, sizeof c->name - (size_t)n, i ? "x%lld" : " %lld",
                          (long long)c->t[j].shape[i]);
}

static void free_case(test_case *c) {
    for (int j = 0; j < PARTS; j++) free(c->t[j].host);
}

/* Runs the case on an open queue; out[j] becomes the bytes of operand j's buffer afterwards (malloc). */
static void run_case(const test_case *c, rb_device *dev, rb_queue *q, void *out[PARTS]) {
    rb_err err;
    void *mem[PARTS] = {NULL};
    rb_op op = c->op;
    int views = rb_op_info(op.kind)->views;
    for (int j = 0; j < views; j++) {
        out[j] = NULL;
        if (!c->t[j].host) continue;
        assert_ok(rb_alloc(dev, c->t[j].bytes, &mem[j], &err), &err);
        assert_ok(rb_upload(q, mem[j], c->t[j].host, c->t[j].bytes, &err), &err);
    }
    for (int j = 0; j < views; j++) {
        int from = c->t[j].shares ? c->t[j].shares - 1 : j;
        op.t[j] = view_of(&c->t[j], mem[from]);
    }
    if (rb_run(q, &op, &err) != RESBM_OK) fail_msg("%s: %s", c->name, err.text);
    for (int j = 0; j < views; j++) {
        if (!mem[j]) continue;
        out[j] = malloc(c->t[j].bytes);
        assert_ok(rb_download(q, out[j], mem[j], c->t[j].bytes, &err), &err);
    }
    if (rb_queue_sync(q, &err) != RESBM_OK) fail_msg("%s: %s", c->name, err.text);
    for (int j = 0; j < views; j++) rb_free(dev, mem[j]);
}

/* Typical size of an output: root of the mean square of its finite values. */
static double typical(const rb_view *v) {
    double sum = 0;
    int64_t n = 0;
    for (int64_t r = 0; r < rb_row_count(v); r++)
        for (int64_t i = 0; i < rb_row_width(v); i++) {
            double x = get(v, rb_row_offset(v, r) + i);
            if (isfinite(x) && fabs(x) < 1e30) sum += x * x, n++;
        }
    return n ? sqrt(sum / (double)n) : 0;
}

static bool close_enough(double want, double got, double tolerance, double size) {
    if (isnan(want) || isnan(got)) return isnan(want) && isnan(got);
    if (isinf(want) || isinf(got)) return want == got;
    return fabs(want - got) <= tolerance * fmax(fabs(want), size);
}

static void compare_values(const test_case *c, int j, const char *device, void *want, void *got) {
    rb_view w = view_of(&c->t[j], want), g = view_of(&c->t[j], got);
    double size = fmax(typical(&w), c->floor);
    for (int64_t r = 0; r < rb_row_count(&w); r++)
        for (int64_t i = 0; i < rb_row_width(&w); i++) {
            int64_t at = rb_row_offset(&w, r) + i;
            if (!close_enough(get(&w, at), get(&g, at), c->tolerance, size))
                fail_msg("%s on %s: %s row %lld column %lld is %.9g, reference %.9g", c->name, device,
                         rb_op_view_name(c->op.kind, j), (long long)r, (long long)i, get(&g, at),
                         get(&w, at));
        }
}

/* Guards, gaps, and for operands that are only read everything, must still be what was uploaded. */
static void compare_untouched(const test_case *c, int j, const char *device, const void *got, bool written) {
    const part *p = &c->t[j];
    unsigned char *want = malloc(p->bytes);
    memcpy(want, p->host, p->bytes);
    rb_view v = view_of(p, want);
    size_t row = (size_t)rb_row_width(&v) * rb_dtype_size(p->dtype);
    for (int64_t r = 0; written && r < rb_row_count(&v); r++) {
        size_t at = GUARD + (size_t)rb_row_offset(&v, r) * rb_dtype_size(p->dtype);
        memcpy(want + at, (const char *)got + at, row);
    }
    for (size_t i = 0; i < p->bytes; i++)
        if (want[i] != ((const unsigned char *)got)[i])
            fail_msg("%s on %s: byte %zu of %s's buffer (%zu bytes, guards of %d) was overwritten", c->name,
                     device, i, rb_op_view_name(c->op.kind, j), p->bytes, GUARD);
    free(want);
}

static bool is_written(const test_case *c, int j) {
    unsigned out = rb_op_info(c->op.kind)->out;
    for (int i = 0; i < PARTS; i++)
        if ((out >> i & 1) && (i == j || c->t[i].shares == j + 1)) return true;
    return false;
}

static void free_results(void *out[PARTS], int views) {
    for (int j = 0; j < views; j++) free(out[j]);
}

typedef struct open_device {
    const char *name;
    int threads;
    rb_device *dev;
    rb_queue *q;
} open_device;

enum { DEVICES = 9 };
typedef struct fixture {
    open_device d[DEVICES]; /* d[0] is the reference */
    int devices, cases[RB_OP_COUNT];
} fixture;

/* cpu at 1, 2 and 3 threads stands together: those must agree bit for bit. Sets this processor lacks are left
 * out. */
static int setup(void **state) {
    static const struct {
        const char *name;
        int threads;
    } wanted[DEVICES] = {{"ref", 1},    {"cpu", 1},  {"cpu", 2},      {"cpu", 3}, {"cpu:v3", 2},
                         {"cpu:v2", 2}, {"late", 1}, {"late:cpu", 2}, {"ref", 1}};
    fixture *f = calloc(1, sizeof *f);
    rb_err err;
    for (int i = 0; i < DEVICES; i++) {
        open_device *d = &f->d[f->devices];
        rb_device_options opt = {.threads = wanted[i].threads, .late_ns = 20000};
        resbm_status st = rb_device_open(wanted[i].name, &opt, &d->dev, &err);
        if (st != RESBM_OK && strchr(wanted[i].name, ':') && !strncmp(wanted[i].name, "cpu", 3)) continue;
        if (st != RESBM_OK) fail_msg("%s", err.text);
        d->name = wanted[i].name;
        d->threads = wanted[i].threads;
        assert_ok(rb_queue_open(d->dev, &d->q, &err), &err);
        f->devices++;
    }
    for (int i = 0; rb_devices[i]; i++) { /* a device nobody tests is a fault of this test */
        bool seen = false;
        for (int j = 0; j < f->devices; j++) seen |= rb_device_find(f->d[j].name) == rb_devices[i];
        if (!seen) fail_msg("device %s is not tested", rb_devices[i]->name);
    }
    *state = f;
    return 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    for (int i = 0; i < f->devices; i++) {
        rb_queue_close(f->d[i].q);
        rb_device_close(f->d[i].dev);
    }
    free(f);
    return 0;
}

static void check_device(const test_case *c, const open_device *d, void *want[PARTS],
                         void *same_bits[PARTS]) {
    void *got[PARTS];
    char label[64];
    int views = rb_op_info(c->op.kind)->views;
    snprintf(label, sizeof label, "%s with %d threads", d->name, d->threads);
    run_case(c, d->dev, d->q, got);
    for (int j = 0; j < views; j++) {
        if (!got[j]) continue;
        compare_untouched(c, j, label, got[j], is_written(c, j));
        if (is_written(c, j)) compare_values(c, j, label, want[j], got[j]);
        if (same_bits[j] && memcmp(same_bits[j], got[j], c->t[j].bytes))
            fail_msg("%s on %s: %s has other bits than with one thread", c->name, label,
                     rb_op_view_name(c->op.kind, j));
    }
    free_results(got, views);
}

/* Fills the case's buffers, runs it everywhere, compares, and frees them. */
static void check(fixture *f, test_case *c) {
    void *want[PARTS], *one[PARTS] = {NULL}, *none[PARTS] = {NULL};
    int views = rb_op_info(c->op.kind)->views;
    if (!c->t[0].host) make_case(c);
    run_case(c, f->d[0].dev, f->d[0].q, want);
    for (int i = 1; i < f->devices; i++) {
        bool cpu = !strcmp(f->d[i].name, "cpu");
        check_device(c, &f->d[i], want, cpu && f->d[i].threads > 1 ? one : none);
        if (cpu && f->d[i].threads == 1) run_case(c, f->d[i].dev, f->d[i].q, one);
    }
    free_results(want, views);
    free_results(one, views);
    f->cases[c->op.kind]++;
    free_case(c);
}

#define P1(a, what)                                                                                          \
    { RB_F32, 1, {a}, 0, what, 0, 0, NULL, 0 }
#define P2(a, b, gap, what)                                                                                  \
    { RB_F32, 2, {a, b}, gap, what, 0, 0, NULL, 0 }
#define ABSENT                                                                                               \
    { RB_F32, 0, {0}, 0, ZERO, 0, 0, NULL, 0 }
#define SHARED2(a, b, gap, of)                                                                               \
    { RB_F32, 2, {a, b}, gap, ZERO, 0, (of) + 1, NULL, 0 }
#define IDS1(n, range, what)                                                                                 \
    { RB_I32, 1, {n}, 0, what, range, 0, NULL, 0 }

static void test_gemm(void **state) {
    static const int64_t size[][3] = {{1, 1, 1},      {1, 300, 64},  {5, 7, 3},    {64, 64, 64},
                                      {130, 70, 33},  {257, 96, 40}, {33, 520, 9}, {520, 33, 65},
                                      {3, 1030, 130}, {600, 5, 200}};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        for (int t = 0; t < 4; t++) {
            int64_t M = size[i][0], N = size[i][1], K = size[i][2], ta = t & 1, tb = t >> 1,
                    gap = i % 2 ? 3 : 0;
            test_case c = {{.kind = RB_OP_GEMM, .f = {t == 1 ? 0.5f : 1, t == 3 ? 1.f : 0}, .i = {ta, tb}},
                           {P2(M, N, gap, t == 3 ? NORMAL : NAN_FILL),
                            P2(ta ? K : M, ta ? M : K, gap, NORMAL), P2(tb ? N : K, tb ? K : N, 0, NORMAL)},
                           1e-5,
                           "",
                           0};
            check(*state, &c);
        }
}

/* Tiles large enough that oneDNN would cut them by the number of threads if it were let. */
static void test_gemm_bits_of_large_tiles(void **state) {
    fixture *f = *state;
    enum { M = 1024, N = 256, K = 1000 };
    for (int t = 0; t < 4; t++) {
        int ta = t & 1, tb = t >> 1;
        test_case c = {{.kind = RB_OP_GEMM, .f = {1, 0}, .i = {ta, tb}},
                       {P2(M, N, 0, NAN_FILL), P2(ta ? K : M, ta ? M : K, 0, NORMAL),
                        P2(tb ? N : K, tb ? K : N, 0, NORMAL)},
                       0,
                       "",
                       0};
        void *one[PARTS] = {NULL}, *got[PARTS];
        make_case(&c);
        for (int i = 0; i < f->devices; i++) {
            if (strcmp(f->d[i].name, "cpu")) continue;
            run_case(&c, f->d[i].dev, f->d[i].q, one[0] ? got : one);
            if (f->d[i].threads == 1) continue;
            if (memcmp(one[0], got[0], c.t[0].bytes))
                fail_msg("%s: other bits with %d threads", c.name, f->d[i].threads);
            free_results(got, 3);
        }
        free_results(one, 3);
        free_case(&c);
    }
}

static void test_fill_and_axpby(void **state) {
    static const rb_dtype types[] = {RB_F32, RB_F64, RB_I32, RB_I64, RB_U8};
    for (int i = 0; i < 5; i++)
        for (int64_t n = 1; n < 30000; n = n * 7 + 2) {
            test_case c = {{.kind = RB_OP_FILL, .f = {3}},
                           {{types[i], 2, {n, 3}, n % 3, NORMAL, 0, 0, NULL, 0}},
                           0,
                           "",
                           0};
            check(*state, &c);
        }
    for (int mix = 0; mix < 8; mix++)
        for (int64_t n = 1; n < 30000; n = n * 11 + 3) {
            rb_dtype x = mix & 1 ? RB_BF16 : RB_F32, y = mix & 2 ? RB_BF16 : RB_F32;
            float beta = mix & 4 ? 0.25f : 0;
            test_case c = {{.kind = RB_OP_AXPBY, .f = {beta != 0 ? 1.f : 2.f, beta}},
                           {{y, 3, {2, n, 5}, n % 2, beta != 0 ? POSITIVE : NAN_FILL, 0, 0, NULL, 0},
                            {x, 3, {2, n, 5}, n % 5, POSITIVE, 0, 0, NULL, 0}},
                           y == RB_BF16 ? 1. / 128 : 1e-6,
                           "",
                           0};
            check(*state, &c);
        }
    test_case own = {
        {.kind = RB_OP_AXPBY, .f = {2, 1}}, {P2(9, 5000, 0, NORMAL), SHARED2(9, 5000, 0, 0)}, 1e-6, "", 0};
    check(*state, &own);
}

static void test_embed(void **state) {
    static const int64_t size[][3] = {{1, 1, 1}, {7, 5, 3}, {300, 64, 11}, {129, 257, 40}};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++) {
        int64_t n = size[i][0], d = size[i][1], V = size[i][2];
        test_case f = {{.kind = RB_OP_EMBED_FWD},
                       {P2(n, d, 2, NAN_FILL), P2(V, d, 1, NORMAL), IDS1(n, V, IDS)},
                       0,
                       "",
                       0};
        test_case b = {{.kind = RB_OP_EMBED_BWD},
                       {P2(V, d, 0, NORMAL), P2(n, d, 3, NORMAL), IDS1(n, V, IDS)},
                       1e-6,
                       "",
                       0};
        check(*state, &f);
        check(*state, &b);
    }
}

static void test_rmsnorm(void **state) {
    static const int64_t size[][2] = {{1, 1}, {3, 5}, {64, 64}, {131, 100}, {200, 257}};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        for (int mode = 0; mode < 4; mode++) { /* bit 0: no w; bit 1: rank 3 */
            int64_t n = size[i][0], d = size[i][1], gap = i % 3;
            part rows = P2(n, d, gap, NORMAL), w = P1(d, NORMAL), rstd = P1(n, POSITIVE), none = ABSENT;
            if (mode & 1) w = none;
            if (mode & 2)
                rows = (part){RB_F32, 3, {n, 2, d}, gap, NORMAL, 0, 0, NULL, 0}, rstd.shape[0] = 2 * n;
            part y = rows, dw = P1(d, NORMAL), inplace = rows;
            y.init = NAN_FILL;
            inplace.shares = 2;
            test_case f = {{.kind = RB_OP_RMSNORM_FWD, .f = {1e-5f}}, {y, rstd, rows, w}, 3e-6, "", 0};
            test_case b = {{.kind = RB_OP_RMSNORM_BWD_X, .f = {0}}, {y, rows, rows, w, rstd}, 3e-6, "", 0};
            test_case a = {{.kind = RB_OP_RMSNORM_BWD_X, .f = {1}}, {rows, rows, rows, w, rstd}, 3e-6, "", 0};
            test_case s = {
                {.kind = RB_OP_RMSNORM_BWD_X, .f = {0}}, {inplace, rows, rows, w, rstd}, 3e-6, "", 0};
            test_case g = {{.kind = RB_OP_RMSNORM_BWD_W}, {dw, rows, rows, rstd}, 1e-5, "", 0};
            test_case *all[] = {&f, &b, &a, &s, &g};
            for (int j = 0; j < 5; j++) check(*state, all[j]);
        }
}

static void test_rope(void **state) {
    static const int64_t size[][4] = {{1, 1, 1, 2}, {2, 5, 3, 6}, {1, 40, 4, 64}, {3, 33, 2, 128}};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        for (int inverse = 0; inverse < 2; inverse++) {
            const int64_t *s = size[i];
            int64_t offset = (int64_t)i * 3;
            test_case c = {{.kind = RB_OP_ROPE, .i = {offset, inverse}},
                           {{RB_F32, 4, {s[0], s[1], s[2], s[3]}, (int64_t)i, NORMAL, 0, 0, NULL, 0},
                            P2(s[1] + offset, s[3] / 2, 1, ANGLE_COS),
                            P2(s[1] + offset, s[3] / 2, 1, ANGLE_SIN)},
                           1e-6,
                           "",
                           0};
            check(*state, &c);
        }
}

typedef struct heads {
    int64_t B, T, H, G, D, offset;
} heads;
static const heads attention_sizes[] = {{1, 1, 1, 1, 1, 0},   {2, 7, 2, 1, 8, 0},    {1, 65, 4, 2, 32, 0},
                                        {3, 50, 3, 3, 20, 0}, {1, 130, 6, 2, 64, 0}, {2, 97, 1, 1, 128, 0},
                                        {1, 1, 4, 2, 64, 77}, {2, 5, 2, 2, 33, 100}, {1, 260, 2, 1, 16, 0},
                                        {17, 20, 1, 1, 4, 3}, {1, 49, 2, 2, 65, 0},  {1, 300, 1, 1, 32, 13}};

static part rows_of(const heads *s, int64_t T, int64_t H, int64_t gap, init what) {
    return (part){RB_F32, 4, {s->B, T, H, s->D}, gap, what, 0, 0, NULL, 0};
}

static test_case attention_forward_case(const heads *s) {
    int64_t S = s->offset + s->T + (s->offset ? 2 : 0);
    return (test_case){{.kind = RB_OP_ATTN_FWD, .i = {s->offset}, .f = {1 / sqrtf((float)s->D)}},
                       {rows_of(s, s->T, s->H, 0, NAN_FILL),
                        {RB_F32, 3, {s->B, s->H, s->T}, 0, NAN_FILL, 0, 0, NULL, 0},
                        rows_of(s, s->T, s->H, 3, NORMAL),
                        rows_of(s, S, s->G, 1, NORMAL),
                        rows_of(s, S, s->G, 2, NORMAL)},
                       5e-6,
                       "",
                       0};
}

static void test_attention_forward(void **state) {
    for (size_t i = 0; i < sizeof attention_sizes / sizeof *attention_sizes; i++) {
        test_case c = attention_forward_case(&attention_sizes[i]);
        check(*state, &c);
    }
}

/* out and lse must belong to q, k, v: the reference computes them first. */
static void test_attention_backward(void **state) {
    fixture *f = *state;
    for (size_t i = 0; i < sizeof attention_sizes / sizeof *attention_sizes; i++) {
        heads s = attention_sizes[i];
        s.offset = 0;
        test_case fwd = attention_forward_case(&s);
        make_case(&fwd);
        void *done[PARTS];
        run_case(&fwd, f->d[0].dev, f->d[0].q, done);
        test_case c = {{.kind = RB_OP_ATTN_BWD, .f = {fwd.op.f[0]}},
                       {rows_of(&s, s.T, s.H, 1, NAN_FILL), rows_of(&s, s.T, s.G, 0, NAN_FILL),
                        rows_of(&s, s.T, s.G, 2, NAN_FILL), rows_of(&s, s.T, s.H, 4, NORMAL), fwd.t[0],
                        fwd.t[1], fwd.t[2], fwd.t[3], fwd.t[4]},
                       2e-5,
                       "",
                       0.1};
        make_case(&c);
        for (int j = 4; j < 9; j++) memcpy(c.t[j].host, done[j - 4], c.t[j].bytes);
        check(f, &c);
        free_results(done, 5);
        free_case(&fwd);
    }
}

static void test_activations(void **state) {
    static const int64_t size[][2] = {{1, 1}, {3, 7}, {50, 704}, {17, 1000}};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        for (int gap = 0; gap < 4; gap += 3) {
            int64_t n = size[i][0], w = size[i][1];
            part x = P2(n, w, gap, NORMAL), out = P2(n, w, gap, NAN_FILL), none = ABSENT;
            part on3 = SHARED2(n, w, gap, 3), on4 = SHARED2(n, w, gap, 4), on5 = SHARED2(n, w, gap, 5);
            part on1 = SHARED2(n, w, gap, 1), on2 = SHARED2(n, w, gap, 2);
            test_case all[] = {{{.kind = RB_OP_SWIGLU_FWD}, {out, x, x}, 2e-6, "", 0},
                               {{.kind = RB_OP_SWIGLU_BWD}, {out, out, out, x, x, x}, 2e-6, "", 0},
                               {{.kind = RB_OP_SWIGLU_BWD}, {out, out, none, x, x, x}, 2e-6, "", 0},
                               {{.kind = RB_OP_SWIGLU_BWD}, {on4, on5, on3, x, x, x}, 2e-6, "", 0},
                               {{.kind = RB_OP_SILU_FWD}, {out, x}, 2e-6, "", 0},
                               {{.kind = RB_OP_SILU_FWD}, {on1, x}, 2e-6, "", 0},
                               {{.kind = RB_OP_SILU_BWD}, {out, x, x}, 2e-6, "", 0},
                               {{.kind = RB_OP_SILU_BWD}, {on1, x, x}, 2e-6, "", 0},
                               {{.kind = RB_OP_SILU_BWD}, {on2, x, x}, 2e-6, "", 0}};
            for (size_t j = 0; j < sizeof all / sizeof *all; j++) check(*state, &all[j]);
        }
    test_case odd[] = {{{.kind = RB_OP_SILU_FWD}, {P2(3, 39, 0, ZERO), P2(3, 39, 0, SPECIAL)}, 2e-6, "", 0},
                       {{.kind = RB_OP_SWIGLU_FWD},
                        {P2(3, 39, 0, ZERO), P2(3, 39, 0, SPECIAL), P2(3, 39, 0, POSITIVE)},
                        2e-6,
                        "",
                        0}};
    for (int j = 0; j < 2; j++) check(*state, &odd[j]);
}

static void test_xent(void **state) {
    static const int64_t size[][2] = {{1, 1}, {5, 7}, {70, 256}, {33, 5000}};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        for (int g = 0; g < 2; g++) {
            int64_t n = size[i][0], V = size[i][1];
            test_case c = {{.kind = RB_OP_XENT, .f = {g ? 1.f / 64 : 0}},
                           {P1(n, NAN_FILL), P2(n, V, (int64_t)i, NORMAL), IDS1(n, V, TARGETS)},
                           5e-6,
                           "",
                           0};
            check(*state, &c);
        }
    test_case odd = {
        {.kind = RB_OP_XENT, .f = {1}}, {P1(4, ZERO), P2(4, 5, 0, SPECIAL), IDS1(4, 5, IDS)}, 5e-6, "", 0};
    check(*state, &odd);
}

static void test_reductions(void **state) {
    for (int64_t n = 1; n < 3000; n = n * 6 + 1)
        for (int gap = 0; gap < 2; gap++) {
            part out = {RB_F64, 1, {1}, 0, NAN_FILL, 0, 0, NULL, 0}, norm = out, x = P2(n, 37, gap, NORMAL);
            norm.init = POSITIVE;
            part y = P2(n, 37, 0, NAN_FILL), inplace = SHARED2(n, 37, gap, 1);
            test_case all[] = {{{.kind = RB_OP_SUM}, {out, x}, 1e-10, "", 0},
                               {{.kind = RB_OP_SUMSQ}, {out, x}, 1e-12, "", 0},
                               {{.kind = RB_OP_NORMALIZE, .f = {1e-7f}}, {y, x, norm}, 1e-6, "", 0},
                               {{.kind = RB_OP_NORMALIZE, .f = {10}}, {inplace, x, norm}, 1e-6, "", 0}};
            for (int j = 0; j < 4; j++) check(*state, &all[j]);
        }
}

static void test_optimizers(void **state) {
    for (int64_t n = 1; n < 40000; n = n * 13 + 2) {
        test_case a = {{.kind = RB_OP_ADAMW, .f = {0.999f, 0.1f, 0.95f, 0.05f, 1e-2f, 0.3f, 1e-8f, 0.5f}},
                       {P1(n, NORMAL), P1(n, NORMAL), P1(n, POSITIVE), P1(n, NORMAL)},
                       2e-6,
                       "",
                       0};
        check(*state, &a);
        for (int m = 0; m < 4; m++) {
            part update = P2(n, 3, 0, NAN_FILL), shared = SHARED2(n, 3, 2, 2);
            test_case c = {{.kind = RB_OP_MUON_MOMENTUM, .f = {0.95f, 0.5f}, .i = {m & 1}},
                           {P2(n, 3, 1, NORMAL), m & 2 ? shared : update, P2(n, 3, 2, NORMAL)},
                           2e-6,
                           "",
                           0};
            check(*state, &c);
        }
    }
}

static int64_t packed_bytes(int code, int scale, const heads *s) {
    rb_pack_args a = {.code = (rb_code)code, .scale = (rb_scale)scale};
    return rb_packed_bytes(&a, s->B, s->T, s->D);
}

/* Bytes are equal, not close. Unpack and code_stats read what the reference packed. */
static void check_code(fixture *f, int code, int scale, const heads *s, int stochastic) {
    int64_t n = packed_bytes(code, scale, s);
    if (n < 0) return;
    part none = ABSENT, steps = P1(s->D, POSITIVE), bytes = {RB_U8, 1, {n}, 0, ZERO, 0, 0, NULL, 0};
    part x = {RB_F32, 3, {s->B, s->T, s->D}, 0, NORMAL, 0, 0, NULL, 0}, out = x;
    rb_op op = {.kind = RB_OP_PACK, .i = {code, scale, stochastic, 3, 1}, .key = {7, 11, 13}};
    if (scale != RB_SCALE_STEP) steps = none;
    out.init = NAN_FILL;
    test_case pack = {op, {bytes, x, steps}, 0, "", 0}, unpack = {op, {out, bytes, steps}, 0, "", 0};
    unpack.op.kind = RB_OP_UNPACK;
    test_case stats = {{.kind = RB_OP_CODE_STATS, .i = {code, scale, s->B, s->T}},
                       {{RB_I64, 1, {s->D}, 0, ZERO, 0, 0, NULL, 0}, bytes},
                       0,
                       "",
                       0};
    void *packed[PARTS];
    make_case(&pack);
    run_case(&pack, f->d[0].dev, f->d[0].q, packed);
    make_case(&unpack);
    memcpy(unpack.t[1].host, packed[0], unpack.t[1].bytes);
    make_case(&stats);
    memcpy(stats.t[1].host, packed[0], stats.t[1].bytes);
    free_results(packed, 3);
    check(f, &pack);
    check(f, &unpack);
    if (scale == RB_SCALE_STEP)
        check(f, &stats);
    else
        free_case(&stats);
}

static void test_codec(void **state) {
    static const heads sizes[] = {
        {1, 1, 0, 0, 1, 0}, {2, 5, 0, 0, 8, 0}, {1, 33, 0, 0, 3, 0}, {3, 70, 0, 0, 16, 0}};
    for (int code = 0; code < RB_CODE_COUNT; code++)
        for (int scale = 0; scale < RB_SCALE_COUNT; scale++)
            for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
                for (int stochastic = 0; stochastic < 2; stochastic++)
                    check_code(*state, code, scale, &sizes[i], stochastic);
}

/* Runs last: no kind of operation may be without a case above. */
static void test_every_kind_was_seen(void **state) {
    fixture *f = *state;
    for (int k = 0; k < RB_OP_COUNT; k++)
        if (!f->cases[k]) fail_msg("operation %s has no case", rb_op_info((rb_op_kind)k)->name);
}

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
    *dev = (rb_device){t, *opt};
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
        if (!strncmp(f->d[i].name, "late", 4)) continue;
        assert_fails(rb_embed_forward(f->d[i].q, m, m, id, &err), RESBM_E_ARG, "token 3 is 9", &err);
        assert_fails(rb_embed_backward(f->d[i].q, m, m, id, &err), RESBM_E_ARG, "token 3 is 9", &err);
        assert_fails(rb_xent(f->d[i].q, v4, m, id, 0, &err), RESBM_E_ARG, "target 3 is 9", &err);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemm),
        cmocka_unit_test(test_gemm_bits_of_large_tiles),
        cmocka_unit_test(test_fill_and_axpby),
        cmocka_unit_test(test_embed),
        cmocka_unit_test(test_rmsnorm),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_attention_forward),
        cmocka_unit_test(test_attention_backward),
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_xent),
        cmocka_unit_test(test_reductions),
        cmocka_unit_test(test_optimizers),
        cmocka_unit_test(test_codec),
        cmocka_unit_test(test_every_kind_was_seen),
        cmocka_unit_test(test_holes_are_refused),
        cmocka_unit_test(test_wrong_names_are_refused),
        cmocka_unit_test(test_wrong_shapes_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
