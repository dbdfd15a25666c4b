/* A replica that is lost in the middle of a step: its microbatches are dealt again to the replicas of its stage that are left,
 * and nobody else computes anything again.
 *
 * Who sends a message keeps a copy until the step is committed. When the coordinator tells that a replica is gone and who
 * has its microbatches now ("redeal"), each of its neighbours sends those it had sent to the lost one to the new one.
 * There they are tasks beside the own list: forward as soon as the input has come, backward as soon as the gradient has,
 * while the list waits for a message, or when it is done. Between its forward and its backward a task keeps no slot:
 * where the gradient was not there yet, the forward is computed once more, so that one slot is enough for any number of
 * tasks, and no order of theirs can block the list. What the lost one had sent in full before is taken as it is; what comes
 * twice is dropped at the next step's start.
 *
 * With local steps a replica is a pipeline with weights of its own: with one process all of it is lost, and nobody takes over
 * its microbatches. The others hear of it so that they leave it out where they meet (stage_outer.c).
 *
 * The sum of the replicas' gradients may have begun, or even have ended here: they are kept as they were before it, and it
 * is made once more, with another number in its messages' addresses. */
#include <stdlib.h>
#include <string.h>
#include "core/clock.h"
#include "run/control.h"
#include "run/stage.h"

#define SLICE    (20 * RB_MS)  /* of a wait, between two looks at the coordinator's messages */
#define BUSY     (RB_MS)       /* while there are tasks */
#define PATIENCE (15 * RB_SEC) /* from a neighbour's end until the coordinator tells what becomes of it */

/* One microbatch through the segments first .. last of this stage, which hand over inside it. */
typedef struct task {
    int first, last; /* places among the hosted ones */
    int microbatch;
    rb_message *in, *grad; /* what came; NULL: nothing yet, or nothing is to come */
    bool went, done;       /* the forward was computed, and what it gives was sent; all was */
} task;

typedef struct rb_cover {
    bool lost[RB_MAX_STAGES];
    bool any;
    rb_message **kept; /* (keeping) sent in this step */
    int keeping, room;
    task *tasks;
    int task_count;
    bool working; /* on a task: its waits and sends run no others */
    int attempt;  /* of this step's sum */
    bool in_vain; /* the evaluation under way lacks who was lost, and is asked for anew */
    bool saved;   /* own, counts and unsent hold what was before the sum */
    float *own, *unsent;
    int64_t *counts;
} rb_cover;

resbm_status rb_cover_open(rb_stage *s, rb_err *err) {
    bool reached = s->measuring || (s->way && !s->way->mpi);
    if (!rb_covers(&s->cfg) || !s->training || !reached) return RESBM_OK;
    s->cover = calloc(1, sizeof *s->cover);
    return s->cover ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory to stand in for replicas");
}

static void forget_tasks(rb_cover *c) {
    for (int i = 0; i < c->task_count; i++) {
        rb_message_free(c->tasks[i].in);
        rb_message_free(c->tasks[i].grad);
    }
    c->task_count = 0;
}

static void forget_step(rb_cover *c) {
    for (int i = 0; i < c->keeping; i++) rb_message_free(c->kept[i]);
    c->keeping = 0;
    forget_tasks(c);
    c->attempt = 0;
    c->saved = false;
}

void rb_cover_close(rb_stage *s) {
    rb_cover *c = s->cover;
    if (!c) return;
    forget_step(c);
    free(c->kept);
    free(c->tasks);
    free(c->own);
    free(c->unsent);
    free(c->counts);
    free(c);
    s->cover = NULL;
}

void rb_cover_begin_step(rb_stage *s) {
    if (!s->cover) return;
    forget_step(s->cover);
    if (s->cover->any) rb_link_drop_before(s->link, s->step);
}

bool rb_cover_is_lost(const rb_stage *s, int worker) {
    return s->cover && s->cover->lost[worker];
}

bool rb_cover_lost_any(const rb_stage *s) {
    return s->cover && s->cover->any;
}

int rb_cover_attempt(const rb_stage *s) {
    return s->cover ? s->cover->attempt : 0;
}

int rb_stage_replicas_left(const rb_stage *s) {
    int n = 0;
    for (int r = 0; r < rb_replicas(&s->cfg, s->stage); r++)
        n += !rb_cover_is_lost(s, rb_worker_of(&s->cfg, s->stage, r));
    return n;
}

