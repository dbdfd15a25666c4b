/* What each action of a schedule does on this stage. */
#include <stdio.h>
#include <string.h>
#include "core/clock.h"
#include "run/stage.h"

static rb_port_key key_of(const rb_stage *s, int microbatch) {
    return (rb_port_key){s->cfg.train.seed, s->base_step + (uint64_t)(microbatch / s->M),
                         s->base_sequence + (uint64_t)(microbatch * s->B)};
}

/* The worker that has a segment's work on a microbatch. */
static int host_of(const rb_stage *s, int segment, int microbatch) {
    return s->list->dealt ? rb_schedule_host(s->list, segment, microbatch)
                          : rb_stage_lead(s, rb_stage_of(&s->cfg, segment));
}

static rb_view row_of(rb_view v, int64_t i, int64_t B, int64_t T) {
    return rb_view2((char *)v.data + i * v.stride[0] * (int64_t)rb_dtype_size(v.dtype), v.dtype, B, T);
}

/* Weights that the host updates are on their way up when a step begins. */
static resbm_status await_weights(rb_stage *s, int segment, rb_err *err) {
    return s->optim ? rb_optim_await(s->optim, segment, err) : RESBM_OK;
}

/* Before a forward: the weights it is to see. Where lists update, older ones are there while the newest are on their way. */
static resbm_status see_weights(rb_stage *s, int i, rb_berth *b, rb_action a, rb_err *err) {
    if (s->updates && !s->evaluating) return rb_stage_see_newest(s, i, b, a.behind, err);
    return await_weights(s, a.segment, err);
}

static resbm_status block_is_final(void *ctx, int row, int count, rb_err *err) {
    rb_stage *s = ctx;
    int i = 0;
    while (i < s->row_count && s->rows[i] != row) i++;
    return rb_optim_take_some(s->optim, s->q, i, count, err);
}

/* Before that action: in the last one, whoever updates elsewhere takes the gradients block by block. */
static void listen_for_final(rb_stage *s, int i) {
    bool last = s->grads_left && s->grads_left[i] == 1;
    rb_stage_tell_final(s->model, last ? block_is_final : NULL, s);
}

/* Behind an action that added to the gradients of segment host[i]: the last one lets them go to where they are updated, while
 * the segments before still compute. */
static resbm_status gradient_added(rb_stage *s, int i, rb_err *err) {
    rb_stage_tell_final(s->model, NULL, NULL);
    if (!s->grads_left || !s->grads_left[i] || --s->grads_left[i]) return RESBM_OK;
    return rb_optim_take(s->optim, s->q, s->host[i], err);
}

/* What a microbatch may begin with in its segment, so that it takes a free slot: a message, the trunk, the forward. */
static bool begins(rb_action_kind k) {
    return k == RB_ACT_RECV_FORWARD || k == RB_ACT_TRUNK_FORWARD || k == RB_ACT_FORWARD;
}

static resbm_status take(rb_stage *s, rb_action a, int *i, rb_berth **berth, int *slot, rb_err *err) {
    *i = rb_stage_local(s, a.segment);
    if (*i < 0)
        return rb_fail(err, RESBM_E_INTERNAL, "segment %d is not hosted by stage %d", a.segment, s->self);
    if (begins(a.kind))
        RB_TRY(rb_seat_take(&s->seat[*i], a.microbatch, slot, err));
    else
        RB_TRY(rb_seat_find(&s->seat[*i], a.microbatch, slot, err));
    *berth = &s->seat[*i].berth[*slot];
    return RESBM_OK;
}

/* Lists may send a gradient behind what else the backward pass does (W, TB) or before it. */
static void leave_if_done(rb_seat *seat, const rb_berth *b) {
    if (b->added && b->given) rb_seat_leave(seat, b->microbatch);
}

/* Before a message is packed or unpacked. Where steps flow into one another, its step is not the stage's: both ends of a
 * boundary update the learned steps, and narrow what crosses, by the messages they see. */
