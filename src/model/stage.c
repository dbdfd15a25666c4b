/* One stage's memory: three allocations (weights, gradients, buffers; copies.c adds one), planned when it opens. */
#include "model/stage.h"

#include <stdlib.h>
#include <string.h>

/* --- weights and gradients -------------------------------------------------------------------------------
 */

static bool hosted(const rb_stage_model *m, int row) {
    return m->local[m->table.rows[row].segment] >= 0;
}

/* Joined rows lie straight behind the row before; others begin on 64 bytes. */
static void plan_tensors(const rb_stage_model *m, bool gradients, rb_plan *p, rb_view *views) {
    for (int i = 0; i < m->table.count; i++) {
        const rb_tensor *t = &m->table.rows[i];
        if (!hosted(m, i) || (gradients && !rb_role_trained(t->role))) continue;
        if (!gradients && m->opt.masters_away && m->opt.masters_away[i] && rb_has_copy(m, i)) {
            views[i] = rb_view2(NULL, RB_F32, t->shape[0], t->shape[1]);
            continue;
        }
        if (gradients && m->opt.spill && rb_pager_takes(t)) {
            views[i] = rb_view2(NULL, RB_F32, t->shape[0], t->shape[1]);
            continue;
        }
        size_t bytes = (size_t)rb_tensor_count(t) * 4;
        void *at = t->joined && p->base ? p->base + p->used : NULL;
        if (t->joined)
            p->used += bytes;
        else
            at = rb_plan_take(p, bytes);
        views[i] =
            t->rank == 2 ? rb_view2(at, RB_F32, t->shape[0], t->shape[1]) : rb_view1(at, RB_F32, t->shape[0]);
    }
}

/* Memory for `what`; where there is none, which settings it comes from. */
static resbm_status take_memory(rb_stage_model *m, size_t bytes, const char *what, const char *remedy,
                                void **out, rb_err *err) {
    rb_err why = {0};
    resbm_status st = rb_alloc(m->dev, bytes, out, &why);
    if (st == RESBM_OK) return st;
    if (st != RESBM_E_MEMORY) {
        if (err) *err = why;
        return st;
    }
    return rb_fail(err, st, "no memory for %s, %.3g GB (segment %d and %d more; %s): %s", what,
                   (double)bytes * 1e-9, m->opt.first_segment, m->opt.segments - 1, why.text, remedy);
}

static const char smaller_model[] = "lower model.d, model.ffn, model.vocab or model.layers, spread them over "
                                    "more pipeline.stages and machines, or set "
                                    "optim.offload and optim.offload_parts: states+gradients";
static const char smaller_batch[] =
    "lower train.batch or model.context, raise train.microbatches, or set train.recompute: true";

static resbm_status alloc_tensors(rb_stage_model *m, bool gradients, rb_view *views, void **memory,
                                  size_t *size, rb_err *err) {
    rb_plan p = {0};
    plan_tensors(m, gradients, &p, views);
    *size = p.used;
    RB_TRY(take_memory(m, p.used, gradients ? "the gradients" : "the weights", smaller_model, memory, err));
    p = (rb_plan){.base = *memory};
    plan_tensors(m, gradients, &p, views);
    return RESBM_OK;
}

/* --- binding segments to tensors
 * ---------------------------------------------------------------------------- */

static rb_view *at_row(rb_view *views, int row) {
    return views && row >= 0 ? views + row : NULL;
}

static rb_head sizes_of_head(const rb_stage_model *m) {
    return (rb_head){.d = m->model.d, .vocab = m->model.vocab, .chunk = m->opt.head_chunk};
}

static void bind_head(rb_stage_model *m, rb_segment *s, int norm_row) {
    int head_row = m->model.tied ? 0 : norm_row + 1;
    s->head = sizes_of_head(m);
    s->head.eps = (float)m->model.norm_eps;
    s->head.norm = m->weight[norm_row];
    s->head.head = m->weight[head_row];
    s->head.lender = m->pager ? &m->lender : NULL;
    s->head.row = head_row;
    if (!m->grad) return;
    s->head.dnorm = m->grad[norm_row];
    s->head.dhead = m->grad[head_row];
}

