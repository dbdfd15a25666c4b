#include <math.h>
#include <unistd.h>

#include "core/buf.h"
#include "rb_cmocka.h"
#include "run/metrics.h"

static const double norms[3] = {1.5, 0.25, 2.0};

static rb_step_metrics step(int64_t n) {
    return (rb_step_metrics){.step = n,
                             .tokens = n * 4096,
                             .loss = (double)(5.5f - 0.1f * (float)n),
                             .val_loss = n % 2 ? NAN : 4.25 + (double)n,
                             .lr = 0.02,
                             .grad_norm = 0.75,
                             .grad_norm_segments = norms,
                             .segments = 3,
                             .step_s = 0.5 + (double)n,
                             .tokens_per_s = 8192,
                             .wire_bytes_fwd = 123456789012ull,
                             .wire_bytes_bwd = 42,
                             .time_s = 0.5 * (double)n};
}

static void write_steps(const char *path, int64_t resumed, int64_t from, int64_t to) {
    rb_err err = {0};
    rb_metrics_writer *w = NULL;
    assert_ok(rb_metrics_open(path, resumed, &w, &err), &err);
    for (int64_t i = from; i <= to; i++) {
        rb_step_metrics m = step(i);
        assert_ok(rb_metrics_write(w, &m, &err), &err);
    }
    assert_ok(rb_metrics_close(w, &err), &err);
}

static void roundtrip(void **state) {
    (void)state;
    rb_err err = {0};
    write_steps("a.jsonl", 0, 1, 5);
    rb_metrics m;
    assert_ok(rb_metrics_read("a.jsonl", &m, &err), &err);
    assert_int_equal(m.count, 5);
    for (int64_t i = 1; i <= 5; i++) {
        rb_step_metrics want = step(i), got = m.steps[i - 1];
        assert_int_equal(got.step, i);
        assert_int_equal(got.tokens, want.tokens);
        /* 9 digits bring back the same f32 bits. */
        assert_true((float)got.loss == (float)want.loss);
        assert_true(isnan(want.val_loss) ? isnan(got.val_loss) : got.val_loss == want.val_loss);
        assert_int_equal(got.segments, 3);
        for (int k = 0; k < 3; k++) assert_true(got.grad_norm_segments[k] == norms[k]);
        assert_int_equal(got.wire_bytes_fwd, want.wire_bytes_fwd);
        assert_int_equal(got.wire_bytes_bwd, 42);
        assert_true(got.lr == 0.02 && got.grad_norm == 0.75 && got.time_s == want.time_s);
    }
    rb_metrics_free(&m);
}

static void line_has_every_key_in_order(void **state) {
    (void)state;
    write_steps("keys.jsonl", 0, 2, 2);
    rb_buf text = {0};
    rb_err err = {0};
    assert_ok(rb_read_file("keys.jsonl", 4096, &text, &err), &err);
    assert_string_equal(text.data,
                        "{\"step\":2,\"tokens\":8192,\"loss\":5.30000019,\"val_loss\":6.25,\"lr\":0.02,"
                        "\"grad_norm\":0.75,\"grad_norm_segments\":[1.5,0.25,2],\"step_s\":2.5,"
                        "\"tokens_per_s\":8192,\"wire_bytes_fwd\":123456789012,\"wire_bytes_bwd\":42,"
                        "\"time_s\":1}\n");
    rb_buf_free(&text);
}

static void auxiliary_losses_by_boundary(void **state) {
    (void)state;
    rb_err err = {0};
    rb_metrics_writer *w = NULL;
    rb_buf text = {0};
    rb_step_metrics m = step(1);
    const double aux[2] = {3.5, 2.25};
    m.aux_loss = aux;
    assert_ok(rb_metrics_open("aux.jsonl", 0, &w, &err), &err);
    assert_ok(rb_metrics_write(w, &m, &err), &err);
    assert_ok(rb_metrics_close(w, &err), &err);
    assert_ok(rb_read_file("aux.jsonl", 4096, &text, &err), &err);
    assert_non_null(strstr(text.data, "\"loss\":5.4000001,\"aux_loss\":[3.5,2.25],\"lr\":0.02,"));
    rb_buf_free(&text);
}

/* A run that was resumed at step 3 and went on leaves the same file as one that was never broken, even when the
 * crash tore its last line. */
static void resuming_cuts_later_lines(void **state) {
    (void)state;
    rb_err err = {0};
    write_steps("whole.jsonl", 0, 1, 6);
    write_steps("broken.jsonl", 0, 1, 5);
    FILE *f = fopen("broken.jsonl", "a");
    fputs("{\"step\":6,\"tok", f);
    fclose(f);
    write_steps("broken.jsonl", 3, 4, 6);
    rb_buf a = {0}, b = {0};
    assert_ok(rb_read_file("whole.jsonl", 1 << 20, &a, &err), &err);
    assert_ok(rb_read_file("broken.jsonl", 1 << 20, &b, &err), &err);
    assert_string_equal(a.data, b.data);
    rb_buf_free(&a);
    rb_buf_free(&b);
}