static resbm_status advance(rb_stage *s, rb_port *p, int microbatch, rb_err *err) {
    uint64_t step = s->base_step + (uint64_t)(microbatch / s->M);
    if (!s->flows || s->evaluating) return RESBM_OK;
    if (p->direction == 0) RB_TRY(rb_port_advance(p, s->q, step, err));
    return s->cfg.boundary.anneal_from ? rb_port_narrow(p, rb_live_width(&s->cfg, (int64_t)step), err)
                                       : RESBM_OK;
}

/* Packs what segment first+i gives, and keeps the latents as the receiver will see them where the backward pass asks
 * for them. */
static resbm_status pack_forward(rb_stage *s, int i, int microbatch, const rb_berth *b, rb_err *err) {
    rb_port *p = &s->out_port[i];
    RB_TRY(advance(s, p, microbatch, err));
    RB_TRY(rb_port_pack(p, s->q, b->out, key_of(s, microbatch), err));
    if (s->evaluating || !b->sent.data) return RESBM_OK;
    return rb_port_unpack_latents(p, s->q, b->sent, key_of(s, microbatch), err);
}

/* The hand-over inside a stage: the bytes that would cross are made and read back. */
static resbm_status hand_over_forward(rb_stage *s, int i, int microbatch, const rb_berth *b, rb_err *err) {
    int slot;
    RB_TRY(pack_forward(s, i, microbatch, b, err));
    RB_TRY(rb_seat_take(&s->seat[i + 1], microbatch, &slot, err));
    RB_TRY(advance(s, &s->in_port[i + 1], microbatch, err));
    RB_TRY(
        rb_port_unpack(&s->in_port[i + 1], s->q, s->seat[i + 1].berth[slot].in, key_of(s, microbatch), err));
    if (s->evaluating || s->recounts) return RESBM_OK;
    RB_TRY(rb_port_count(&s->out_port[i], s->q, err));
    return rb_port_count(&s->in_port[i + 1], s->q, err);
}

static resbm_status hand_over_backward(rb_stage *s, int i, int microbatch, const rb_view *parts,
                                       rb_err *err) {
    int slot;
    RB_TRY(advance(s, &s->grad_out_port[i], microbatch, err));
    RB_TRY(advance(s, &s->grad_in_port[i - 1], microbatch, err));
    RB_TRY(rb_port_pack(&s->grad_out_port[i], s->q, parts, key_of(s, microbatch), err));
    RB_TRY(rb_seat_find(&s->seat[i - 1], microbatch, &slot, err));
    return rb_port_unpack(&s->grad_in_port[i - 1], s->q, s->seat[i - 1].berth[slot].grad_in,
                          key_of(s, microbatch), err);
}

/* The trunk of the boundary before the segment, by the version of the weights that the forward behind it sees. */
static resbm_status trunk_forward(void *ctx, rb_action a, rb_err *err) {
    rb_stage *s = ctx;
    rb_berth *b = NULL;
    int i, slot;
    RB_TRY(take(s, a, &i, &b, &slot, err));
    rb_segment_io io = {.tokens = row_of(s->tokens, rb_stage_place(s, a.microbatch), s->B, s->T)};
    RB_TRY(see_weights(s, i, b, a, err));
    s->half_forward = true;
    RB_TRY(rb_segment_trunk_forward(s->model, s->q, a.segment, slot, &io, err));
    if (s->updates) RB_TRY(rb_stage_unsee(s, i, err));
    return rb_stage_computed(s, err);
}

static resbm_status trunk_backward(void *ctx, rb_action a, rb_err *err) {
    rb_stage *s = ctx;
    rb_berth *b = NULL;
    int i, slot;
    RB_TRY(take(s, a, &i, &b, &slot, err));
    if (s->updates) RB_TRY(rb_stage_see_version(s, i, b, err));
    RB_TRY(rb_segment_trunk_backward(s->model, s->q, a.segment, slot, err));
    if (s->updates) RB_TRY(rb_stage_unsee(s, i, err));
    RB_TRY(gradient_added(s, i, err));
    b->added = true;
    leave_if_done(&s->seat[i], b);
    return rb_stage_computed(s, err);
}

