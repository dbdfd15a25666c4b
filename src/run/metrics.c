#include "run/metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/buf.h"
#include "run/metrics_json.h"

struct rb_metrics_writer {
    FILE *file;
    char path[1024];
};

void rb_json_number(rb_buf *b, double value, int digits) {
    if (isfinite(value))
        rb_buf_printf(b, "%.*g", digits, value);
    else
        rb_buf_puts(b, "null");
}

double rb_json_get(const json_t *object, const char *key) {
    const json_t *v = json_object_get(object, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

/* Length of the part of the file that holds whole lines of steps up to `step`. */
static size_t kept_length(const rb_buf *text, int64_t step) {
    size_t at = 0;
    while (at < text->len) {
        const char *line = text->data + at, *end = memchr(line, '\n', text->len - at);
        if (!end) break;
        json_t *root = json_loadb(line, (size_t)(end - line), 0, NULL);
        bool keep = root && json_integer_value(json_object_get(root, "step")) <= step;
        json_decref(root);
        if (!keep) break;
        at += (size_t)(end - line) + 1;
    }
    return at;
}

static resbm_status cut(const char *path, int64_t step, rb_err *err) {
    if (access(path, F_OK) != 0) return RESBM_OK;
    rb_buf text = {0};
    resbm_status st = rb_read_file(path, RB_METRICS_FILE_LIMIT, &text, err);
    if (st == RESBM_OK && truncate(path, (off_t)kept_length(&text, step)) != 0)
        st = rb_fail_errno(err, errno, "cannot cut %s after step %" PRId64, path, step);
    rb_buf_free(&text);
    return st;
}

resbm_status rb_metrics_open(const char *path, int64_t resumed_step, rb_metrics_writer **out, rb_err *err) {
    *out = NULL;
    if (strlen(path) >= sizeof(*out)->path)
        return rb_fail(err, RESBM_E_ARG, "path of %zu bytes", strlen(path));
    if (resumed_step > 0) RB_TRY(cut(path, resumed_step, err));
    rb_metrics_writer *w = calloc(1, sizeof *w);
    if (!w) return rb_fail(err, RESBM_E_MEMORY, "no memory for a metrics writer");
    strcpy(w->path, path);
    w->file = fopen(path, resumed_step > 0 ? "ae" : "we");
    if (!w->file) {
        free(w);
        return rb_fail_errno(err, errno, "cannot open %s for writing", path);
    }
    *out = w;
    return RESBM_OK;
}

static void print_step(rb_buf *b, const rb_step_metrics *m) {
    rb_buf_printf(b, "{\"step\":%" PRId64 ",\"tokens\":%" PRId64 ",\"loss\":", m->step, m->tokens);
    rb_json_number(b, m->loss, 9);
    if (!isnan(m->val_loss)) {
        rb_buf_puts(b, ",\"val_loss\":");
        rb_json_number(b, m->val_loss, 9);
    }
    for (int i = 0; m->aux_loss && i + 1 < m->segments; i++) {
        rb_buf_puts(b, i ? "," : ",\"aux_loss\":[");
        rb_json_number(b, m->aux_loss[i], 9);
    }
    if (m->aux_loss && m->segments > 1) rb_buf_puts(b, "]");
    for (int i = 0; m->staleness && i < m->stages; i++) {
        rb_buf_puts(b, i ? "," : ",\"staleness\":[");
        rb_json_number(b, m->staleness[i], 6);
    }
    if (m->staleness) rb_buf_puts(b, "]");
    for (int i = 0; m->deal && i < m->workers; i++)
        rb_buf_printf(b, "%s%d", i ? "," : ",\"deal\":[", m->deal[i]);
    if (m->deal) rb_buf_puts(b, "]");
    rb_buf_puts(b, ",\"lr\":");
    rb_json_number(b, m->lr, 9);
    rb_buf_puts(b, ",\"grad_norm\":");
    rb_json_number(b, m->grad_norm, 9);
    rb_buf_puts(b, ",\"grad_norm_segments\":[");
    for (int i = 0; i < m->segments; i++) {
        if (i) rb_buf_puts(b, ",");
        rb_json_number(b, m->grad_norm_segments[i], 9);
    }
    rb_buf_puts(b, "],\"step_s\":");
    rb_json_number(b, m->step_s, 6);
    rb_buf_puts(b, ",\"tokens_per_s\":");
    rb_json_number(b, m->tokens_per_s, 6);
    rb_buf_printf(b, ",\"wire_bytes_fwd\":%" PRIu64 ",\"wire_bytes_bwd\":%" PRIu64 ",\"time_s\":",
                  m->wire_bytes_fwd, m->wire_bytes_bwd);
    rb_json_number(b, m->time_s, 9);
    rb_buf_puts(b, "}\n");
}

resbm_status rb_metrics_write(rb_metrics_writer *w, const rb_step_metrics *m, rb_err *err) {
    rb_buf line = {0};
    print_step(&line, m);
    resbm_status st = rb_buf_status(&line, err);
    if (st == RESBM_OK && (fwrite(line.data, 1, line.len, w->file) != line.len || fflush(w->file) != 0))
        st = rb_fail_errno(err, errno, "cannot write step %" PRId64 " to %s", m->step, w->path);
    rb_buf_free(&line);
    return st;
}

resbm_status rb_metrics_close(rb_metrics_writer *w, rb_err *err) {
    if (!w) return RESBM_OK;
    resbm_status st = RESBM_OK;
    if (fclose(w->file) != 0) st = rb_fail_errno(err, errno, "cannot close %s", w->path);
    free(w);
    return st;
}

static resbm_status read_step(const json_t *o, rb_step_metrics *m, double *norms, size_t *used, rb_err *err) {
    const json_t *step = json_object_get(o, "step"), *tokens = json_object_get(o, "tokens");
    if (!json_is_integer(step) || !json_is_integer(tokens))
        return rb_fail(err, RESBM_E_FORMAT, "an object without integers \"step\" and \"tokens\"");
    *m = (rb_step_metrics){
        .step = json_integer_value(step),
        .tokens = json_integer_value(tokens),
        .loss = rb_json_get(o, "loss"),
        .val_loss = rb_json_get(o, "val_loss"),
        .lr = rb_json_get(o, "lr"),
        .grad_norm = rb_json_get(o, "grad_norm"),
        .step_s = rb_json_get(o, "step_s"),
        .tokens_per_s = rb_json_get(o, "tokens_per_s"),
        .wire_bytes_fwd = (uint64_t)json_integer_value(json_object_get(o, "wire_bytes_fwd")),
        .wire_bytes_bwd = (uint64_t)json_integer_value(json_object_get(o, "wire_bytes_bwd")),
        .time_s = rb_json_get(o, "time_s"),
        .grad_norm_segments = norms + *used,
    };
    size_t n = json_array_size(json_object_get(o, "grad_norm_segments"));
    if (n > RB_METRICS_MAX_SEGMENTS)
        return rb_fail(err, RESBM_E_FORMAT, "%zu norms in grad_norm_segments", n);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(json_object_get(o, "grad_norm_segments"), i);
        norms[(*used)++] = json_is_number(v) ? json_number_value(v) : NAN;
    }
    m->segments = (int)n;
    return RESBM_OK;
}

/* Every number in a line follows a ',' or the '[', so their count bounds how many norms the file can hold. */
static size_t count_bytes(const rb_buf *text, char a, char b) {
    size_t n = 0;
    for (size_t i = 0; i < text->len; i++) n += text->data[i] == a || text->data[i] == b;
    return n;
}

static resbm_status read_lines(const rb_buf *text, rb_metrics *out, rb_err *err) {
    size_t used = 0, at = 0;
    while (at < text->len) {
        const char *line = text->data + at, *end = memchr(line, '\n', text->len - at);
        if (!end) break;
        json_error_t fault;
        json_t *root = json_loadb(line, (size_t)(end - line), 0, &fault);
        if (!root) return rb_fail(err, RESBM_E_FORMAT, "line %zu: %s", out->count + 1, fault.text);
        resbm_status st = read_step(root, &out->steps[out->count], out->norms, &used, err);
        json_decref(root);
        if (st != RESBM_OK) return rb_err_context(err, st, "line %zu: ", out->count + 1);
        if (out->count && out->steps[out->count].step <= out->steps[out->count - 1].step)
            return rb_fail(err, RESBM_E_FORMAT, "line %zu: step %" PRId64 " follows step %" PRId64,
                           out->count + 1, out->steps[out->count].step, out->steps[out->count - 1].step);
        out->count++;
        at += (size_t)(end - line) + 1;
    }
    return RESBM_OK;
}

resbm_status rb_metrics_read(const char *path, rb_metrics *out, rb_err *err) {
    *out = (rb_metrics){0};
    rb_buf text = {0};
    resbm_status st = rb_read_file(path, RB_METRICS_FILE_LIMIT, &text, err);
    if (st == RESBM_OK) {
        out->steps = calloc(count_bytes(&text, '\n', '\n') + 1, sizeof *out->steps);
        out->norms = calloc(count_bytes(&text, ',', '[') + 1, sizeof *out->norms);
        st = out->steps && out->norms ? read_lines(&text, out, err)
                                      : rb_fail(err, RESBM_E_MEMORY, "no memory for the metrics in %s", path);
        if (st != RESBM_OK) rb_err_context(err, st, "%s: ", path);
    }
    rb_buf_free(&text);
    if (st != RESBM_OK) rb_metrics_free(out);
    return st;
}

void rb_metrics_free(rb_metrics *m) {
    free(m->steps);
    free(m->norms);
    *m = (rb_metrics){0};
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double rb_metrics_median(const rb_metrics *m, size_t offset) {
    size_t from = m->count > 1, n = 0;
    double *v = malloc((m->count + 1) * sizeof *v), median = NAN;
    if (!v) return NAN;
    for (size_t i = from; i < m->count; i++) {
        double x = *(const double *)((const char *)&m->steps[i] + offset);
        if (isfinite(x)) v[n++] = x;
    }
    qsort(v, n, sizeof *v, by_value);
    if (n) median = n % 2 ? v[n / 2] : 0.5 * (v[n / 2 - 1] + v[n / 2]);
    free(v);
    return median;
}
