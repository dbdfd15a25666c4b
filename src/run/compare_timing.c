#include "run/compare_timing.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "core/buf.h"
#include "pipeline/inflight.h"
#include "pipeline/steady.h"
#include "run/metrics_json.h"
#include "run/stage.h"
#include "run/trace.h"

enum { FILE_LIMIT = 1 << 22 };

void rb_timing_free(rb_timing *t) {
    free(t->segment);
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

resbm_status rb_timing_by_rate(const rb_cost *cost, const rb_config *c, double flops, rb_timing *out,
                               rb_err *err) {
    RB_TRY(take_segments(out, cost->segments, err));
    for (int s = 0; s < cost->segments; s++) {
        double forward = cost->forward[s] / (double)c->train.microbatches / flops;
        out->segment[s] =
            (rb_segment_cost){forward, forward * cost->backward, forward * cost->backward - forward, forward};
    }
    out->optimizer = rb_cost_optimizer(cost) / flops;
    out->rest = 0;
    return RESBM_OK;
}

/* ---- a step */

/* A segment's part of the optimizer's time: by its products, or by weights where it has none (AdamW). */
static double update_of(const rb_timing *t, const rb_cost *cost, int segment) {
    double all = rb_cost_optimizer(cost);
    return t->optimizer *
           (all > 0 ? cost->optimizer[segment] / all : cost->params[segment] / fmax(1, rb_cost_params(cost)));
}

/* The optimizer's time of the stage that has most of it. */
static double longest_update(const rb_timing *t, const rb_cost *cost, const rb_config *c) {
    double update[RB_MAX_STAGES] = {0}, most = 0;
    for (int s = 0; s < cost->segments; s++) update[rb_stage_of(c, s)] += update_of(t, cost, s);
    for (int i = 0; i < c->pipeline.stages; i++) most = fmax(most, update[i]);
    return most;
}

static resbm_status play_file(const rb_config *c, const rb_schedule_args *a, const rb_sim_options *o,
                              rb_schedule *s, rb_sim_result *r, rb_err *err) {
    rb_buf text = {0};
    resbm_status st = rb_config_schedule_text(c, &text, err);
    if (!st)
        st = rb_schedule_build_text(text.data ? text.data : "", text.len, rb_config_schedule_file(c), a, s,
                                    NULL, NULL, err);
    rb_buf_free(&text);
    return st ? st : rb_simulate(s, o, r, err);
}

/* The schedule as a stage would build it. extra in flight: as configured, or the fewest that cover the links. */
static resbm_status play(const rb_config *c, const rb_sim_options *o, bool linked, rb_schedule *s,
                         rb_sim_result *r, rb_err *err) {
    rb_schedule_args a = {.stages = (int)c->pipeline.stages,
                          .segments = (int)c->model.segments,
                          .microbatches = (int)c->train.microbatches,
                          .extra = (int)c->pipeline.inflight,
                          .vertical = c->pipeline.vertical_sync};
    rb_inflight_limits none = {0};
    if (rb_config_schedule_file(c)) return play_file(c, &a, o, s, r, err);
    const rb_schedule_kind *kind = rb_schedule_find(c->pipeline.schedule);
    if (!kind)
        return rb_fail(err, RESBM_E_CONFIG, "pipeline.schedule \"%s\" does not exist", c->pipeline.schedule);
    if (!a.extra && linked) RB_TRY(rb_schedule_auto_inflight(kind, &a, o, &none, &a.extra, err));
    return rb_simulate_steady(kind, &a, o, s, r, err);
}

static resbm_status simulate(const rb_timing *t, const rb_cost *cost, const rb_config *c,
                             const rb_shape_options *link, double *seconds, rb_err *err) {
    rb_sim_port port[RB_MAX_STAGES] = {{0, 0}};
    double update[RB_MAX_SEGMENTS];
    for (int i = 0; link && i < c->pipeline.stages; i++)
        port[i] = (rb_sim_port){link->up_bits / 8, link->down_bits / 8};
    for (int g = 0; g < cost->segments; g++) update[g] = update_of(t, cost, g);
    rb_sim_options o = {.cost = t->segment,
                        .update = update,
                        .port = link ? port : NULL,
                        .latency = link ? (double)link->latency_ns * 1e-9 : 0,
                        .half_duplex = link && link->half_duplex,
                        .latency_occupies = link && link->latency_occupies,
                        .bytes_forward = (double)rb_shape_wire_bytes((uint64_t)cost->frame_forward),
                        .bytes_backward = (double)rb_shape_wire_bytes((uint64_t)cost->frame_backward)};
    rb_schedule s = {0};
    rb_sim_result r = {0};
    resbm_status st = play(c, &o, link != NULL, &s, &r, err);
    *seconds = r.step;
    rb_sim_free(&r);
    rb_schedule_free(&s);
    return st;
}

resbm_status rb_timing_step(const rb_timing *t, const rb_cost *cost, const rb_config *deployed,
                            const rb_shape_options *link, double *seconds, rb_err *err) {
    RB_TRY(simulate(t, cost, deployed, deployed->pipeline.stages > 1 ? link : NULL, seconds, err));
    *seconds += t->rest + (deployed->pipeline.updates ? 0 : longest_update(t, cost, deployed));
    return RESBM_OK;
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
