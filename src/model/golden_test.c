/* Loss and every parameter gradient against PyTorch's (tests/golden/make_model.py), on every host device. */
#include <math.h>
#include "core/buf.h"
#include "core/bytes.h"
#include "model/testing.h"

typedef struct record {
    char name[96];
    uint32_t count;
    const char *data;
} record;

static float number(const record *r, uint32_t i) {
    uint32_t u = rb_get32((const uint8_t *)r->data + 4 * i);
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static int read_records(const rb_buf *file, record *out, int most) {
    size_t at = 0;
    int n = 0;
    for (; at < file->len; n++) {
        uint32_t length = rb_get32((const uint8_t *)file->data + at);
        assert_true(n < most && length < sizeof out->name);
        memcpy(out[n].name, file->data + at + 4, length);
        out[n].name[length] = 0;
        out[n].count = rb_get32((const uint8_t *)file->data + at + 4 + length);
        out[n].data = file->data + at + 8 + length;
        at += 8 + length + 4 * (size_t)out[n].count;
    }
    assert_int_equal(at, file->len);
    return n;
}

/* The same numbers as make_model.py's weight(). */
static void make_weight(const char *name, float *w, int64_t n) {
    uint64_t state = 0xCBF29CE484222325u;
    for (const char *c = name; *c; c++) state = (state ^ (uint8_t)*c) * 0x100000001B3u;
    for (int64_t i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        w[i] = (float)(((double)(state >> 40) / 16777216.0 - 0.5) / 2 + (strstr(name, "norm") ? 1 : 0));
    }
}

static void configure(world *w, const record *c) {
    int64_t v[13];
    assert_string_equal(c->name, "config");
    assert_int_equal(c->count, 15);
    for (uint32_t i = 0; i < 13; i++) v[i] = (int64_t)number(c, i);
    *w = (world){.B = v[0], .T = v[1]};
    w->model = (rb_model_config){.d = v[2],
                                 .layers = v[3],
                                 .heads = v[4],
                                 .kv_heads = v[5],
                                 .ffn = v[6],
                                 .vocab = v[7],
                                 .segments = v[8],
                                 .context = v[1],
                                 .qk_norm = v[11],
                                 .tied = v[12],
                                 .rope_theta = number(c, 13),
                                 .norm_eps = number(c, 14)};
    w->boundary = (rb_boundary_config){
        .kind = "residual", .k = v[9], .hidden = v[10], .codec_fwd = "f32", .codec_bwd = "f32"};
}

static void load(world *w, const record *tokens) {
    int32_t ids[256], next[256];
    assert_string_equal(tokens->name, "tokens");
    for (int64_t b = 0; b < w->B; b++)
        for (int64_t t = 0; t < w->T; t++) {
            ids[b * w->T + t] = (int32_t)number(tokens, (uint32_t)(b * (w->T + 1) + t));
            next[b * w->T + t] = (int32_t)number(tokens, (uint32_t)(b * (w->T + 1) + t + 1));
        }
    put(w, w->tokens, ids, (size_t)(w->B * w->T) * 4);
    put(w, w->targets, next, (size_t)(w->B * w->T) * 4);
    for (int r = 0; r < w->table.count; r++) {
        int64_t n = rb_tensor_count(&w->table.rows[r]);
        float *x = malloc((size_t)n * 4);
        make_weight(w->table.rows[r].name, x, n);
        put(w, rb_stage_weight(w->stage, r).data, x, (size_t)n * 4);
        free(x);
    }
}

static void compare(world *w, int row, const record *records, int count) {
    rb_view v = rb_stage_grad(w->stage, row);
    const char *name = w->table.rows[row].name;
    const record *r = NULL;
    for (int i = 0; i < count; i++)
        if (!strcmp(records[i].name, name)) r = &records[i];
    if (!r) fail_msg("no golden gradient of %s", name);
    assert_int_equal(r->count, rb_count(v));
    float *got = get(w, v);
    double diff = 0, size = 0;
    for (uint32_t i = 0; i < r->count; i++) {
        double want = number(r, i);
        diff += (got[i] - want) * (got[i] - want);
        size += want * want;
    }
    free(got);
    if (!(sqrt(diff) <= 1e-5 * sqrt(size)) || size == 0)
        fail_msg("gradient of %s: differs by %.3g of %.3g", name, sqrt(diff), sqrt(size));
}

static void check(const char *golden, const char *device) {
    char path[512];
    rb_err err;
    rb_buf file = {0};
    record records[80];
    world w;
    snprintf(path, sizeof path, "%s/tests/golden/model_%s.golden", RB_SOURCE_DIR, golden);
    assert_ok(rb_read_file(path, 1 << 20, &file, &err), &err);
    int count = read_records(&file, records, 80);
    configure(&w, &records[0]);
    world_open(&w, device, 2, true);
    assert_int_equal(w.table.count + 3, count);
    load(&w, &records[1]);
    double tokens = (double)(w.B * w.T), loss = world_forward(&w, 0, (float)(1 / tokens)) / tokens;
    double want = number(&records[2], 0);
    if (!(fabs(loss - want) <= 1e-6 * want))
        fail_msg("%s on %s: loss %.9g, PyTorch's %.9g", golden, device, loss, want);
    world_backward(&w, 0, FUSED);
    for (int r = 0; r < w.table.count; r++) compare(&w, r, records, count);
    world_close(&w);
    rb_buf_free(&file);
}

static void plain(void **state) {
    (void)state;
    check("plain", "ref");
    check("plain", "cpu");
}
static void gqa_qknorm_tied(void **state) {
    (void)state;
    check("gqa_qknorm_tied", "ref");
    check("gqa_qknorm_tied", "cpu");
}
static void three_segments(void **state) {
    (void)state;
    check("three_segments", "ref");
    check("three_segments", "cpu");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain),
        cmocka_unit_test(gqa_qknorm_tied),
        cmocka_unit_test(three_segments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
