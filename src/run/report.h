/* report.html: one self-contained page about one run, or several side by side: a table, loss against tokens and
 * against time, bytes per link, one step of the pipeline, memory, configuration. It loads nothing from anywhere; the
 * page (report_page.html) is part of the library and draws the numbers written into it as JSON. */
#ifndef RB_RUN_REPORT_H
#define RB_RUN_REPORT_H

#include "run/metrics.h"
#include "run/summary.h"
#include "run/trace.h"

enum { RB_REPORT_MAX_RUNS = 16, RB_REPORT_STEPS = 4000, RB_REPORT_EVENTS = 30000 };

/* All of it stays the caller's. */
typedef struct rb_report_run {
    const char *name; /* as the legend shows it */
    const rb_metrics *metrics;
    const rb_summary *summary;
    const rb_trace_event *events; /* (event_count), may be NULL */
    size_t event_count;
    const char *config; /* YAML text */
} rb_report_run;

/* Long runs are thinned: of more than RB_REPORT_STEPS steps every n-th is drawn (and all evaluated ones); of more than
 * RB_REPORT_EVENTS trace events those of the last two steps. Written beside and renamed. */
resbm_status rb_report_write(const char *path, const rb_report_run *run, int runs, rb_err *err);

/* The same page about a comparison: json is what compare_json.c makes. */
resbm_status rb_report_write_study(const char *path, const char *json, rb_err *err);

#endif