static void bind_blocks(rb_stage_model *m, rb_segment *s) {
    int row = rb_table_find(&m->table, RB_PART_SEGMENT, s->index);
    if (s->first) {
        s->embed = m->weight[row];
        if (m->grad) s->dembed = m->grad[row];
        row++;
    }
    for (int64_t i = 0; i < s->layers; i++) {
        s->block[i] = (rb_block){.dims = rb_segment_block(&m->model, s->index, i),
                                 .w = at_row(m->weight, row),
                                 .dw = at_row(m->grad, row),
                                 .rope = &m->rope,
                                 .lender = m->pager ? &m->lender : NULL,
                                 .row = row};
        row += rb_block_tensors(&s->block[i].dims);
    }
    if (s->last) bind_head(m, s, row);
}

static rb_boundary_end bind_end(rb_stage_model *m, bool encoder, int boundary) {
    int row = rb_table_find(&m->table, encoder ? RB_PART_ENCODER : RB_PART_DECODER, boundary);
    return (rb_boundary_end){.cfg = &m->boundary,
                             .dims = rb_model_boundary_dims(&m->model),
                             .encoder = encoder,
                             .w = at_row(m->weight, row),
                             .dw = at_row(m->grad, row)};
}

/* Rows the kind's decoder has before those of the token path. */
static int decoder_rows(const rb_stage_model *m, rb_err *err, resbm_status *st) {
    rb_tensor_table t = {0};
    rb_tensor_list l = {.table = &t};
    rb_boundary_dims dims = rb_model_boundary_dims(&m->model);
    m->kind->list_decoder(&m->boundary, &dims, "", &l);
    int rows = t.count;
    rb_tensor_table_free(&t);
    *st = l.status == RESBM_OK ? RESBM_OK
                               : rb_fail(err, l.status, "listing a decoder's tensors: out of memory");
    return rows;
}

/* The rows of the auxiliary loss are the last ones of the encoder's part. */
static rb_aux bind_aux(rb_stage_model *m, int boundary) {
    rb_aux a = {.cfg = &m->boundary, .dims = rb_model_boundary_dims(&m->model)};
    a.dims.chunk = m->opt.head_chunk;
    int row = rb_table_find(&m->table, RB_PART_ENCODER, boundary), end = row;
    while (end >= 0 && end < m->table.count && m->table.rows[end].part == RB_PART_ENCODER) end++;
    row = end - rb_aux_rows(&m->boundary);
    a.w = at_row(m->weight, row);
    a.dw = at_row(m->grad, row);
    return a;
}

/* Points the segment's blocks and ends to its tensors. */
resbm_status rb_bind_segment(rb_stage_model *m, rb_segment *s, rb_err *err) {
    resbm_status st = RESBM_OK;
    bind_blocks(m, s);
    if (!s->last) s->enc = bind_end(m, true, s->index);
    if (rb_has_aux(m, s)) s->aux = bind_aux(m, s->index);
    if (s->first) return RESBM_OK;
    s->dec = bind_end(m, false, s->index - 1);
    if (!rb_has_start(m)) return RESBM_OK;
    int rows = decoder_rows(m, err, &st);
    s->tokens = (rb_tokens){.cfg = &m->boundary,
                            .dims = s->dec.dims,
                            .rope = &m->trunk_rope,
                            .w = s->dec.w + rows,
                            .dw = s->dec.dw ? s->dec.dw + rows : NULL};
    return st;
}

/* --- buffers -----------------------------------------------------------------------------------------------
 */

