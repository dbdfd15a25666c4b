/* Forward and backward of one microbatch through one segment. */
#include "model/stage.h"
#include "nn/linear.h"

rb_boundary_end rb_end_of(const rb_boundary_end *e, rb_queue *q, const rb_end_buffers *saved,
                          const rb_end_buffers *kept, const rb_end_buffers *scratch) {
    rb_boundary_end r = *e;
    r.q = q;
    r.saved = *saved;
    if (kept) r.kept = *kept;
    r.scratch = *scratch;
    return r;
}

resbm_status rb_segment_enter(const rb_stage_model *m, const rb_segment *s, const rb_run_ctx *run, rb_view x,
                              const rb_view *parts, rb_view tokens, const rb_segment_acts *acts,
                              const rb_stage_scratch *tmp, const rb_block_cache *cache, bool begun,
                              rb_err *err) {
    if (s->first) return rb_embed_forward(run->q, x, s->embed, tokens, err);
    bool add = rb_has_start(m);
    rb_boundary_end dec = rb_end_of(&s->dec, run->q, &acts->dec, NULL, &tmp->end);
    if (add && !begun)
        RB_TRY(rb_tokens_forward(&s->tokens, run, x, tokens, &acts->tokens, &tmp->tokens, cache, err));
    return m->kind->decode_forward(&dec, x, add, parts, err);
}

/* Everything up to the last block's output, in slot->acts. begun: x[0] holds what the token path gives. */
static resbm_status forward_blocks(rb_stage_model *m, const rb_segment *s, const rb_run_ctx *run,
                                   rb_slot *slot, bool begun, rb_err *err) {
    rb_segment_acts *a = &slot->acts;
    RB_TRY(rb_segment_enter(m, s, run, a->x[0], slot->parts, slot->tokens, a, &m->scratch, NULL, begun, err));
    for (int64_t i = 0; i < s->layers; i++)
        RB_TRY(rb_block_forward(&s->block[i], run, a->x[i + 1], a->x[i], &a->block[i], &m->scratch.block,
                                NULL, err));
    return RESBM_OK;
}

static resbm_status encode(rb_stage_model *m, const rb_segment *s, rb_queue *q, rb_slot *slot, rb_err *err) {
    rb_boundary_end enc = rb_end_of(&s->enc, q, &slot->acts.enc, NULL, &m->scratch.end);
    return m->kind->encode_forward(&enc, slot->acts.x[s->layers], slot->out, err);
}

/* --- what the caller hands in and gets back
 * ------------------------------------------------------------------ */

static resbm_status wrong_view(const rb_segment *s, const char *what, rb_view v, int64_t n, int64_t width,
                               rb_err *err) {
    return rb_fail(err, RESBM_E_ARG, "segment %d: %s has %lld elements of type %d, not %lld rows of %lld",
                   s->index, what, (long long)rb_count(v), (int)v.dtype, (long long)n, (long long)width);
}

/* io's (B,T,width) as (n,width). */
static resbm_status take_parts(const rb_stage_model *m, const rb_segment *s, const rb_segment_io *io,
                               rb_view *out, rb_err *err) {
    int64_t n = m->opt.B * m->opt.T;
    for (int i = 0; i < m->parts.count; i++) {
        rb_view v = io->in[i];
        if (!v.data || v.dtype != RB_F32 || rb_count(v) != n * m->parts.width[i])
            return wrong_view(s, i ? "identity part" : "part 0", v, n, m->parts.width[i], err);
        out[i] = rb_as2(v, n, m->parts.width[i]);
    }
    return RESBM_OK;
}

static void give_parts(const rb_stage_model *m, const rb_view *from, rb_segment_io *io) {
    for (int i = 0; i < m->parts.count; i++)
        io->out[i] = rb_view3(from[i].data, RB_F32, m->opt.B, m->opt.T, m->parts.width[i]);
}

static resbm_status take_ids(const rb_stage_model *m, const rb_segment *s, const char *what, rb_view v,
                             rb_view *out, rb_err *err) {
    int64_t n = m->opt.B * m->opt.T;
    if (!v.data || v.dtype != RB_I32 || rb_count(v) != n) return wrong_view(s, what, v, n, 1, err);
    *out = rb_as1(v);
    return RESBM_OK;
}

