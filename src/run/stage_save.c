/* This stage's part of a checkpoint: one file per part of the model it hosts, one more for its optimizer states. With local
 * steps each replica has states of its own: those of the others than the first are written too, in files and under names
 * that begin the same and say whose they are; and there is the outer update's momentum, which is the same for all. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "checkpoint/checkpoint.h"
#include "run/parts.h"
#include "run/stage.h"

/* A tensor of the model (its newest weights, wherever they are) or an optimizer state, read in pieces while its file is
 * written. */
typedef struct source {
    rb_stage *s;
    int row;           /* the how manieth hosted one; -1: a state, */
    int state;         /* of that number */
    const float *host; /* instead of both */
} source;

static resbm_status read_source(void *ctx, int64_t offset, void *dst, size_t n, rb_err *err) {
    source *src = ctx;
    rb_stage *s = src->s;
    if (src->host) {
        memcpy(dst, (const char *)src->host + offset, n);
        return RESBM_OK;
    }
    if (src->row < 0) return rb_optim_state_read(s->optim, s->q, src->state, offset, dst, n, err);
    if (s->optim && rb_optim_keeps(s->optim, src->row))
        return rb_optim_weight_read(s->optim, s->q, src->row, offset, dst, n, err);
    rb_view v = rb_stage_weight(s->model, s->rows[src->row]);
    RB_TRY(rb_download(s->q, dst, (char *)v.data + offset, n, err));
    return rb_queue_sync(s->q, err);
}

typedef struct part {
    rb_stage *s;
    rb_tensor_out *out;
    source *src;
    char (*name)[160]; /* names of a replica's states */
    bool states;       /* nothing else is written */
    int count;
} part;

typedef enum what { WEIGHTS, STATES, OUTER } what;

static void add(part *p, const char *name, source from, const rb_tensor *t) {
    p->src[p->count] = from;
    rb_tensor_out *o = &p->out[p->count];
    *o = (rb_tensor_out){
        .name = name, .dtype = RB_F32, .rank = t->rank, .read = read_source, .ctx = &p->src[p->count]};
    memcpy(o->shape, t->shape, sizeof t->shape);
    p->count++;
}

static bool same_part(const rb_tensor *a, const rb_tensor *b) {
    return a->part == b->part && a->part_index == b->part_index;
}

/* Does this replica keep states that are not the first one's? The first one is the first that is there. */
static bool own_states(const rb_stage *s) {
    return s->cfg.optim.local_steps && rb_stage_lead(s, s->stage) != s->self;
}

static void state_name(const rb_stage *s, const char *state, char out[160]) {
    if (own_states(s))
        snprintf(out, 160, "replica-%d.%s", s->replica, state);
    else
        snprintf(out, 160, "%s", state);
}

static void outer_name(const rb_tensor *t, char out[160]) {
    snprintf(out, 160, "outer_momentum.%s", t->name);
}

static resbm_status write_part(part *p, const char *dir, const rb_tensor *t, what of, json_t *files,
                               rb_err *err) {
    char name[RB_PART_NAME], tail[32] = "";
    rb_part_file f;
    if (p->states && of != STATES) p->count = 0;
    if (!p->count) return RESBM_OK;
    if (of == OUTER) snprintf(tail, sizeof tail, ".outer");
    if (of == STATES) snprintf(tail, sizeof tail, ".optim");
    if (of == STATES && own_states(p->s)) snprintf(tail, sizeof tail, ".replica-%d.optim", p->s->replica);
    rb_parts_name(t, tail, name);
    RB_TRY(rb_checkpoint_write_part(dir, name, p->out, p->count, &f, err));
    json_array_append_new(files, json_pack("[s,I,s]", f.name, (json_int_t)f.sum.bytes, f.sum.hash));
    p->count = 0;
    return RESBM_OK;
}

static resbm_status save_one(part *p, const char *dir, const rb_tensor *of, rb_optim_state *states,
                             json_t *files, rb_err *err) {
    rb_stage *s = p->s;
    for (int i = 0; i < s->row_count; i++) {
        const rb_tensor *t = &s->table.rows[s->rows[i]];
        if (same_part(t, of) && !t->like) add(p, t->name, (source){.s = s, .row = i}, t);
    }
    RB_TRY(write_part(p, dir, of, WEIGHTS, files, err));
    for (int i = 0; i < rb_optim_state_count(s->optim); i++) {
        if (!same_part(states[i].tensor, of)) continue;
        state_name(s, states[i].name, p->name[p->count]);
        add(p, p->name[p->count], (source){.s = s, .row = -1, .state = i}, states[i].tensor);
    }
    RB_TRY(write_part(p, dir, of, STATES, files, err));
    for (int i = 0; i < s->row_count; i++) {
        const rb_tensor *t = &s->table.rows[s->rows[i]];
        const float *momentum = rb_stage_outer_momentum(s, s->rows[i]);
        if (!same_part(t, of) || !momentum) continue;
        outer_name(t, p->name[p->count]);
        add(p, p->name[p->count], (source){.s = s, .host = momentum}, t);
    }
    return write_part(p, dir, of, OUTER, files, err);
}

