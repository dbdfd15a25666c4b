/* What a training run leaves in its folder and shows while it goes: metrics.jsonl, summary.json, trace.json,
 * report.html, the progress line. Fills an rb_train_hooks. */
#ifndef RB_RUN_RECORD_H
#define RB_RUN_RECORD_H

#include <stdio.h>
#include "run/train.h"

typedef struct rb_record rb_record;

/* dir exists; it is this record's alone until it is closed (RESBM_E_STATE: another has it, and nothing in it was
 * touched). out: where the progress line and notes go; NULL: nowhere. quiet: no list of parameter rules, no memory
 * planned. */
resbm_status rb_record_open(const rb_config *cfg, const char *dir, FILE *out, bool quiet, rb_record **rec,
                            rb_err *err);
rb_train_hooks rb_record_hooks(rb_record *rec);
/* After rb_train, also one that failed: closes the files, writes summary and trace of what there is. */
resbm_status rb_record_close(rb_record *rec, const rb_train_summary *s, bool finished, rb_err *err);

#endif
