/* trace.json: what each stage did when, in the Trace Event Format that Perfetto (ui.perfetto.dev) and chrome://tracing
 * open. A process per stage, in it one track each for computing, sending, receiving and waiting, and one for
 * what a plan predicted.
 *
 * Bounded: the events of the first and of the last `keep` steps stay, at most RB_TRACE_STEP_EVENTS of each step
 * and stage; how many were left out stands in otherData.dropped. Everything in between is forgotten as the run goes.
 *
 * Packed form, for the control channel between stages (little-endian, version 1), 72 bytes each:
 *   0 u8 track, 1 u8 category, 2 u16 stage, 4 i32 segment, 8 i32 microbatch, 12 u32 zero, 16 i64 step,
 *   24 i64 begin_ns, 32 i64 end_ns, 40 u64 bytes, 48 name (24 bytes, NUL-padded) */
#ifndef RB_RUN_TRACE_H
#define RB_RUN_TRACE_H

#include <stddef.h>
#include <stdint.h>
#include "core/buf.h"
#include "core/err.h"

typedef enum rb_trace_track {
    RB_TRACK_COMPUTE,
    RB_TRACK_SEND,
    RB_TRACK_RECV,
    RB_TRACK_WAIT,
    RB_TRACK_PREDICTED,
    RB_TRACK_COUNT
} rb_trace_track;

typedef enum rb_trace_category {
    RB_TRACE_COMPUTE,
    RB_TRACE_SEND,
    RB_TRACE_RECV,
    RB_TRACE_WAIT_PEER,      /* the sender had not queued the message yet */
    RB_TRACE_WAIT_BANDWIDTH, /* it was queued, or under way */
    RB_TRACE_OPTIMIZER,
    RB_TRACE_EVAL,
    RB_TRACE_CHECKPOINT,
    RB_TRACE_PREDICTED, /* by resbm plan --trace, for the same step */
    RB_TRACE_CATEGORY_COUNT
} rb_trace_category;

enum { RB_TRACE_NAME = 24, RB_TRACE_PACKED = 72, RB_TRACE_STEP_EVENTS = 1 << 14, RB_TRACE_MAX_STAGES = 1024 };

typedef struct rb_trace_event {
    rb_trace_track track;
    rb_trace_category category;
    int stage, segment, microbatch; /* segment and microbatch -1 = none */
    int64_t step;
    int64_t begin_ns,
        end_ns;     /* rb_now_ns of the stage; another machine's are shifted by rb_trace_add's offset */
    uint64_t bytes; /* of the message; 0 = none */
    char name[RB_TRACE_NAME]; /* "2F0", "muon"; printable ASCII */
} rb_trace_event;

const char *rb_trace_track_name(rb_trace_track t);       /* "compute", "send", "recv", "wait", "predicted" */
const char *rb_trace_category_name(rb_trace_category c); /* "wait-for-peer", ... */

/* Splits a stage's wait for a message: up to queued_ns (when the sender queued it, on the same clock) it waited for
 * its peer, after that for bandwidth and latency. Writes 0, 1 or 2 events (an empty part is left out) and returns
 * how many; track and category of `wait` are ignored. */
int rb_trace_split_wait(const rb_trace_event *wait, int64_t queued_ns, rb_trace_event out[2]);

/* Packed form. Unpacking checks sizes, tracks, categories and names; out has room for bytes / RB_TRACE_PACKED. */
void rb_trace_pack(const rb_trace_event *e, size_t count, rb_buf *out);
resbm_status rb_trace_unpack(const void *data, size_t bytes, rb_trace_event *out, size_t *count, rb_err *err);

/* The collector. One thread at a time. */
typedef struct rb_trace rb_trace;
resbm_status rb_trace_new(int keep_steps, rb_trace **out, rb_err *err); /* keep_steps >= 1 */
void rb_trace_free(rb_trace *t);                                        /* NULL is fine */
/* Adds events; offset_ns is added to their times. Steps may arrive out of order within keep_steps. */
resbm_status rb_trace_add(rb_trace *t, const rb_trace_event *e, size_t count, int64_t offset_ns, rb_err *err);
/* May be called repeatedly; written beside and renamed. */
resbm_status rb_trace_write(const rb_trace *t, const char *path, rb_err *err);

/* Reads a file written by rb_trace_write; times are relative to its first event. The caller frees *out. */
resbm_status rb_trace_read(const char *path, rb_trace_event **out, size_t *count, rb_err *err);

#endif
