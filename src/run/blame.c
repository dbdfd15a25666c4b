#include "run/blame.h"

rb_blame rb_blame_nobody(void) {
    return (rb_blame){.worker = -1, .by = -1};
}

rb_blame rb_blame_seen(int worker, resbm_status st) {
    bool bad = st == RESBM_E_CORRUPT || st == RESBM_E_FORMAT;
    return (rb_blame){.worker = worker < 0 ? -1 : worker, .by = -1, .broke_rules = bad && worker >= 0};
}

rb_blame rb_blame_told(const json_t *fault, int from, int workers) {
    const json_t *accused = json_object_get(fault, "accused");
    json_int_t worker = json_is_integer(accused) ? json_integer_value(accused) : -1;
    bool there = worker >= 0 && worker < workers;
    return (rb_blame){.worker = there ? (int)worker : from, .by = from};
}

rb_sentence rb_blame_judge(const rb_blame *b) {
    rb_sentence s = {.revoke = -1, .aside = {-1, -1}};
    if (b->worker < 0) return s;
    if (b->by < 0 && b->broke_rules) {
        s.revoke = b->worker;
    } else {
        s.aside[0] = b->worker;
        if (b->by >= 0 && b->by != b->worker) s.aside[1] = b->by;
        s.at_once = s.aside[1] >= 0 || b->holds_up;
    }
    return s;
}