/* Without a backward pass one block's buffers do for all, and the stream goes back and forth between two. */
static void plan_acts(const rb_stage_model *m, const rb_segment *s, rb_plan *p, rb_segment_acts *a) {
    int64_t n = m->opt.B * m->opt.T, d = m->model.d;
    rb_block_dims whole = rb_model_block_dims(&m->model);
    for (int64_t i = 0; i <= s->layers; i++)
        a->x[i] = m->opt.training || i < 2 ? rb_plan2(p, n, d) : a->x[i - 2];
    for (int64_t i = 0; i < s->layers; i++)
        if (m->opt.training)
            rb_block_plan_saved(&s->block[i].dims, n, p, &a->block[i]);
        else if (i == 0)
            rb_block_plan_saved(&whole, n, p, &a->block[i]);
        else
            a->block[i] = a->block[0];
    if (!s->last) m->kind->plan_saved(&s->enc, n, p, &a->enc);
    if (s->first) return;
    m->kind->plan_saved(&s->dec, n, p, &a->dec);
    if (rb_has_start(m)) rb_tokens_plan_saved(&s->tokens, n, p, &a->tokens);
}

/* Halves apart: every output gradient stays. Where activations are computed again, those of gate and up need
 * room. */
static void plan_kept(const rb_stage_model *m, const rb_segment *s, rb_plan *p, rb_segment_kept *k) {
    int64_t n = m->opt.B * m->opt.T;
    for (int64_t i = 0; i <= s->layers; i++) k->dx[i] = rb_plan2(p, n, m->model.d);
    for (int64_t i = 0; i < s->layers; i++)
        rb_block_plan_kept(&s->block[i].dims, n, m->shared_acts, true, p, &k->block[i]);
    if (!s->last) m->kind->plan_kept(&s->enc, n, p, &k->enc);
    if (!s->first) m->kind->plan_kept(&s->dec, n, p, &k->dec);
    if (rb_has_aux(m, s)) rb_aux_plan_kept(&s->aux, n, p, &k->aux);
}

/* One gradient of the stream and one block's buffers, for all blocks, segments and slots. */
static void plan_shared_kept(rb_stage_model *m, rb_plan *p) {
    int64_t n = m->opt.B * m->opt.T;
    rb_block_dims dims = rb_model_block_dims(&m->model);
    m->scratch.dx = rb_plan2(p, n, m->model.d);
    rb_block_plan_kept(&dims, n, false, false, p, &m->scratch.kept);
    bool enc = false, dec = false;
    if (rb_has_aux(m, &m->segment[0])) rb_aux_plan_kept(&m->segment[0].aux, n, p, &m->scratch.aux_kept);
    for (int i = 0; i < m->opt.segments; i++) {
        rb_segment *s = &m->segment[i];
        if (!s->last && !enc) m->kind->plan_kept(&s->enc, n, p, &m->scratch.enc), enc = true;
        if (!s->first && !dec) m->kind->plan_kept(&s->dec, n, p, &m->scratch.dec), dec = true;
    }
}

static void share_kept(const rb_stage_model *m, const rb_segment *s, rb_segment_kept *k) {
    for (int64_t i = 0; i <= s->layers; i++) k->dx[i] = m->scratch.dx;
    for (int64_t i = 0; i < s->layers; i++) k->block[i] = m->scratch.kept;
    k->enc = m->scratch.enc;
    k->dec = m->scratch.dec;
    k->aux = m->scratch.aux_kept;
}

