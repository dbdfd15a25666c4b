/* What is done with a finished checkpoint: evaluation and generation, on any number of stages. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "checkpoint/checkpoint.h"
#include "core/clock.h"
#include "run/control.h"
#include "run/crew.h"
#include "run/train.h"

static bool is_step_folder(const char *path) {
    char manifest[PATH_MAX];
    struct stat sb;
    snprintf(manifest, sizeof manifest, "%s/manifest.json", path);
    return stat(manifest, &sb) == 0;
}

resbm_status rb_checkpoint_config(const char *path, rb_config *cfg, char folder[4096], rb_buf *notes,
                                  rb_err *err) {
    rb_checkpoint *c;
    int64_t step;
    if (is_step_folder(path)) {
        RB_TRY(rb_checkpoint_verify(path, err));
        snprintf(folder, PATH_MAX, "%s", path);
    } else {
        RB_TRY(rb_checkpoint_find_latest(path, &step, notes, err));
        if (step < 0)
            return rb_fail(err, RESBM_E_IO,
                           "%s holds no checkpoint: give the --out folder of a run, or a step-N in it", path);
        RB_TRY(rb_checkpoint_path(path, step, folder, err));
    }
    RB_TRY(rb_checkpoint_open(folder, &c, err));
    const char *text = rb_checkpoint_manifest(c)->config;
    resbm_status st = rb_config_defaults(cfg, err);
    if (!st) st = rb_config_load_text(cfg, folder, text, strlen(text), err);
    /* Where training put the segments is its own affair: a run of neighbours on each stage is what is used here. */
    snprintf(cfg->pipeline.schedule, sizeof cfg->pipeline.schedule, "%s", rb_schedule_forward.name);
    rb_checkpoint_close(c);
    return st;
}

static resbm_status eval_crew(rb_crew *c, const rb_config *cfg, int64_t sequences, rb_eval_result *out,
                              rb_err *err) {
    json_t *reply[RB_MAX_STAGES] = {0};
    double sum;
    snprintf(c->doing, sizeof c->doing, "in the evaluation");
    RB_TRY(rb_crew_tell(c,
                        json_pack("{s:s, s:I, s:I}", "t", "eval", "sequences", (json_int_t)sequences,
                                  "number", (json_int_t)0),
                        err));
    RB_TRY(rb_crew_gather(c, "evaled", -1, rb_now_ns() + 3600 * RB_SEC, reply, err));
    const json_t *last = reply[rb_stage_of(cfg, (int)cfg->model.segments - 1)];
    resbm_status st = rb_json_get_doubles(json_object_get(last, "loss"), &sum, 1, "evaled.loss", err);
    out->tokens = json_integer_value(json_object_get(last, "tokens"));
    out->loss = sum / (double)out->tokens;
    rb_crew_drop(c, reply);
    return st;
}

static resbm_status dismiss(rb_crew *c, rb_err *err) {
    json_t *reply[RB_MAX_STAGES] = {0};
    snprintf(c->doing, sizeof c->doing, "while finishing");
    RB_TRY(rb_crew_tell(c, json_pack("{s:s}", "t", "finish"), err));
    RB_TRY(rb_crew_gather(c, "stats", -1, rb_now_ns() + 60 * RB_SEC, reply, err));
    rb_crew_drop(c, reply);
    return RESBM_OK;
}

resbm_status rb_eval(const rb_config *cfg, const char *program, const char *folder, int64_t sequences,
                     rb_eval_result *out, rb_err *err) {
    rb_crew *c;
    const char *step = strrchr(folder, '-');
    *out = (rb_eval_result){.step = step ? atoll(step + 1) : 0};
    if (!*cfg->data.val)
        return rb_fail(err, RESBM_E_CONFIG, "data.val names no shards to evaluate on: give --data");
    rb_crew_options o = {.cfg = cfg, .program = program, .load = folder};
    RB_TRY(rb_crew_open(&o, &c, err));
    resbm_status st = eval_crew(c, cfg, sequences, out, err);
    if (!st) st = dismiss(c, err);
    rb_crew_close(c);
    return st;
}

/* Feeds ids at offset and gets the next one drawn. */
static resbm_status feed(rb_crew *c, const rb_generate_options *o, const int32_t *ids, int64_t n,
                         int64_t offset, int64_t number, int32_t *next, rb_err *err) {
    json_t *reply[RB_MAX_STAGES] = {0}, *a = json_array();
    double sample[2] = {o->temperature, o->top_p};
    for (int64_t i = 0; i < n; i++) json_array_append_new(a, json_integer(ids[i]));
    RB_TRY(rb_crew_tell(c,
                        json_pack("{s:s, s:o, s:I, s:I, s:I, s:o}", "t", "decode", "ids", a, "offset",
                                  (json_int_t)offset, "number", (json_int_t)number, "seed",
                                  (json_int_t)o->seed, "sample", rb_json_doubles(sample, 2)),
                        err));
    RB_TRY(rb_crew_gather(c, "token", c->stages - 1, rb_now_ns() + 600 * RB_SEC, reply, err));
    *next = (int32_t)json_integer_value(json_object_get(reply[c->stages - 1], "id"));
    rb_crew_drop(c, reply);
    return RESBM_OK;
}

/* When the context is full the last half of it is fed again as a new text. */
static resbm_status continue_text(rb_crew *c, const rb_config *cfg, const rb_generate_options *o,
                                  int32_t *text, rb_err *err) {
    int64_t len = o->prompt_len, T = cfg->model.context, from = len > T - 1 ? len - T / 2 : 0, fed = 0;
    snprintf(c->doing, sizeof c->doing, "while generating");
    memcpy(text, o->prompt, (size_t)len * sizeof *text);
    for (int64_t i = 0; i < o->n; i++) {
        int64_t have = len - from;
        if (have > T) {
            from = len - T / 2;
            have = len - from;
            fed = 0;
        }
        RB_TRY(feed(c, o, text + from + fed, have - fed, fed, i + 1, &text[len], err));
        fed = have;
        if (text[len] == o->eos) break;
        RB_TRY(o->emit(o->ctx, text[len], err));
        len++;
    }
    return RESBM_OK;
}

resbm_status rb_generate(const rb_config *cfg, const char *program, const char *folder,
                         const rb_generate_options *o, rb_err *err) {
    rb_crew *c;
    if (o->prompt_len < 1)
        return rb_fail(err, RESBM_E_ARG, "the prompt is empty: give at least one token with --prompt");
    int32_t *text = calloc((size_t)(o->prompt_len + o->n + 1), sizeof *text);
    if (!text)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for %lld tokens", (long long)(o->prompt_len + o->n));
    rb_crew_options co = {.cfg = cfg, .program = program, .load = folder};
    resbm_status st = rb_crew_open(&co, &c, err);
    if (!st) {
        st = continue_text(c, cfg, o, text, err);
        if (!st) st = dismiss(c, err);
        rb_crew_close(c);
    }
    free(text);
    return st;
}
