#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rb_cmocka.h"
#include "run/compare_table.h"

/* A run of `count` steps of step_s seconds, evaluated every `every`, its loss falling from 6 by `fall` a step. */
static void write_run(const char *dir, int count, int every, double step_s, double fall, bool trace) {
    rb_err err = {0};
    char path[256];
    rb_metrics_writer *w = NULL;
    assert_ok(rb_make_dirs(dir, &err), &err);
    snprintf(path, sizeof path, "%s/metrics.jsonl", dir);
    assert_ok(rb_metrics_open(path, 0, &w, &err), &err);
    for (int i = 1; i <= count; i++) {
        rb_step_metrics m = {.step = i,
                             .tokens = 100 * i,
                             .loss = 6 - fall * i,
                             .step_s = step_s,
                             .time_s = step_s * i,
                             .val_loss = i % every ? NAN : 6 - fall * i};
        assert_ok(rb_metrics_write(w, &m, &err), &err);
    }
    assert_ok(rb_metrics_close(w, &err), &err);
    rb_summary s = {.val_loss = 6 - fall * count,
                    .val_bpb = NAN,
                    .steps = count,
                    .tokens = 100 * count,
                    .tokens_per_s = 100 / step_s,
                    .step_s = step_s,
                    .bytes_per_token_fwd = 4.25,
                    .bytes_per_token_bwd = 4.5,
                    .token_bytes_per_token = 1.03,
                    .ratio = 128,
                    .wire_ratio = 120.4,
                    .bubble = 0.25,
                    .time_s = step_s * count,
                    .boundary = "residual",
                    .codec_fwd = "int4",
                    .codec_bwd = "int8"};
    snprintf(path, sizeof path, "%s/summary.json", dir);
    assert_ok(rb_summary_write(path, &s, &err), &err);
    snprintf(path, sizeof path, "%s/trace.json", dir);
    unlink(path);
    if (!trace) return;
    rb_trace *t = NULL;
    rb_trace_event e = {.step = 1, .end_ns = 5, .name = "0F0"};
    assert_ok(rb_trace_new(1, &t, &err), &err);
    assert_ok(rb_trace_add(t, &e, 1, 0, &err), &err);
    assert_ok(rb_trace_write(t, path, &err), &err);
    rb_trace_free(t);
}

/* slow: 10 steps of 8 s, loss 6 -> 5. fast: 100 steps of 1 s, 6 -> 3, evaluated every 30th. */
static void load_two(rb_run_folder r[2]) {
    rb_err err = {0};
    write_run("slow", 10, 5, 8, 0.1, true);
    write_run("fast", 100, 30, 1, 0.03, false);
    assert_ok(rb_run_folder_load("slow", &r[0], &err), &err);
    assert_ok(rb_run_folder_load("./fast/", &r[1], &err), &err);
}

static void time_to_the_same_loss(void **state) {
    (void)state;
    rb_run_folder r[2];
    load_two(r);
    assert_string_equal(r[1].name, "fast");
    assert_true(fabs(rb_compare_common_loss(r, 2) - 5.0) < 1e-6);
    assert_true(fabs(rb_compare_time_to(&r[0].metrics, 5.0 + 1e-9) - 80) < 1e-3);
    /* Between the evaluations at 30 s (5.1) and 60 s (4.2): a ninth of the way. */
    assert_true(fabs(rb_compare_time_to(&r[1].metrics, 5.0) - (30 + 30 / 9.0)) < 1e-3);
    assert_true(rb_compare_time_to(&r[1].metrics, 5.9) == 30); /* no earlier evaluation to draw a line from */
    assert_true(isnan(rb_compare_time_to(&r[1].metrics, 1.0)));
    rb_run_folder_free(&r[0]);
    rb_run_folder_free(&r[1]);
}

static void table_names_every_figure(void **state) {
    (void)state;
    rb_run_folder r[2];
    rb_buf t = {0};
    load_two(r);
    rb_compare_table(r, 2, &t);
    const char *parts[] = {"slow",
                           "fast",
                           "residual int4/int8",
                           "validation loss",
                           "5.0000",
                           "3.0000",
                           "steps",
                           "100",
                           "4.25",
                           "4.50",
                           "1.03",
                           "128x",
                           "120x",
                           "25%",
                           "1 min 20 s",
                           "wall time to loss 5.0000",
                           "33.3 s"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strstr(t.data, parts[i])) fail_msg("the table lacks \"%s\":\n%s", parts[i], t.data);
    /* Columns stand under each other: all lines are equally long. */
    size_t first = strcspn(t.data, "\n");
    for (const char *line = t.data; *line; line += first + 1)
        if (strcspn(line, "\n") != first) fail_msg("a line of another length:\n%s", t.data);
    rb_buf_free(&t);
    rb_run_folder_free(&r[0]);
    rb_run_folder_free(&r[1]);
}

static void report_of_folders(void **state) {
    (void)state;
    rb_err err = {0};
    rb_run_folder r[2];
    rb_buf table = {0}, page = {0};
    load_two(r);
    FILE *f = fopen("slow/config.yaml", "w");
    fputs("engine: local\n", f);
    fclose(f);
    const char *dirs[2] = {"slow", "fast"};
    assert_ok(rb_run_folders_report(dirs, 2, "report.html", &table, &err), &err);
    assert_ok(rb_read_file("report.html", 1 << 24, &page, &err), &err);
    assert_non_null(strstr(page.data, "engine: local"));
    assert_non_null(strstr(page.data, "0F0"));
    assert_non_null(strstr(table.data, "validation loss"));
    rb_buf_free(&table);
    rb_buf_free(&page);
    rb_run_folder_free(&r[0]);
    rb_run_folder_free(&r[1]);
    assert_int_equal(unlink("slow/config.yaml"), 0);
}

static void a_folder_that_is_no_run(void **state) {
    (void)state;
    rb_err err = {0};
    rb_run_folder r;
    const char *dirs[1] = {"absent"};
    assert_fails(rb_run_folder_load("absent", &r, &err), RESBM_E_IO, "absent is no whole run: ", &err);
    assert_fails(rb_run_folders_report(dirs, 1, NULL, NULL, &err), RESBM_E_IO, "metrics.jsonl", &err);
    assert_fails(rb_run_folders_report(dirs, 0, NULL, NULL, &err), RESBM_E_ARG, "0 runs", &err);
    write_run("half", 3, 1, 1, 0.1, false);
    assert_int_equal(unlink("half/summary.json"), 0);
    assert_fails(rb_run_folder_load("half", &r, &err), RESBM_E_IO, "summary.json", &err);
}

static void one_run_never_evaluated(void **state) {
    (void)state;
    rb_err err = {0};
    rb_run_folder r;
    rb_buf t = {0};
    write_run("blind", 4, 100, 1, 0.1, false);
    assert_ok(rb_run_folder_load("blind", &r, &err), &err);
    assert_true(isnan(rb_compare_common_loss(&r, 1)));
    rb_compare_table(&r, 1, &t);
    assert_null(strstr(t.data, "wall time to loss"));
    assert_null(strstr(t.data, "nan"));
    rb_buf_free(&t);
    rb_run_folder_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(time_to_the_same_loss),   cmocka_unit_test(table_names_every_figure),
        cmocka_unit_test(report_of_folders),       cmocka_unit_test(a_folder_that_is_no_run),
        cmocka_unit_test(one_run_never_evaluated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