int rb_stage_lead(const rb_stage *s, int stage) {
    for (int r = 0; r < rb_replicas(&s->cfg, stage); r++) {
        int w = rb_worker_of(&s->cfg, stage, r);
        if (!rb_cover_is_lost(s, w)) return w;
    }
    return stage;
}

/* --- messages that were sent --- */

static int target_segment(const rb_frame_header *h) {
    return h->direction ? h->boundary : h->boundary + 1;
}

static rb_message *copy_of(const rb_message *m) {
    rb_message *c = rb_message_new(m->head.payload_bytes);
    if (!c) return NULL;
    c->head = m->head;
    c->traffic = m->traffic;
    c->token_bytes = m->token_bytes;
    memcpy(c->payload, m->payload, m->head.payload_bytes);
    return c;
}

static resbm_status keep(rb_cover *c, const rb_message *m, rb_err *err) {
    if (c->keeping == c->room) {
        int room = c->room ? 2 * c->room : 64;
        rb_message **more = realloc(c->kept, (size_t)room * sizeof *more);
        if (!more) return rb_fail(err, RESBM_E_MEMORY, "no memory to keep %d messages", room);
        c->kept = more;
        c->room = room;
    }
    c->kept[c->keeping] = copy_of(m);
    if (!c->kept[c->keeping]) return rb_fail(err, RESBM_E_MEMORY, "no memory to keep a message");
    c->keeping++;
    return RESBM_OK;
}

/* Whether it arrives is not this stage's affair: if the peer is gone, the message is kept, and the coordinator tells who wants
 * it now. */
static resbm_status deliver(rb_stage *s, int to, rb_message *m, rb_err *err) {
    resbm_status st = rb_link_send(s->link, to, m, rb_now_ns() + s->cfg.pipeline.deadline_ns, err);
    return st == RESBM_E_PEER ? RESBM_OK : st;
}

resbm_status rb_cover_send(rb_stage *s, int to, rb_message *m, rb_err *err) {
    rb_cover *c = s->cover;
    if (!c || (m->head.kind != RB_FRAME_FORWARD && m->head.kind != RB_FRAME_BACKWARD))
        return rb_link_send(s->link, to, m, rb_now_ns() + s->cfg.pipeline.deadline_ns, err);
    if (s->evaluating) return deliver(s, to, m, err);
    resbm_status st = s->cfg.optim.local_steps ? RESBM_OK : keep(c, m, err);
    if (st) {
        rb_message_free(m);
        return st;
    }
    return deliver(s, rb_schedule_host(s->list, target_segment(&m->head), (int)m->head.microbatch), m, err);
}

static resbm_status send_again(rb_stage *s, int stage, const int *to, rb_err *err) {
    rb_cover *c = s->cover;
    for (int i = 0; i < c->keeping; i++) {
        const rb_message *m = c->kept[i];
        int worker = to[m->head.microbatch];
        if (worker < 0 || rb_stage_of(&s->cfg, target_segment(&m->head)) != stage) continue;
        rb_message *again = copy_of(m);
        if (!again) return rb_fail(err, RESBM_E_MEMORY, "no memory to send a message again");
        s->handed[m->traffic] += RB_FRAME_HEADER_BYTES + m->head.payload_bytes - m->token_bytes;
        s->handed[RB_TRAFFIC_TOKENS] += m->token_bytes;
        RB_TRY(deliver(s, worker, again, err));
    }
    return RESBM_OK;
}

/* --- the coordinator's word --- */

static resbm_status add_tasks(rb_stage *s, int microbatch, rb_err *err) {
    rb_cover *c = s->cover;
    task *more = realloc(c->tasks, (size_t)(c->task_count + s->hosted) * sizeof *more);
    if (!more) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d tasks", c->task_count + s->hosted);
    c->tasks = more;
    for (int i = 0; i < s->hosted; i++) {
        int last = i;
        while (rb_stage_hands_on(s, last)) last++;
        more[c->task_count++] = (task){.first = i, .last = last, .microbatch = microbatch};
        i = last;
    }
    return RESBM_OK;
}

