#include "pipeline/schedules.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "pipeline/partition.h"
#include "pipeline/validate.h"

const rb_schedule_kind *const rb_schedules[] = {&rb_schedule_gpipe, &rb_schedule_1f1b, &rb_schedule_forward,
                                                NULL};

const rb_schedule_kind *rb_schedule_find(const char *name) {
    for (const rb_schedule_kind *const *k = rb_schedules; *k; k++) {
        if (!strcmp((*k)->name, name)) return *k;
    }
    return NULL;
}

/* Bounds keep every count of actions far inside an int. */
static resbm_status check_args(const rb_schedule_args *a, rb_err *err) {
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
    return RESBM_OK;
}

static resbm_status spread(const rb_schedule_args *a, int *stage_of, rb_err *err) {
    if (!a->stage_of) {
        int sizes[1024];
        RB_TRY(rb_partition_even(a->segments, a->stages, sizes, err));
        rb_partition_owners(sizes, a->stages, stage_of);
        return RESBM_OK;
    }
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
    RB_TRY(check_args(a, err));
    out->segments = a->segments;
    out->microbatches = a->microbatches;
    snprintf(out->name, sizeof out->name, "%s", kind->name);
    out->stage_of = calloc((size_t)a->segments, sizeof *out->stage_of);
    out->stage = calloc((size_t)a->stages, sizeof *out->stage);
    if (!out->stage_of || !out->stage)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for a schedule of %d stages", a->stages);
    out->stages = a->stages;
    RB_TRY(spread(a, out->stage_of, err));
    return kind->generate(a, out, err);
}

resbm_status rb_schedule_build(const rb_schedule_kind *kind, const rb_schedule_args *a, rb_schedule *out,
                               int *in_flight, rb_err *err) {
    RB_TRY(rb_schedule_generate(kind, a, out, err));
    RB_TRY(rb_schedule_communicate(out, err));
    int promised[1024];
    for (int s = 0; s < a->stages; s++) promised[s] = kind->in_flight(a, s);
    rb_validate_options o = {
        .queue_bound = kind->queue_bound(a), .forward_only = kind->forward_only, .promised = promised};
    return rb_schedule_validate(out, &o, in_flight, NULL, err);
}

resbm_status rb_push_forward(rb_schedule *s, int stage, int microbatch, rb_err *err) {
    for (int g = 0; g < s->segments; g++) {
        if (s->stage_of[g] != stage) continue;
        RB_TRY(rb_action_push(&s->stage[stage], (rb_action){RB_ACT_FORWARD, g, microbatch}, err));
    }
    return RESBM_OK;
}

resbm_status rb_push_backward(rb_schedule *s, int stage, int microbatch, rb_err *err) {
    for (int g = s->segments - 1; g >= 0; g--) {
        if (s->stage_of[g] != stage) continue;
        RB_TRY(rb_action_push(&s->stage[stage], (rb_action){RB_ACT_BACKWARD, g, microbatch}, err));
    }
    return RESBM_OK;
}
