/* What a plan recommends: settings of its best row, and whether the model would be better cut otherwise. Segments are part of
 * the model, so the latter is for one that is still to be made. */
#include <stdlib.h>
#include <string.h>
#include "run/plan.h"

#define WORTH 0.98 /* of a step's time: what less is not worth another model */

/* p segments alike, p by speed and memory, or two to a stage. */
typedef enum cut { CUT_EVEN, CUT_BALANCED, CUT_TWICE, CUTS } cut;

static resbm_status cut_model(const rb_plan_options *o, cut how, rb_config *c, rb_err *err) {
    int64_t p = o->cfg->pipeline.stages;
    if (how == CUT_BALANCED) return rb_plan_balance(o, c, err);
    *c = *o->cfg;
    c->model.segments = how == CUT_TWICE ? 2 * p : p;
    memset(c->model.segment_layers, 0, sizeof c->model.segment_layers);
    return rb_config_validate(c, err);
}

static bool same_cut(const rb_config *a, const rb_config *b) {
    return a->model.segments == b->model.segments &&
           !memcmp(a->model.segment_layers, b->model.segment_layers,
                   (size_t)a->model.segments * sizeof *a->model.segment_layers);
}

/* Best step of the model cut this way, under the boundary and among the schedules that may be; *c says how it is cut. */
static resbm_status try_cut(const rb_plan_options *o, const rb_plan_row *best, cut how, rb_config *c,
                            rb_plan_cut *out, rb_err *err) {
    const char *boundary[] = {best->boundary}, *schedule[] = {best->schedule, "interleaved-1f1b", "zbv"};
    rb_plan_options alt = *o;
    rb_run_plan p = {0};
    rb_err why;
    if (cut_model(o, how, c, &why) || same_cut(c, o->cfg)) return RESBM_OK; /* cannot be cut so, or is */
    alt.cfg = c;
    alt.events = NULL;
    alt.boundaries = boundary;
    alt.boundary_count = 1;
    alt.schedules = o->schedule_count ? o->schedules : schedule;
    alt.schedule_count = o->schedule_count ? o->schedule_count : how == CUT_TWICE ? 3 : 1;
    resbm_status st = rb_plan_rows(&alt, &p, err);
    if (!st && p.best >= 0 && p.row[p.fastest].step_s < out->step_s) {
        const rb_plan_row *r = &p.row[p.fastest];
        *out = (rb_plan_cut){.segments = c->model.segments, .step_s = r->step_s, .extra = r->extra};
        memcpy(out->layers, c->model.segment_layers, sizeof out->layers);
        memcpy(out->schedule, r->schedule, sizeof out->schedule);
    }
    rb_plan_free(&p);
    return st;
}

resbm_status rb_plan_recut(const rb_plan_options *o, rb_run_plan *p, rb_err *err) {
    const rb_plan_row *best = p->best >= 0 ? &p->row[p->best] : NULL;
    if (!best || o->keep_cut || o->cfg->pipeline.stages < 2 || rb_config_schedule_file(o->cfg))
        return RESBM_OK;
    rb_config *c = malloc(sizeof *c);
    if (!c) return rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration");
    rb_plan_cut found = {.step_s = WORTH * best->step_s};
    resbm_status st = RESBM_OK;
    for (cut how = 0; how < CUTS && !st; how++) st = try_cut(o, best, how, c, &found, err);
    free(c);
    if (!st && found.segments) p->recut = found;
    p->recut_tried = !st;
    return st;
}
