#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include "checkpoint/checkpoint.h"
#include "run/apart.h"
#include "run/control.h"
#include "run/training.h"

static resbm_status add_files(const training *t, rb_manifest *m, rb_err *err) {
    for (int s = 0; s < t->crew->stages; s++) {
        const json_t *files = json_object_get(t->reply[s], "files"), *f;
        size_t i;
        json_array_foreach((json_t *)files, i, f) {
            const char *name = json_string_value(json_array_get(f, 0)),
                       *hash = json_string_value(json_array_get(f, 2));
            rb_part_file *grown = realloc(m->files, (size_t)(m->file_count + 1) * sizeof *grown);
            if (!grown || !name || !hash) {
                m->files = grown ? grown : m->files;
                return rb_fail(err, RESBM_E_FORMAT, "stage %d sent a broken list of files",
                               t->crew->places[s].stage);
            }
            m->files = grown;
            rb_part_file *p = &m->files[m->file_count++];
            snprintf(p->name, sizeof p->name, "%s", name);
            snprintf(p->sum.hash, sizeof p->sum.hash, "%s", hash);
            p->sum.bytes = (uint64_t)json_integer_value(json_array_get(f, 1));
        }
    }
    return RESBM_OK;
}

static resbm_status write_manifest(training *t, rb_err *err) {
    rb_buf text = {0};
    rb_config_print(t->cfg, &text);
    rb_manifest m = {.step = t->step,
                     .epoch = t->epoch,
                     .cursor = (int64_t)t->sequence,
                     .seed = (int64_t)t->cfg->train.seed,
                     .config = text.data};
    resbm_status st = rb_buf_status(&text, err);
    if (!st) st = add_files(t, &m, err);
    if (!st) st = rb_manifest_set(&m, "tokens", t->step * t->cfg->train.batch * t->cfg->model.context, err);
    if (!st) st = rb_manifest_set(&m, "elapsed_ns", (int64_t)(rb_training_elapsed(t) * 1e9), err);
    if (!st) st = rb_manifest_set(&m, "updates", t->updates, err);
    if (!st && t->optimizer_from) st = rb_manifest_set(&m, "optimizer_from", t->optimizer_from, err);
    if (!st) st = rb_manifest_set(&m, "evals", (int64_t)t->evals, err);
    if (!st) st = rb_checkpoint_commit(t->o->dir, &m, t->cfg->train.keep, err);
    free(m.files);
    rb_buf_free(&text);
    return st;
}

static resbm_status collect_file(training *t, const char *folder, int stage, const json_t *f, rb_err *err) {
    char path[PATH_MAX];
    rb_file_sum sum = {.bytes = (uint64_t)json_integer_value(json_array_get(f, 1))};
    const char *name = json_string_value(json_array_get(f, 0)),
               *hash = json_string_value(json_array_get(f, 2));
    const rb_place *p = &t->crew->places[stage];
    char who[RB_WHO_TEXT];
    rb_who_at(who, stage, t->crew->places);
    int replica = rb_apart_replica_of(name);
    if (!name || !hash || rb_apart_stage_of(t->cfg, name) != p->stage ||
        (replica ? replica != p->replica : stage != rb_crew_lead(t->crew, p->stage)))
        return rb_fail(err, RESBM_E_FORMAT, "%s sent the file \"%s\", which is not its own", who,
                       name ? name : "?");
    if (sum.bytes > (uint64_t)t->out->params * 16 + (1 << 20))
        return rb_fail(err, RESBM_E_FORMAT, "%s sent %s with %llu bytes, more than the whole model has", who,
                       name, (unsigned long long)sum.bytes);
    snprintf(sum.hash, sizeof sum.hash, "%s", hash);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    RB_TRY(rb_apart_recv_file(t->crew->control, stage, path, &sum, t->cfg->pipeline.deadline_ns, err));
    return rb_apart_check_weights(path, err);
}

/* Stages apart send their files after their answer. */
static resbm_status collect_files(training *t, const char *folder, rb_err *err) {
    if (!t->o->outside || !t->o->outside->apart) return RESBM_OK;
    for (int s = 0; s < t->crew->stages; s++) {
        const json_t *files = json_object_get(t->reply[s], "files");
        for (size_t i = 0; i < json_array_size(files); i++) {
            resbm_status st = collect_file(t, folder, s, json_array_get(files, i), err);
            if (st) return rb_err_context(err, st, "stage %d: ", s);
        }
    }
    return RESBM_OK;
}

resbm_status rb_training_save(training *t, rb_err *err) {
    char tmp[PATH_MAX];
    snprintf(t->crew->doing, sizeof t->crew->doing, "while writing the snapshot of step %lld",
             (long long)t->step);
    RB_TRY(rb_checkpoint_begin(t->o->dir, t->step, tmp, err));
    RB_TRY(rb_crew_tell(
        t->crew, json_pack("{s:s, s:I, s:s}", "t", "save", "step", (json_int_t)t->step, "dir", tmp), err));
    t->asks_leads = true;
    RB_TRY(rb_crew_gather(t->crew, "saved", -1, rb_training_deadline(t) + 600 * RB_SEC, t->reply, err));
    t->asks_leads = false;
    resbm_status st = collect_files(t, tmp, err);
    if (!st) st = write_manifest(t, err);
    rb_crew_drop(t->crew, t->reply);
    if (st) return st;
    t->saved = t->step;
    t->deals = 0;
    if (!t->o->hooks.saved) return RESBM_OK;
    RB_TRY(rb_checkpoint_path(t->o->dir, t->step, tmp, err));
    return t->o->hooks.saved(t->o->hooks.ctx, t->step, tmp, err);
}
