#include "run/compare_timing.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "core/buf.h"
#include "run/measure.h"
#include "run/metrics_json.h"
#include "run/predict.h"
#include "run/trace.h"

enum { FILE_LIMIT = 1 << 22 };

static void free_parts(rb_timing *t) {
    free(t->segment);
    free(t->trunk);
    free(t->update);
    t->segment = NULL;
    t->trunk = NULL;
    t->update = NULL;
}

void rb_timing_free(rb_timing *t) {
    free_parts(t);
    *t = (rb_timing){0};
}

static resbm_status take_segments(rb_timing *t, int segments, rb_err *err) {
    t->segments = segments;
    t->segment = calloc((size_t)segments + 1, sizeof *t->segment);
    return t->segment ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for %d segments", segments);
}

/* ---- from a trace */

/* The shortest event of one kind and segment after the first step: what it takes when nothing disturbs it; 0 when there
 * are none. */
static double shortest(const rb_trace_event *e, size_t n, rb_trace_category category, int segment,
                       const char *letter, int64_t first) {
    double least = INFINITY;
    for (size_t i = 0; i < n; i++) {
        if (e[i].category != category || e[i].step <= first) continue;
        if (*letter && (e[i].segment != segment || e[i].name[strspn(e[i].name, "0123456789")] != *letter))
            continue;
        least = fmin(least, (double)(e[i].end_ns - e[i].begin_ns) * 1e-9);
    }
    return isfinite(least) ? least : 0;
}

static void take_events(const rb_trace_event *e, size_t n, rb_timing *out) {
    int64_t first = INT64_MAX;
    for (size_t i = 0; i < n; i++)
        if (e[i].step < first) first = e[i].step;
    for (int s = 0; s < out->segments; s++) {
        rb_segment_cost *c = &out->segment[s];
        c->forward = shortest(e, n, RB_TRACE_COMPUTE, s, "F", first);
        c->backward = shortest(e, n, RB_TRACE_COMPUTE, s, "B", first);
        c->input = c->weight = c->backward / 2; /* as many operations in each, but for attention */
    }
    out->optimizer = shortest(e, n, RB_TRACE_OPTIMIZER, -1, "", first);
}

resbm_status rb_timing_take_trace(const char *path, int segments, rb_timing *out, rb_err *err) {
    rb_trace_event *e;
    size_t n;
    RB_TRY(take_segments(out, segments, err));
    RB_TRY(rb_trace_read(path, &e, &n, err));
    resbm_status st = RESBM_OK;
    take_events(e, n, out);
    for (int s = 0; s < segments && !st; s++)
        if (!(out->segment[s].forward > 0 && out->segment[s].backward > 0))
            st = rb_fail(err, RESBM_E_FORMAT, "%s tells nothing of segment %d", path, s);
    free(e);
    return st;
}

/* with at a share of the steps, without at the rest. */
static double mean(double share, double with, double without) {
    return share * with + (1 - share) * without;
}

static resbm_status count_segment(const rb_config *c, const rb_config *without, int segment,
                                  rb_segment_measure *out, rb_err *err) {
    rb_segment_measure less;
    double share = fmin(1, c->train.aux_until);
    RB_TRY(rb_measure_segment(c, "timed", segment, 0, 0, out, err));
    if (c->boundary.aux == RB_AUX_NONE || share >= 1) return RESBM_OK;
    RB_TRY(rb_measure_segment(without, "timed", segment, 0, 0, &less, err));
    out->forward = mean(share, out->forward, less.forward);
    out->backward = mean(share, out->backward, less.backward);
    out->input = mean(share, out->input, less.input);
    out->weight = mean(share, out->weight, less.weight);
    return RESBM_OK;
}

static resbm_status count_all(const rb_config *c, double flops, rb_timing *out, rb_err *err) {
    rb_config *without = malloc(sizeof *without);
    resbm_status st = RESBM_OK;
    if (!without) return rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration");
    *without = *c;
    without->boundary.aux = RB_AUX_NONE;
    for (int g = 0; g < out->segments && !st; g++) {
        rb_segment_measure m = {0};
        st = count_segment(c, without, g, &m, err);
        out->segment[g] = rb_measured_cost(&m, flops);
        out->trunk[g] = rb_measured_trunk(&m, flops);
        out->update[g] = m.optimizer / flops;
        out->optimizer += out->update[g];
        out->pack = fmax(out->pack, m.pack / flops);
        out->unpack = fmax(out->unpack, m.unpack / flops);
    }
    free(without);
    return st;
}

resbm_status rb_timing_by_rate(const rb_config *c, double flops, rb_timing *out, rb_err *err) {
    free_parts(out);
    out->optimizer = out->rest = out->pack = out->unpack = 0;
    RB_TRY(take_segments(out, (int)c->model.segments, err));
    out->trunk = calloc((size_t)out->segments + 1, sizeof *out->trunk);
    out->update = calloc((size_t)out->segments + 1, sizeof *out->update);
    if (!out->trunk || !out->update)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for %d segments", out->segments);
    return count_all(c, flops, out, err);
}

/* ---- a step */

