#include "run/run_folder.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "run/compare_table.h"
#include "run/report.h"

enum { CONFIG_LIMIT = 1 << 20 };

static resbm_status path_of(const char *dir, const char *name, char out[PATH_MAX], rb_err *err) {
    if (snprintf(out, PATH_MAX, "%s/%s", dir, name) < PATH_MAX) return RESBM_OK;
    return rb_fail(err, RESBM_E_ARG, "path too long: %s/%s", dir, name);
}

/* "runs/demo/" -> "demo" */
static void take_name(const char *dir, char *out, size_t size) {
    size_t end = strlen(dir);
    while (end > 1 && dir[end - 1] == '/') end--;
    size_t from = end;
    while (from > 0 && dir[from - 1] != '/') from--;
    snprintf(out, size, "%.*s", (int)(end - from), dir + from);
}

static resbm_status load_parts(const char *dir, rb_run_folder *r, rb_err *err) {
    char path[PATH_MAX];
    RB_TRY(path_of(dir, "metrics.jsonl", path, err));
    RB_TRY(rb_metrics_read(path, &r->metrics, err));
    RB_TRY(path_of(dir, "summary.json", path, err));
    RB_TRY(rb_summary_read(path, &r->summary, err));
    RB_TRY(path_of(dir, "trace.json", path, err));
    if (access(path, F_OK) == 0) RB_TRY(rb_trace_read(path, &r->events, &r->event_count, err));
    RB_TRY(path_of(dir, "config.yaml", path, err));
    if (access(path, F_OK) == 0) RB_TRY(rb_read_file(path, CONFIG_LIMIT, &r->config, err));
    return RESBM_OK;
}

resbm_status rb_run_folder_load(const char *dir, rb_run_folder *out, rb_err *err) {
    *out = (rb_run_folder){0};
    take_name(dir, out->name, sizeof out->name);
    resbm_status st = load_parts(dir, out, err);
    if (st == RESBM_OK) return RESBM_OK;
    rb_run_folder_free(out);
    return rb_err_context(err, st, "%s is no whole run: ", dir);
}

void rb_run_folder_free(rb_run_folder *r) {
    rb_metrics_free(&r->metrics);
    rb_summary_free(&r->summary);
    free(r->events);
    rb_buf_free(&r->config);
    *r = (rb_run_folder){0};
}

static resbm_status write_page(const rb_run_folder *r, int count, const char *page, rb_err *err) {
    rb_report_run runs[RB_REPORT_MAX_RUNS];
    for (int i = 0; i < count; i++)
        runs[i] = (rb_report_run){.name = r[i].name,
                                  .metrics = &r[i].metrics,
                                  .summary = &r[i].summary,
                                  .events = r[i].events,
                                  .event_count = r[i].event_count,
                                  .config = r[i].config.data};
    return rb_report_write(page, runs, count, err);
}

resbm_status rb_run_folders_report(const char *const *dirs, int count, const char *page, rb_buf *table,
                                   rb_err *err) {
    if (count < 1 || count > RB_REPORT_MAX_RUNS)
        return rb_fail(err, RESBM_E_ARG, "a report of %d runs; 1 to %d are possible", count,
                       RB_REPORT_MAX_RUNS);
    rb_run_folder *r = calloc((size_t)count, sizeof *r);
    if (!r) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d runs", count);
    resbm_status st = RESBM_OK;
    for (int i = 0; i < count && st == RESBM_OK; i++) st = rb_run_folder_load(dirs[i], &r[i], err);
    if (st == RESBM_OK && page) st = write_page(r, count, page, err);
    if (st == RESBM_OK && table) {
        rb_compare_table(r, count, table);
        st = rb_buf_status(table, err);
    }
    for (int i = 0; i < count; i++) rb_run_folder_free(&r[i]);
    free(r);
    return st;
}
