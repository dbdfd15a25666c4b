#include "run/trace.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/bytes.h"
#include "run/trace_names.h"

/* The events of one step. */
typedef struct bucket {
    int64_t step; /* -1 = empty */
    rb_trace_event *event;
    size_t count, capacity;
} bucket;

/* first[0..keep) hold the run's first steps as they come; last[step % keep] the later ones, each replaced when a
 * newer step wants its place. */
struct rb_trace {
    int keep;
    int64_t start; /* the first step seen; -1 = none yet */
    bucket *first, *last;
    uint64_t dropped;
};

static const char *const track_name[RB_TRACK_COUNT] = {"compute", "send", "recv", "wait", "predicted"};
static const char *const category_name[RB_TRACE_CATEGORY_COUNT] = {
    "compute",   "send", "recv",       "wait-for-peer", "wait-for-bandwidth",
    "optimizer", "eval", "checkpoint", "predicted"};

const char *rb_trace_track_name(rb_trace_track t) {
    return t < RB_TRACK_COUNT ? track_name[t] : "?";
}

const char *rb_trace_category_name(rb_trace_category c) {
    return c < RB_TRACE_CATEGORY_COUNT ? category_name[c] : "?";
}

static int find_name(const char *const *names, int count, const char *name) {
    for (int i = 0; name && i < count; i++)
        if (!strcmp(names[i], name)) return i;
    return -1;
}

int rb_trace_find_track(const char *name) {
    return find_name(track_name, RB_TRACK_COUNT, name);
}

int rb_trace_find_category(const char *name) {
    return find_name(category_name, RB_TRACE_CATEGORY_COUNT, name);
}

int rb_trace_split_wait(const rb_trace_event *wait, int64_t queued_ns, rb_trace_event out[2]) {
    int64_t border = queued_ns < wait->begin_ns ? wait->begin_ns
                     : queued_ns > wait->end_ns ? wait->end_ns
                                                : queued_ns;
    int n = 0;
    if (border > wait->begin_ns) {
        out[n] = *wait;
        out[n].category = RB_TRACE_WAIT_PEER;
        out[n++].end_ns = border;
    }
    if (border < wait->end_ns) {
        out[n] = *wait;
        out[n].category = RB_TRACE_WAIT_BANDWIDTH;
        out[n++].begin_ns = border;
    }
    for (int i = 0; i < n; i++) out[i].track = RB_TRACK_WAIT;
    return n;
}

void rb_trace_pack(const rb_trace_event *e, size_t count, rb_buf *out) {
    for (size_t i = 0; i < count; i++, e++) {
        uint8_t p[RB_TRACE_PACKED] = {(uint8_t)e->track, (uint8_t)e->category};
        rb_put16(p + 2, (uint16_t)e->stage);
        rb_put32(p + 4, (uint32_t)e->segment);
        rb_put32(p + 8, (uint32_t)e->microbatch);
        rb_put64(p + 16, (uint64_t)e->step);
        rb_put64(p + 24, (uint64_t)e->begin_ns);
        rb_put64(p + 32, (uint64_t)e->end_ns);
        rb_put64(p + 40, e->bytes);
        memcpy(p + 48, e->name, strnlen(e->name, RB_TRACE_NAME - 1));
        rb_buf_add(out, p, sizeof p);
    }
}

static resbm_status unpack_one(const uint8_t *p, rb_trace_event *e, rb_err *err) {
    *e = (rb_trace_event){
        .track = p[0],
        .category = p[1],
        .stage = rb_get16(p + 2),
        .segment = (int32_t)rb_get32(p + 4),
        .microbatch = (int32_t)rb_get32(p + 8),
        .step = (int64_t)rb_get64(p + 16),
        .begin_ns = (int64_t)rb_get64(p + 24),
        .end_ns = (int64_t)rb_get64(p + 32),
        .bytes = rb_get64(p + 40),
    };
    if (e->track >= RB_TRACK_COUNT || e->category >= RB_TRACE_CATEGORY_COUNT ||
        e->stage >= RB_TRACE_MAX_STAGES)
        return rb_fail(err, RESBM_E_FORMAT, "trace event with track %d, category %d, stage %d", e->track,
                       e->category, e->stage);
    if (e->step < 0 || e->end_ns < e->begin_ns)
        return rb_fail(err, RESBM_E_FORMAT,
                       "trace event of step %" PRId64 " from %" PRId64 " to %" PRId64 " ns", e->step,
                       e->begin_ns, e->end_ns);
    memcpy(e->name, p + 48, RB_TRACE_NAME - 1);
    for (char *c = e->name; *c; c++)
        if (*c < ' ' || *c > '~' || *c == '"' || *c == '\\') *c = '?';
    return RESBM_OK;
}