static resbm_status forward(void *ctx, rb_action a, rb_err *err) {
    rb_stage *s = ctx;
    rb_berth *b = NULL;
    int i, slot;
    RB_TRY(take(s, a, &i, &b, &slot, err));
    int place = rb_stage_place(s, a.microbatch);
    rb_segment_io io = {.tokens = row_of(s->tokens, place, s->B, s->T),
                        .targets = row_of(s->targets, place, s->B, s->T),
                        .grad_scale = s->evaluating ? 0 : s->grad_scale};
    memcpy(io.in, b->in, sizeof io.in);
    RB_TRY(see_weights(s, i, b, a, err));
    s->half_forward = false;
    RB_TRY(rb_segment_forward(s->model, s->q, a.segment, slot, &io, err));
    if (s->updates && !s->evaluating) RB_TRY(rb_stage_unsee(s, i, err));
    memcpy(b->out, io.out, sizeof b->out);
    if (a.segment == s->segments - 1)
        RB_TRY(rb_download(s->q, &s->host_losses[place], io.loss.data, sizeof(double), err));
    if (rb_stage_hands_on(s, i)) RB_TRY(hand_over_forward(s, i, a.microbatch, b, err));
    if (s->evaluating && (rb_stage_hands_on(s, i) || a.segment == s->segments - 1))
        rb_seat_leave(&s->seat[i], a.microbatch);
    return rb_stage_computed(s, err);
}

typedef resbm_status (*backward_fn)(rb_stage_model *m, rb_queue *q, int segment, int slot, rb_segment_io *io,
                                    rb_err *err);

/* A whole backward, or its input half: afterwards the gradient of the segment's input is there to be handed over. */
static resbm_status go_back(rb_stage *s, rb_action a, backward_fn run, bool whole, rb_err *err) {
    rb_berth *b = NULL;
    int i, slot;
    RB_TRY(take(s, a, &i, &b, &slot, err));
    rb_segment_io io = {.grad_scale = s->grad_scale,
                        .aux_scale = s->aux_scale,
                        .latents = b->sent,
                        .row = (a.microbatch % s->M) * s->B * s->T,
                        .trunk_apart = whole && s->trunk_apart && s->trunk_apart[i]};
    memcpy(io.in, b->grad_in, sizeof io.in);
    if (s->updates) RB_TRY(rb_stage_see_again(s, i, b, err));
    if (whole) listen_for_final(s, i);
    RB_TRY(run(s->model, s->q, a.segment, slot, &io, err));
    if (s->updates) RB_TRY(rb_stage_unsee(s, i, err));
    if (io.aux_loss.data)
        RB_TRY(rb_download(s->q, &s->host_aux[i * s->ring + rb_stage_place(s, a.microbatch)],
                           io.aux_loss.data, sizeof(double), err));
    memcpy(b->grad_out, io.out, sizeof b->grad_out);
    bool inside = i > 0 && rb_stage_hands_on(s, i - 1);
    if (inside) RB_TRY(hand_over_backward(s, i, a.microbatch, b->grad_out, err));
    if (whole) RB_TRY(gradient_added(s, i, err));
    b->added = whole && !io.trunk_apart;
    b->given = inside || a.segment == 0;
    leave_if_done(&s->seat[i], b);
    return rb_stage_computed(s, err);
}

static resbm_status backward(void *ctx, rb_action a, rb_err *err) {
    return go_back(ctx, a, rb_segment_backward, true, err);
}

static resbm_status backward_input(void *ctx, rb_action a, rb_err *err) {
    return go_back(ctx, a, rb_segment_backward_input, false, err);
}