static void plan_slot(const rb_stage_model *m, const rb_segment *s, rb_plan *p, rb_slot *slot) {
    int64_t n = m->opt.B * m->opt.T;
    if (!m->shared_acts) plan_acts(m, s, p, &slot->acts);
    if (m->opt.training && m->opt.split_backward) plan_kept(m, s, p, &slot->kept);
    if (m->opt.training && !m->opt.split_backward) share_kept(m, s, &slot->kept);
    rb_head head = sizes_of_head(m);
    if (s->last) rb_head_plan_saved(&head, n, m->opt.training, p, &slot->head);
    for (int i = 0; i < m->parts.count; i++) {
        bool keep = m->model.recompute || (i == 0 && m->kind->keeps_latents);
        if (!s->last) slot->out[i] = rb_plan2(p, n, m->parts.width[i]);
        if (s->first || !m->opt.training) continue;
        slot->din[i] = rb_plan2(p, n, m->parts.width[i]);
        if (keep) slot->in[i] = rb_plan2(p, n, m->parts.width[i]);
    }
}

/* Activations all segments and slots share: planned from one place, as large as the largest. */
static void plan_shared_acts(rb_stage_model *m, rb_plan *p) {
    size_t from = p->used, most = from;
    for (int i = 0; i < m->opt.segments; i++) {
        p->used = from;
        for (int k = 0; k < m->segment[i].slots; k++) {
            p->used = from;
            plan_acts(m, &m->segment[i], p, &m->segment[i].slot[k].acts);
        }
        if (p->used > most) most = p->used;
    }
    p->used = most;
}

static void plan_rope(const rb_stage_model *m, int64_t head, rb_plan *p, rb_rope_table *t) {
    int64_t positions = m->model.context > m->opt.T ? m->model.context : m->opt.T;
    t->cos = rb_plan2(p, positions, head / 2);
    t->sin = rb_plan2(p, positions, head / 2);
}

static void plan_scratch(rb_stage_model *m, rb_plan *p) {
    int64_t n = m->opt.B * m->opt.T, constrain = rb_constrain_scratch(m);
    rb_block_dims dims = rb_model_block_dims(&m->model);
    rb_segment *first = &m->segment[0], *last = &m->segment[m->opt.segments - 1];
    rb_block_plan_scratch(&dims, n, p, &m->scratch.block);
    if (constrain) m->scratch.constrain = rb_plan1(p, constrain);
    if (m->model.segments > 1)
        m->kind->plan_scratch(first->last ? &first->dec : &first->enc, n, p, &m->scratch.end);
    if (!last->first && rb_has_start(m))
        rb_tokens_plan_scratch(&last->tokens, n, m->opt.training, p, &m->scratch.tokens);
    rb_head head = sizes_of_head(m);
    if (last->last) rb_head_plan_scratch(&head, n, m->opt.training, p, &m->scratch.head);
    if (rb_has_aux(m, first)) rb_aux_plan_scratch(&first->aux, n, p, &m->scratch.aux);
    if (m->opt.training && !m->opt.split_backward) plan_shared_kept(m, p);
}

static void plan_buffers(rb_stage_model *m, rb_plan *p) {
    plan_rope(m, rb_model_block_dims(&m->model).head, p, &m->rope);
    if (m->boundary.tokens == RB_TOKENS_TRUNK && m->model.segments > 1)
        plan_rope(m, m->boundary.trunk_width / m->boundary.trunk_heads, p, &m->trunk_rope);
    plan_scratch(m, p);
    if (m->shared_acts) plan_shared_acts(m, p);
    for (int i = 0; i < m->opt.segments; i++)
        for (int k = 0; k < m->segment[i].slots; k++) plan_slot(m, &m->segment[i], p, &m->segment[i].slot[k]);
}

/* --- open and close ----------------------------------------------------------------------------------------
 */

int rb_hosted_at(const rb_stage_options *o, int i) {
    return o->hosted ? o->hosted[i] : o->first_segment + i;
}

static int slots_at(const rb_stage_options *o, int i) {
    return o->slots_of ? o->slots_of[i] : o->slots;
}

