/* What a run left in its folder, read back: metrics.jsonl, summary.json, and, where they are, trace.json and
 * config.yaml. */
#ifndef RB_RUN_RUN_FOLDER_H
#define RB_RUN_RUN_FOLDER_H

#include "core/buf.h"
#include "run/metrics.h"
#include "run/summary.h"
#include "run/trace.h"

typedef struct rb_run_folder {
    char name[128]; /* the folder's last part */
    rb_metrics metrics;
    rb_summary summary;
    rb_trace_event *events;
    size_t event_count;
    rb_buf config;
} rb_run_folder;

/* A folder without metrics.jsonl or summary.json is no run (RESBM_E_IO names what is missing). */
resbm_status rb_run_folder_load(const char *dir, rb_run_folder *out, rb_err *err);
void rb_run_folder_free(rb_run_folder *r); /* a zeroed one is fine */

/* Loads the folders, writes report.html about them to page (NULL: none), and their table (compare_table.h) to table
 * (NULL: none). */
resbm_status rb_run_folders_report(const char *const *dirs, int count, const char *page, rb_buf *table,
                                   rb_err *err);

#endif
