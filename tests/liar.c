/* The program, except that a stage of it may lie: RB_LIE="WHAT MESSAGE" has it change what it sends, from its MESSAGE-th of the kind
 * on (0 is the first). Linked with --wrap, so that what lies is here alone.
 *
 *   codes, nan, large   messages of boundaries: codes that stand for no number; bf16 values that are none; and such of 2e30
 *   part, count          what a replica gives to a sum: values that are no number; 2^63 - 1
 *   sumsq                a step's report: a sum of squares of -1
 *   hash                 a snapshot: a file is announced with a hash that is not its own
 *   again                messages of boundaries: each once more, with the first one of all, and that with the epoch before
 *   stuck                sends no message of a boundary any more, while its process lives
 *   dies                 ends where it should say that it is ready
 *   gone, falls          is killed when it has said, or where it should say, that it has done a step
 *   mute                 does not say that it has done a step, while its process lives
 *
 * Whatever RB_LIE is, it says on standard error that a frame which came twice was dropped, and if one of an epoch before was not. */
#include <jansson.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "core/bytes.h"
#include "core/clock.h"
#include "link/internal.h"
#include "run/control.h"

resbm_status __real_rb_link_send(rb_link *l, int peer, rb_message *m, int64_t deadline_ns, rb_err *err);
resbm_status __wrap_rb_link_send(rb_link *l, int peer, rb_message *m, int64_t deadline_ns, rb_err *err);
resbm_status __real_rb_control_send(rb_link *l, int peer, json_t *message, int64_t deadline_ns, rb_err *err);
resbm_status __wrap_rb_control_send(rb_link *l, int peer, json_t *message, int64_t deadline_ns, rb_err *err);
bool __real_rb_seen_before(rb_seen *s, const rb_frame_header *h);
bool __wrap_rb_seen_before(rb_seen *s, const rb_frame_header *h);

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

/* Of a kind of traffic that its own accounts leave out. */
static rb_message *copy_of(const rb_message *m) {
    rb_message *c = rb_message_new(m->head.payload_bytes);
    if (!c) abort();
    c->head = m->head;
    c->traffic = RB_TRAFFIC_SNAPSHOT;
    memcpy(c->payload, m->payload, m->head.payload_bytes);
    return c;
}

/* The message itself, then what has been sent before. One thread sends. */
static resbm_status send_again(rb_link *l, int peer, rb_message *m, int64_t deadline_ns, rb_err *err) {
    static rb_message *first;
    static int to;
    rb_message *more[3] = {copy_of(m)};
    if (!first) first = copy_of(m), to = peer;
    if (to == peer) more[1] = copy_of(first), more[2] = copy_of(first);
    if (more[2]) more[2]->head.epoch--;
    RB_TRY(__real_rb_link_send(l, peer, m, deadline_ns, err));
    for (int i = 0; i < 3 && more[i]; i++) RB_TRY(__real_rb_link_send(l, peer, more[i], deadline_ns, err));
    return RESBM_OK;
}

bool __wrap_rb_seen_before(rb_seen *s, const rb_frame_header *h) {
    static atomic_uint newest;
    bool seen = __real_rb_seen_before(s, h);
    if (seen)
        fprintf(stderr, "a frame of step %llu that came twice was dropped\n", (unsigned long long)h->step);
    if (h->kind != RB_FRAME_FORWARD && h->kind != RB_FRAME_BACKWARD) return seen;
    if (h->epoch < atomic_load(&newest)) fprintf(stderr, "a frame of epoch %u was let in\n", h->epoch);
    atomic_store(&newest, h->epoch);
    return seen;
}

resbm_status __wrap_rb_link_send(rb_link *l, int peer, rb_message *m, int64_t deadline_ns, rb_err *err) {
    static atomic_int codes, nan, large, part, count, again, stuck;
    bool boundary = m->head.kind == RB_FRAME_FORWARD || m->head.kind == RB_FRAME_BACKWARD;
    bool counts = m->head.kind == RB_FRAME_SYNC && m->head.boundary % 4 == 2;
    if (boundary && lies("stuck", &stuck)) rb_sleep_ns(600 * RB_SEC);
    if (boundary && lies("codes", &codes)) fill(m, 0x88888888);
    if (boundary && lies("nan", &nan)) fill(m, 0x7fc07fc0);
    if (boundary && lies("large", &large)) fill(m, 0x71c971c9);
    if (m->head.kind == RB_FRAME_SYNC && !counts && lies("part", &part)) fill(m, 0x7fc07fc0);
    if (counts && lies("count", &count)) rb_put64(m->payload, (uint64_t)INT64_MAX);
    if (boundary && lies("again", &again)) return send_again(l, peer, m, deadline_ns, err);
    return __real_rb_link_send(l, peer, m, deadline_ns, err);
}

resbm_status __wrap_rb_control_send(rb_link *l, int peer, json_t *message, int64_t deadline_ns, rb_err *err) {
    static atomic_int reports, saves, ready, steps, gone, falls;
    const char *type = json_string_value(json_object_get(message, "t"));
    if (type && !strcmp(type, "ready") && lies("dies", &ready)) _exit(3);
    if (type && !strcmp(type, "done") && lies("mute", &steps)) rb_sleep_ns(600 * RB_SEC);
    if (type && !strcmp(type, "done") && lies("falls", &falls)) raise(SIGKILL);
    if (type && !strcmp(type, "done") && lies("gone", &gone)) {
        __real_rb_control_send(l, peer, message, deadline_ns, err);
        rb_sleep_ns(50 * RB_MS); /* until it is under way */
        raise(SIGKILL);
    }
    if (type && !strcmp(type, "done") && lies("sumsq", &reports)) {
        const char *was = json_string_value(json_object_get(message, "sumsq"));
        const char *rest = was ? strchr(was, ' ') : NULL;
        json_t *now = json_sprintf("-1%s", rest ? rest : "");
        json_object_set_new(message, "sumsq", now);
    }
    json_t *file = json_array_get(json_object_get(message, "files"), 0);
    if (type && !strcmp(type, "saved") && file && lies("hash", &saves))
        json_array_set_new(file, 2, json_string("0123456789abcdef0123456789abcdef"));
    return __real_rb_control_send(l, peer, message, deadline_ns, err);
}