resbm_status rb_trace_unpack(const void *data, size_t bytes, rb_trace_event *out, size_t *count,
                             rb_err *err) {
    *count = 0;
    if (bytes % RB_TRACE_PACKED)
        return rb_fail(err, RESBM_E_FORMAT, "%zu bytes are no whole number of %d-byte trace events", bytes,
                       RB_TRACE_PACKED);
    for (size_t at = 0; at < bytes; at += RB_TRACE_PACKED)
        RB_TRY(unpack_one((const uint8_t *)data + at, &out[(*count)++], err));
    return RESBM_OK;
}

static resbm_status new_buckets(int n, bucket **out, rb_err *err) {
    *out = calloc((size_t)n, sizeof **out);
    if (!*out) return rb_fail(err, RESBM_E_MEMORY, "no memory for a trace of %d steps", n);
    for (int i = 0; i < n; i++) (*out)[i].step = -1;
    return RESBM_OK;
}

resbm_status rb_trace_new(int keep_steps, rb_trace **out, rb_err *err) {
    *out = NULL;
    if (keep_steps < 1)
        return rb_fail(err, RESBM_E_ARG, "a trace of %d steps; at least 1 is needed", keep_steps);
    rb_trace *t = calloc(1, sizeof *t);
    if (!t) return rb_fail(err, RESBM_E_MEMORY, "no memory for a trace");
    t->keep = keep_steps;
    t->start = -1;
    resbm_status st = new_buckets(keep_steps, &t->first, err);
    if (st == RESBM_OK) st = new_buckets(keep_steps, &t->last, err);
    if (st != RESBM_OK) {
        rb_trace_free(t);
        return st;
    }
    *out = t;
    return RESBM_OK;
}

void rb_trace_free(rb_trace *t) {
    if (!t) return;
    for (int i = 0; i < t->keep; i++) {
        if (t->first) free(t->first[i].event);
        if (t->last) free(t->last[i].event);
    }
    free(t->first);
    free(t->last);
    free(t);
}

/* The bucket a step belongs to now; NULL when newer steps have taken its place. */
static bucket *bucket_of(rb_trace *t, int64_t step) {
    if (t->start < 0) t->start = step;
    int64_t nth = step - t->start;
    bucket *b = nth >= 0 && nth < t->keep ? &t->first[nth] : &t->last[step % t->keep];
    if (b->step > step) return NULL;
    if (b->step < step) {
        b->step = step;
        b->count = 0;
    }
    return b;
}

static resbm_status grow(bucket *b, rb_err *err) {
    if (b->count < b->capacity) return RESBM_OK;
    size_t n = b->capacity ? 2 * b->capacity : 64;
    rb_trace_event *p = realloc(b->event, n * sizeof *p);
    if (!p) return rb_fail(err, RESBM_E_MEMORY, "no memory for %zu trace events", n);
    b->event = p;
    b->capacity = n;
    return RESBM_OK;
}

resbm_status rb_trace_add(rb_trace *t, const rb_trace_event *e, size_t count, int64_t offset_ns,
                          rb_err *err) {
    for (size_t i = 0; i < count; i++) {
        bucket *b = e[i].step < 0 ? NULL : bucket_of(t, e[i].step);
        if (!b || b->count >= RB_TRACE_STEP_EVENTS) {
            t->dropped++;
            continue;
        }
        RB_TRY(grow(b, err));
        b->event[b->count] = e[i];
        b->event[b->count].begin_ns += offset_ns;
        b->event[b->count++].end_ns += offset_ns;
    }
    return RESBM_OK;
}