static resbm_status check_list(const rb_stage_options *o, rb_err *err) {
    for (int i = 0; i < o->segments; i++) {
        int before = i ? rb_hosted_at(o, i - 1) : -1, now = rb_hosted_at(o, i);
        if (now <= before || now >= o->model->segments)
            return rb_fail(err, RESBM_E_ARG, "stage with segment %d after %d: they must ascend, of %lld", now,
                           before, (long long)o->model->segments);
        if (slots_at(o, i) < 1 || slots_at(o, i) > 1 << 16)
            return rb_fail(err, RESBM_E_ARG, "stage with %d microbatches of segment %d at once",
                           slots_at(o, i), now);
    }
    return RESBM_OK;
}

static resbm_status check_options(const rb_stage_options *o, rb_err *err) {
    const rb_model_config *m = o->model;
    if (o->segments < 1 || o->first_segment < 0 || o->first_segment > m->segments - o->segments)
        return rb_fail(err, RESBM_E_ARG, "stage with segments %d..%d: the model has %lld", o->first_segment,
                       o->first_segment + o->segments - 1, (long long)m->segments);
    if (o->T < 1 || o->T > m->context || o->B < 1 || o->B > 1 << 24)
        return rb_fail(err, RESBM_E_ARG,
                       "stage with microbatches of %lld sequences of %lld tokens (model.context %lld)",
                       (long long)o->B, (long long)o->T, (long long)m->context);
    return check_list(o, err);
}

static void *host_array(size_t count, size_t size, resbm_status *st) {
    void *p = calloc(count ? count : 1, size);
    if (!p) *st = RESBM_E_MEMORY;
    return p;
}

/* Host side of one slot: arrays of views. */
static void open_slot(const rb_stage_model *m, const rb_segment *s, rb_slot *slot, resbm_status *st) {
    size_t L = (size_t)s->layers;
    slot->acts.x = host_array(L + 1, sizeof(rb_view), st);
    slot->acts.block = host_array(L, sizeof(rb_block_saved), st);
    if (!m->opt.training) return;
    slot->kept.dx = host_array(L + 1, sizeof(rb_view), st);
    slot->kept.block = host_array(L, sizeof(rb_block_kept), st);
}

static void open_segment(rb_stage_model *m, const rb_stage_options *o, int i, resbm_status *st) {
    rb_segment *s = &m->segment[i];
    s->index = rb_hosted_at(o, i);
    m->local[s->index] = i;
    s->first = s->index == 0;
    s->last = s->index == m->model.segments - 1;
    s->first_layer = rb_first_layer(&m->model, s->index);
    s->layers = rb_segment_blocks(&m->model, s->index);
    s->block = host_array((size_t)s->layers, sizeof *s->block, st);
    s->slots = slots_at(o, i);
    s->slot = host_array((size_t)s->slots, sizeof *s->slot, st);
    for (int k = 0; s->slot && k < s->slots; k++) open_slot(m, s, &s->slot[k], st);
}

static void find_rows(const rb_stage_model *m, rb_segment *s) {
    s->rows = 0;
    for (int i = 0; i < m->table.count; i++) {
        if (m->table.rows[i].segment != s->index) continue;
        if (!s->rows) s->first_row = i;
        s->rows = i + 1 - s->first_row;
    }
}

