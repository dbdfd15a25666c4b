/* Where this stage's optimizer keeps its states: with the weights, or in a file (docs/offload.md). */
#include <stdlib.h>
#include <string.h>
#include "run/stage.h"

static resbm_status open_spill(rb_stage *s, const rb_tensor *const *list, rb_optim_place *place, rb_err *err) {
    rb_optim_need need = rb_optim_needs(s->dev, &s->cfg.optim.rule, list, s->row_count, place);
    rb_spill_options o = {.dir = *s->cfg.optim.offload_dir ? s->cfg.optim.offload_dir : s->scratch,
                          .bytes = need.spill,
                          .deadline_ns = s->cfg.pipeline.deadline_ns};
    resbm_status st = rb_spill_open(&o, &s->spill, err);
    if (st && err) {
        size_t n = strlen(err->text);
        snprintf(err->text + n, sizeof err->text - n,
                 ": for the optimizer states of stage %d; make room, name another disk with optim.offload_dir, or "
                 "set optim.offload=none", s->self);
    }
    place->spill = s->spill;
    return st;
}

static resbm_status open_with(rb_stage *s, rb_optim_tensor *t, const rb_tensor **list, rb_err *err) {
    rb_optim_place place = {0};
    bool away = strcmp(s->cfg.optim.offload, "none") != 0;
    for (int i = 0; i < s->row_count; i++) {
        t[i] = (rb_optim_tensor){.tensor = &s->table.rows[s->rows[i]], .weight = rb_stage_weight(s->model, s->rows[i]),
                                 .grad = rb_stage_grad(s->model, s->rows[i])};
        list[i] = t[i].tensor;
    }
    if (away) RB_TRY(open_spill(s, list, &place, err));
    return rb_optim_open(s->dev, &s->cfg.optim.rule, t, s->row_count, away ? &place : NULL, &s->optim, err);
}

resbm_status rb_stage_open_optim(rb_stage *s, rb_err *err) {
    RB_TRY(rb_optim_check(&s->cfg.optim.rule, &s->table, err));
    rb_optim_tensor *t = calloc((size_t)s->row_count + 1, sizeof *t);
    const rb_tensor **list = calloc((size_t)s->row_count + 1, sizeof *list);
    resbm_status st = t && list ? open_with(s, t, list, err)
                                : rb_fail(err, RESBM_E_MEMORY, "no memory for %d tensors", s->row_count);
    free(t);
    free(list);
    return st;
}
