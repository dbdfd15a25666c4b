#include "codec/bench_codec.h"

#include <stdlib.h>
#include <string.h>
#include "codec/codec.h"
#include "core/rng.h"
#include "device/bench_call.h"

/* On a device with memory of its own every width goes through as many values: 268 MB of f32, past a GPU's caches. */
enum { B_HOST = 16, B_DEVICE = 256, T = 1024, K_MOST = 256, CHECKED = 2 };

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
    rb_device *dev[2]; /* the one measured, ref */
    rb_queue *q[2];
    int64_t B[2];                              /* sequences of K_MOST: all, and those that are checked */
    float *x;                                  /* (B,T,K_MOST) on the host */
    void *mx[2], *my[2], *bytes[2], *steps[2]; /* on the devices; bytes have room for f32 */
    int64_t budget_ns;                         /* per measurement */
} rig;

static resbm_status fill_device(rig *r, int d, const float *steps, rb_err *err) {
    const size_t bytes = (size_t)(r->B[d] * T * K_MOST) * sizeof(float);
    RB_TRY(rb_alloc(r->dev[d], bytes, &r->mx[d], err));
    RB_TRY(rb_alloc(r->dev[d], bytes, &r->my[d], err));
    RB_TRY(rb_alloc(r->dev[d], bytes, &r->bytes[d], err));
    RB_TRY(rb_alloc(r->dev[d], K_MOST * sizeof(float), &r->steps[d], err));
    RB_TRY(rb_upload(r->q[d], r->mx[d], r->x, bytes, err));
    RB_TRY(rb_upload(r->q[d], r->steps[d], steps, K_MOST * sizeof(float), err));
    return rb_queue_sync(r->q[d], err);
}

static resbm_status open_rig(rig *r, const char *device, double seconds, rb_err *err) {
    const char *names[2] = {device, "ref"};
    float steps[K_MOST];
    for (int d = 0; d < 2; d++) {
        RB_TRY(rb_device_open(names[d], &(rb_device_options){.threads = 1}, &r->dev[d], err));
        RB_TRY(rb_queue_open(r->dev[d], &r->q[d], err));
    }
    r->B[0] = r->dev[0]->table->host_memory ? B_HOST : B_DEVICE;
    r->B[1] = CHECKED;
    const size_t values = (size_t)(r->B[0] * T * K_MOST);
    r->budget_ns = (int64_t)(seconds / (2.0 * ROWS * WIDTHS) * 1e9);
    r->x = malloc(values * sizeof(float));
    if (!r->x) return rb_fail(err, RESBM_E_MEMORY, "bench codec: no memory for %zu values", values);
    rb_normal_fill(7, r->x, (int64_t)values, 0, 1);
    for (int i = 0; i < K_MOST; i++) steps[i] = 0.3f + 0.001f * (float)i;
    RB_TRY(fill_device(r, 0, steps, err));
    return fill_device(r, 1, steps, err);
}

static void close_rig(rig *r) {
    for (int d = 0; d < 2; d++) {
        void *const memory[] = {r->mx[d], r->my[d], r->bytes[d], r->steps[d]};
        rb_queue_close(r->q[d]);
        for (int i = 0; r->dev[d] && i < 4; i++) rb_free(r->dev[d], memory[i]);
        rb_device_close(r->dev[d]);
    }
    free(r->x);
}

static resbm_status once(rig *r, int d, bool packing, const rb_pack_args *a, int64_t b, int64_t k,
                         rb_err *err) {
    rb_view bytes = rb_view1(r->bytes[d], RB_U8, rb_packed_bytes(a, b, T, k)),
            steps = rb_view1(r->steps[d], RB_F32, k);
    if (packing) return rb_pack(r->q[d], bytes, rb_view3(r->mx[d], RB_F32, b, T, k), steps, a, err);
    return rb_unpack(r->q[d], rb_view3(r->my[d], RB_F32, b, T, k), bytes, steps, a, err);
}

typedef struct pass {
    rig *r;
    bool packing;
    const rb_pack_args *a;
    int64_t B, k;
} pass;

static resbm_status act(void *ctx, rb_err *err) {
    pass *p = ctx;
    return once(p->r, 0, p->packing, p->a, p->B, p->k, err);
}

/* GB/s of f32, the fastest round within the budget. */
static resbm_status measure(rig *r, bool packing, const rb_pack_args *a, int64_t k, double *rate,
                            rb_err *err) {
    int64_t B = r->B[0] * (r->dev[0]->table->host_memory ? 1 : K_MOST / k);
    pass p = {r, packing, a, B, k};
    double ns;
    RB_TRY(rb_bench_call(r->q[0], act, &p, r->budget_ns, &ns, err));
    *rate = (double)(B * T * k * 4) / ns;
    return RESBM_OK;
}

/* n bytes of both devices are alike. */
static resbm_status alike(rig *r, void *const at[2], size_t n, bool *same, rb_err *err) {
    char *copy[2] = {malloc(n), malloc(n)};
    resbm_status st = copy[0] && copy[1]
                          ? RESBM_OK
                          : rb_fail(err, RESBM_E_MEMORY, "bench codec: no memory for %zu bytes", n);
    for (int d = 0; d < 2 && !st; d++) {
        st = rb_download(r->q[d], copy[d], at[d], n, err);
        if (!st) st = rb_queue_sync(r->q[d], err);
    }
    *same = !st && !memcmp(copy[0], copy[1], n);
    free(copy[0]);
    free(copy[1]);
    return st;
}

/* The first sequences against the reference (sequences are independent, and the reference is slow). */
static resbm_status check(rig *r, const rb_pack_args *a, int64_t k, const char *name, rb_err *err) {
    bool bytes, values;
    RB_TRY(once(r, 1, true, a, CHECKED, k, err));
    RB_TRY(once(r, 1, false, a, CHECKED, k, err));
    RB_TRY(alike(r, r->bytes, (size_t)rb_packed_bytes(a, CHECKED, T, k), &bytes, err));
    RB_TRY(alike(r, r->my, (size_t)(CHECKED * T * k) * sizeof(float), &values, err));
    if (!bytes || !values)
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

resbm_status rb_bench_codec(rb_buf *out, const char *device, double seconds, rb_err *err) {
    rig r = {0};
    resbm_status st = open_rig(&r, device, seconds, err);
    bool host = !st && r.dev[0]->table->host_memory;
    rb_buf_printf(out,
                  "GB/s of f32 on %s, output equal to the reference's; pack and unpack at each width k\n"
                  "code  scale  rounding  ",
                  host ? "one core" : device);
    for (int i = 0; i < WIDTHS; i++) rb_buf_printf(out, "       k = %-4d", widths[i]);
    rb_buf_puts(out, "\n");
    for (int i = 0; st == RESBM_OK && i < ROWS; i++) st = bench_row(&r, &rows[i], out, err);
    close_rig(&r);
    return st == RESBM_OK ? rb_buf_status(out, err) : st;
}
