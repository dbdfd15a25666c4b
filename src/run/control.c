#include "run/control.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/buf.h"

resbm_status rb_control_send(rb_link *l, int peer, json_t *message, int64_t deadline_ns, rb_err *err) {
    char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;
    json_decref(message);
    rb_message *m = text ? rb_message_new(strlen(text)) : NULL;
    if (!m) {
        free(text);
        return rb_fail(err, RESBM_E_MEMORY, "no memory for a control message");
    }
    m->head.kind = RB_FRAME_CONTROL;
    m->traffic = RB_TRAFFIC_CONTROL;
    memcpy(m->payload, text, m->head.payload_bytes);
    free(text);
    return rb_link_send(l, peer, m, deadline_ns, err);
}

/* Does a sentence begin with its speaker's own name, and not with a longer one that begins alike? */
static bool speaks_of_itself(const char *text, const char *who) {
    size_t n = strlen(who);
    return !strncmp(text, who, n) && text[n] == ' ' && strncmp(text + n, " replica ", 9) != 0;
}

/* Its words are its own and may name anybody: they stand behind its name. */
static resbm_status fault_of(const rb_link *l, const json_t *j, int from, rb_err *err) {
    const char *text = json_string_value(json_object_get(j, "text"));
    json_int_t code = json_integer_value(json_object_get(j, "code"));
    if (code <= RESBM_OK || code > RESBM_E_INTERNAL) code = RESBM_E_PEER;
    char who[RB_WHO_TEXT];
    rb_link_who(l, from, who);
    if (text && speaks_of_itself(text, who)) return rb_fail(err, (resbm_status)code, "%s", text);
    return rb_fail(err, (resbm_status)code, "%s: %s", who, text ? text : "fault without a text");
}

resbm_status rb_control_hear(rb_link *l, int peer, int64_t deadline_ns, int *from, json_t **out,
                             rb_blame *blame, rb_err *err) {
    rb_message *m;
    json_error_t e;
    *out = NULL;
    *from = RB_PEER_ANY;
    resbm_status got = rb_link_recv_any(l, peer, RB_FRAME_CONTROL, deadline_ns, from, &m, err);
    if (got) {
        bool of_peer = *from >= 0 && got != RESBM_E_TIMEOUT && got != RESBM_E_CANCELLED;
        *blame = of_peer ? rb_blame_seen(*from, got) : rb_blame_nobody();
        *from = RB_PEER_ANY;
        return got;
    }
    json_t *j = json_loadb((const char *)m->payload, m->head.payload_bytes, JSON_REJECT_DUPLICATES, &e);
    rb_message_free(m);
    const char *type = json_string_value(json_object_get(j, "t"));
    if (!type) {
        char who[RB_WHO_TEXT];
        json_decref(j);
        *blame = rb_blame_seen(*from, RESBM_E_FORMAT);
        return rb_fail(err, RESBM_E_FORMAT, "a control message from %s is no object with a type: %s",
                       rb_link_who(l, *from, who), j ? "no \"t\"" : e.text);
    }
    if (!strcmp(type, "fault")) {
        resbm_status st = fault_of(l, j, *from, err);
        *blame = rb_blame_told(j, *from, rb_link_stages(l));
        json_decref(j);
        return st;
    }
    *out = j;
    return RESBM_OK;
}

resbm_status rb_control_recv(rb_link *l, int peer, int64_t deadline_ns, int *from, json_t **out,
                             rb_err *err) {
    rb_blame nobodys;
    return rb_control_hear(l, peer, deadline_ns, from, out, &nobodys, err);
}

resbm_status rb_control_unexpected(const rb_link *l, int from, const char *type, json_t **got, rb_err *err) {
    char who[RB_WHO_TEXT];
    resbm_status st = rb_fail(err, RESBM_E_FORMAT, "%s sent \"%.40s\" where \"%s\" was due",
                              rb_link_who(l, from, who), json_string_value(json_object_get(*got, "t")), type);
    json_decref(*got);
    *got = NULL;
    return st;
}

resbm_status rb_control_expect(rb_link *l, int peer, const char *type, int64_t deadline_ns, int *from,
                               json_t **out, rb_err *err) {
    RB_TRY(rb_control_recv(l, peer, deadline_ns, from, out, err));
    const char *got = json_string_value(json_object_get(*out, "t"));
    return strcmp(got, type) ? rb_control_unexpected(l, *from, type, out, err) : RESBM_OK;
}

json_t *rb_json_doubles(const double *v, int n) {
    rb_buf b = {0};
    rb_buf_puts(&b, "");
    for (int i = 0; i < n; i++) rb_buf_printf(&b, i ? " %.17g" : "%.17g", v[i]);
    json_t *j = b.failed ? NULL : json_string(b.data ? b.data : "");
    rb_buf_free(&b);
    return j;
}

resbm_status rb_json_get_doubles(const json_t *j, double *out, int n, const char *what, rb_err *err) {
    const char *p = json_string_value(j);
    for (int i = 0; i < n; i++) {
        char *end = NULL;
        if (p) out[i] = strtod(p, &end);
        if (!p || end == p)
            return rb_fail(err, RESBM_E_FORMAT, "%s: %d numbers where %d are due", what, i, n);
        p = end;
    }
    if (p && *p) return rb_fail(err, RESBM_E_FORMAT, "%s: more than %d numbers", what, n);
    return RESBM_OK;
}
