/* What of a stage's training state lives in a file (docs/offload.md), and the optimizer over it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "run/devices.h"
#include "run/fit.h"
#include "run/planned.h"
#include "run/stage.h"

/* The hosted rows as the optimizer lists them. */
static const rb_tensor **list_rows(const rb_stage *s) {
    const rb_tensor **list = calloc((size_t)s->row_count + 1, sizeof *list);
    for (int i = 0; list && i < s->row_count; i++) list[i] = &s->table.rows[s->rows[i]];
    return list;
}

static int host_threads(const rb_stage *s) {
    bool host = s->cfg.optim.offload_update == RB_OFFLOAD_UPDATE_HOST;
    return host ? (int)s->cfg.pipeline.threads : 0;
}

static resbm_status open_spill(rb_stage *s, uint64_t bytes, rb_err *err) {
    bool memory = !strcmp(s->cfg.optim.offload, "host");
    const char *dir = *s->cfg.optim.offload_dir ? s->cfg.optim.offload_dir : s->scratch;
    rb_spill_options o = {.dir = memory         ? NULL
                                 : s->measuring ? P_tmpdir
                                                : dir, /* nothing will be written then */
                          .bytes = s->measuring || bytes < RB_SPILL_ALIGN ? RB_SPILL_ALIGN : bytes,
                          .deadline_ns = s->cfg.pipeline.deadline_ns};
    resbm_status st = rb_spill_open(&o, &s->spill, err);
    if (st && err && memory)
        return rb_err_context(err, st, "stage %d, host memory for optim.offload=host: ", s->self);
    if (st && err) {
        size_t n = strlen(err->text);
        snprintf(err->text + n, sizeof err->text - n,
                 ": for what stage %d offloads; make room, name another disk with optim.offload_dir, or set "
                 "optim.offload=none",
                 s->self);
    }
    return st;
}

/* What is updated on the host has its masters there. The caller frees the list. */
static resbm_status send_masters_away(const rb_stage *s, const rb_optim_place *place, bool **out,
                                      rb_err *err) {
    *out = NULL;
    if (!place->host_threads) return RESBM_OK;
    bool *away = calloc((size_t)s->table.count + 1, sizeof *away);
    if (!away) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d tensors", s->table.count);
    for (int i = 0; i < s->table.count; i++)
        away[i] = rb_optim_hosts(&s->cfg.optim.rule, place, &s->table.rows[i]);
    *out = away;
    return RESBM_OK;
}

/* The file: states of the optimizer, then gradients. */
resbm_status rb_stage_open_spill(rb_stage *s, rb_stage_options *model, bool **masters, rb_err *err) {
    *masters = NULL;
    rb_optim_place place = {.host_threads = host_threads(s)};
    if (!s->training || !strcmp(s->cfg.optim.offload, "none")) return RESBM_OK;
    if (!strcmp(s->cfg.optim.offload, "host") && s->dev->table->host_memory)
        return RESBM_OK; /* of a mixed pipeline */
    RB_TRY(rb_optim_check(&s->cfg.optim.rule, &s->table, err));
    const rb_tensor **list = list_rows(s);
    if (!list) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d tensors", s->row_count);
    uint64_t states = rb_optim_needs(s->dev, &s->cfg.optim.rule, list, s->row_count, &place).spill;
    free(list);
    bool gradients = s->cfg.optim.offload_parts == RB_OFFLOAD_STATES_GRADIENTS;
    rb_grads_away away = {0};
    if (gradients) RB_TRY(rb_stage_grads_away(s->dev, model, &away, err));
    RB_TRY(open_spill(s, states + away.spill, err));
    RB_TRY(send_masters_away(s, &place, masters, err));
    model->masters_away = *masters;
    if (!gradients) return RESBM_OK;
    model->spill = s->spill;
    model->spill_at = states;
    return RESBM_OK;
}

/* What the card has less than when the stage opened: other processes' too, where they share it. */
static uint64_t taken(const rb_stage *s) {
    size_t room = s->room && !s->dev->table->host_memory ? rb_room(s->dev) : 0;
    return room && room < s->room ? s->room - room : 0;
}

rb_memory_bytes rb_stage_memory_of(const rb_stage *s) {
    rb_stage_memory m = rb_stage_model_memory(s->model);
    rb_spill_stats disk = {0};
    if (s->spill) rb_spill_get_stats(s->spill, &disk);
    rb_host_work host = s->optim ? rb_optim_host_work(s->optim) : (rb_host_work){0};
    return (rb_memory_bytes){.weights = m.weights + s->need.newest,
                             .gradients = m.gradients,
                             .states = s->need.states,
                             .windows = m.windows + s->need.windows,
                             .scratch = s->need.scratch,
                             .activations = m.activations,
                             .read = disk.read,
                             .written = disk.written,
                             .waited_ns = (uint64_t)disk.waited_ns,
                             .host = s->need.host,
                             .down = host.down,
                             .up = host.up,
                             .early = host.early,
                             .host_waited_ns = (uint64_t)host.waited_ns,
                             .taken = taken(s)};
}

