#include "pipeline/schedules.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "pipeline/validate.h"

const rb_schedule_kind *const rb_schedules[] = {
    &rb_schedule_gpipe, &rb_schedule_1f1b,    &rb_schedule_interleaved,
    &rb_schedule_zb_h1, &rb_schedule_zbv,     &rb_schedule_pipedream,
    &rb_schedule_2bw,   &rb_schedule_forward, NULL};

const rb_schedule_kind *rb_schedule_find(const char *name) {
    for (const rb_schedule_kind *const *k = rb_schedules; *k; k++) {
        if (!strcmp((*k)->name, name)) return *k;
    }
    return NULL;
}

/* Bounds keep every count of actions far inside an int. */
static resbm_status check_args(const rb_schedule_kind *kind, const rb_schedule_args *a, rb_err *err) {
    if (a->stages < 1 || a->stages > 1024 || a->segments < 1 || a->segments > 1024)
        return rb_fail(err, RESBM_E_CONFIG, "%d stages and %d segments: each must be 1 to 1024", a->stages,
                       a->segments);
    if (a->stages > a->segments)
        return rb_fail(
            err, RESBM_E_CONFIG,
            "pipeline.stages is %d but the model has only %d segments; set pipeline.stages to %d or less, or "
            "model.segments to %d or more",
            a->stages, a->segments, a->segments, a->stages);
    if (a->microbatches < 1 || a->microbatches > 65536)
        return rb_fail(err, RESBM_E_CONFIG, "train.microbatches is %d; it must be 1 to 65536",
                       a->microbatches);
    if (a->extra < 0 || a->extra > 65536)
        return rb_fail(err, RESBM_E_CONFIG, "pipeline.inflight is %d; it must be 0 to 65536", a->extra);
    if (a->steps < 0 || (a->steps > 1 && (!kind->flows || a->steps > (1 << 20) / a->microbatches)))
        return rb_fail(err, RESBM_E_ARG, "%s over %d steps of %d microbatches", kind->name, a->steps,
                       a->microbatches);
    return kind->check ? kind->check(a, err) : RESBM_OK;
}

int rb_schedule_place(const rb_schedule_kind *kind, int stages, int segments, int segment) {
    if (kind->place) return kind->place(stages, segments, segment);
    int each = segments / stages, rest = segments % stages, longer = rest * (each + 1);
    return segment < longer ? segment / (each + 1) : rest + (segment - longer) / each;
}

static resbm_status take_places(const rb_schedule_args *a, int *stage_of, rb_err *err) {
    for (int i = 0; i < a->segments; i++) {
        stage_of[i] = a->stage_of[i];
        if (stage_of[i] < 0 || stage_of[i] >= a->stages)
            return rb_fail(err, RESBM_E_CONFIG, "segment %d is given to stage %d of %d", i, stage_of[i],
                           a->stages);
    }
    return RESBM_OK;
}

static resbm_status spread(const rb_schedule_kind *kind, const rb_schedule_args *a, int *stage_of,
                           rb_err *err) {
    for (int i = 0; i < a->segments; i++) {
        stage_of[i] = rb_schedule_place(kind, a->stages, a->segments, i);
        if (kind->place && a->stage_of && a->stage_of[i] != stage_of[i])
            return rb_fail(err, RESBM_E_CONFIG,
                           "segment %d is given to stage %d, but %s places it on stage %d", i, a->stage_of[i],
                           kind->name, stage_of[i]);
    }
    if (!a->stage_of || kind->place) return RESBM_OK;
    if (kind->anywhere) return take_places(a, stage_of, err);
    for (int i = 0; i < a->segments; i++) {
        int before = i ? a->stage_of[i - 1] : 0, now = a->stage_of[i];
        if (now != before && (!i || now != before + 1))
            return rb_fail(
                err, RESBM_E_CONFIG,
                "segment %d is given to stage %d after stage %d; every stage hosts a contiguous run of "
                "segments, in order and without gaps",
                i, now, before);
        stage_of[i] = now;
    }
    if (stage_of[a->segments - 1] == a->stages - 1) return RESBM_OK;
    return rb_fail(err, RESBM_E_CONFIG, "segments are given to %d stages, but there are %d",
                   stage_of[a->segments - 1] + 1, a->stages);
}