resbm_status rb_stage_write_parts(rb_stage *s, const char *dir, bool only_states, json_t *files,
                                  rb_err *err) {
    int n = rb_optim_state_count(s->optim), most = n > s->row_count ? n : s->row_count;
    part p = {.s = s,
              .states = only_states,
              .out = calloc((size_t)most + 1, sizeof *p.out),
              .src = calloc((size_t)most + 1, sizeof *p.src),
              .name = calloc((size_t)most + 1, sizeof *p.name)};
    rb_optim_state *states = calloc((size_t)n + 1, sizeof *states);
    resbm_status st = RESBM_OK;
    if (!p.out || !p.src || !p.name || !states || !files || !dir)
        st = rb_fail(err, RESBM_E_MEMORY, "no memory for a checkpoint");
    for (int i = 0; i < n && !st; i++) states[i] = rb_optim_state_at(s->optim, i);
    for (int i = 0; i < s->row_count && !st; i++) {
        const rb_tensor *t = &s->table.rows[s->rows[i]];
        bool seen = false;
        for (int j = 0; j < i && !seen; j++) seen = same_part(&s->table.rows[s->rows[j]], t);
        if (!seen) st = save_one(&p, dir, t, states, files, err);
    }
    free(p.out);
    free(p.src);
    free(p.name);
    free(states);
    return st;
}

resbm_status rb_stage_save(rb_stage *s, const json_t *in, json_t **reply, rb_err *err) {
    json_t *files = json_array();
    resbm_status st = RESBM_OK;
    bool first = rb_stage_lead(s, s->stage) == s->self;
    if (first || own_states(s)) /* the first replica's weights are everybody's */
        st = rb_stage_write_parts(s, json_string_value(json_object_get(in, "dir")), !first, files, err);
    if (st)
        json_decref(files);
    else
        *reply = json_pack("{s:s, s:o, s:I}", "t", "saved", "files", files, "redeals",
                           json_integer_value(json_object_get(in, "redeals")));
    return st;
}

enum { PIECE = 4 << 20 };

static resbm_status put_piece(rb_stage *s, const source *to, int64_t at, const char *from, size_t n,
                              rb_err *err) {
    if (to->row < 0) return rb_optim_state_write(s->optim, s->q, to->state, at, from, n, err);
    if (s->optim && rb_optim_keeps(s->optim, to->row))
        return rb_optim_weight_write(s->optim, s->q, to->row, at, from, n, err);
    rb_view v = rb_stage_weight(s->model, s->rows[to->row]);
    RB_TRY(rb_upload(s->q, (char *)v.data + at, from, n, err));
    return rb_queue_sync(s->q, err);
}

/* Tensor `name` of the checkpoint, piece by piece: neither a copy of it nor its cached pages pile up. */
static resbm_status load_tensor(rb_checkpoint *c, const char *name, const rb_tensor *t, source to,
                                rb_err *err) {
    const char *from = NULL;
    int64_t bytes = rb_tensor_count(t) * (int64_t)sizeof(float);
    RB_TRY(rb_checkpoint_bytes(c, name, RB_F32, t->rank, t->shape, &from, err));
    for (int64_t at = 0; at < bytes; at += PIECE) {
        size_t n = bytes - at < PIECE ? (size_t)(bytes - at) : PIECE;
        RB_TRY(put_piece(to.s, &to, at, from + at, n, err));
        rb_checkpoint_forget(c, name, from + at, n);
    }
    return RESBM_OK;
}

/* The outer update's momentum; a snapshot of a run without local steps has none, and it begins as zeros. */
static resbm_status load_outer(rb_stage *s, rb_checkpoint *c, rb_err *err) {
    RB_TRY(rb_stage_begin_round(s, err));
    for (int i = 0; i < s->row_count; i++) {
        const rb_tensor *t = &s->table.rows[s->rows[i]];
        float *momentum = rb_stage_outer_momentum(s, s->rows[i]);
        const char *from;
        char name[160];
        outer_name(t, name);
        if (!momentum || !rb_checkpoint_find(c, name)) continue;
        RB_TRY(rb_checkpoint_bytes(c, name, RB_F32, t->rank, t->shape, &from, err));
        memcpy(momentum, from, (size_t)rb_tensor_count(t) * sizeof *momentum);
    }
    return RESBM_OK;
}

static resbm_status load_all(rb_stage *s, rb_checkpoint *c, rb_err *err) {
    for (int i = 0; i < s->row_count; i++) {
        const rb_tensor *t = &s->table.rows[s->rows[i]];
        if (t->like) continue;
        RB_TRY(load_tensor(c, t->name, t, (source){.s = s, .row = i}, err));
    }
    if (!s->training) return RESBM_OK;
    RB_TRY(rb_optim_use_newest(s->optim, s->q, err));
    const rb_manifest *m = rb_checkpoint_manifest(c);
    int64_t updates = rb_manifest_get(m, "updates"), from = rb_manifest_get(m, "optimizer_from");
    if (!updates) updates = m->step; /* older ones: one a step */
    for (int i = 0; updates > from && i < rb_optim_state_count(s->optim); i++) {
        rb_optim_state o = rb_optim_state_at(s->optim, i);
        char name[160];
        state_name(s, o.name, name); /* a replica that is new begins with the first one's */
        const char *kept = rb_checkpoint_find(c, name) ? name : o.name;
        if (o.behind && !rb_checkpoint_find(c, kept)) continue; /* made without a delay */
        RB_TRY(load_tensor(c, kept, o.tensor, (source){.s = s, .row = -1, .state = i}, err));
    }
    RB_TRY(load_outer(s, c, err));
    rb_optim_set_steps_done(s->optim, updates - from);
    for (int i = 0; i < s->hosted && s->updates; i++) s->updated[i] = updates - from;
    return RESBM_OK;
}

resbm_status rb_stage_load(rb_stage *s, const char *path, rb_err *err) {
    rb_checkpoint *c;
    RB_TRY(rb_checkpoint_open(path, &c, err));
    resbm_status st = load_all(s, c, err);
    if (!st) st = rb_stage_weights_changed(s->model, s->q, err);
    if (!st) st = rb_stage_narrow(s, rb_checkpoint_manifest(c)->step - 1, err);
    rb_checkpoint_close(c);
    return st;
}