static resbm_status take_inputs(rb_stage_model *m, const rb_segment *s, rb_queue *q, rb_slot *slot,
                                const rb_segment_io *io, rb_err *err) {
    if (s->first || rb_has_tokens(m)) RB_TRY(take_ids(m, s, "tokens", io->tokens, &slot->tokens, err));
    if (s->last || rb_has_aux(m, s)) RB_TRY(take_ids(m, s, "targets", io->targets, &slot->targets, err));
    if (s->first) return RESBM_OK;
    RB_TRY(take_parts(m, s, io, slot->parts, err));
    for (int i = 0; i < m->parts.count; i++)
        if (slot->in[i].data) {
            RB_TRY(rb_copy(q, slot->in[i], slot->parts[i], err));
            slot->parts[i] = slot->in[i];
        }
    return RESBM_OK;
}

static resbm_status find_slot(rb_stage_model *m, int segment, int slot, rb_segment **s, rb_slot **out,
                              rb_err *err) {
    RB_TRY(rb_find_segment(m, segment, s, err));
    if (slot < 0 || slot >= (*s)->slots)
        return rb_fail(err, RESBM_E_ARG, "segment %d: slot %d of %d", segment, slot, (*s)->slots);
    *out = &(*s)->slot[slot];
    return RESBM_OK;
}

static void now_live(rb_stage_model *m, const rb_segment *s, int slot) {
    m->live_segment = s->index;
    m->live_slot = slot;
}

/* --- forward
 * ------------------------------------------------------------------------------------------------- */

resbm_status rb_segment_forward(rb_stage_model *m, rb_queue *q, int segment, int slot_index,
                                rb_segment_io *io, rb_err *err) {
    rb_segment *s = NULL;
    rb_slot *slot = NULL;
    rb_run_ctx run = {q, m->opt.B, m->opt.T, 0};
    RB_TRY(find_slot(m, segment, slot_index, &s, &slot, err));
    if (s->last && io->grad_scale != 0 && !m->opt.training)
        return rb_fail(err, RESBM_E_STATE, "segment %d: grad_scale %g on a stage opened without training",
                       segment, (double)io->grad_scale);
    bool begun = slot->state == RB_SLOT_TRUNK && m->live_segment == s->index && m->live_slot == slot_index;
    slot->state = RB_SLOT_EMPTY;
    RB_TRY(take_inputs(m, s, q, slot, io, err));
    now_live(m, s, slot_index);
    RB_TRY(forward_blocks(m, s, &run, slot, begun, err));
    if (s->last) {
        RB_TRY(rb_head_forward(&s->head, q, slot->acts.x[s->layers], slot->targets, io->grad_scale,
                               &slot->head, &m->scratch.head, err));
        io->loss = slot->head.loss;
    } else {
        RB_TRY(encode(m, s, q, slot, err));
        give_parts(m, slot->out, io);
    }
    if (m->opt.training) slot->state = RB_SLOT_FORWARD;
    return RESBM_OK;
}

/* --- backward
 * ------------------------------------------------------------------------------------------------ */

static resbm_status need_state(const rb_stage_model *m, const rb_segment *s, const rb_slot *slot,
                               rb_slot_state want, rb_err *err) {
    static const char *const names[] = {"nothing", "a trunk's forward pass", "a forward pass",
                                        "an input half", "a backward pass without its trunk's"};
    if (slot->state == want && m->opt.training) return RESBM_OK;
    return rb_fail(err, RESBM_E_STATE, "segment %d: slot %d holds %s where its backward needs %s%s", s->index,
                   (int)(slot - s->slot), names[slot->state], names[want],
                   m->opt.training ? "" : " (the stage was opened without training)");
}

/* With recomputation: the forward pass once more unless its activations are still there. A backward pass that
 * works in place leaves its slot empty, so what it spoilt is never taken for alive. */
static resbm_status revive(rb_stage_model *m, const rb_segment *s, const rb_run_ctx *run, rb_slot *slot,
                           rb_err *err) {
    int index = (int)(slot - s->slot);
    if (!m->shared_acts || (m->live_segment == s->index && m->live_slot == index)) return RESBM_OK;
    now_live(m, s, index);
    RB_TRY(forward_blocks(m, s, run, slot, false, err));
    return s->last ? RESBM_OK : encode(m, s, run->q, slot, err);
}

