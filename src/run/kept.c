#include "run/kept.h"

#include <stdlib.h>
#include "run/stage.h"

static resbm_status take(rb_stage *s, int stage, rb_kept *out, rb_err *err) {
    int slots[RB_MAX_SEGMENTS];
    s->self = stage; /* its first replica */
    RB_TRY(rb_stage_take_place(s, slots, err));
    for (int i = 0; i < s->hosted; i++) {
        out->slots[s->host[i]] = slots[i];
        out->stash[s->host[i]] = s->stash[i];
    }
    out->halves[stage] = s->halves;
    return RESBM_OK;
}

resbm_status rb_kept_of(const rb_config *cfg, int extra, rb_kept *out, rb_err *err) {
    rb_stage *s = calloc(1, sizeof *s);
    *out = (rb_kept){0};
    if (!s) return rb_fail(err, RESBM_E_MEMORY, "no memory for the lists of a run");
    s->cfg = *cfg;
    s->cfg.pipeline.inflight = extra;
    s->training = s->measuring = true;
    resbm_status st = rb_config_schedule_text(cfg, &s->schedule_text, err);
    if (!st) st = rb_stage_open_lists(s, err);
    for (int i = 0; i < cfg->pipeline.stages && !st; i++) st = take(s, i, out, err);
    out->ring = s->ring;
    rb_stage_close(s);
    free(s);
    return st;
}