/* Masters that are not where the model could fill them in. */
static resbm_status fill_masters(rb_stage *s, rb_err *err) {
    float *host = NULL;
    resbm_status st = RESBM_OK;
    for (int i = 0; i < s->row_count && !st; i++) {
        const rb_tensor *t = &s->table.rows[s->rows[i]];
        if (!rb_optim_keeps(s->optim, i) || rb_stage_weight(s->model, s->rows[i]).data) continue;
        size_t bytes = (size_t)rb_tensor_count(t) * sizeof *host;
        free(host);
        host = malloc(bytes);
        st = host ? rb_stage_initial(s->model, s->rows[i], host, err)
                  : rb_fail(err, RESBM_E_MEMORY, "initial weights: %zu bytes", bytes);
        if (!st) st = rb_optim_weight_write(s->optim, s->q, i, 0, host, bytes, err);
    }
    free(host);
    return st ? st : rb_optim_use_newest(s->optim, s->q, err);
}

resbm_status rb_stage_open_optim(rb_stage *s, rb_err *err) {
    rb_optim_place place = {
        .spill = s->spill,
        .host_threads = host_threads(s),
        .deadline_ns = 10 * s->cfg.pipeline.deadline_ns}; /* a gradient's first tile waits for what is queued
                                                             on the device before it */
    RB_TRY(rb_optim_check(&s->cfg.optim.rule, &s->table, err));
    rb_optim_tensor *t = calloc((size_t)s->row_count + 1, sizeof *t);
    if (!t) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d tensors", s->row_count);
    for (int i = 0; i < s->row_count; i++)
        t[i] = (rb_optim_tensor){.tensor = &s->table.rows[s->rows[i]],
                                 .weight = rb_stage_weight(s->model, s->rows[i]),
                                 .half = rb_stage_half(s->model, s->rows[i]),
                                 .grad = rb_stage_grad(s->model, s->rows[i]),
                                 .grad_at = rb_stage_grad_at(s->model, s->rows[i]),
                                 .lr_scale = rb_tensor_lr(&s->cfg, &s->table.rows[s->rows[i]])};
    const rb_tensor **list = list_rows(s);
    if (list)
        s->need = rb_optim_needs(s->dev, &s->cfg.optim.rule, list, s->row_count, s->spill ? &place : NULL);
    free(list);
    resbm_status st =
        rb_optim_open(s->dev, &s->cfg.optim.rule, t, s->row_count, s->spill ? &place : NULL, &s->optim, err);
    free(t);
    for (int i = 0; i < s->row_count && !st; i++)
        rb_stage_constrain_there(s->model, s->rows[i], rb_optim_newest(s->optim, i));
    return st || s->measuring ? st : fill_masters(s, err);
}

/* The configuration as this device computes it: which products math: auto means is the card's to know. The caller frees; NULL: no
 * memory. */
static rb_config *config_here(const rb_stage *s) {
    char name[RB_DEVICE_NAME];
    bool gpu = strstr(rb_device_of_stage(&s->cfg, s->stage, name), "cuda");
    rb_config *c = malloc(sizeof *c);
    if (!c) return NULL;
    *c = s->cfg;
    if (gpu && c->pipeline.math == RB_MATH_AUTO)
        c->pipeline.math = s->dev->factor == RB_BF16 ? RB_MATH_BF16 : RB_MATH_F16;
    return c;
}

/* Of this stage alone. */
static void keep(const rb_stage *s, rb_kept *k) {
    k->ring = s->ring;
    k->halves[s->stage] = s->halves;
    for (int i = 0; i < s->hosted; i++) {
        k->slots[s->host[i]] = s->seat[i].slots;
        k->stash[s->host[i]] = s->stash[i];
    }
}

json_t *rb_stage_planned(const rb_stage *s) {
    rb_kept k = {0};
    rb_fit_need need;
    rb_err ignored;
    rb_config *c = s->training ? config_here(s) : NULL;
    if (!c) return NULL;
    keep(s, &k);
    resbm_status st = rb_fit_kept(c, s->stage, &k, &need, &ignored);
    free(c);
    if (st) return NULL;
    rb_planned p = rb_planned_from(&need, s->dev->table->host_memory ? 0 : s->room);
    return rb_planned_json(&p);
}

void rb_stage_advise(const rb_stage *s, rb_err *err) {
    rb_buf text = {0};
    if (!err || err->code != RESBM_E_MEMORY || !s->dev || !s->training) return;
    rb_config *c = config_here(s);
    if (!c) return;
    rb_fit_advise(c, s->stage, s->extra, s->room, s->dev->working, &text);
    free(c);
    size_t n = strlen(err->text);
    if (text.len) snprintf(err->text + n, sizeof err->text - n, ". %s", text.data);
    rb_buf_free(&text);
}