static resbm_status read_deal(const rb_stage *s, const json_t *in, int *lost, int *to, rb_err *err) {
    const json_t *list = json_object_get(in, "to");
    *lost = (int)json_integer_value(json_object_get(in, "lost"));
    bool good = *lost >= 0 && *lost < s->workers && *lost != s->self && json_array_size(list) == (size_t)s->M;
    for (int m = 0; m < s->M && good; m++) {
        to[m] = (int)json_integer_value(json_array_get(list, (size_t)m));
        good = to[m] == -1 || (to[m] >= 0 && to[m] < s->workers && to[m] != *lost &&
                               s->places[to[m]].stage == s->places[*lost].stage);
    }
    return good ? RESBM_OK
                : rb_fail(err, RESBM_E_FORMAT, "the coordinator's word of a lost replica is not well-formed");
}

static resbm_status deal_again(rb_stage *s, int stage, const int *to, rb_err *err) {
    for (int m = 0; m < s->M; m++) {
        if (to[m] < 0) continue;
        for (int g = 0; g < s->segments; g++)
            if (rb_stage_of(&s->cfg, g) == stage) s->train.dealt[(int64_t)g * s->M + m] = to[m];
        if (to[m] == s->self) RB_TRY(add_tasks(s, m, err));
    }
    s->share[0] = -1; /* the next step's deal is another in any case */
    return send_again(s, stage, to, err);
}

static resbm_status lose(rb_stage *s, const json_t *in, rb_err *err) {
    rb_cover *c = s->cover;
    int lost = -1, *to = calloc((size_t)s->M, sizeof *to);
    if (!to) return rb_fail(err, RESBM_E_MEMORY, "no memory for a deal");
    resbm_status st = c ? read_deal(s, in, &lost, to, err)
                        : rb_fail(err, RESBM_E_FORMAT, "a lost replica, in a run that has none to lose");
    if (!st) {
        int stage = s->places[lost].stage;
        bool local = s->cfg.optim.local_steps > 0;
        c->any = true;
        c->in_vain |= s->evaluating && rb_stage_lead(s, stage) == lost;
        for (int w = 0; w < s->workers; w++)
            if (w == lost || (local && s->places[w].replica == s->places[lost].replica)) c->lost[w] = true;
        if (local || stage == s->stage) c->attempt++;
        if (json_is_true(json_object_get(in, "within"))) st = deal_again(s, stage, to, err);
    }
    free(to);
    return st;
}

/* While a list runs, the coordinator has nothing else to say; behind the word that an evaluation is in vain comes the next one. */
static resbm_status hear(rb_stage *s, rb_err *err) {
    for (;;) {
        int from;
        json_t *in;
        resbm_status st = rb_control_recv(s->control, RB_PEER_COORDINATOR, rb_now_ns(), &from, &in, err);
        if (st == RESBM_E_TIMEOUT) return RESBM_OK;
        RB_TRY(st);
        const char *type = json_string_value(json_object_get(in, "t"));
        st = strcmp(type, "redeal")
                 ? rb_fail(err, RESBM_E_FORMAT, "the coordinator sent \"%s\" in the middle of a step", type)
                 : lose(s, in, err);
        json_decref(in);
        RB_TRY(st);
        if (s->evaluating && s->cover->in_vain) return RESBM_OK;
    }
}

/* --- waiting --- */

static bool pending(const rb_cover *c) {
    for (int i = 0; i < c->task_count; i++)
        if (!c->tasks[i].done) return true;
    return false;
}

/* From the one who has the segment's work on the microbatch now, or had it, as far as it has come already. */
static resbm_status look(rb_stage *s, int segment, int microbatch, const rb_frame_header *want,
                         int64_t deadline_ns, rb_message **out, rb_err *err) {
    rb_err ignored;
    int stage = rb_stage_of(&s->cfg, segment);
    for (int r = 0; s->cover->any && r < rb_replicas(&s->cfg, stage); r++) {
        int w = rb_worker_of(&s->cfg, stage, r);
        if (s->cover->lost[w] && !rb_link_recv(s->link, w, want, rb_now_ns(), out, &ignored)) return RESBM_OK;
    }
    return rb_link_recv(s->link, rb_schedule_host(s->list, segment, microbatch), want, deadline_ns, out, err);
}

typedef struct patience {
    int64_t since_ns, deadline_ns, gone_ns; /* gone: since when the one waited for is, 0: it is there */
    int64_t tell_ns;                        /* when the coordinator is to hear of it; */
    bool told;                              /* it has */
} patience;