static rb_block_kept kept_of(const rb_slot *slot, int64_t i) {
    rb_block_kept k = slot->kept.block[i];
    if (!k.dgu.data) k.dgu = slot->acts.block[i].gu;
    return k;
}

static rb_aux_in aux_input(const rb_stage_model *m, const rb_segment *s, const rb_slot *slot) {
    bool latent = m->boundary.aux == RB_AUX_LATENT;
    return (rb_aux_in){latent ? slot->latents : slot->acts.x[s->layers], slot->tokens, slot->targets};
}

/* dparts[0] = a copy of itself with the gradient of the auxiliary loss. */
static resbm_status aux_on_latents(rb_stage_model *m, const rb_segment *s, rb_queue *q, rb_slot *slot,
                                   const rb_segment_io *io, rb_view *dparts, rb_err *err) {
    int64_t n = m->opt.B * m->opt.T, k = m->parts.width[0];
    if (io->aux_scale != 0) {
        if (!io->latents.data || io->latents.dtype != RB_F32 || rb_count(io->latents) != n * k)
            return wrong_view(s, "latents", io->latents, n, k, err);
        slot->latents = rb_as2(io->latents, n, k);
        RB_TRY(rb_copy(q, m->scratch.aux.dz, dparts[0], err));
        dparts[0] = m->scratch.aux.dz;
    }
    rb_aux_in in = aux_input(m, s, slot);
    return rb_aux_backward_input(&s->aux, q, dparts[0], &in, io->aux_scale, &slot->kept.aux, &m->scratch.aux,
                                 err);
}

/* dx[L] from what is behind the segment. */
static resbm_status exit_input(rb_stage_model *m, const rb_segment *s, rb_queue *q, rb_slot *slot,
                               rb_segment_io *io, rb_err *err) {
    rb_view x = slot->acts.x[s->layers], dx = slot->kept.dx[s->layers], dparts[RB_MAX_WIRE_PARTS];
    if (s->last) return rb_head_backward_input(&s->head, q, dx, 0, x, &slot->head, err);
    rb_boundary_end enc = rb_end_of(&s->enc, q, &slot->acts.enc, &slot->kept.enc, &m->scratch.end);
    RB_TRY(take_parts(m, s, io, dparts, err));
    io->aux_loss = io->aux_scale != 0 && rb_has_aux(m, s) ? slot->kept.aux.head.loss : rb_none();
    if (m->boundary.aux == RB_AUX_LATENT) RB_TRY(aux_on_latents(m, s, q, slot, io, dparts, err));
    RB_TRY(m->kind->encode_backward_input(&enc, dx, dparts, x, err));
    if (m->boundary.aux != RB_AUX_STREAM) return RESBM_OK;
    rb_aux_in in = aux_input(m, s, slot);
    return rb_aux_backward_input(&s->aux, q, dx, &in, io->aux_scale, &slot->kept.aux, &m->scratch.aux, err);
}

static resbm_status exit_weight(rb_stage_model *m, const rb_segment *s, rb_queue *q, rb_slot *slot,
                                rb_err *err) {
    rb_view x = slot->acts.x[s->layers];
    if (s->last)
        return rb_head_backward_weight(&s->head, q, x, slot->targets, &slot->head, &m->scratch.head, err);
    rb_boundary_end enc = rb_end_of(&s->enc, q, &slot->acts.enc, &slot->kept.enc, &m->scratch.end);
    RB_TRY(m->kind->encode_backward_weight(&enc, x, err));
    if (!rb_has_aux(m, s)) return RESBM_OK;
    rb_aux_in in = aux_input(m, s, slot);
    return rb_aux_backward_weight(&s->aux, q, &in, &slot->kept.aux, &m->scratch.aux, err);
}

/* Gradient of what came in, from dx[0]. */
static resbm_status enter_input(rb_stage_model *m, const rb_segment *s, rb_queue *q, rb_slot *slot,
                                rb_segment_io *io, rb_err *err) {
    if (s->first) return RESBM_OK;
    rb_boundary_end dec = rb_end_of(&s->dec, q, &slot->acts.dec, &slot->kept.dec, &m->scratch.end);
    dec.row = io->row;
    RB_TRY(m->kind->decode_backward_input(&dec, slot->din, slot->kept.dx[0], err));
    give_parts(m, slot->din, io);
    return RESBM_OK;
}

