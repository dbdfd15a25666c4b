/* What other participants send is looked at before it is computed with, and what goes to them before it leaves: who sends
 * numbers that are none, or far larger than ever before, is named, and an honest one names what first held them. Done on the
 * packed bytes, on the host, whatever the device. Where all processes are this user's, nothing is looked at here: the step's
 * report tells what was not finite (stage_step.c). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "device/pack_look.h"
#include "run/stage.h"

/* The learned steps as they are on the device, once a step: between two steps they change. */
static resbm_status know_steps(rb_stage *s, rb_port *p, uint64_t step, rb_err *err) {
    int64_t k = rb_count(p->steps);
    if (p->known && p->known_step == step) return RESBM_OK;
    if (!p->known) p->known = calloc((size_t)k + 1, sizeof *p->known);
    if (!p->known) return rb_fail(err, RESBM_E_MEMORY, "no memory for %lld steps", (long long)k);
    p->known_step = step;
    RB_TRY(rb_download(s->q, p->known, p->steps.data, (size_t)k * sizeof *p->known, err));
    return rb_queue_sync(s->q, err);
}

static resbm_status look(rb_stage *s, rb_port *p, const rb_message *m, rb_pack_sight *out, rb_err *err) {
    uint8_t *at = m->payload;
    *out = (rb_pack_sight){0};
    for (int i = 0; i < p->wire.parts; i++) {
        const rb_wire_part *w = &p->wire.part[i];
        rb_pack_plan plan;
        RB_TRY(rb_pack_sizes(&plan, w->pack.code, w->pack.scale, p->B, p->T, w->width, err));
        if (w->pack.scale == RB_SCALE_STEP) RB_TRY(know_steps(s, p, m->head.step, err));
        plan.steps = w->pack.scale == RB_SCALE_STEP ? p->known : NULL;
        plan.bytes = at;
        rb_pack_look(&plan, s->cfg.model.d, out);
        at += p->part_bytes[i];
    }
    return RESBM_OK;
}

static const char *name_of(const rb_message *m, char text[96]) {
    bool evaluation = m->head.step >> 63;
    snprintf(text, 96, "%s of boundary %d, %s %llu, microbatch %u",
             m->head.direction ? "gradients" : "activations", m->head.boundary,
             evaluation ? "evaluation" : "step", (unsigned long long)(m->head.step & INT64_MAX),
             m->head.microbatch);
    return text;
}

/* Evaluations are of other sequences, but of the same weights: judged, and nothing is learned from them. */
static double judge(rb_port *p, const rb_message *m, const rb_pack_sight *seen, double most) {
    double size = seen->count ? sqrt(seen->sum / (double)seen->count) : 0,
           ratio = rb_guard_ratio(&p->guard, size);
    if (ratio <= most && !(m->head.step >> 63)) rb_guard_learn(&p->guard, size);
    return ratio;
}

resbm_status rb_stage_guard_in(rb_stage *s, rb_port *p, const rb_message *m, rb_err *err) {
    rb_pack_sight seen;
    char who[RB_WHO_TEXT], what[96];
    if (!s->apart) return RESBM_OK;
    s->accused = m->from + 1; /* until nothing is found */
    RB_TRY(look(s, p, m, &seen, err));
    rb_link_who(s->link, m->from, who);
    if (!isfinite(seen.sum))
        return rb_fail(err, RESBM_E_FORMAT, "%s sent %s, that are not finite", who, name_of(m, what));
    if (seen.outside)
        return rb_fail(err, RESBM_E_FORMAT, "%s sent %s, of coordinates that are none of the model's %lld",
                       who, name_of(m, what), (long long)s->cfg.model.d);
    double ratio = judge(p, m, &seen, RB_GUARD_RECEIVER);
    if (ratio <= RB_GUARD_RECEIVER) {
        s->accused = 0;
        return RESBM_OK;
    }
    return rb_fail(err, RESBM_E_FORMAT, "%s sent %s, whose norm is %.3g, %.3g times what it was so far", who,
                   name_of(m, what), sqrt(seen.sum), ratio);
}

static rb_port *port_of(rb_stage *s, const rb_message *m) {
    rb_port *ports = m->head.direction ? s->grad_out_port : s->out_port;
    for (int i = 0; i < s->hosted; i++)
        if (ports[i].dev && ports[i].boundary == m->head.boundary) return &ports[i];
    return NULL;
}

resbm_status rb_stage_fail_numeric(rb_stage *s, const char *what, rb_err *err) {
    char bad[256];
    RB_TRY(rb_stage_find_nonfinite(s->model, s->q, bad, sizeof bad, err));
    return rb_fail(err, RESBM_E_NUMERIC,
                   "step %lld is not finite: first in %s on stage %d; the step was not applied. Lower "
                   "optim.lr, set optim.clip, or go back to an earlier snapshot",
                   (long long)s->step, *bad ? bad : what, s->stage);
}

resbm_status rb_stage_guard_out(rb_stage *s, const rb_message *m, rb_err *err) {
    rb_pack_sight seen;
    char what[96];
    rb_port *p = s->apart && (m->head.kind == RB_FRAME_FORWARD || m->head.kind == RB_FRAME_BACKWARD)
                     ? port_of(s, m)
                     : NULL;
    if (!p) return RESBM_OK;
    RB_TRY(look(s, p, m, &seen, err));
    if (!isfinite(seen.sum)) return rb_stage_fail_numeric(s, name_of(m, what), err);
    double ratio = judge(p, m, &seen, RB_GUARD_SENDER);
    if (ratio <= RB_GUARD_SENDER) return RESBM_OK;
    return rb_fail(
        err, RESBM_E_NUMERIC,
        "step %lld diverges: the %s on stage %d have the norm %.3g, %.3g times what it was so far; "
        "the step was not applied. Lower optim.lr, set optim.clip, or go back to an earlier snapshot",
        (long long)s->step, name_of(m, what), s->stage, sqrt(seen.sum), ratio);
}
