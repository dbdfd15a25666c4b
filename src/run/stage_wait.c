/* Waits for other stages' messages, of which the coordinator hears when they take long: it finds out who holds up all (run/held.h). */
#include "core/clock.h"
#include "run/control.h"
#include "run/stage.h"

/* Behind a step's deadline, how long a wait has to take to be one. */
#define SHORT (50 * RB_MS)

int64_t rb_stage_tell_ns(const rb_stage *s, int64_t begin_ns) {
    if (!s->apart) return INT64_MAX;
    if (!s->late_ns) return begin_ns + s->cfg.pipeline.deadline_ns / 2;
    return s->late_ns > begin_ns + SHORT ? s->late_ns : begin_ns + SHORT;
}

static void tell(rb_stage *s, json_t *message) {
    rb_err ignored; /* where the coordinator cannot be reached, it will see */
    rb_control_send(s->control, RB_PEER_COORDINATOR, message, rb_now_ns() + RB_SEC, &ignored);
}

void rb_stage_tell_waits(rb_stage *s, int on, const rb_frame_header *what) {
    tell(s, json_pack("{s:s, s:i, s:i, s:i, s:I, s:I}", "t", "waits", "on", on, "kind", (int)what->kind,
                      "boundary", (int)what->boundary, "microbatch", (json_int_t)what->microbatch, "step",
                      (json_int_t)(what->step & INT64_MAX)));
}

void rb_stage_tell_goes_on(rb_stage *s) {
    tell(s, json_pack("{s:s, s:i}", "t", "waits", "on", -1));
}

resbm_status rb_stage_recv(rb_stage *s, int from, const rb_frame_header *want, rb_message **out,
                           rb_err *err) {
    int64_t begin = rb_now_ns(), until = begin + s->cfg.pipeline.deadline_ns,
            told = rb_stage_tell_ns(s, begin);
    resbm_status st = rb_link_recv_since(s->link, from, want, begin, told < until ? told : until, out, err);
    if (st != RESBM_E_TIMEOUT || told >= until) return st;
    rb_stage_tell_waits(s, from, want);
    st = rb_link_recv_since(s->link, from, want, begin, until, out, err);
    if (!st) rb_stage_tell_goes_on(s);
    return st;
}