/* Visits the buckets that hold events. */
static const bucket *nth_bucket(const rb_trace *t, int i) {
    return i < t->keep ? &t->first[i] : &t->last[i - t->keep];
}

static int64_t first_time(const rb_trace *t) {
    int64_t first = INT64_MAX;
    for (int i = 0; i < 2 * t->keep; i++) {
        const bucket *b = nth_bucket(t, i);
        for (size_t j = 0; j < b->count; j++)
            if (b->event[j].begin_ns < first) first = b->event[j].begin_ns;
    }
    return first;
}

/* Names of processes and tracks, and their order on the screen. */
static void print_heads(rb_buf *b, const rb_trace *t) {
    unsigned char seen[RB_TRACE_MAX_STAGES] = {0};
    for (int i = 0; i < 2 * t->keep; i++) {
        const bucket *k = nth_bucket(t, i);
        for (size_t j = 0; j < k->count; j++)
            if (k->event[j].stage >= 0 && k->event[j].stage < RB_TRACE_MAX_STAGES)
                seen[k->event[j].stage] = 1;
    }
    for (int s = 0; s < RB_TRACE_MAX_STAGES; s++) {
        if (!seen[s]) continue;
        rb_buf_printf(
            b, "{\"ph\":\"M\",\"pid\":%d,\"name\":\"process_name\",\"args\":{\"name\":\"stage %d\"}},\n", s,
            s);
        for (int k = 0; k < RB_TRACK_COUNT; k++)
            rb_buf_printf(
                b,
                "{\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"name\":\"thread_name\",\"args\":{\"name\":\"%s\"}},\n",
                s, k, track_name[k]);
    }
}

static void print_us(rb_buf *b, const char *key, int64_t ns) {
    rb_buf_printf(b, ",\"%s\":%" PRId64 ".%03" PRId64, key, ns / 1000, ns % 1000);
}

static void print_event(rb_buf *b, const rb_trace_event *e, int64_t origin) {
    rb_buf_printf(b, "{\"ph\":\"X\",\"pid\":%d,\"tid\":%d,\"name\":\"%s\",\"cat\":\"%s\"", e->stage, e->track,
                  e->name, rb_trace_category_name(e->category));
    print_us(b, "ts", e->begin_ns - origin);
    print_us(b, "dur", e->end_ns > e->begin_ns ? e->end_ns - e->begin_ns : 0);
    rb_buf_printf(b, ",\"args\":{\"step\":%" PRId64, e->step);
    if (e->segment >= 0) rb_buf_printf(b, ",\"segment\":%d", e->segment);
    if (e->microbatch >= 0) rb_buf_printf(b, ",\"microbatch\":%d", e->microbatch);
    if (e->bytes) rb_buf_printf(b, ",\"bytes\":%" PRIu64, e->bytes);
    rb_buf_puts(b, "}}");
}

resbm_status rb_trace_write(const rb_trace *t, const char *path, rb_err *err) {
    rb_buf b = {0};
    int64_t origin = first_time(t);
    rb_buf_puts(&b, "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n");
    print_heads(&b, t);
    for (int i = 0; i < 2 * t->keep; i++) {
        const bucket *k = nth_bucket(t, i);
        for (size_t j = 0; j < k->count; j++) {
            print_event(&b, &k->event[j], origin);
            rb_buf_puts(&b, ",\n");
        }
    }
    rb_buf_printf(&b,
                  "{\"ph\":\"M\",\"pid\":0,\"name\":\"trace_end\",\"args\":{}}\n],\"otherData\":{\"program\":"
                  "\"resbm %s\","
                  "\"kept_steps\":\"first and last %d\",\"dropped\":%" PRIu64 "}}\n",
                  resbm_version(), t->keep, t->dropped);
    resbm_status st = rb_buf_status(&b, err);
    if (st == RESBM_OK) st = rb_write_file_atomic(path, b.data, b.len, err);
    rb_buf_free(&b);
    return st;
}