/* Everything on the host; device memory comes after. */
static resbm_status open_host(rb_stage_model *m, const rb_stage_options *o, rb_err *err) {
    resbm_status st = RESBM_OK;
    size_t rows = (size_t)o->table->count;
    rb_boundary_dims dims = rb_model_boundary_dims(&m->model);
    m->kind = rb_boundary_find(m->boundary.kind);
    if (!m->kind) return rb_fail(err, RESBM_E_ARG, "boundary.kind \"%s\" does not exist", m->boundary.kind);
    if (m->model.segments > 1) m->kind->parts(&m->boundary, &dims, &m->parts);
    m->shared_acts = m->model.recompute || !o->training;
    m->live_segment = m->live_slot = -1;
    m->table.rows = host_array(rows, sizeof *m->table.rows, &st);
    m->weight = host_array(rows, sizeof *m->weight, &st);
    m->updated = host_array(rows, sizeof *m->updated, &st);
    m->own = host_array(rows, sizeof *m->own, &st);
    m->half = host_array(rows, sizeof *m->half, &st);
    if (o->training) m->grad = host_array(rows, sizeof *m->grad, &st);
    m->segment = host_array((size_t)o->segments, sizeof *m->segment, &st);
    m->local = host_array((size_t)m->model.segments, sizeof *m->local, &st);
    for (int64_t i = 0; m->local && i < m->model.segments; i++) m->local[i] = -1;
    for (int i = 0; st == RESBM_OK && i < o->segments; i++) open_segment(m, o, i, &st);
    if (st != RESBM_OK) return rb_fail(err, st, "stage of %d segments: out of memory", o->segments);
    memcpy(m->table.rows, o->table->rows, rows * sizeof *m->table.rows);
    m->table.count = o->table->count;
    for (int i = 0; i < o->segments; i++) find_rows(m, &m->segment[i]);
    return RESBM_OK;
}

static resbm_status open_device(rb_stage_model *m, rb_err *err) {
    rb_dtype acts = m->opt.half_activations ? RB_BF16 : RB_F32;
    rb_plan p = {.acts = acts};
    RB_TRY(alloc_tensors(m, false, m->weight, &m->weights, &m->weight_bytes, err));
    memcpy(m->own, m->weight, (size_t)m->table.count * sizeof *m->own);
    RB_TRY(rb_stage_open_copies(m, err));
    if (m->grad && m->opt.spill) RB_TRY(rb_stage_open_pager(m, err));
    if (m->grad) RB_TRY(alloc_tensors(m, true, m->grad, &m->grads, &m->grad_bytes, err));
    for (int i = 0; i < m->opt.segments; i++) RB_TRY(rb_bind_segment(m, &m->segment[i], err));
    plan_buffers(m, &p);
    m->buffer_bytes = p.used;
    RB_TRY(take_memory(m, p.used, "the activations", smaller_batch, &m->buffers, err));
    p = (rb_plan){.base = m->buffers, .acts = acts};
    plan_buffers(m, &p);
    return RESBM_OK;
}

static resbm_status fill(rb_stage_model *m, rb_err *err) {
    rb_queue *q;
    RB_TRY(rb_queue_open(m->dev, &q, err));
    resbm_status st = rb_rope_fill(q, &m->rope, m->model.rope_theta, &m->model.rope, err);
    if (st == RESBM_OK && m->trunk_rope.cos.data)
        st = rb_rope_fill(q, &m->trunk_rope, m->model.rope_theta, NULL, err);
    if (st == RESBM_OK && !m->opt.bare) st = rb_stage_init_weights(m, q, err);
    if (st == RESBM_OK && !m->opt.bare) st = rb_constrain_begin(m, q, err);
    if (st == RESBM_OK && !m->opt.bare) st = rb_stage_weights_changed(m, q, err);
    if (st == RESBM_OK && m->grad && !m->opt.bare) st = rb_stage_zero_grads(m, q, err);
    if (st == RESBM_OK) st = rb_queue_sync(q, err);
    rb_queue_close(q);
    return st;
}

resbm_status rb_stage_model_open(rb_device *dev, const rb_stage_options *opt, rb_stage_model **out,
                                 rb_err *err) {
    resbm_status st;
    *out = NULL;
    RB_TRY(check_options(opt, err));
    rb_stage_model *m = calloc(1, sizeof *m);
    if (!m) return rb_fail(err, RESBM_E_MEMORY, "stage: out of memory");
    m->dev = dev;
    m->opt = *opt;
    m->model = *opt->model;
    m->boundary = *opt->boundary;
    m->opt.model = &m->model;
    m->opt.boundary = &m->boundary;
    RB_TRY_GOTO(st, open_host(m, opt, err), fail);
    m->opt.table = &m->table;
    m->opt.hosted = m->opt.slots_of = NULL;
    RB_TRY_GOTO(st, open_device(m, err), fail);
    m->opt.masters_away = NULL;
    RB_TRY_GOTO(st, fill(m, err), fail);
    *out = m;
    return RESBM_OK;
fail:
    rb_stage_model_close(m);
    return st;
}

