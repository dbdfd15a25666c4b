/* manifest.json: what makes a step-N folder a checkpoint. Written last; holds what a resumed run needs beside
 * the tensors, and length and hash of every file.
 *
 *     {"format": "resbm checkpoint", "version": 1, "step": 100, "epoch": 0, "cursor": 1600, "seed": 1,
 *      "config": "model:\n  d: 256\n...", "counters": {"tokens": 409600},
 *      "files": [{"name": "segment-0.safetensors", "bytes": 1234, "hash": "<32 hex digits>"}, ...],
 *      "hash": "<XXH3-128 of this object without this key, compact, keys sorted>"} */
#ifndef RB_CHECKPOINT_MANIFEST_H
#define RB_CHECKPOINT_MANIFEST_H

#include "checkpoint/safetensors.h"
#include "core/buf.h"

enum {
    RB_MANIFEST_VERSION = 1,
    RB_MANIFEST_LIMIT = 16 << 20, /* longest manifest.json that is read */
    RB_MANIFEST_FILES = 16384,
    RB_MANIFEST_COUNTERS = 64,
    RB_PART_NAME = 64
};

/* One file of a checkpoint. */
typedef struct rb_part_file {
    char name[RB_PART_NAME]; /* letters, digits, '.', '-', '_'; no leading dot */
    rb_file_sum sum;
} rb_part_file;

/* A number that goes on with the run: tokens, wall nanoseconds, updates of the optimizer. Of these optimizer_from lie
 * behind its present states; equal to updates: there are none in the files, they begin as zeros. */
typedef struct rb_counter {
    char name[48];
    int64_t value;
} rb_counter;

typedef struct rb_manifest {
    int64_t step;   /* optimizer steps done */
    int64_t epoch;  /* run epoch: how often it was started */
    int64_t cursor; /* number of the next sequence of the data order */
    int64_t seed;
    const char *config; /* resolved YAML (rb_config_print) */
    rb_part_file *files;
    int file_count;
    rb_counter counters[RB_MANIFEST_COUNTERS];
    int counter_count;
    void *owned; /* what rb_manifest_parse allocated */
} rb_manifest;

/* Sets a counter (replacing one of that name); RESBM_E_ARG when there are too many or the name is too long.
 */
resbm_status rb_manifest_set(rb_manifest *m, const char *name, int64_t value, rb_err *err);
/* 0 when there is no such counter. */
int64_t rb_manifest_get(const rb_manifest *m, const char *name);

resbm_status rb_manifest_print(const rb_manifest *m, rb_buf *out, rb_err *err);
/* RESBM_E_FORMAT: no JSON, another format or version, a field missing, of the wrong kind or out of range, a
 * file name that could leave the folder or stands twice. RESBM_E_CORRUPT: the hash does not fit. `name` is
 * for messages. rb_manifest_free when done. */
resbm_status rb_manifest_parse(const char *text, size_t len, const char *name, rb_manifest *out, rb_err *err);
void rb_manifest_free(rb_manifest *m);
/* Is there a row for a file of this name? */
bool rb_manifest_holds(const rb_manifest *m, const char *name);
/* May a checkpoint's file have this name? */
bool rb_part_name_ok(const char *name);

#endif
