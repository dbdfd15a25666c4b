/* Which tensor first held a NaN or infinity: one sum of squares per tensor, in the order of the computation.
 */
#include <math.h>
#include <stdio.h>
#include "model/stage.h"

typedef struct search {
    rb_stage_model *m;
    rb_queue *q;
    rb_view sum; /* (1) f64 */
    char *name;
    size_t size;
} search;

/* Sets *found and keeps what is already in name. rank 1 or 2 */
static resbm_status look_at(search *f, rb_view v, bool *found, rb_err *err) {
    double sum = 0;
    if (!v.data) return RESBM_OK;
    RB_TRY(rb_sumsq(f->q, f->sum, v, err));
    RB_TRY(rb_download(f->q, &sum, f->sum.data, sizeof sum, err));
    RB_TRY(rb_queue_sync(f->q, err));
    *found = !isfinite(sum);
    return RESBM_OK;
}

static resbm_status search_rows(search *f, const rb_view *views, const char *what, rb_part_kind part,
                                int index, int from, int count, bool *found, rb_err *err) {
    int row = rb_table_find(&f->m->table, part, index);
    for (int i = row + from; row >= 0 && i < row + from + count && i < f->m->table.count && !*found; i++) {
        const rb_tensor *t = &f->m->table.rows[i];
        if (t->part != part || t->part_index != index) break;
        RB_TRY(look_at(f, views[i], found, err));
        if (*found) snprintf(f->name, f->size, "%s%s", what, t->name);
    }
    return RESBM_OK;
}

/* Activation `stage` of every slot in use: 0 = the segment's input stream, 1.. = the output of block stage-1.
 */
static resbm_status search_acts(search *f, const rb_segment *s, int64_t stage, bool *found, rb_err *err) {
    for (int k = 0; k < s->slots && !*found; k++) {
        const rb_slot *slot = &s->slot[k];
        bool live = f->m->shared_acts ? f->m->live_segment == s->index && f->m->live_slot == k
                                      : slot->tokens.data || slot->targets.data || slot->parts[0].data;
        if (!live) continue;
        RB_TRY(look_at(f, slot->acts.x[stage], found, err));
        if (*found && stage)
            snprintf(f->name, f->size, "output of model.layers.%lld%s, microbatch slot %d",
                     (long long)(s->first_layer + stage - 1),
                     s->block[stage - 1].dims.part == RB_BLOCK_ATTENTION ? "'s attention" : "", k);
        else if (*found)
            snprintf(f->name, f->size, "input of segment %d, microbatch slot %d", s->index, k);
    }
    return RESBM_OK;
}

static resbm_status search_forward(search *f, const rb_segment *s, bool *found, rb_err *err) {
    int at = s->first ? 1 : 0;
    if (!s->first)
        RB_TRY(
            search_rows(f, f->m->own, "", RB_PART_DECODER, s->index - 1, 0, f->m->table.count, found, err));
    if (s->first && !*found) RB_TRY(search_rows(f, f->m->own, "", RB_PART_SEGMENT, 0, 0, 1, found, err));
    if (!*found) RB_TRY(search_acts(f, s, 0, found, err));
    for (int64_t i = 0; i < s->layers && !*found; i++) {
        int rows = rb_block_tensors(&s->block[i].dims);
        RB_TRY(search_rows(f, f->m->own, "", RB_PART_SEGMENT, s->index, at, rows, found, err));
        at += rows;
        if (!*found) RB_TRY(search_acts(f, s, i + 1, found, err));
    }
    if (!*found)
        RB_TRY(search_rows(f, f->m->own, "", RB_PART_SEGMENT, s->index, at, f->m->table.count, found, err));
    if (!*found && !s->last)
        RB_TRY(search_rows(f, f->m->own, "", RB_PART_ENCODER, s->index, 0, f->m->table.count, found, err));
    return RESBM_OK;
}

/* From the loss backwards: the last one found in the order of the table. */
static resbm_status look_at_gradient(void *ctx, int row, rb_view grad, rb_err *err) {
    search *f = ctx;
    bool found = false;
    RB_TRY(look_at(f, grad, &found, err));
    if (found) snprintf(f->name, f->size, "gradient of %s", f->m->table.rows[row].name);
    return RESBM_OK;
}

static resbm_status search_all(search *f, rb_err *err) {
    bool found = false;
    for (int i = 0; i < f->m->opt.segments && !found; i++)
        RB_TRY(search_forward(f, &f->m->segment[i], &found, err));
    return found ? RESBM_OK : rb_stage_look_at_grads(f->m, f->q, look_at_gradient, f, err);
}

resbm_status rb_stage_find_nonfinite(rb_stage_model *m, rb_queue *q, char *name, size_t size, rb_err *err) {
    void *sum;
    name[0] = 0;
    RB_TRY(rb_alloc(m->dev, sizeof(double), &sum, err));
    search f = {m, q, rb_view1(sum, RB_F64, 1), name, size};
    resbm_status st = search_all(&f, err);
    rb_err ignored;
    rb_queue_sync(q, &ignored); /* nothing may write to sum any more */
    rb_free(m->dev, sum);
    return st;
}