static resbm_status add_to_embedding(rb_stage_model *m, const rb_segment *s, rb_queue *q, rb_view dx,
                                     rb_view tokens, rb_err *err) {
    const rb_lender *lender = m->pager ? &m->lender : NULL;
    rb_view table = s->dembed;
    RB_TRY(rb_lend_borrow(lender, q, 0, &table, err));
    RB_TRY(rb_embed_backward(q, table, dx, tokens, err));
    return rb_lend_give(lender, q, 0, s->dembed, true, err);
}

static resbm_status trunk_weight(rb_stage_model *m, const rb_segment *s, const rb_run_ctx *run, rb_slot *slot,
                                 rb_err *err) {
    return rb_tokens_backward(&s->tokens, run, slot->kept.dx[0], slot->tokens, &slot->acts.tokens,
                              &m->scratch.tokens, err);
}

static resbm_status enter_weight(rb_stage_model *m, const rb_segment *s, const rb_run_ctx *run, rb_slot *slot,
                                 bool trunk, rb_err *err) {
    rb_view dx = slot->kept.dx[0];
    if (s->first) return add_to_embedding(m, s, run->q, dx, slot->tokens, err);
    rb_boundary_end dec = rb_end_of(&s->dec, run->q, &slot->acts.dec, &slot->kept.dec, &m->scratch.end);
    RB_TRY(m->kind->decode_backward_weight(&dec, dx, slot->parts, err));
    return trunk && rb_has_start(m) ? trunk_weight(m, s, run, slot, err) : RESBM_OK;
}

static resbm_status need_split(const rb_stage_model *m, const rb_segment *s, rb_err *err) {
    if (m->opt.split_backward) return RESBM_OK;
    return rb_fail(err, RESBM_E_STATE,
                   "segment %d: one half of a backward pass, but the stage was opened without "
                   "split_backward",
                   s->index);
}

resbm_status rb_segment_backward_input(rb_stage_model *m, rb_queue *q, int segment, int slot_index,
                                       rb_segment_io *io, rb_err *err) {
    rb_segment *s = NULL;
    rb_slot *slot = NULL;
    rb_run_ctx run = {q, m->opt.B, m->opt.T, 0};
    RB_TRY(find_slot(m, segment, slot_index, &s, &slot, err));
    RB_TRY(need_split(m, s, err));
    RB_TRY(need_state(m, s, slot, RB_SLOT_FORWARD, err));
    RB_TRY(revive(m, s, &run, slot, err));
    RB_TRY(exit_input(m, s, q, slot, io, err));
    for (int64_t i = s->layers - 1; i >= 0; i--) {
        rb_block_kept kept = kept_of(slot, i);
        RB_TRY(rb_block_backward_input(&s->block[i], &run, slot->kept.dx[i], slot->kept.dx[i + 1],
                                       slot->acts.x[i], &slot->acts.block[i], &kept, &m->scratch.block, err));
    }
    RB_TRY(enter_input(m, s, q, slot, io, err));
    slot->state = RB_SLOT_INPUT;
    return RESBM_OK;
}

void rb_stage_tell_final(rb_stage_model *m, rb_grads_final tell, void *ctx) {
    m->final = tell;
    m->final_ctx = ctx;
}

static resbm_status block_is_done(const rb_stage_model *m, const rb_block *b, rb_err *err) {
    return m->final ? m->final(m->final_ctx, b->row, rb_block_tensors(&b->dims), err) : RESBM_OK;
}

static resbm_status weight_half(rb_stage_model *m, rb_queue *q, int segment, int slot_index, bool trunk,
                                rb_err *err) {
    rb_segment *s = NULL;
    rb_slot *slot = NULL;
    rb_run_ctx run = {q, m->opt.B, m->opt.T, 0};
    RB_TRY(find_slot(m, segment, slot_index, &s, &slot, err));
    RB_TRY(need_split(m, s, err));
    RB_TRY(need_state(m, s, slot, RB_SLOT_INPUT, err));
    RB_TRY(revive(m, s, &run, slot, err));
    RB_TRY(exit_weight(m, s, q, slot, err));
    for (int64_t i = s->layers - 1; i >= 0; i--) {
        rb_block_kept kept = kept_of(slot, i);
        RB_TRY(rb_block_backward_weight(&s->block[i], &run, slot->kept.dx[i + 1], slot->acts.x[i],
                                        &slot->acts.block[i], &kept, &m->scratch.block, err));
        RB_TRY(block_is_done(m, &s->block[i], err));
    }
    RB_TRY(enter_weight(m, s, &run, slot, trunk, err));
    slot->state = trunk ? RB_SLOT_EMPTY : RB_SLOT_BEHIND;
    return RESBM_OK;
}

