/* Loss and every parameter gradient against PyTorch's (tests/golden/make_model.py), on every host device. */
#include <math.h>
#include "model/golden_testing.h"

static void load(world *w, const record *tokens) {
    assert_string_equal(tokens->name, "tokens");
    load_tokens(w, tokens, 0);
    load_weights(w);
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
