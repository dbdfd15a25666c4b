#include <jansson.h>
#include <math.h>

#include "rb_cmocka.h"
#include "run/summary.h"

static rb_summary sample(uint64_t rss[4], rb_link_bytes link[2]) {
    for (int i = 0; i < 4; i++) rss[i] = (uint64_t)(i + 1) << 30;
    link[0] = (rb_link_bytes){0, 1, 4e6, 10, 20, 30, 40, 50, 60};
    link[1] = (rb_link_bytes){1, 0, 0, 1, 2, 3, 4, 5, 6};
    return (rb_summary){.val_loss = 2.0,
                        .val_bpb = NAN,
                        .steps = 350,
                        .tokens = 1433600,
                        .tokens_per_s = 12345.6,
                        .step_s = 0.33,
                        .bytes_per_token_fwd = 4.25,
                        .bytes_per_token_bwd = 4.5,
                        .token_bytes_per_token = 1.25,
                        .ratio = 128,
                        .wire_ratio = 482.1,
                        .bubble = 0.25,
                        .params = 6553600,
                        .time_s = 120,
                        .start_s = 0.25,
                        .first_step_s = NAN,
                        .boundary = "residual",
                        .codec_fwd = "int4",
                        .codec_bwd = "int4",
                        .stages = 4,
                        .peak_rss_bytes = rss,
                        .links = 2,
                        .link = link};
}

static void has_every_key(void **state) {
    (void)state;
    rb_err err = {0};
    uint64_t rss[4];
    rb_link_bytes link[2];
    rb_summary s = sample(rss, link);
    assert_ok(rb_summary_write("summary.json", &s, &err), &err);
    json_t *o = json_load_file("summary.json", JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(o);
    const char *keys[] = {"val_loss",
                          "val_ppl",
                          "val_bpb",
                          "steps",
                          "tokens",
                          "tokens_per_s",
                          "step_s",
                          "bytes_per_token_fwd",
                          "bytes_per_token_bwd",
                          "ratio",
                          "wire_ratio",
                          "peak_rss_bytes",
                          "bubble",
                          "params",
                          "start_s",
                          "first_step_s"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!json_object_get(o, keys[i])) fail_msg("summary.json lacks %s", keys[i]);
    assert_true(json_is_null(json_object_get(o, "val_bpb")));
    assert_true(fabs(json_number_value(json_object_get(o, "val_ppl")) - exp(2.0)) < 1e-7);
    assert_int_equal(json_array_size(json_object_get(o, "peak_rss_bytes")), 4);
    json_decref(o);
}

static void roundtrip(void **state) {
    (void)state;
    rb_err err = {0};
    uint64_t rss[4];
    rb_link_bytes link[2];
    rb_summary s = sample(rss, link), r;
    assert_ok(rb_summary_write("round.json", &s, &err), &err);
    assert_ok(rb_summary_read("round.json", &r, &err), &err);
    assert_true(r.val_loss == 2.0 && isnan(r.val_bpb) && r.ratio == 128 && r.token_bytes_per_token == 1.25 &&
                r.time_s == 120 && r.bubble == 0.25);
    assert_true(r.start_s == 0.25 && isnan(r.first_step_s));
    assert_int_equal(r.steps, 350);
    assert_int_equal(r.params, 6553600);
    assert_string_equal(r.boundary, "residual");
    assert_int_equal(r.stages, 4);
    assert_int_equal(r.peak_rss_bytes[3], 4ull << 30);
    assert_int_equal(r.links, 2);
    assert_memory_equal(&r.link[0], &link[0], sizeof link[0]);
    assert_memory_equal(&r.link[1], &link[1], sizeof link[1]);
    rb_summary_free(&r);
}

static void unknown_numbers_and_no_links(void **state) {
    (void)state;
    rb_err err = {0};
    rb_summary s = {.val_loss = NAN, .val_bpb = NAN, .wire_ratio = INFINITY}, r;
    assert_ok(rb_summary_write("empty.json", &s, &err), &err);
    assert_ok(rb_summary_read("empty.json", &r, &err), &err);
    assert_true(isnan(r.val_loss) && isnan(r.wire_ratio));
    assert_int_equal(r.stages + r.links, 0);
    rb_summary_free(&r);
}

static void damaged_files_are_refused(void **state) {
    (void)state;
    rb_err err = {0};
    rb_summary r;
    FILE *f = fopen("bad.json", "w");
    fputs("{\"steps\": 3,\n", f);
    fclose(f);
    assert_fails(rb_summary_read("bad.json", &r, &err), RESBM_E_FORMAT, "bad.json", &err);
    f = fopen("bad.json", "w");
    fputs("[1]", f);
    fclose(f);
    assert_fails(rb_summary_read("bad.json", &r, &err), RESBM_E_FORMAT, "not an object", &err);
    f = fopen("bad.json", "w");
    fputs("{\"peak_rss_bytes\": [", f);
    for (int i = 0; i < 2000; i++) fputs("1,", f);
    fputs("1]}", f);
    fclose(f);
    assert_fails(rb_summary_read("bad.json", &r, &err), RESBM_E_FORMAT, "2001 stages", &err);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(has_every_key),
        cmocka_unit_test(roundtrip),
        cmocka_unit_test(unknown_numbers_and_no_links),
        cmocka_unit_test(damaged_files_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