static void close_segment(rb_segment *s) {
    for (int k = 0; s->slot && k < s->slots; k++) {
        free(s->slot[k].acts.x);
        free(s->slot[k].acts.block);
        free(s->slot[k].kept.dx);
        free(s->slot[k].kept.block);
    }
    free(s->slot);
    free(s->block);
}

void rb_stage_model_close(rb_stage_model *m) {
    if (!m) return;
    rb_stage_close_versions(m);
    for (int i = 0; m->segment && i < m->opt.segments; i++) close_segment(&m->segment[i]);
    if (m->buffers) rb_free(m->dev, m->buffers);
    if (m->grads) rb_free(m->dev, m->grads);
    if (m->weights) rb_free(m->dev, m->weights);
    if (m->halves) rb_free(m->dev, m->halves);
    rb_pager_close(m->pager);
    free(m->segment);
    free(m->local);
    free(m->weight);
    free(m->updated);
    free(m->own);
    free(m->half);
    free(m->grad);
    rb_tensor_table_free(&m->table);
    free(m);
}

/* --- access ------------------------------------------------------------------------------------------------
 */

rb_stage_memory rb_stage_model_memory(const rb_stage_model *m) {
    return (rb_stage_memory){m->weight_bytes, m->grad_bytes, m->pager ? rb_pager_window_bytes(m->pager) : 0,
                             m->buffer_bytes};
}

size_t rb_stage_model_bytes(const rb_stage_model *m) {
    rb_stage_memory b = rb_stage_model_memory(m);
    return b.weights + b.gradients + b.windows + b.activations;
}

static rb_view row_of(const rb_stage_model *m, const rb_view *views, int row) {
    return views && row >= 0 && row < m->table.count ? views[row] : rb_none();
}

rb_view rb_stage_weight(const rb_stage_model *m, int row) {
    return row_of(m, m->own, row);
}
rb_view rb_stage_half(const rb_stage_model *m, int row) {
    return row_of(m, m->half, row);
}
rb_view rb_stage_grad(const rb_stage_model *m, int row) {
    return row_of(m, m->grad, row);
}

resbm_status rb_stage_zero_grads(rb_stage_model *m, rb_queue *q, rb_err *err) {
    if (!m->grad) return rb_fail(err, RESBM_E_STATE, "gradients of a stage that was opened without training");
    if (m->pager) rb_pager_zero(m->pager, 0, m->table.count);
    return rb_fill(q, rb_view1(m->grads, RB_F32, (int64_t)(m->grad_bytes / 4)), 0, err);
}

bool rb_has_tokens(const rb_stage_model *m) {
    return m->model.segments > 1 && m->boundary.tokens != RB_TOKENS_NONE;
}

bool rb_has_start(const rb_stage_model *m) {
    return m->model.segments > 1 && rb_tokens_start(&m->boundary);
}

bool rb_has_aux(const rb_stage_model *m, const rb_segment *s) {
    return m->opt.training && !s->last && m->boundary.aux != RB_AUX_NONE;
}

resbm_status rb_find_segment(const rb_stage_model *m, int segment, rb_segment **out, rb_err *err) {
    int i = segment >= 0 && segment < m->model.segments ? m->local[segment] : -1;
    if (i < 0)
        return rb_fail(err, RESBM_E_ARG, "segment %d is not on this stage, which has %d of %lld, %d to %d",
                       segment, m->opt.segments, (long long)m->model.segments, m->segment[0].index,
                       m->segment[m->opt.segments - 1].index);
    *out = &m->segment[i];
    return RESBM_OK;
}
