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

/* What a list may not ask of this run. */
static resbm_status check_trunks(const rb_config *c, const rb_schedule *s, rb_err *err) {
    rb_trunks how = rb_config_trunks(c);
    bool forward = false, backward = false;
    for (int i = 0; i < s->stages; i++) {
        for (int j = 0; j < s->stage[i].count; j++) {
            forward = forward || s->stage[i].items[j].kind == RB_ACT_TRUNK_FORWARD;
            backward = backward || s->stage[i].items[j].kind == RB_ACT_TRUNK_BACKWARD;
        }
    }
    if (how == RB_TRUNKS_INSIDE && (forward || backward))
        return rb_fail(err, RESBM_E_CONFIG,
                       "%s has actions of trunks (TF, TB): set boundary.tokens: trunk, or leave them out",
                       s->name);
    if (how == RB_TRUNKS_BEHIND && forward)
        return rb_fail(err, RESBM_E_CONFIG,
                       "%s runs trunks before their message (TF), but token ids come with it: set "
                       "data.distribute: shared, or leave TF out",
                       s->name);
    return RESBM_OK;
}

static resbm_status place(rb_config *c, const char *text, size_t len, rb_err *err) {
    rb_schedule s;
    rb_schedule_args a = {.stages = (int)c->pipeline.stages,
                          .segments = (int)c->model.segments,
                          .microbatches = (int)c->train.microbatches};
    resbm_status st = rb_schedule_build_text(text, len, rb_config_schedule_file(c), &a, &s, NULL, NULL, err);
    if (!st) st = check_trunks(c, &s, err);
    for (int i = 0; !st && i < s.segments; i++) c->pipeline.stage_of[i] = (int16_t)s.stage_of[i];
    if (!st) c->pipeline.updates = rb_schedule_updates(&s);
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

static resbm_status check_name(rb_config *c, rb_err *err) {
    const rb_schedule_kind *kind = rb_schedule_find(c->pipeline.schedule);
    rb_schedule_args a = {.stages = (int)c->pipeline.stages,
                          .segments = (int)c->model.segments,
                          .microbatches = (int)c->train.microbatches};
    char names[200];
    int n = 0;
    if (rb_config_schedule_file(c)) return check_file(c, err);
    if (kind) c->pipeline.updates = kind->flows;
    if (kind) return kind->check ? kind->check(&a, err) : RESBM_OK;
    for (int i = 0; rb_schedules[i] && n < (int)sizeof names; i++)
        if (!rb_schedules[i]->forward_only)
            n += snprintf(names + n, sizeof names - (size_t)n, "%s, ", rb_schedules[i]->name);
    return rb_fail(err, RESBM_E_CONFIG, "pipeline.schedule is '%.100s'; allowed: %sor file:PATH",
                   c->pipeline.schedule, names);
}

/* Each stage updates on its own, so what all of them would have to agree on is not to be had. */
resbm_status rb_config_check_schedule(rb_config *c, rb_err *err) {
    RB_TRY(check_name(c, err));
    if (!c->pipeline.updates) return RESBM_OK;
    const char *name = c->pipeline.schedule;
    if (c->optim.clip > 0 && c->optim.clip_scope != RB_CLIP_SEGMENT)
        return rb_fail(err, RESBM_E_CONFIG,
                       "pipeline.schedule %s updates without waiting for the other stages, so that the whole "
                       "model's norm "
                       "is not known: set optim.clip_scope: segment, or optim.clip: 0",
                       name);
    if (c->optim.rule.delay)
        return rb_fail(
            err, RESBM_E_CONFIG,
            "pipeline.schedule %s updates inside its list, where gradients are of older weights already: "
            "set optim.delay: 0, or a synchronous schedule",
            name);
    return RESBM_OK;
}

/* Ids that come with the message are there no sooner than it. */
rb_trunks rb_config_trunks(const rb_config *c) {
    if (c->boundary.tokens != RB_TOKENS_TRUNK || c->model.segments < 2) return RB_TRUNKS_INSIDE;
    return c->data.distribute == RB_DISTRIBUTE_SHARED ? RB_TRUNKS_APART : RB_TRUNKS_BEHIND; /* auto: wire */
}

bool rb_config_flows(const rb_config *c) {
    const rb_schedule_kind *kind = rb_schedule_find(c->pipeline.schedule);
    return kind && kind->flows;
}

int rb_stage_of(const rb_config *c, int segment) {
    if (rb_config_schedule_file(c)) return c->pipeline.stage_of[segment];
    const rb_schedule_kind *kind = rb_schedule_find(c->pipeline.schedule);
    return rb_schedule_place(kind ? kind : &rb_schedule_forward, (int)c->pipeline.stages,
                             (int)c->model.segments, segment);
}