/* After a look in vain: hears what the coordinator has to say, does tasks. RESBM_OK: look again. */
static resbm_status in_vain(rb_stage *s, resbm_status st, patience *p, rb_err *err) {
    rb_err why = err ? *err : (rb_err){0};
    int64_t now = rb_now_ns();
    bool moved = false;
    if (st != RESBM_E_TIMEOUT && st != RESBM_E_PEER) return st;
    RB_TRY(hear(s, err));
    if (!s->cover->working && !s->half_forward) RB_TRY(rb_cover_do_tasks(s, &moved, err));
    if (moved) return RESBM_OK;
    if (st == RESBM_E_PEER && !p->gone_ns) p->gone_ns = now;
    if (st == RESBM_E_TIMEOUT) p->gone_ns = 0;
    if (now > p->deadline_ns || (p->gone_ns && now - p->gone_ns > PATIENCE)) {
        if (err) *err = why;
        return st == RESBM_E_TIMEOUT ? rb_err_context(err, st, "after %.3g s of looking, the last time: ",
                                                      (double)(now - p->since_ns) * 1e-9)
                                     : st;
    }
    if (st == RESBM_E_PEER) rb_sleep_ns(5 * RB_MS);
    return RESBM_OK;
}

static int64_t slice(const rb_stage *s, const patience *p) {
    int64_t until = rb_now_ns() + (pending(s->cover) ? BUSY : SLICE);
    return until < p->deadline_ns ? until : p->deadline_ns;
}

/* The coordinator, which finds out who is lost, has the first deadline. */
static patience twice(const rb_stage *s) {
    int64_t now = rb_now_ns();
    return (patience){.since_ns = now,
                      .deadline_ns = now + 2 * s->cfg.pipeline.deadline_ns + RB_SEC,
                      .tell_ns = rb_stage_tell_ns(s, now)};
}

static void tell(rb_stage *s, patience *p, int on, const rb_frame_header *want) {
    if (p->told || rb_now_ns() < p->tell_ns) return;
    p->told = true;
    rb_stage_tell_waits(s, on, want);
}

static resbm_status came(rb_stage *s, const patience *p) {
    if (p->told) rb_stage_tell_goes_on(s);
    return RESBM_OK;
}

resbm_status rb_cover_recv(rb_stage *s, int segment, int microbatch, const rb_frame_header *want,
                           rb_message **out, rb_err *err) {
    patience p = twice(s);
    for (;;) {
        resbm_status st = look(s, segment, microbatch, want, slice(s, &p), out, err);
        if (!st) return came(s, &p);
        RB_TRY(in_vain(s, st, &p, err));
        tell(s, &p, rb_schedule_host(s->list, segment, microbatch), want);
    }
}

void rb_cover_begin_eval(rb_stage *s) {
    if (s->cover) s->cover->in_vain = false;
}

bool rb_cover_in_vain(const rb_stage *s) {
    return s->cover && s->cover->in_vain;
}

/* Why nobody waits for this message any more; NULL: it is still wanted. */
static const char *called_off(const rb_stage *s, const rb_frame_header *want) {
    if (s->evaluating) return s->cover->in_vain ? "a replica was lost in the middle of an evaluation" : NULL;
    return s->cover->attempt != want->attempt ? "a replica was lost while its stage added up" : NULL;
}

resbm_status rb_cover_recv_from(rb_stage *s, int worker, const rb_frame_header *want, rb_message **out,
                                rb_err *err) {
    patience p = twice(s);
    for (;;) {
        resbm_status st = rb_link_recv(s->link, worker, want, slice(s, &p), out, err);
        if (!st) return came(s, &p);
        RB_TRY(in_vain(s, st, &p, err));
        tell(s, &p, worker, want);
        const char *why = called_off(s, want);
        if (why) return rb_fail(err, RESBM_E_CANCELLED, "%s", why);
    }
}

/* --- tasks --- */

static resbm_status arrive(rb_stage *s, const rb_port *port, int segment, int microbatch, rb_message **out,
                           rb_err *err) {
    rb_frame_header want = rb_stage_address(s, port, microbatch);
    resbm_status st = look(s, segment, microbatch, &want, rb_now_ns(), out, err);
    if (!st) return rb_frame_expect(&(*out)->head, &want, err);
    *out = NULL;
    return st == RESBM_E_TIMEOUT || st == RESBM_E_PEER ? RESBM_OK : st;
}

