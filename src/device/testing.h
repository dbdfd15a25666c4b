/* What the tests of devices share: cases built from operands, run on any device inside guard bands, compared
 * with the reference; and the list of devices they run on. Included by tests only. */
#ifndef RB_DEVICE_TESTING_H
#define RB_DEVICE_TESTING_H

#include <math.h>
#include <stdlib.h>
#include "rb_cmocka.h"
#include "core/rng.h"
#include "device/ops.h"
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
    SPECIAL,
    SKEWED_IDS /* a third of them the same */
} init;

/* One operand: its view's shape, extra elements between rows, contents, and the operand whose memory it
 * shares. */
typedef struct part {
    rb_dtype dtype;
    int rank;
    int64_t shape[4], gap;
    init init;
    int64_t range; /* ids below this; of rank 3 and 4: extra elements behind the last two dimensions, as of heads in a wider matrix */
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

static inline rb_view view_of(const part *p, void *base) {
    rb_view v = {(char *)base + GUARD, p->dtype, p->rank, {1, 1, 1, 1}, {1, 1, 1, 1}};
    if (!p->rank) return rb_none();
    int64_t stride = 1;
    for (int i = p->rank - 1; i >= 0; i--) {
        v.shape[i] = p->shape[i];
        v.stride[i] = stride;
        stride *= p->shape[i];
        if (i == p->rank - 1) stride += p->rank > 1 ? p->gap : 0;
        if (i == p->rank - 2 && i) stride += p->range;
    }
    return v;
}

static inline size_t bytes_of(const part *p) {
    rb_view v = view_of(p, NULL);
    return (size_t)(v.stride[0] * v.shape[0]) * rb_dtype_size(p->dtype) + 2 * GUARD;
}

static inline double initial(const part *p, rb_rng *r, int64_t i) {
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
    case SKEWED_IDS:
        return rb_rng_below(r, 3) ? (double)rb_rng_below(r, (uint64_t)p->range) : (double)(p->range / 2);
    case SPECIAL:
        break;
    }
    static const double odd[] = {1.5, INFINITY, -2,   -INFINITY, NAN,  0,    -0.0,
                                 88,  -88,      3e38, -1e-40,    1000, -1000};
    return odd[i % (int64_t)(sizeof odd / sizeof *odd)];
}

