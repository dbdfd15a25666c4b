#include "codec/bench_codec.h"

#include <stdlib.h>
#include <string.h>
#include "codec/codec.h"
#include "core/clock.h"
#include "core/rng.h"

enum { B = 16, T = 1024, K_MOST = 256 };

typedef struct row {
    rb_code code;
    rb_scale scale;
    bool stochastic;
} row;

static const row rows[] = {
    {RB_CODE_INT4, RB_SCALE_STEP, false},  {RB_CODE_INT4, RB_SCALE_TOKEN, false},
    {RB_CODE_INT4, RB_SCALE_GROUP, false}, {RB_CODE_INT4, RB_SCALE_GROUP, true},
    {RB_CODE_INT8, RB_SCALE_STEP, false},  {RB_CODE_INT8, RB_SCALE_GROUP, true},
    {RB_CODE_INT2, RB_SCALE_STEP, false},  {RB_CODE_INT2, RB_SCALE_GROUP, true},
    {RB_CODE_INT1, RB_SCALE_STEP, false},  {RB_CODE_BF16, RB_SCALE_NONE, false},
};
static const int widths[] = {8, 32, 64, 256};
static const char *const scale_names[] = {"none", "step", "token", "group"};
enum { ROWS = sizeof rows / sizeof *rows, WIDTHS = sizeof widths / sizeof *widths };

typedef struct rig {
    rb_device *dev[2]; /* cpu, ref */
    rb_queue *q[2];
    float *x, *y[2]; /* (B,T,K_MOST) */
    uint8_t *bytes[2];
    float steps[K_MOST];
    int64_t budget_ns; /* per measurement */
} rig;

static resbm_status open_rig(rig *r, double seconds, rb_err *err) {
    static const char *const names[2] = {"cpu", "ref"};
    const size_t values = (size_t)B * T * K_MOST;
    r->budget_ns = (int64_t)(seconds / (2.0 * ROWS * WIDTHS) * 1e9);
    r->x = malloc(values * sizeof(float));
    if (!r->x) return rb_fail(err, RESBM_E_MEMORY, "bench codec: no memory for %zu values", values);
    rb_normal_fill(7, r->x, (int64_t)values, 0, 1);
    for (int i = 0; i < K_MOST; i++) r->steps[i] = 0.3f + 0.001f * (float)i;
    for (int d = 0; d < 2; d++) {
        r->y[d] = calloc(values, sizeof(float));
        r->bytes[d] = calloc(values, sizeof(float));
        if (!r->y[d] || !r->bytes[d])
            return rb_fail(err, RESBM_E_MEMORY, "bench codec: no memory for %zu values", values);
        RB_TRY(rb_device_open(names[d], &(rb_device_options){.threads = 1}, &r->dev[d], err));
        RB_TRY(rb_queue_open(r->dev[d], &r->q[d], err));
    }
    return RESBM_OK;
}

static void close_rig(rig *r) {
    for (int d = 0; d < 2; d++) {
        rb_queue_close(r->q[d]);
        rb_device_close(r->dev[d]);
        free(r->y[d]);
        free(r->bytes[d]);
    }
    free(r->x);
}

static resbm_status once(rig *r, int d, bool packing, const rb_pack_args *a, int64_t b, int64_t k,
                         rb_err *err) {
    rb_view bytes = rb_view1(r->bytes[d], RB_U8, rb_packed_bytes(a, b, T, k)),
            steps = rb_view1(r->steps, RB_F32, k);
    if (packing) return rb_pack(r->q[d], bytes, rb_view3(r->x, RB_F32, b, T, k), steps, a, err);
    return rb_unpack(r->q[d], rb_view3(r->y[d], RB_F32, b, T, k), bytes, steps, a, err);
}

/* GB/s of f32, the fastest pass within the budget (at least three). */
static resbm_status measure(rig *r, bool packing, const rb_pack_args *a, int64_t k, double *rate,
                            rb_err *err) {
    int64_t begin = rb_now_ns(), best = INT64_MAX;
    for (int pass = 0; pass < 3 || rb_now_ns() - begin < r->budget_ns; pass++) {
        int64_t from = rb_now_ns();
        RB_TRY(once(r, 0, packing, a, B, k, err));
        RB_TRY(rb_queue_sync(r->q[0], err));
        int64_t took = rb_now_ns() - from;
        if (took < best) best = took;
    }
    *rate = (double)(B * T * k * 4) / (double)(best > 0 ? best : 1);
    return RESBM_OK;
}

/* The first sequences against the reference (sequences are independent, and the reference is slow). */
static resbm_status check(rig *r, const rb_pack_args *a, int64_t k, const char *name, rb_err *err) {
    const int64_t some = 2;
    RB_TRY(once(r, 1, true, a, some, k, err));
    RB_TRY(once(r, 1, false, a, some, k, err));
    if (memcmp(r->bytes[0], r->bytes[1], (size_t)rb_packed_bytes(a, some, T, k)) ||
        memcmp(r->y[0], r->y[1], (size_t)(some * T * k) * sizeof(float)))
        return rb_fail(err, RESBM_E_INTERNAL, "bench codec: %s at k %lld differs from the reference", name,
                       (long long)k);
    return RESBM_OK;
}

static resbm_status bench_row(rig *r, const row *w, rb_buf *out, rb_err *err) {
    rb_pack_args a = {.code = w->code,
                      .scale = w->scale,
                      .stochastic = w->stochastic,
                      .seed = 1,
                      .step = 2,
                      .sequence = 3,
                      .boundary = 1,
                      .direction = w->stochastic};
    const char *name = rb_codecs[w->code].name;
    rb_buf_printf(out, "%-5s %-6s %-10s", name, scale_names[w->scale],
                  w->stochastic ? "stochastic" : "nearest");
    for (int i = 0; i < WIDTHS; i++) {
        double pack, unpack;
        RB_TRY(measure(r, true, &a, widths[i], &pack, err));
        RB_TRY(measure(r, false, &a, widths[i], &unpack, err));
        RB_TRY(check(r, &a, widths[i], name, err));
        rb_buf_printf(out, "  %6.1f %6.1f", pack, unpack);
    }
    rb_buf_puts(out, "\n");
    return RESBM_OK;
}

resbm_status rb_bench_codec(rb_buf *out, double seconds, rb_err *err) {
    rig r = {0};
    resbm_status st = open_rig(&r, seconds, err);
    rb_buf_puts(out,
                "GB/s of f32 on one core, output equal to the reference's; pack and unpack at each width k\n"
                "code  scale  rounding  ");
    for (int i = 0; i < WIDTHS; i++) rb_buf_printf(out, "       k = %-4d", widths[i]);
    rb_buf_puts(out, "\n");
    for (int i = 0; st == RESBM_OK && i < ROWS; i++) st = bench_row(&r, &rows[i], out, err);
    close_rig(&r);
    return st == RESBM_OK ? rb_buf_status(out, err) : st;
}