resbm_status rb_schedule_generate(const rb_schedule_kind *kind, const rb_schedule_args *a, rb_schedule *out,
                                  rb_err *err) {
    *out = (rb_schedule){0};
    RB_TRY(check_args(kind, a, err));
    out->segments = a->segments;
    out->microbatches = a->microbatches * (a->steps > 1 ? a->steps : 1);
    snprintf(out->name, sizeof out->name, "%s", kind->name);
    out->stage_of = calloc((size_t)a->segments, sizeof *out->stage_of);
    out->stage = calloc((size_t)a->stages, sizeof *out->stage);
    out->low = calloc((size_t)a->stages, sizeof *out->low);
    out->high = calloc((size_t)a->stages, sizeof *out->high);
    if (!out->stage_of || !out->stage || !out->low || !out->high)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for a schedule of %d stages", a->stages);
    out->stages = a->stages;
    RB_TRY(spread(kind, a, out->stage_of, err));
    for (int g = 0; g < a->segments; g++) out->high[out->stage_of[g]] = g;
    for (int g = a->segments - 1; g >= 0; g--) out->low[out->stage_of[g]] = g;
    return kind->generate(a, out, err);
}

/* How many segments of the same stage come before this one. */
static int nth_of(const rb_schedule *s, int segment) {
    int nth = 0;
    for (int g = 0; g < segment; g++) nth += s->stage_of[g] == s->stage_of[segment];
    return nth;
}

resbm_status rb_schedule_build(const rb_schedule_kind *kind, const rb_schedule_args *a, rb_schedule *out,
                               int *in_flight, rb_err *err) {
    return rb_schedule_build_stash(kind, a, out, in_flight, NULL, err);
}

resbm_status rb_schedule_build_stash(const rb_schedule_kind *kind, const rb_schedule_args *a,
                                     rb_schedule *out, int *in_flight, int *stash, rb_err *err) {
    RB_TRY(rb_schedule_generate(kind, a, out, err));
    RB_TRY(rb_schedule_communicate(out, err));
    if (!kind->forward_only) RB_TRY(rb_schedule_trunks(out, a->trunks, err));
    int promised[1024], stashed[1024];
    for (int g = 0; g < a->segments; g++) promised[g] = kind->in_flight(a, out->stage_of[g], nth_of(out, g));
    for (int g = 0; g < a->segments; g++) stashed[g] = kind->stash ? kind->stash(a, out->stage_of[g]) : 0;
    rb_validate_options o = {.queue_bound = kind->queue_bound(a),
                             .forward_only = kind->forward_only,
                             .promised = promised,
                             .stash = stashed,
                             .stash_needed = stash};
    return rb_schedule_validate(out, &o, in_flight, NULL, err);
}

bool rb_schedule_updates(const rb_schedule *s) {
    for (int i = 0; i < s->stages; i++)
        for (int j = 0; j < s->stage[i].count; j++)
            if (s->stage[i].items[j].kind == RB_ACT_UPDATE) return true;
    return false;
}

resbm_status rb_push_all(rb_schedule *s, int stage, rb_action_kind kind, int microbatch, rb_err *err) {
    int low = s->low ? s->low[stage] : 0, high = s->high ? s->high[stage] : s->segments - 1;
    for (int i = 0; i <= high - low; i++) {
        int g = kind == RB_ACT_FORWARD ? low + i : high - i;
        if (s->stage_of[g] != stage) continue;
        RB_TRY(rb_action_push(&s->stage[stage], rb_action_of(kind, g, microbatch), err));
    }
    return RESBM_OK;
}