static void fresh_start_empties_the_file(void **state) {
    (void)state;
    rb_err err = {0};
    write_steps("fresh.jsonl", 0, 1, 6);
    write_steps("fresh.jsonl", 0, 1, 1);
    rb_metrics m;
    assert_ok(rb_metrics_read("fresh.jsonl", &m, &err), &err);
    assert_int_equal(m.count, 1);
    rb_metrics_free(&m);
    unlink("none.jsonl");
    write_steps("none.jsonl", 7, 8, 8); /* resuming where the file was lost starts one */
    assert_ok(rb_metrics_read("none.jsonl", &m, &err), &err);
    assert_int_equal(m.count, 1);
    rb_metrics_free(&m);
}

static void not_a_number_is_null(void **state) {
    (void)state;
    rb_err err = {0};
    rb_metrics_writer *w = NULL;
    rb_step_metrics m = step(1);
    m.loss = INFINITY;
    m.grad_norm = NAN;
    assert_ok(rb_metrics_open("null.jsonl", 0, &w, &err), &err);
    assert_ok(rb_metrics_write(w, &m, &err), &err);
    assert_ok(rb_metrics_close(w, &err), &err);
    rb_metrics r;
    assert_ok(rb_metrics_read("null.jsonl", &r, &err), &err);
    assert_true(isnan(r.steps[0].loss) && isnan(r.steps[0].grad_norm));
    rb_metrics_free(&r);
}

static void put_text(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void faults_name_the_line(void **state) {
    (void)state;
    rb_err err = {0};
    rb_metrics m;
    put_text("bad.jsonl", "{\"step\":1,\"tokens\":1}\n{\"step\":\n");
    assert_fails(rb_metrics_read("bad.jsonl", &m, &err), RESBM_E_FORMAT, "bad.jsonl: line 2", &err);
    put_text("bad.jsonl", "{\"step\":1,\"tokens\":1}\n[]\n");
    assert_fails(rb_metrics_read("bad.jsonl", &m, &err), RESBM_E_FORMAT, "line 2", &err);
    put_text("bad.jsonl", "{\"step\":2,\"tokens\":1}\n{\"step\":2,\"tokens\":1}\n");
    assert_fails(rb_metrics_read("bad.jsonl", &m, &err), RESBM_E_FORMAT, "step 2 follows step 2", &err);
    assert_fails(rb_metrics_read("absent.jsonl", &m, &err), RESBM_E_IO, "absent.jsonl", &err);
    rb_metrics_writer *w;
    assert_fails(rb_metrics_open("no/such/folder", 0, &w, &err), RESBM_E_IO, "no/such/folder", &err);
    put_text("torn.jsonl", "{\"step\":1,\"tokens\":1}\n{\"step\":2,\"tok");
    assert_ok(rb_metrics_read("torn.jsonl", &m, &err), &err);
    assert_int_equal(m.count, 1);
    rb_metrics_free(&m);
}

static void full_disk_is_reported(void **state) {
    (void)state;
    rb_err err = {0};
    rb_metrics_writer *w = NULL;
    if (access("/dev/full", W_OK) != 0) skip();
    assert_ok(rb_metrics_open("/dev/full", 0, &w, &err), &err);
    rb_step_metrics m = step(1);
    assert_fails(rb_metrics_write(w, &m, &err), RESBM_E_IO, "cannot write step 1 to /dev/full", &err);
    rb_metrics_close(w, NULL);
}

static void medians(void **state) {
    (void)state;
    rb_step_metrics s[5];
    double step_s[5] = {100, 3, 1, 2, 4};
    for (int i = 0; i < 5; i++) {
        s[i] = step(i + 1);
        s[i].step_s = step_s[i];
    }
    /* The first step is start-up: 3 1 2 4 -> 2.5. */
    rb_metrics m = {.steps = s, .count = 5};
    assert_true(rb_metrics_median(&m, offsetof(rb_step_metrics, step_s)) == 2.5);
    m.count = 4;
    assert_true(rb_metrics_median(&m, offsetof(rb_step_metrics, step_s)) == 2);
    m.count = 1;
    assert_true(rb_metrics_median(&m, offsetof(rb_step_metrics, step_s)) == 100);
    m.count = 0;
    assert_true(isnan(rb_metrics_median(&m, offsetof(rb_step_metrics, step_s))));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(roundtrip),
        cmocka_unit_test(line_has_every_key_in_order),
        cmocka_unit_test(auxiliary_losses_by_boundary),
        cmocka_unit_test(resuming_cuts_later_lines),
        cmocka_unit_test(fresh_start_empties_the_file),
        cmocka_unit_test(not_a_number_is_null),
        cmocka_unit_test(faults_name_the_line),
        cmocka_unit_test(full_disk_is_reported),
        cmocka_unit_test(medians),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