static resbm_status backward_weight(void *ctx, rb_action a, rb_err *err) {
    rb_stage *s = ctx;
    rb_berth *b = NULL;
    int i, slot;
    RB_TRY(take(s, a, &i, &b, &slot, err));
    if (s->updates) RB_TRY(rb_stage_see_again(s, i, b, err));
    listen_for_final(s, i);
    RB_TRY(rb_segment_backward_weight(s->model, s->q, a.segment, slot, err));
    if (s->updates) RB_TRY(rb_stage_unsee(s, i, err));
    RB_TRY(gradient_added(s, i, err));
    b->added = true;
    leave_if_done(&s->seat[i], b);
    return rb_stage_computed(s, err);
}

/* Header of the message of boundary `boundary`. Evaluations have step numbers of their own. */
static rb_frame_header address(const rb_stage *s, const rb_port *p, int microbatch, size_t payload) {
    return (rb_frame_header){.kind = p->direction ? RB_FRAME_BACKWARD : RB_FRAME_FORWARD,
                             .epoch = s->epoch,
                             .direction = (uint8_t)p->direction,
                             .boundary = (uint16_t)p->boundary,
                             .step = (s->base_step + (uint64_t)(microbatch / s->M)) | (uint64_t)s->evaluating
                                                                                          << 63,
                             .microbatch = (uint32_t)(microbatch % s->M),
                             .attempt = s->attempt,
                             .code = (uint8_t)p->wire.part[0].pack.code,
                             .scale = (uint8_t)p->wire.part[0].pack.scale,
                             .B = (uint32_t)s->B,
                             .T = (uint32_t)s->T,
                             .k = (uint32_t)p->wire.part[0].width,
                             .payload_bytes = payload};
}

static size_t id_payload(const rb_stage *s, const rb_port *p) {
    return s->wire_tokens && p->direction == 0 ? (size_t)(s->B * (s->T + 1)) * (size_t)s->id_bytes : 0;
}

/* Sends what p has packed. */
static resbm_status send_packed(rb_stage *s, rb_port *p, int to, int microbatch, rb_err *err) {
    size_t ids = id_payload(s, p), payload = p->packed_bytes + ids;
    rb_message *m = rb_message_new(payload);
    if (!m) return rb_fail(err, RESBM_E_MEMORY, "no memory for a message of %zu bytes", payload);
    m->head = address(s, p, microbatch, payload);
    m->traffic = p->direction ? RB_TRAFFIC_GRADIENT : RB_TRAFFIC_ACTIVATION;
    m->token_bytes = (uint32_t)ids;
    if (ids)
        rb_ids_put(m->payload + p->packed_bytes, s->ids + rb_stage_place(s, microbatch) * s->B * (s->T + 1),
                   s->B * (s->T + 1), s->id_bytes);
    resbm_status st = rb_stage_let_go(s, err); /* messages keep their order */
    if (!st) st = rb_download(s->q, m->payload, p->bytes, p->packed_bytes, err);
    if (!st && p->direction == 0 && !s->evaluating && !s->recounts) st = rb_port_count(p, s->q, err);
    if (st) {
        rb_message_free(m);
        return st;
    }
    s->handed[m->traffic] += RB_FRAME_HEADER_BYTES + p->packed_bytes;
    s->handed[RB_TRAFFIC_TOKENS] += ids;
    return rb_stage_send(s, m, to, err);
}

/* A message's bytes into p's, its ids to their place. */
static resbm_status put_in(rb_stage *s, rb_port *p, int microbatch, const rb_message *m, rb_err *err) {
    RB_TRY(rb_stage_guard_in(s, p, m, err));
    RB_TRY(rb_upload(s->q, p->bytes, m->payload, p->packed_bytes, err));
    if (p->direction == 0 && !s->evaluating && !s->recounts) RB_TRY(rb_port_count(p, s->q, err));
    if (!id_payload(s, p)) return RESBM_OK;
    int place = rb_stage_place(s, microbatch);
    RB_TRY(rb_ids_get(s->ids + place * s->B * (s->T + 1), m->payload + p->packed_bytes, s->B * (s->T + 1),
                      s->id_bytes, s->cfg.model.vocab, err));
    return rb_stage_upload_ids(s, place, err);
}

