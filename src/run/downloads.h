/* What stages apart lack of a snapshot, sent to all of them side by side: a slow line keeps nobody waiting but its own stage. */
#ifndef RB_RUN_DOWNLOADS_H
#define RB_RUN_DOWNLOADS_H

#include <jansson.h>
#include "run/crew.h"

typedef struct rb_downloads rb_downloads;

/* listening (stages): the answers whose "need" names the files. Names that are not a stage's own are refused. One thread sends,
 * to each stage only a little ahead of what it says it has. */
resbm_status rb_downloads_begin(rb_crew *c, json_t *const *listening, rb_downloads **out, rb_err *err);
/* A stage says {"t": "loading", "have": bytes, "of": bytes}. */
void rb_downloads_note(rb_downloads *d, int stage, const json_t *said);
/* When stages last had some more than before (rb_now_ns), RB_APART_LEAST bytes together, or one began or had all. */
int64_t rb_downloads_moved_ns(const rb_downloads *d);
/* The fault that has ended the sending, if one has. */
resbm_status rb_downloads_fault(const rb_downloads *d, rb_err *err);
void rb_downloads_end(rb_downloads *d); /* stops what still goes; NULL is fine */

#endif
