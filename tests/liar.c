/* The program, except that a stage of it may lie: RB_LIE="WHAT MESSAGE" has it change what it sends, from its MESSAGE-th of the kind
 * on (0 is the first). Linked with --wrap, so that what lies is here alone.
 *
 *   codes, nan, large   messages of boundaries: codes that stand for no number; bf16 values that are none; and such of 2e30
 *   part, count          what a replica gives to a sum: values that are no number; 2^63 - 1
 *   sumsq                a step's report: a sum of squares of -1 */
#include <jansson.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include "core/bytes.h"
#include "run/control.h"

resbm_status __real_rb_link_send(rb_link *l, int peer, rb_message *m, int64_t deadline_ns, rb_err *err);
resbm_status __wrap_rb_link_send(rb_link *l, int peer, rb_message *m, int64_t deadline_ns, rb_err *err);
resbm_status __real_rb_control_send(rb_link *l, int peer, json_t *message, int64_t deadline_ns, rb_err *err);
resbm_status __wrap_rb_control_send(rb_link *l, int peer, json_t *message, int64_t deadline_ns, rb_err *err);

static bool lies(const char *what, atomic_int *sent) {
    const char *lie = getenv("RB_LIE");
    size_t n = strlen(what);
    if (!lie || strncmp(lie, what, n) || lie[n] != ' ') return false;
    return atomic_fetch_add(sent, 1) >= atoi(lie + n);
}

static void fill(rb_message *m, uint32_t bits) {
    for (size_t i = 0; i + 4 <= m->head.payload_bytes - m->token_bytes; i += 4)
        rb_put32(m->payload + i, bits);
}

resbm_status __wrap_rb_link_send(rb_link *l, int peer, rb_message *m, int64_t deadline_ns, rb_err *err) {
    static atomic_int codes, nan, large, part, count;
    bool boundary = m->head.kind == RB_FRAME_FORWARD || m->head.kind == RB_FRAME_BACKWARD;
    bool counts = m->head.kind == RB_FRAME_SYNC && m->head.boundary % 4 == 2;
    if (boundary && lies("codes", &codes)) fill(m, 0x88888888);
    if (boundary && lies("nan", &nan)) fill(m, 0x7fc07fc0);
    if (boundary && lies("large", &large)) fill(m, 0x71c971c9);
    if (m->head.kind == RB_FRAME_SYNC && !counts && lies("part", &part)) fill(m, 0x7fc07fc0);
    if (counts && lies("count", &count)) rb_put64(m->payload, (uint64_t)INT64_MAX);
    return __real_rb_link_send(l, peer, m, deadline_ns, err);
}

resbm_status __wrap_rb_control_send(rb_link *l, int peer, json_t *message, int64_t deadline_ns, rb_err *err) {
    static atomic_int reports;
    const char *type = json_string_value(json_object_get(message, "t"));
    if (type && !strcmp(type, "done") && lies("sumsq", &reports)) {
        const char *was = json_string_value(json_object_get(message, "sumsq"));
        const char *rest = was ? strchr(was, ' ') : NULL;
        json_t *now = json_sprintf("-1%s", rest ? rest : "");
        json_object_set_new(message, "sumsq", now);
    }
    return __real_rb_control_send(l, peer, message, deadline_ns, err);
}