static inline void put(const rb_view *v, int64_t at, double x) {
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

static inline double get(const rb_view *v, int64_t at) {
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

static inline void fill_part(const test_case *c, int j, part *p) {
    p->bytes = bytes_of(p);
    p->host = malloc(p->bytes);
    memset(p->host, SENTINEL, p->bytes);
    rb_view v = view_of(p, p->host);
    rb_rng r = {case_seed(c, j), 0};
    for (int64_t row = 0; row < rb_row_count(&v); row++)
        for (int64_t i = 0; i < rb_row_width(&v); i++)
            put(&v, rb_row_offset(&v, row) + i, initial(p, &r, row * rb_row_width(&v) + i));
}

static inline void make_case(test_case *c) {
    int views = rb_op_info(c->op.kind)->views;
    for (int j = 0; j < views; j++)
        if (c->t[j].rank && !c->t[j].shares) fill_part(c, j, &c->t[j]);
    int n = snprintf(c->name, sizeof c->name, "%s", rb_op_info(c->op.kind)->name);
    for (int j = 0; j < views; j++)
        for (int i = 0; i < c->t[j].rank && n < (int)sizeof c->name - 8; i++)
            n += snprintf(c->name + n, sizeof c->name - (size_t)n, i ? "x%lld" : " %lld",
                          (long long)c->t[j].shape[i]);
}

static inline void free_case(test_case *c) {
    for (int j = 0; j < PARTS; j++) free(c->t[j].host);
}

/* Runs the case on an open queue; out[j] becomes the bytes of operand j's buffer afterwards (malloc). */
static inline void run_case(const test_case *c, rb_device *dev, rb_queue *q, void *out[PARTS]) {
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
static inline double typical(const rb_view *v) {
    double sum = 0;
    int64_t n = 0;
    for (int64_t r = 0; r < rb_row_count(v); r++)
        for (int64_t i = 0; i < rb_row_width(v); i++) {
            double x = get(v, rb_row_offset(v, r) + i);
            if (isfinite(x) && fabs(x) < 1e30) sum += x * x, n++;
        }
    return n ? sqrt(sum / (double)n) : 0;
}

static inline bool close_enough(double want, double got, double tolerance, double size) {
    if (isnan(want) || isnan(got)) return isnan(want) && isnan(got);
    if (isinf(want) || isinf(got)) return want == got;
    return fabs(want - got) <= tolerance * fmax(fabs(want), size);
}

/* Products of rounded factors: errors of a share of the typical output, by the bits that are left of a factor (bf16: 8;
 * f16, tf32: 11) and by how many products follow one another. The largest of thousands of errors lies near these bounds;
 * their root of the mean square has to stay below a sixth. */
static inline double bound_of(const test_case *c, rb_math math) {
    double one = math == RB_MATH_BF16 || math == RB_MATH_AUTO ? 2e-2
                 : math == RB_MATH_F32                        ? 0
                 : math == RB_MATH_TF32 ? 6e-3 /* Hopper's tensor cores cut factors off */
                                        : 4e-3,
           more = 0;
    if (c->op.kind == RB_OP_GEMM || c->op.kind == RB_OP_SYRK) more = one;
    if (c->op.kind == RB_OP_ATTN_FWD) more = 2.5 * one;
    if (c->op.kind == RB_OP_ATTN_BWD) more = 5 * one;
    if (more > 0 && c->t[0].dtype == RB_BF16) more += 1. / 128; /* the result is rounded too */
    return fmax(c->tolerance, more);
}

static inline void compare_values(const test_case *c, int j, const char *device, double tolerance, void *want,
                                  void *got) {
    rb_view w = view_of(&c->t[j], want), g = view_of(&c->t[j], got);
    double size = fmax(typical(&w), c->floor), sum = 0;
    for (int64_t r = 0; r < rb_row_count(&w); r++)
        for (int64_t i = 0; i < rb_row_width(&w); i++) {
            int64_t at = rb_row_offset(&w, r) + i;
            if (!close_enough(get(&w, at), get(&g, at), tolerance, size))
                fail_msg("%s on %s: %s row %lld column %lld is %.9g, reference %.9g", c->name, device,
                         rb_op_view_name(c->op.kind, j), (long long)r, (long long)i, get(&g, at),
                         get(&w, at));
            double off = get(&w, at) - get(&g, at);
            if (isfinite(off)) sum += off * off;
        }
    double all = sqrt(sum / (double)rb_count(w));
    if (tolerance > c->tolerance && all > tolerance * size / 6 && rb_count(w) > 64)
        fail_msg("%s on %s: %s is %.3g off altogether, typical are %.3g", c->name, device,
                 rb_op_view_name(c->op.kind, j), all, size);
}

/* Guards, gaps, and for operands that are only read everything, must still be what was uploaded. */
static inline void compare_untouched(const test_case *c, int j, const char *device, const void *got,
                                     bool written) {
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

static inline bool is_written(const test_case *c, int j) {
    unsigned out = rb_op_info(c->op.kind)->out;
    for (int i = 0; i < PARTS; i++)
        if ((out >> i & 1) && (i == j || c->t[i].shares == j + 1)) return true;
    return false;
}

static inline void free_results(void *out[PARTS], int views) {
    for (int j = 0; j < views; j++) free(out[j]);
}

typedef struct open_device {
    const char *name;
    int threads;
    rb_math math;
    rb_attention attention;
    rb_device *dev;
    rb_queue *q;
} open_device;

enum { DEVICES = 24 };
typedef struct fixture {
    open_device d[DEVICES]; /* d[0] is the reference */
    int devices, cases[RB_OP_COUNT];
} fixture;

/* What this processor, build or machine may lack: other instruction sets, and everything of CUDA. */
static inline bool may_lack(const char *name) {
    return (!strncmp(name, "cpu", 3) && strchr(name, ':')) || strstr(name, "cuda");
}

/* RESBM_TEST_DEVICES leaves all but these out ("ref,cuda"; the reference is always there). */
static inline bool is_chosen(const char *name) {
    const char *list = getenv("RESBM_TEST_DEVICES"), *at = list;
    size_t n = strlen(name);
    if (!list || !*list) return true;
    while ((at = strstr(at, name)) && ((at > list && at[-1] != ',') || (at[n] && at[n] != ','))) at++;
    return at != NULL;
}

/* cpu at 1, 2 and 3 threads stands together: those must agree bit for bit. What is not here is left out and said, unless
 * RESBM_TEST_NEED names it. */
static inline int open_devices(void **state) {
    static const struct {
        const char *name;
        int threads;
        rb_math math;
        rb_attention attention;
    } wanted[] = {{"ref", 1, 0, 0},
                  {"cpu", 1, 0, 0},
                  {"cpu", 2, 0, 0},
                  {"cpu", 3, 0, 0},
                  {"cpu:v3", 2, 0, 0},
                  {"cpu:v2", 2, 0, 0},
                  {"late", 1, 0, 0},
                  {"late:cpu", 2, 0, 0},
                  {"ref", 1, 0, 0},
                  {"cuda:emulated", 1, RB_MATH_F32, 0},
                  {"cuda:emulated", 1, RB_MATH_BF16, 0},
                  {"cuda:emulated", 1, RB_MATH_BF16, RB_ATTENTION_CUDNN},
                  {"cuda:emulated:1", 1, RB_MATH_F16, 0},
                  {"cuda", 1, RB_MATH_F32, 0},
                  {"cuda", 1, RB_MATH_TF32, 0},
                  {"cuda", 1, RB_MATH_AUTO, 0},
                  {"cuda", 1, RB_MATH_AUTO, RB_ATTENTION_CUDNN}};
    _Static_assert(sizeof wanted / sizeof *wanted <= DEVICES, "room for all");
    fixture *f = calloc(1, sizeof *f);
    rb_err err;
    const char *need = getenv("RESBM_TEST_NEED");
    bool found = !need || !*need;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        if (i && !is_chosen(wanted[i].name)) continue;
        open_device *d = &f->d[f->devices];
        rb_device_options opt = {.threads = wanted[i].threads,
                                 .late_ns = 20000,
                                 .math = wanted[i].math,
                                 .attention = wanted[i].attention};
        resbm_status st = rb_device_open(wanted[i].name, &opt, &d->dev, &err);
        /* cuDNN may be missing, and 7.5 has no tf32. */
        bool needed =
            need && !strcmp(need, wanted[i].name) && !wanted[i].attention && wanted[i].math != RB_MATH_TF32;
        if (st != RESBM_OK && may_lack(wanted[i].name) && !needed) {
            printf("left out: %s: %s\n", wanted[i].name, err.text);
            continue;
        }
        if (st != RESBM_OK) {
            fprintf(stderr, "%s\n", err.text); /* cmocka shows no message of a group's setup */
            fail_msg("%s", err.text);
        }
        d->name = wanted[i].name;
        d->threads = wanted[i].threads;
        d->math = wanted[i].math;
        d->attention = wanted[i].attention;
        assert_ok(rb_queue_open(d->dev, &d->q, &err), &err);
        f->devices++;
        found |= needed;
    }
    if (!found) fail_msg("RESBM_TEST_NEED = %s, which is not among what is tested here", need);
    for (int i = 0; rb_devices[i]; i++) { /* a device nobody tests is a fault of this test */
        bool seen = false;
        for (size_t j = 0; j < sizeof wanted / sizeof *wanted; j++)
            seen |= rb_device_find(wanted[j].name) == rb_devices[i];
        if (!seen) fail_msg("device %s is not tested", rb_devices[i]->name);
    }
    *state = f;
    return 0;
}

static inline int close_devices(void **state) {
    fixture *f = *state;
    for (int i = 0; i < f->devices; i++) {
        rb_queue_close(f->d[i].q);
        rb_device_close(f->d[i].dev);
    }
    free(f);
    return 0;
}

static inline void check_device(const test_case *c, const open_device *d, void *want[PARTS],
                                void *same_bits[PARTS]) {
    void *got[PARTS];
    char label[96];
    int views = rb_op_info(c->op.kind)->views;
    static const char *const maths[RB_MATH_COUNT] = {"", " in f32", " in tf32", " in bf16", " in f16"};
    bool cuda = strstr(d->name, "cuda");
    double tolerance = cuda ? bound_of(c, d->math) : c->tolerance;
    snprintf(label, sizeof label, "%s with %d threads%s%s", d->name, d->threads, maths[d->math],
             d->attention ? ", attention by cuDNN" : "");
    run_case(c, d->dev, d->q, got);
    for (int j = 0; j < views; j++) {
        if (!got[j]) continue;
        compare_untouched(c, j, label, got[j], is_written(c, j));
        if (is_written(c, j)) compare_values(c, j, label, tolerance, want[j], got[j]);
        if (same_bits[j] && memcmp(same_bits[j], got[j], c->t[j].bytes))
            fail_msg("%s on %s: %s has other bits than with one thread", c->name, label,
                     rb_op_view_name(c->op.kind, j));
    }
    free_results(got, views);
}

/* Fills the case's buffers, runs it everywhere, compares, and frees them. */
static inline void check(fixture *f, test_case *c) {
    void *want[PARTS], *one[PARTS] = {NULL}, *none[PARTS] = {NULL};
    int views = rb_op_info(c->op.kind)->views;
    if (!c->t[0].host) make_case(c);
    run_case(c, f->d[0].dev, f->d[0].q, want);
    bool attention = c->op.kind == RB_OP_ATTN_FWD || c->op.kind == RB_OP_ATTN_BWD;
    for (int i = 1; i < f->devices; i++) {
        bool cpu = !strcmp(f->d[i].name, "cpu");
        if (f->d[i].attention && !attention) continue; /* nothing else of it is different */
        check_device(c, &f->d[i], want, cpu && f->d[i].threads > 1 ? one : none);
        if (cpu && f->d[i].threads == 1) run_case(c, f->d[i].dev, f->d[i].q, one);
    }
    free_results(want, views);
    free_results(one, views);
    f->cases[c->op.kind]++;
    free_case(c);
}

#endif