/* A segment's part of the optimizer's measured time: by its products, or by weights where it has none (AdamW). */
static double update_of(const rb_timing *t, const rb_cost *cost, int segment) {
    double all = rb_cost_optimizer(cost);
    return t->optimizer *
           (all > 0 ? cost->optimizer[segment] / all : cost->params[segment] / fmax(1, rb_cost_params(cost)));
}

static resbm_status play(const rb_timing *t, const rb_cost *cost, const rb_config *c, double *seconds,
                         rb_err *err) {
    double update[RB_MAX_SEGMENTS];
    for (int g = 0; g < cost->segments; g++) update[g] = t->update ? t->update[g] : update_of(t, cost, g);
    rb_prediction_input in = {.cfg = c,
                              .cost = t->segment,
                              .trunk = t->trunk,
                              .pack = t->pack,
                              .unpack = t->unpack,
                              .optimizer = update,
                              .latency_occupies = c->link.latency_occupies};
    rb_prediction p = {0};
    resbm_status st = rb_predict(&in, &p, err);
    *seconds = st ? NAN : p.sim.step + t->rest;
    rb_prediction_free(&p);
    return st;
}

resbm_status rb_timing_step(const rb_timing *t, const rb_cost *cost, const rb_config *deployed,
                            const rb_shape_options *link, double *seconds, rb_err *err) {
    rb_config *c = malloc(sizeof *c);
    if (!c) return rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration");
    *c = *deployed;
    c->link = link && deployed->pipeline.stages > 1 ? *link : (rb_shape_options){0};
    resbm_status st = play(t, cost, c, seconds, err);
    free(c);
    return st;
}

/* ---- the file */

static json_t *number(double v) {
    return isfinite(v) ? json_real(v) : json_null();
}

resbm_status rb_timing_write(const char *path, const char *config, const rb_timing *t, rb_err *err) {
    json_t *o = json_object(), *segments = json_array();
    json_object_set_new(o, "version", json_integer(1));
    for (int i = 0; i < t->segments; i++) {
        const rb_segment_cost *c = &t->segment[i];
        json_array_append_new(segments, json_pack("{s:o, s:o, s:o, s:o}", "forward", number(c->forward),
                                                  "backward", number(c->backward), "input", number(c->input),
                                                  "weight", number(c->weight)));
    }
    json_object_set_new(o, "segments", segments);
    json_object_set_new(o, "optimizer", number(t->optimizer));
    json_object_set_new(o, "rest", number(t->rest));
    json_object_set_new(o, "step", number(t->step));
    json_object_set_new(o, "step_least", number(t->least));
    json_object_set_new(o, "step_most", number(t->most));
    json_object_set_new(o, "bytes_forward", number(t->bytes_forward));
    json_object_set_new(o, "bytes_backward", number(t->bytes_backward));
    json_object_set_new(o, "bytes_ids", number(t->bytes_ids));
    json_object_set_new(o, "rss", number(t->rss));
    json_object_set_new(o, "stages", json_integer(t->stages));
    json_object_set_new(o, "config", json_string(config));
    char *text = json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(12));
    json_decref(o);
    if (!text) return rb_fail(err, RESBM_E_MEMORY, "no memory for %s", path);
    resbm_status st = rb_write_file_atomic(path, text, strlen(text), err);
    free(text);
    return st;
}

static resbm_status fill(const json_t *o, rb_timing *out, rb_err *err) {
    const json_t *segments = json_object_get(o, "segments"), *c;
    size_t i, n = json_array_size(segments);
    if (n > RB_MAX_SEGMENTS) return rb_fail(err, RESBM_E_FORMAT, "%zu segments", n);
    RB_TRY(take_segments(out, (int)n, err));
    json_array_foreach((json_t *)segments, i, c) out->segment[i] =
        (rb_segment_cost){rb_json_get(c, "forward"), rb_json_get(c, "backward"), rb_json_get(c, "input"),
                          rb_json_get(c, "weight")};
    out->optimizer = rb_json_get(o, "optimizer");
    out->rest = rb_json_get(o, "rest");
    out->step = rb_json_get(o, "step");
    out->least = rb_json_get(o, "step_least");
    out->most = rb_json_get(o, "step_most");
    out->bytes_forward = rb_json_get(o, "bytes_forward");
    out->bytes_backward = rb_json_get(o, "bytes_backward");
    out->bytes_ids = rb_json_get(o, "bytes_ids");
    out->rss = rb_json_get(o, "rss");
    out->stages = (int)json_integer_value(json_object_get(o, "stages"));
    out->known = true;
    return RESBM_OK;
}

resbm_status rb_timing_read(const char *path, const char *config, rb_timing *out, rb_err *err) {
    rb_buf text = {0};
    *out = (rb_timing){0};
    if (access(path, F_OK)) return RESBM_OK;
    RB_TRY(rb_read_file(path, FILE_LIMIT, &text, err));
    json_t *o = json_loadb(text.data ? text.data : "", text.len, 0, NULL);
    rb_buf_free(&text);
    const char *was = json_string_value(json_object_get(o, "config"));
    resbm_status st = RESBM_OK;
    if (was && !strcmp(was, config) && json_integer_value(json_object_get(o, "version")) == 1)
        st = fill(o, out, err);
    json_decref(o);
    return st;
}