resbm_status rb_segment_backward_weight(rb_stage_model *m, rb_queue *q, int segment, int slot_index,
                                        rb_err *err) {
    return weight_half(m, q, segment, slot_index, true, err);
}

/* The gradient of the stream changes in place, block by block. */
static resbm_status backward_fused(rb_stage_model *m, const rb_segment *s, const rb_run_ctx *run,
                                   rb_slot *slot, rb_segment_io *io, rb_err *err) {
    RB_TRY(revive(m, s, run, slot, err));
    RB_TRY(exit_input(m, s, run->q, slot, io, err));
    RB_TRY(exit_weight(m, s, run->q, slot, err));
    for (int64_t i = s->layers - 1; i >= 0; i--) {
        rb_block_kept kept = kept_of(slot, i);
        RB_TRY(rb_block_backward(&s->block[i], run, slot->kept.dx[0], slot->acts.x[i], &slot->acts.block[i],
                                 &kept, &m->scratch.block, err));
        RB_TRY(block_is_done(m, &s->block[i], err));
    }
    RB_TRY(enter_input(m, s, run->q, slot, io, err));
    RB_TRY(enter_weight(m, s, run, slot, !io->trunk_apart, err));
    slot->state = io->trunk_apart ? RB_SLOT_BEHIND : RB_SLOT_EMPTY;
    return RESBM_OK;
}

resbm_status rb_segment_backward(rb_stage_model *m, rb_queue *q, int segment, int slot_index,
                                 rb_segment_io *io, rb_err *err) {
    rb_segment *s = NULL;
    rb_slot *slot = NULL;
    rb_run_ctx run = {q, m->opt.B, m->opt.T, 0};
    RB_TRY(find_slot(m, segment, slot_index, &s, &slot, err));
    RB_TRY(need_state(m, s, slot, RB_SLOT_FORWARD, err));
    if (!m->opt.split_backward) return backward_fused(m, s, &run, slot, io, err);
    RB_TRY(rb_segment_backward_input(m, q, segment, slot_index, io, err));
    return weight_half(m, q, segment, slot_index, !io->trunk_apart, err);
}

/* --- the token path apart --- */

resbm_status rb_segment_trunk_forward(rb_stage_model *m, rb_queue *q, int segment, int slot_index,
                                      rb_segment_io *io, rb_err *err) {
    rb_segment *s = NULL;
    rb_slot *slot = NULL;
    rb_run_ctx run = {q, m->opt.B, m->opt.T, 0};
    RB_TRY(find_slot(m, segment, slot_index, &s, &slot, err));
    if (s->first || !rb_has_start(m))
        return rb_fail(err, RESBM_E_STATE, "segment %d has no trunk before it", segment);
    slot->state = RB_SLOT_EMPTY;
    if (rb_has_tokens(m)) RB_TRY(take_ids(m, s, "tokens", io->tokens, &slot->tokens, err));
    now_live(m, s, slot_index);
    RB_TRY(rb_tokens_forward(&s->tokens, &run, slot->acts.x[0], slot->tokens, &slot->acts.tokens,
                             &m->scratch.tokens, NULL, err));
    slot->state = RB_SLOT_TRUNK;
    return RESBM_OK;
}

resbm_status rb_segment_trunk_backward(rb_stage_model *m, rb_queue *q, int segment, int slot_index,
                                       rb_err *err) {
    rb_segment *s = NULL;
    rb_slot *slot = NULL;
    rb_run_ctx run = {q, m->opt.B, m->opt.T, 0};
    RB_TRY(find_slot(m, segment, slot_index, &s, &slot, err));
    RB_TRY(need_state(m, s, slot, RB_SLOT_BEHIND, err));
    RB_TRY(trunk_weight(m, s, &run, slot, err));
    slot->state = RB_SLOT_EMPTY;
    return RESBM_OK;
}
