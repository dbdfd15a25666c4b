#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "run/trace.h"
#include "run/trace_names.h"

enum { FILE_LIMIT = 1 << 29 };

static int small_int(const json_t *o, const char *key, int otherwise) {
    const json_t *v = json_object_get(o, key);
    json_int_t i = json_integer_value(v);
    return json_is_integer(v) && i >= 0 && i < INT32_MAX ? (int)i : otherwise;
}

/* Microseconds of the file to nanoseconds; -1 for what is no time within a year. */
static int64_t to_ns(const json_t *v) {
    double us = json_is_number(v) ? json_number_value(v) : -1;
    return us >= 0 && us < 3.2e13 ? (int64_t)llround(us * 1e3) : -1;
}

static resbm_status read_event(const json_t *o, rb_trace_event *e, rb_err *err) {
    const json_t *args = json_object_get(o, "args");
    int category = rb_trace_find_category(json_string_value(json_object_get(o, "cat")));
    int stage = small_int(o, "pid", RB_TRACE_MAX_STAGES), track = small_int(o, "tid", RB_TRACK_COUNT);
    int64_t begin = to_ns(json_object_get(o, "ts")), lasts = to_ns(json_object_get(o, "dur"));
    const char *name = json_string_value(json_object_get(o, "name"));
    if (category < 0 || stage >= RB_TRACE_MAX_STAGES || track >= RB_TRACK_COUNT || begin < 0 || lasts < 0 ||
        !name)
        return rb_fail(err, RESBM_E_FORMAT, "not an event this program writes");
    *e = (rb_trace_event){.track = (rb_trace_track)track,
                          .category = (rb_trace_category)category,
                          .stage = stage,
                          .segment = small_int(args, "segment", -1),
                          .microbatch = small_int(args, "microbatch", -1),
                          .step = json_integer_value(json_object_get(args, "step")),
                          .begin_ns = begin,
                          .end_ns = begin + lasts,
                          .bytes = (uint64_t)json_integer_value(json_object_get(args, "bytes"))};
    strncpy(e->name, name, sizeof e->name - 1);
    return RESBM_OK;
}

static resbm_status read_events(const json_t *root, rb_trace_event **out, size_t *count, rb_err *err) {
    const json_t *list = json_object_get(root, "traceEvents");
    if (!json_is_array(list)) return rb_fail(err, RESBM_E_FORMAT, "no array \"traceEvents\"");
    size_t n = json_array_size(list);
    rb_trace_event *e = calloc(n + 1, sizeof *e);
    if (!e) return rb_fail(err, RESBM_E_MEMORY, "no memory for %zu trace events", n);
    *out = e;
    for (size_t i = 0; i < n; i++) {
        const json_t *o = json_array_get(list, i);
        const char *phase = json_string_value(json_object_get(o, "ph"));
        if (!phase || strcmp(phase, "X") != 0) continue;
        resbm_status st = read_event(o, &e[*count], err);
        if (st != RESBM_OK) return rb_err_context(err, st, "event %zu: ", i);
        (*count)++;
    }
    return RESBM_OK;
}

resbm_status rb_trace_read(const char *path, rb_trace_event **out, size_t *count, rb_err *err) {
    *out = NULL;
    *count = 0;
    rb_buf text = {0};
    RB_TRY(rb_read_file(path, FILE_LIMIT, &text, err));
    json_error_t fault;
    json_t *root = json_loadb(text.data ? text.data : "", text.len, 0, &fault);
    rb_buf_free(&text);
    resbm_status st = root ? read_events(root, out, count, err)
                           : rb_fail(err, RESBM_E_FORMAT, "line %d: %s", fault.line, fault.text);
    json_decref(root);
    if (st != RESBM_OK) {
        rb_err_context(err, st, "%s: ", path);
        free(*out);
        *out = NULL;
        *count = 0;
    }
    return st;
}