/* Takes a message in. */
static resbm_status take_in(rb_stage *s, rb_port *p, int from, int microbatch, rb_err *err) {
    RB_TRY(rb_stage_let_go(s, err)); /* who waits must not keep others waiting */
    RB_TRY(advance(s, p, microbatch, err));
    size_t ids = id_payload(s, p);
    rb_frame_header want = address(s, p, microbatch, p->packed_bytes + ids);
    rb_message *m;
    int64_t begin = rb_now_ns();
    int sender = p->direction ? p->boundary + 1 : p->boundary;
    resbm_status came = !s->cover       ? rb_stage_recv(s, from, &want, &m, err)
                        : s->evaluating ? rb_cover_recv_from(s, from, &want, &m, err)
                                        : rb_cover_recv(s, sender, microbatch, &want, &m, err);
    if (came == RESBM_E_TIMEOUT && err) {
        size_t n = strlen(err->text);
        snprintf(err->text + n, sizeof err->text - n,
                 "; where links or stages are that slow, raise pipeline.deadline");
    }
    RB_TRY(came);
    s->wait_ns += rb_now_ns() - begin;
    char who[RB_WHO_TEXT];
    rb_link_who(s->link, m->from, who);
    int giver = m->from;
    resbm_status st = rb_frame_expect(&m->head, &want, err);
    if (!st) st = put_in(s, p, microbatch, m, err);
    if (st)
        rb_message_free(m);
    else
        st = rb_stage_took(s, m, err);
    if (st == RESBM_E_FORMAT || st == RESBM_E_CORRUPT || st == RESBM_E_NUMERIC) s->accused = giver + 1;
    if (!st || !err || !strncmp(err->text, who, strlen(who))) return st;
    bool broken = st == RESBM_E_CORRUPT || st == RESBM_E_FORMAT;
    return rb_err_context(err, st, broken ? "%s sent what cannot be used: " : "from %s: ", who);
}

static resbm_status recv_parts(rb_stage *s, rb_port *p, int from, int microbatch, const rb_view *parts,
                               rb_err *err) {
    RB_TRY(take_in(s, p, from, microbatch, err));
    RB_TRY(rb_port_unpack(p, s->q, parts, key_of(s, microbatch), err));
    return s->ahead ? RESBM_OK : rb_queue_sync(s->q, err);
}

resbm_status rb_stage_discard(rb_stage *s, rb_action a, rb_err *err) {
    int i = rb_stage_local(s, a.segment);
    if (a.kind == RB_ACT_RECV_FORWARD)
        return take_in(s, &s->in_port[i], host_of(s, a.segment - 1, a.microbatch), a.microbatch, err);
    return take_in(s, &s->grad_in_port[i], host_of(s, a.segment + 1, a.microbatch), a.microbatch, err);
}

static resbm_status send_forward(void *ctx, rb_action a, rb_err *err) {
    rb_stage *s = ctx;
    rb_berth *b = NULL;
    int i, slot;
    RB_TRY(take(s, a, &i, &b, &slot, err));
    RB_TRY(pack_forward(s, i, a.microbatch, b, err));
    RB_TRY(send_packed(s, &s->out_port[i], host_of(s, a.segment + 1, a.microbatch), a.microbatch, err));
    if (s->evaluating) rb_seat_leave(&s->seat[i], a.microbatch);
    return RESBM_OK;
}

static resbm_status recv_forward(void *ctx, rb_action a, rb_err *err) {
    rb_stage *s = ctx;
    rb_berth *b = NULL;
    int i, slot;
    RB_TRY(take(s, a, &i, &b, &slot, err));
    return recv_parts(s, &s->in_port[i], host_of(s, a.segment - 1, a.microbatch), a.microbatch, b->in, err);
}