static bool has_room(const rb_stage *s, const task *t) {
    for (int i = t->first; i <= t->last; i++) {
        bool free_one = false;
        for (int k = 0; k < s->seat[i].slots; k++) free_one |= s->seat[i].berth[k].microbatch < 0;
        if (!free_one) return false;
    }
    return true;
}

static resbm_status do_task(rb_stage *s, task *t, bool *moved, rb_err *err) {
    bool begins = s->host[t->first] == 0, ends = s->host[t->last] == s->segments - 1;
    if (!begins && !t->in)
        RB_TRY(arrive(s, &s->in_port[t->first], s->host[t->first] - 1, t->microbatch, &t->in, err));
    if (!ends && !t->grad)
        RB_TRY(arrive(s, &s->grad_in_port[t->last], s->host[t->last] + 1, t->microbatch, &t->grad, err));
    bool back = ends || t->grad;
    if ((!begins && !t->in) || (!back && t->went) || !has_room(s, t)) return RESBM_OK;
    *moved = true;
    RB_TRY(rb_stage_redo_forward(s, t->first, t->last, t->microbatch, t->in, t->went, err));
    t->went = true;
    if (!back) rb_stage_redo_leave(s, t->first, t->last, t->microbatch);
    if (back) RB_TRY(rb_stage_redo_backward(s, t->first, t->last, t->microbatch, t->grad, err));
    t->done = back;
    return RESBM_OK;
}

resbm_status rb_cover_do_tasks(rb_stage *s, bool *moved, rb_err *err) {
    rb_cover *c = s->cover;
    resbm_status st = RESBM_OK;
    *moved = false;
    if (!pending(c)) return RESBM_OK;
    c->working = true;
    for (int i = 0; i < c->task_count && !st; i++)
        if (!c->tasks[i].done) st = do_task(s, &c->tasks[i], moved, err);
    c->working = false;
    return st;
}

/* --- the end of a list --- */

static resbm_status save_sums(rb_stage *s, rb_err *err) {
    rb_cover *c = s->cover;
    if (c->saved) return RESBM_OK;
    c->saved = true;
    return rb_stage_keep_gradients(s, &c->own, &c->counts, &c->unsent, err);
}

static resbm_status restore_sums(rb_stage *s, rb_err *err) {
    rb_cover *c = s->cover;
    if (!c->saved) return RESBM_OK;
    c->saved = false;
    return rb_stage_put_back_gradients(s, c->own, c->counts, c->unsent, err);
}

static resbm_status finish_tasks(rb_stage *s, rb_err *err) {
    patience p = twice(s);
    while (pending(s->cover)) {
        bool moved;
        RB_TRY(hear(s, err));
        RB_TRY(rb_cover_do_tasks(s, &moved, err));
        if (moved) p = twice(s);
        if (!moved && rb_now_ns() > p.deadline_ns)
            return rb_fail(err, RESBM_E_TIMEOUT,
                           "stage %d waited %.3g s for what it needs to stand in for a lost replica",
                           s->stage, (double)(rb_now_ns() - p.since_ns) * 1e-9);
        if (!moved) rb_sleep_ns(BUSY);
    }
    return RESBM_OK;
}

resbm_status rb_cover_reduce(rb_stage *s, rb_err *err) {
    if (rb_replicas(&s->cfg, s->stage) == 1 || s->cfg.optim.local_steps) return RESBM_OK;
    for (;;) {
        if (s->cover) RB_TRY(finish_tasks(s, err));
        if (s->cover) RB_TRY(save_sums(s, err));
        if (s->cover) s->cover->working = true; /* what tasks would add to is half a sum */
        resbm_status st = rb_stage_reduce(s, err);
        if (s->cover) s->cover->working = false;
        if (st != RESBM_E_CANCELLED || !s->cover) return st;
        RB_TRY(restore_sums(s, err));
    }
}

/* "redeal" after this stage has answered. A replica of the lost one's stage has to answer anew. */
resbm_status rb_cover_redeal(rb_stage *s, const json_t *in, bool *anew, rb_err *err) {
    RB_TRY(lose(s, in, err));
    *anew = json_is_true(json_object_get(in, "within")) &&
            s->places[json_integer_value(json_object_get(in, "lost"))].stage == s->stage;
    if (!*anew) return RESBM_OK;
    RB_TRY(restore_sums(s, err));
    return rb_cover_reduce(s, err);
}
