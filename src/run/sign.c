#include "run/sign.h"

#include "core/clock.h"

int64_t rb_sign_slice(int64_t deadline_ns) {
    return deadline_ns / RB_SIGN_SLICES;
}

void rb_sign_begin(rb_sign *s) {
    *s = (rb_sign){.looked_ns = rb_now_ns(), .silent_from_ns = rb_now_ns()};
}

bool rb_sign_look(rb_sign *s, rb_link *l, int peer, int64_t deadline_ns, int64_t *silent_ns) {
    int64_t now = rb_now_ns();
    *silent_ns = now - s->silent_from_ns;
    if (now - s->looked_ns < rb_sign_slice(deadline_ns) * 9 / 10) return true;
    if (rb_link_heard_ns(l, peer) >= s->looked_ns) {
        s->quiet = 0;
        s->silent_from_ns = now;
    } else if (++s->quiet >= RB_SIGN_SLICES) {
        return false;
    }
    s->looked_ns = now;
    rb_link_ask(l, peer);
    return true;
}