static resbm_status send_backward(void *ctx, rb_action a, rb_err *err) {
    rb_stage *s = ctx;
    rb_berth *b = NULL;
    int i, slot;
    RB_TRY(take(s, a, &i, &b, &slot, err));
    RB_TRY(advance(s, &s->grad_out_port[i], a.microbatch, err));
    RB_TRY(rb_port_pack(&s->grad_out_port[i], s->q, b->grad_out, key_of(s, a.microbatch), err));
    RB_TRY(send_packed(s, &s->grad_out_port[i], host_of(s, a.segment - 1, a.microbatch), a.microbatch, err));
    b->given = true;
    leave_if_done(&s->seat[i], b);
    return RESBM_OK;
}

static resbm_status recv_backward(void *ctx, rb_action a, rb_err *err) {
    rb_stage *s = ctx;
    rb_berth *b = NULL;
    int i, slot;
    RB_TRY(take(s, a, &i, &b, &slot, err));
    return recv_parts(s, &s->grad_in_port[i], host_of(s, a.segment + 1, a.microbatch), a.microbatch,
                      b->grad_in, err);
}

/* --- what a lost replica had to do (stage_cover.c) --- */

rb_frame_header rb_stage_address(const rb_stage *s, const rb_port *p, int microbatch) {
    return address(s, p, microbatch, p->packed_bytes + id_payload(s, p));
}

/* A message that is kept goes to the segment's seat. */
static resbm_status put_to(rb_stage *s, rb_port *p, int i, int microbatch, const rb_message *m, rb_err *err) {
    rb_berth *b = NULL;
    int slot;
    RB_TRY(take(s, rb_action_of(RB_ACT_FORWARD, s->host[i], microbatch), &i, &b, &slot, err));
    RB_TRY(put_in(s, p, microbatch, m, err));
    return rb_port_unpack(p, s->q, p->direction ? b->grad_in : b->in, key_of(s, microbatch), err);
}

resbm_status rb_stage_redo_forward(rb_stage *s, int first, int last, int microbatch, const rb_message *in,
                                   bool again, rb_err *err) {
    resbm_status st = rb_stage_settle(s, err);
    s->recounts = again;
    if (!st && in) st = put_to(s, &s->in_port[first], first, microbatch, in, err);
    for (int i = first; i <= last && !st; i++)
        st = forward(s, rb_action_of(RB_ACT_FORWARD, s->host[i], microbatch), err);
    if (!st && !again && s->host[last] < s->segments - 1)
        st = send_forward(s, rb_action_of(RB_ACT_SEND_FORWARD, s->host[last], microbatch), err);
    if (!st) st = rb_stage_settle(s, err);
    s->recounts = false;
    return st;
}

void rb_stage_redo_leave(rb_stage *s, int first, int last, int microbatch) {
    for (int i = first; i <= last; i++) rb_seat_leave(&s->seat[i], microbatch);
}

resbm_status rb_stage_redo_backward(rb_stage *s, int first, int last, int microbatch, const rb_message *grad,
                                    rb_err *err) {
    if (grad) RB_TRY(put_to(s, &s->grad_in_port[last], last, microbatch, grad, err));
    for (int i = last; i >= first; i--) {
        int g = s->host[i];
        RB_TRY(backward(s, rb_action_of(RB_ACT_BACKWARD, g, microbatch), err));
        if (i == first && g > 0)
            RB_TRY(send_backward(s, rb_action_of(RB_ACT_SEND_BACKWARD, g, microbatch), err));
        if (s->trunk_apart[i])
            RB_TRY(trunk_backward(s, rb_action_of(RB_ACT_TRUNK_BACKWARD, g, microbatch), err));
    }
    return rb_stage_settle(s, err);
}

rb_executor_hooks rb_stage_hooks(rb_stage *s) {
    return (rb_executor_hooks){.ctx = s,
                               .forward = forward,
                               .backward = backward,
                               .backward_input = backward_input,
                               .backward_weight = backward_weight,
                               .update = rb_stage_update,
                               .trunk_forward = trunk_forward,
                               .trunk_backward = trunk_backward,
                               .send_forward = send_forward,
                               .recv_forward = recv_forward,
                               .send_backward = send_backward,
                               .recv_backward = recv_backward};
}
