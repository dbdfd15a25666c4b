/* pipeline.schedule: by name or from a file, and where it puts the segments. */
#include <stdio.h>
#include <string.h>
#include "pipeline/schedules.h"
#include "run/config.h"

enum { FILE_LIMIT = 16 << 20 };

const char *rb_config_schedule_file(const rb_config *c) {
    return strncmp(c->pipeline.schedule, "file:", 5) ? NULL : c->pipeline.schedule + 5;
}

resbm_status rb_config_schedule_text(const rb_config *c, rb_buf *out, rb_err *err) {
    const char *file = rb_config_schedule_file(c);
    if (!file) return RESBM_OK;
    resbm_status st = rb_read_file(file, FILE_LIMIT, out, err);
    return st ? rb_err_context(err, st, "pipeline.schedule: ") : RESBM_OK;
}

static resbm_status place(rb_config *c, const char *text, size_t len, rb_err *err) {
    rb_schedule s;
    rb_schedule_args a = {.stages = (int)c->pipeline.stages, .segments = (int)c->model.segments,
                          .microbatches = (int)c->train.microbatches};
    resbm_status st = rb_schedule_build_text(text, len, rb_config_schedule_file(c), &a, &s, NULL, err);
    for (int i = 0; !st && i < s.segments; i++) c->pipeline.stage_of[i] = (int16_t)s.stage_of[i];
    rb_schedule_free(&s);
    return st;
}

resbm_status rb_config_place(rb_config *c, const char *text, size_t len, rb_err *err) {
    RB_TRY(place(c, text, len, err));
    c->pipeline.placed = true;
    return RESBM_OK;
}

static resbm_status check_file(rb_config *c, rb_err *err) {
    rb_buf text = {0};
    if (c->pipeline.placed) return RESBM_OK;
    resbm_status st = rb_config_schedule_text(c, &text, err);
    if (!st) st = place(c, text.data ? text.data : "", text.len, err);
    rb_buf_free(&text);
    return st;
}

resbm_status rb_config_check_schedule(rb_config *c, rb_err *err) {
    const rb_schedule_kind *kind = rb_schedule_find(c->pipeline.schedule);
    rb_schedule_args a = {.stages = (int)c->pipeline.stages, .segments = (int)c->model.segments,
                          .microbatches = (int)c->train.microbatches};
    char names[200];
    int n = 0;
    if (rb_config_schedule_file(c)) return check_file(c, err);
    if (kind) return kind->check ? kind->check(&a, err) : RESBM_OK;
    for (int i = 0; rb_schedules[i] && n < (int)sizeof names; i++)
        if (!rb_schedules[i]->forward_only)
            n += snprintf(names + n, sizeof names - (size_t)n, "%s, ", rb_schedules[i]->name);
    return rb_fail(err, RESBM_E_CONFIG, "pipeline.schedule is '%.100s'; allowed: %sor file:PATH", c->pipeline.schedule,
                   names);
}

int rb_stage_of(const rb_config *c, int segment) {
    if (rb_config_schedule_file(c)) return c->pipeline.stage_of[segment];
    const rb_schedule_kind *kind = rb_schedule_find(c->pipeline.schedule);
    return rb_schedule_place(kind ? kind : &rb_schedule_forward, (int)c->pipeline.stages, (int)c->model.segments,
                             segment);
}
