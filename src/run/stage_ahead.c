/* Messages of a device that is not waited for: computing, copying and sending at once.
 *
 *     host     | queue pack, copy | queue the next action | wait for the copy, send |
 *     device          | pack | copy | next action ................................. |
 */
#include "core/clock.h"
#include "run/stage.h"

static resbm_status record(rb_stage *s, rb_event *e, rb_err *err) {
    return s->dev->table->event_record(s->q, e, err);
}
static resbm_status wait(rb_stage *s, rb_event e, rb_err *err) {
    return s->dev->table->event_wait(s->q, e, err);
}

static resbm_status give_back(rb_stage *s, rb_err *err) {
    rb_message *m = s->arriving.message;
    if (!m) return RESBM_OK;
    s->arriving.message = NULL;
    resbm_status st = wait(s, s->arriving.there, err);
    rb_message_free(m);
    return st;
}

resbm_status rb_stage_let_go(rb_stage *s, rb_err *err) {
    rb_message *m = s->leaving.message;
    if (!m) return RESBM_OK;
    s->leaving.message = NULL;
    resbm_status st = wait(s, s->leaving.there, err);
    if (!st) st = rb_stage_guard_out(s, m, err);
    if (st) {
        rb_message_free(m);
        return st;
    }
    return rb_cover_send(s, s->leaving.to, m, err);
}

resbm_status rb_stage_send(rb_stage *s, rb_message *m, int to, rb_err *err) {
    resbm_status st = rb_stage_let_go(s, err);
    if (!st) st = record(s, &s->leaving.there, err);
    if (st) {
        rb_message_free(m);
        return st;
    }
    s->leaving.message = m;
    s->leaving.to = to;
    return s->ahead ? RESBM_OK : rb_stage_let_go(s, err);
}

resbm_status rb_stage_took(rb_stage *s, rb_message *m, rb_err *err) {
    resbm_status st = give_back(s, err);
    if (!st) st = record(s, &s->arriving.there, err);
    if (st) {
        rb_message_free(m);
        return st;
    }
    s->arriving.message = m;
    return s->ahead ? RESBM_OK : give_back(s, err);
}

resbm_status rb_stage_computed(rb_stage *s, rb_err *err) {
    return s->ahead ? rb_stage_let_go(s, err) : rb_queue_sync(s->q, err);
}

resbm_status rb_stage_settle(rb_stage *s, rb_err *err) {
    RB_TRY(rb_stage_let_go(s, err));
    RB_TRY(give_back(s, err));
    return rb_queue_sync(s->q, err);
}

void rb_stage_forget(rb_stage *s) {
    if (s->q && (s->leaving.message || s->arriving.message)) {
        rb_err ignored;
        rb_queue_sync(s->q, &ignored); /* the device may still be writing into them */
    }
    rb_message_free(s->leaving.message);
    rb_message_free(s->arriving.message);
    s->leaving.message = s->arriving.message = NULL;
}
