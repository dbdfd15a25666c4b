/* This stage's part of a checkpoint: one file per part of the model it hosts, one more for its optimizer states. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "checkpoint/checkpoint.h"
#include "run/stage.h"

/* A tensor in device memory, read in pieces while its file is written. */
typedef struct source {
    rb_stage *s;
    rb_view view;
} source;

static resbm_status read_device(void *ctx, int64_t offset, void *dst, size_t n, rb_err *err) {
    source *src = ctx;
    RB_TRY(rb_download(src->s->q, dst, (char *)src->view.data + offset, n, err));
    return rb_queue_sync(src->s->q, err);
}

typedef struct part {
    rb_stage *s;
    rb_tensor_out *out;
    source *src;
    int count;
} part;

static void add(part *p, const char *name, rb_view v, const rb_tensor *t) {
    p->src[p->count] = (source){p->s, v};
    rb_tensor_out *o = &p->out[p->count];
    *o = (rb_tensor_out){.name = name, .dtype = RB_F32, .rank = t->rank, .read = read_device, .ctx = &p->src[p->count]};
    memcpy(o->shape, t->shape, sizeof t->shape);
    p->count++;
}

static bool same_part(const rb_tensor *a, const rb_tensor *b) {
    return a->part == b->part && a->part_index == b->part_index;
}

static resbm_status write_part(part *p, const char *dir, const rb_tensor *t, bool optim, json_t *files, rb_err *err) {
    static const char *const sides[] = {"", "encoder", "decoder"};
    char name[RB_PART_NAME];
    rb_part_file f;
    if (!p->count) return RESBM_OK;
    rb_checkpoint_part_name(name, t->part == RB_PART_SEGMENT ? "segment" : "boundary", t->part_index, sides[t->part], optim);
    RB_TRY(rb_checkpoint_write_part(dir, name, p->out, p->count, &f, err));
    json_array_append_new(files, json_pack("[s,I,s]", f.name, (json_int_t)f.sum.bytes, f.sum.hash));
    p->count = 0;
    return RESBM_OK;
}

static resbm_status save_one(part *p, const char *dir, const rb_tensor *of, rb_optim_state *states, json_t *files,
                             rb_err *err) {
    rb_stage *s = p->s;
    for (int i = 0; i < s->row_count; i++) {
        const rb_tensor *t = &s->table.rows[s->rows[i]];
        if (same_part(t, of)) add(p, t->name, rb_stage_weight(s->model, s->rows[i]), t);
    }
    RB_TRY(write_part(p, dir, of, false, files, err));
    for (int i = 0; i < rb_optim_state_count(s->optim); i++)
        if (same_part(states[i].tensor, of)) add(p, states[i].name, states[i].view, states[i].tensor);
    return write_part(p, dir, of, true, files, err);
}

resbm_status rb_stage_save(rb_stage *s, const json_t *in, json_t **reply, rb_err *err) {
    const char *dir = json_string_value(json_object_get(in, "dir"));
    int n = rb_optim_state_count(s->optim), most = n > s->row_count ? n : s->row_count;
    part p = {.s = s, .out = calloc((size_t)most + 1, sizeof *p.out), .src = calloc((size_t)most + 1, sizeof *p.src)};
    rb_optim_state *states = calloc((size_t)n + 1, sizeof *states);
    json_t *files = json_array();
    resbm_status st = RESBM_OK;
    if (!p.out || !p.src || !states || !files || !dir) st = rb_fail(err, RESBM_E_MEMORY, "no memory for a checkpoint");
    for (int i = 0; i < n && !st; i++) states[i] = rb_optim_state_at(s->optim, i);
    for (int i = 0; i < s->row_count && !st; i++) {
        const rb_tensor *t = &s->table.rows[s->rows[i]];
        bool seen = false;
        for (int j = 0; j < i && !seen; j++) seen = same_part(&s->table.rows[s->rows[j]], t);
        if (!seen) st = save_one(&p, dir, t, states, files, err);
    }
    free(p.out);
    free(p.src);
    free(states);
    if (st)
        json_decref(files);
    else
        *reply = json_pack("{s:s, s:o}", "t", "saved", "files", files);
    return st;
}

static resbm_status load_view(rb_stage *s, rb_checkpoint *c, const char *name, const rb_tensor *t, rb_view v, void *buf,
                              rb_err *err) {
    RB_TRY(rb_checkpoint_load(c, name, RB_F32, t->rank, t->shape, buf, err));
    RB_TRY(rb_upload(s->q, v.data, buf, (size_t)rb_tensor_count(t) * sizeof(float), err));
    return rb_queue_sync(s->q, err);
}

static resbm_status load_all(rb_stage *s, rb_checkpoint *c, void *buf, rb_err *err) {
    for (int i = 0; i < s->row_count; i++) {
        const rb_tensor *t = &s->table.rows[s->rows[i]];
        RB_TRY(load_view(s, c, t->name, t, rb_stage_weight(s->model, s->rows[i]), buf, err));
    }
    if (!s->training) return RESBM_OK;
    for (int i = 0; i < rb_optim_state_count(s->optim); i++) {
        rb_optim_state o = rb_optim_state_at(s->optim, i);
        RB_TRY(load_view(s, c, o.name, o.tensor, o.view, buf, err));
    }
    rb_optim_set_steps_done(s->optim, rb_checkpoint_manifest(c)->step);
    return RESBM_OK;
}

resbm_status rb_stage_load(rb_stage *s, const char *path, rb_err *err) {
    rb_checkpoint *c;
    int64_t most = 1;
    for (int i = 0; i < s->row_count; i++) {
        int64_t n = rb_tensor_count(&s->table.rows[s->rows[i]]);
        most = n > most ? n : most;
    }
    RB_TRY(rb_checkpoint_open(path, &c, err));
    void *buf = malloc((size_t)most * sizeof(float));
    resbm_status st = buf ? load_all(s, c, buf, err) : rb_fail(err, RESBM_E_MEMORY, "no memory to load %s", path);
    free(buf);
    rb_checkpoint_close(c);
    return st;
}
