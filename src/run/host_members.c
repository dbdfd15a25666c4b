/* Who takes part: enrolment, beats and leases, revocation. */
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include "core/clock.h"
#include "data/utf8.h"
#include "run/host.h"
#include "run/invitation.h"

#define PAUSE                                                                                                \
    RB_SEC /* between two looks at leases: this process did not run itself, or was busy with the store */
enum { MOST_ANSWER = 60000, MOST_MALFORMED = 500, MOST_MEASURED = 4 << 20 /* a minute */ };

void rb_host_note(rb_host *h, const char *fmt, ...) {
    char text[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < 32) *p = ' '; /* labels and reasons come from others */
    fprintf(h->out, "resbm host: %s\n", text);
    fflush(h->out);
}

static rb_member *find(rb_host *h, const char *name) {
    for (int i = 0; i < h->members; i++)
        if (!strcmp(h->member[i].name, name)) return &h->member[i];
    return NULL;
}

/* --- the store's and the server's copy. Both may take a minute: the lock is not held meanwhile, only `changing` --- */

static resbm_status keep_member(rb_host *h, const rb_member *m, rb_err *err) {
    char key[100];
    uint64_t revision = UINT64_MAX;
    json_t *j = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:f}", "public_key", m->public_key, "label",
                          m->label, "revoked", m->revoked, "sent", (json_int_t)m->moved[0], "received",
                          (json_int_t)m->moved[1], "steps", (json_int_t)m->steps, "busy_s", m->busy_s);
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    if (!text) return rb_fail(err, RESBM_E_MEMORY, "no memory for a member");
    snprintf(key, sizeof key, "member.%s", m->name);
    resbm_status st =
        h->carrier->module->store_set(h->carrier->state, key, text, strlen(text), &revision, err);
    free(text);
    return st;
}

/* The list of names beside the members themselves. */
static resbm_status keep_names(rb_host *h, rb_err *err) {
    rb_buf b = {0};
    uint64_t revision = UINT64_MAX;
    pthread_mutex_lock(&h->lock);
    for (int i = 0; i < h->members; i++) rb_buf_printf(&b, "%s\n", h->member[i].name);
    pthread_mutex_unlock(&h->lock);
    resbm_status st = rb_buf_status(&b, err);
    if (!st)
        st = h->carrier->module->store_set(h->carrier->state, "members", b.data ? b.data : "", b.len,
                                           &revision, err);
    rb_buf_free(&b);
    return st;
}

/* A key that is written once lies in a file of the store among what was deleted since, and keeps it from being removed: a
 * participant would cost a megabyte for ever. Written again one behind the other, they lie together. */
resbm_status rb_host_keep_members(rb_host *h, rb_err *err) {
    resbm_status st = RESBM_OK;
    pthread_mutex_lock(&h->changing);
    for (int i = 0; i < RB_MOST_MEMBERS && !st; i++) {
        rb_member copy;
        pthread_mutex_lock(&h->lock);
        bool over = i >= h->members;
        if (!over) copy = h->member[i];
        pthread_mutex_unlock(&h->lock);
        if (over) break;
        st = keep_member(h, &copy, err);
    }
    if (!st) st = keep_names(h, err);
    pthread_mutex_unlock(&h->changing);
    return st;
}

static resbm_status load_member(rb_host *h, const char *name, rb_err *err) {
    char key[100];
    rb_buf b = {0};
    uint64_t revision;
    snprintf(key, sizeof key, "member.%s", name);
    RB_TRY(h->carrier->module->store_get(h->carrier->state, key, &b, &revision, err));
    json_t *j = json_loads(b.data ? b.data : "", 0, NULL);
    rb_buf_free(&b);
    const char *key_text = json_string_value(json_object_get(j, "public_key")),
               *label = json_string_value(json_object_get(j, "label")),
               *revoked = json_string_value(json_object_get(j, "revoked"));
    if (key_text && h->members < RB_MOST_MEMBERS) {
        rb_member *m = &h->member[h->members++];
        *m = (rb_member){.stage = -1,
                         .moved = {json_integer_value(json_object_get(j, "sent")),
                                   json_integer_value(json_object_get(j, "received"))},
                         .steps = json_integer_value(json_object_get(j, "steps")),
                         .busy_s = json_number_value(json_object_get(j, "busy_s"))};
        snprintf(m->name, sizeof m->name, "%s", name);
        snprintf(m->public_key, sizeof m->public_key, "%s", key_text);
        snprintf(m->label, sizeof m->label, "%s", label ? label : "");
        snprintf(m->revoked, sizeof m->revoked, "%s", revoked ? revoked : "");
    }
    json_decref(j);
    return RESBM_OK;
}

static resbm_status load_members(rb_host *h, rb_err *err) {
    rb_buf names = {0};
    uint64_t revision;
    char *save = NULL;
    RB_TRY(h->carrier->module->store_get(h->carrier->state, "members", &names, &revision, err));
    resbm_status st = RESBM_OK;
    for (char *n = names.data ? strtok_r(names.data, "\n", &save) : NULL; n && !st;
         n = strtok_r(NULL, "\n", &save))
        st = load_member(h, n, err);
    rb_buf_free(&names);
    return st;
}

/* The server's configuration after a change, and its reload. */
static resbm_status tell_server(rb_host *h, rb_err *err) {
    rb_server_user *users = calloc(RB_MOST_MEMBERS + 2, sizeof *users);
    int n = 2;
    if (!users) return rb_fail(err, RESBM_E_MEMORY, "no memory for the server's users");
    memcpy(users, h->fixed, sizeof h->fixed);
    pthread_mutex_lock(&h->lock);
    for (int i = 0; i < h->members; i++) {
        if (*h->member[i].revoked) continue;
        users[n].role = RB_ROLE_PARTICIPANT;
        snprintf(users[n].name, sizeof users[n].name, "%s", h->member[i].name);
        snprintf(users[n].public_key, sizeof users[n].public_key, "%s", h->member[i].public_key);
        n++;
    }
    pthread_mutex_unlock(&h->lock);
    rb_server_config c = h->server;
    c.users = users;
    c.user_count = n;
    resbm_status st = rb_server_write(&c, err);
    if (!st) st = rb_server_reload(&c, err);
    free(users);
    return st;
}

/* --- answers; each runs on a thread of the carrier --- */

static void refuse(rb_buf *out, const char *why) {
    json_t *j = json_pack("{s:s}", "refused", why);
    char *text = json_dumps(j, JSON_COMPACT);
    if (text) rb_buf_puts(out, text);
    free(text);
    json_decref(j);
}

static void put_json(json_t *j, rb_buf *out) {
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    if (text) rb_buf_puts(out, text);
    free(text);
    json_decref(j);
}

static bool user_key(const char *s) {
    return s && strlen(s) == 56 && *s == 'U' && strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == 56;
}

/* With the lock: the one that has the key already (its first answer was lost); NULL: none. */
static rb_member *by_key(rb_host *h, const char *key) {
    for (int i = 0; i < h->members; i++)
        if (!strcmp(h->member[i].public_key, key)) return &h->member[i];
    return NULL;
}

static resbm_status enrol_new(rb_host *h, const char *key, const char *label, char name[RB_CARRIER_NAME],
                              rb_err *err) {
    uint32_t number;
    rb_member m = {.stage = -1, .lapsed = true};
    if (h->members == RB_MOST_MEMBERS) /* only who holds `changing` adds some */
        return rb_fail(err, RESBM_E_STATE, "the run has its %d participants", RB_MOST_MEMBERS);
    if (getrandom(&number, sizeof number, 0) != sizeof number) return rb_fail(err, RESBM_E_IO, "getrandom");
    snprintf(m.name, sizeof m.name, "p%d-%04x", h->members, number & 0xffff);
    snprintf(m.public_key, sizeof m.public_key, "%s", key);
    rb_utf8_cut(m.label, sizeof m.label, label);
    RB_TRY(keep_member(h, &m, err));
    pthread_mutex_lock(&h->lock);
    h->member[h->members++] = m;
    pthread_mutex_unlock(&h->lock);
    snprintf(name, RB_CARRIER_NAME, "%s", m.name);
    RB_TRY(keep_names(h, err));
    return tell_server(h, err);
}

static resbm_status enrol(rb_host *h, const char *key, const char *label, char name[RB_CARRIER_NAME],
                          rb_err *err) {
    char revoked[200] = "";
    pthread_mutex_lock(&h->changing);
    pthread_mutex_lock(&h->lock);
    const rb_member *m = by_key(h, key);
    bool known = m != NULL;
    if (known) snprintf(name, RB_CARRIER_NAME, "%s", m->name);
    if (known) snprintf(revoked, sizeof revoked, "%s", m->revoked);
    pthread_mutex_unlock(&h->lock);
    resbm_status st = *revoked ? rb_fail(err, RESBM_E_STATE, "this key was revoked: %s", revoked)
                      : known  ? RESBM_OK
                               : enrol_new(h, key, label, name, err);
    pthread_mutex_unlock(&h->changing);
    return st;
}

static bool same_version(const char *version, char why[300]) {
    if (version && !strcmp(version, resbm_version())) return true;
    snprintf(why, 300, "it runs resbm %.40s, the host %s: both need the same version",
             version ? version : "?", resbm_version());
    return false;
}

static void on_enrol(void *ctx, const char *from, const char *question, size_t n, rb_buf *out) {
    rb_host *h = ctx;
    char why[300];
    rb_err err = {0};
    (void)from;
    json_t *j = json_loadb(question, n, JSON_REJECT_DUPLICATES, NULL);
    const char *key = json_string_value(json_object_get(j, "public_key")),
               *label = json_string_value(json_object_get(j, "label")),
               *version = json_string_value(json_object_get(j, "version"));
    char given[RB_CARRIER_NAME] = "";
    if (!user_key(key) || !label) {
        refuse(out, "the question to be enrolled is not well-formed");
        rb_host_note(h, "refused to enrol: the question is not well-formed");
    } else if (!same_version(version, why)) {
        refuse(out, why);
        rb_host_note(h, "refused to enrol \"%.60s\": %s", label, why);
    } else {
        resbm_status st = enrol(h, key, label, given, &err);
        if (st)
            refuse(out, err.text);
        else
            put_json(json_pack("{s:s}", "name", given), out);
        if (st)
            rb_host_note(h, "refused to enrol \"%.60s\": %s", label, err.text);
        else
            rb_host_note(h, "%s (\"%.60s\") has joined", given, label);
    }
    json_decref(j);
}

/* Joining takes a few of them; a small question that is answered with much is none to flood the host's uplink by. */
static bool may_measure(rb_host *h, const char *from, long bytes) {
    pthread_mutex_lock(&h->lock);
    rb_member *m = find(h, from);
    int64_t minute = rb_now_ns() / (60 * RB_SEC);
    if (m && m->measure_minute != minute) m->measured = 0;
    if (m) m->measure_minute = minute;
    bool may = m && m->measured + bytes <= MOST_MEASURED;
    if (may) m->measured += bytes;
    pthread_mutex_unlock(&h->lock);
    return may;
}

static void on_measure(void *ctx, const char *from, const char *question, size_t n, rb_buf *out) {
    char head[16];
    snprintf(head, sizeof head, "%.*s", n < 12 ? (int)n : 12, question);
    long down = strtol(head, NULL, 10);
    if (down < 1 || down > MOST_ANSWER) down = 1;
    if (!may_measure(ctx, from, down)) return;
    char *zeros = calloc(1, (size_t)down);
    if (zeros) rb_buf_add(out, zeros, (size_t)down);
    free(zeros);
}

static void heard(rb_host *h, rb_member *m) {
    int64_t now = rb_now_ns();
    if (m->seen && !m->lapsed) rb_lease_note(&m->lease, now - m->heard_ns);
    if (m->lapsed || !m->seen) rb_host_note(h, "%s (\"%s\") is there", m->name, m->label);
    m->seen = true;
    m->lapsed = m->left = false;
    m->heard_ns = now;
}

static double number(const json_t *j, const char *key, double least, double most) {
    double v = json_number_value(json_object_get(j, key));
    return v >= least && v <= most ? v : least;
}

static void read_beat(rb_member *m, const json_t *j) {
    const char *ended = json_string_value(json_object_get(j, "ended"));
    const char *label = json_string_value(json_object_get(j, "label"));
    if (label && *label) rb_utf8_cut(m->label, sizeof m->label, label);
    m->paused = json_is_true(json_object_get(j, "paused"));
    m->gflops = number(j, "gflops", 0, 1e9);
    m->memory = number(j, "memory", 0, 1e15);
    m->up_bits = number(j, "up_bits", 0, 1e12);
    m->down_bits = number(j, "down_bits", 0, 1e12);
    m->latency_s = number(j, "latency_s", 0, 1e3);
    m->sent = (uint64_t)number(j, "sent", 0, 1e18);
    m->received = (uint64_t)number(j, "received", 0, 1e18);
    if (m->stage < 0) return;
    if (json_integer_value(json_object_get(j, "epoch")) != (json_int_t)m->epoch) {
        if (m->taken)
            snprintf(m->ended, sizeof m->ended,
                     "was started again"); /* quicker than its lease: it knows nothing any more */
        return;
    }
    m->taken = true;
    if (ended) snprintf(m->ended, sizeof m->ended, "%.110s", ended);
}

static void idle_because(const rb_host *h, const rb_member *m, char out[200]) {
    double least = rb_host_least_need(h);
    *out = 0;
    if (m->memory > 0 && m->memory < least)
        snprintf(
            out, 200,
            "the %.3f GB of memory that it may take are too little for any stage: the smallest needs %.3f "
            "GB (resbm join --max-memory)",
            m->memory * 1e-9, least * 1e-9);
    else if (!h->running)
        snprintf(out, 200, "%s", strncmp(h->doing, "waits", 5) ? "" : h->doing);
    else if (m->stage < 0)
        snprintf(out, 200, "this machine is a spare one: it takes the place of the next one that is lost");
}

/* Who downloads hears how far it is itself. */
static void doing_of(const rb_host *h, int worker, char out[200]) {
    const uint64_t *n = h->loading[worker];
    if (n[0] < n[1])
        snprintf(out, 200, "downloads its weights: %.1f of %.1f MB", (double)n[0] * 1e-6,
                 (double)n[1] * 1e-6);
    else
        snprintf(out, 200, "%s", h->doing);
}

static json_t *order_of(const rb_host *h, const rb_member *m) {
    char token[20], doing[200];
    if (h->finished) return json_pack("{s:b}", "done", 1);
    if (m->stage < 0 || !h->running || *m->ended) {
        idle_because(h, m, doing);
        return json_pack("{s:I, s:s}", "epoch", (json_int_t)h->epoch, "doing", doing);
    }
    snprintf(token, sizeof token, "%016llx", (unsigned long long)h->token);
    doing_of(h, m->stage, doing);
    return json_pack("{s:I, s:i, s:i, s:s, s:s, s:s}", "epoch", (json_int_t)m->epoch, "stage", m->stage,
                     "stages", h->workers, "control", h->control, "token", token, "doing", doing);
}

static void on_beat(void *ctx, const char *from, const char *question, size_t n, rb_buf *out) {
    rb_host *h = ctx;
    char why[300];
    json_t *j = json_loadb(question, n, JSON_REJECT_DUPLICATES, NULL);
    pthread_mutex_lock(&h->lock);
    rb_member *m = find(h, from);
    const char *version = json_string_value(json_object_get(j, "version"));
    if (m && *m->revoked) {
        refuse(out, m->revoked);
    } else if (m && version && !same_version(version, why)) { /* it was updated since it enrolled */
        rb_host_note(h, "refused a beat of %s: %s", from, why);
        refuse(out, why);
    } else if (m && json_is_object(j)) {
        heard(h, m);
        read_beat(m, j);
        put_json(order_of(h, m), out);
    } else if (m) {
        m->malformed++;
        rb_host_note(h, "%s sent a beat that is not well-formed", from);
        refuse(out, "the beat is not well-formed");
    }
    pthread_mutex_unlock(&h->lock);
    json_decref(j);
}

static void on_leave(void *ctx, const char *from, const char *question, size_t n, rb_buf *out) {
    rb_host *h = ctx;
    (void)question;
    (void)n;
    pthread_mutex_lock(&h->lock);
    rb_member *m = find(h, from);
    if (m) {
        m->left = m->lapsed = true;
        rb_host_note(h, "%s (\"%s\") leaves", m->name, m->label);
    }
    pthread_mutex_unlock(&h->lock);
    rb_buf_puts(out, "{}");
}

static const char *state_of(const rb_host *h, const rb_member *m) {
    if (*m->revoked) return "revoked";
    if (m->left) return "left";
    if (!m->seen || m->lapsed) return "away";
    if (m->paused) return "paused";
    return m->stage >= 0 && h->running ? "works" : "spare";
}

static void on_status(void *ctx, const char *from, const char *question, size_t n, rb_buf *out) {
    rb_host *h = ctx;
    json_t *list = json_array();
    (void)from;
    (void)question;
    (void)n;
    pthread_mutex_lock(&h->lock);
    for (int i = 0; i < h->members; i++) {
        const rb_member *m = &h->member[i];
        json_array_append_new(
            list,
            json_pack("{s:s, s:s, s:s, s:i, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:f, s:s}", "name",
                      m->name, "label", m->label, "state", state_of(h, m), "stage",
                      h->running ? m->stage : -1, "gflops", m->gflops, "memory", m->memory, "up_bits",
                      m->up_bits, "down_bits", m->down_bits, "latency_s", m->latency_s, "sent",
                      (json_int_t)m->sent + m->moved[0], "received", (json_int_t)m->received + m->moved[1],
                      "steps", (json_int_t)m->steps, "busy_s", m->busy_s, "reason", m->revoked));
    }
    put_json(json_pack("{s:I, s:I, s:I, s:I, s:s, s:o}", "step", (json_int_t)h->step, "steps",
                       (json_int_t)h->cfg->train.steps, "epoch", (json_int_t)h->epoch, "again",
                       (json_int_t)h->steps_again, "doing", h->doing, "participants", list),
             out);
    pthread_mutex_unlock(&h->lock);
}

static void on_revoke(void *ctx, const char *from, const char *question, size_t n, rb_buf *out) {
    rb_host *h = ctx;
    rb_err err = {0};
    char name[RB_CARRIER_NAME];
    snprintf(name, sizeof name, "%.*s", n < sizeof name ? (int)n : 0, question);
    if (strcmp(from, h->access.name)) {
        rb_host_malformed(h, from);
        rb_host_note(h, "%s asked to revoke a participant, which only the host may", from);
        refuse(out, "only the host may");
    } else if (rb_host_revoke(h, name, "revoked by the host", &err)) {
        refuse(out, err.text);
    } else {
        rb_buf_puts(out, "{}");
    }
}

resbm_status rb_host_revoke(rb_host *h, const char *name, const char *why, rb_err *err) {
    rb_member copy;
    pthread_mutex_lock(&h->changing);
    pthread_mutex_lock(&h->lock);
    rb_member *m = find(h, name);
    resbm_status st = m ? RESBM_OK : rb_fail(err, RESBM_E_ARG, "the run has no participant \"%s\"", name);
    if (!st) rb_utf8_cut(m->revoked, sizeof m->revoked, why);
    if (!st) copy = *m;
    pthread_mutex_unlock(&h->lock);
    if (!st) st = keep_member(h, &copy, err);
    if (!st) st = tell_server(h, err);
    pthread_mutex_unlock(&h->changing);
    if (!st) rb_host_note(h, "%s is cut off: %s", name, why);
    return st;
}

resbm_status rb_host_members_open(rb_host *h, rb_err *err) {
    static const struct {
        const char *subject, *asker;
        rb_carrier_answer answer;
    } services[] = {{"enrol", RB_INVITED, on_enrol}, {"measure.*", NULL, on_measure},
                    {"beat.*", NULL, on_beat},       {"leave.*", NULL, on_leave},
                    {"status.*", NULL, on_status},   {"revoke.*", NULL, on_revoke}};
    resbm_status st = load_members(h, err); /* nobody else is there yet */
    if (!st) st = tell_server(h, err);
    for (size_t i = 0; i < sizeof services / sizeof *services && !st; i++)
        st = h->carrier->module->serve(h->carrier->state, services[i].subject, services[i].asker, h,
                                       services[i].answer, err);
    return st;
}

/* --- leases --- */

void rb_host_malformed(void *host, const char *from) {
    rb_host *h = host;
    pthread_mutex_lock(&h->lock);
    rb_member *m = find(h, from);
    if (m) m->malformed++;
    pthread_mutex_unlock(&h->lock);
}

/* No program of ours sends one: each is named, and some may be somebody's experiment. */
static void cut_off_malformed(rb_host *h) {
    char name[RB_CARRIER_NAME] = "", why[100];
    rb_err err;
    pthread_mutex_lock(&h->lock);
    for (int i = 0; i < h->members && !*name; i++) {
        rb_member *m = &h->member[i];
        if (m->malformed <= MOST_MALFORMED || *m->revoked) continue;
        m->malformed = 0;
        snprintf(name, sizeof name, "%s", m->name);
    }
    pthread_mutex_unlock(&h->lock);
    if (!*name) return;
    snprintf(why, sizeof why, "it sent more than %d messages that are not well-formed", MOST_MALFORMED);
    if (rb_host_revoke(h, name, why, &err)) rb_host_note(h, "could not cut %s off: %s", name, err.text);
}

void rb_host_check_leases(rb_host *h) {
    int64_t now = rb_now_ns();
    bool connected = h->carrier->module->connected(h->carrier->state);
    pthread_mutex_lock(&h->lock);
    for (int i = 0; i < h->members; i++) {
        rb_member *m = &h->member[i];
        if (!connected || !h->connected)
            m->heard_ns = now; /* this process was cut off: their silence says nothing */
        else if (h->looked_ns && now - h->looked_ns > PAUSE && m->heard_ns < now - RB_BEAT_NS)
            m->heard_ns = now - RB_BEAT_NS; /* or did not run: what they said lies there, to be read */
        if (!m->seen || m->lapsed || now - m->heard_ns <= rb_lease_ns(&m->lease)) continue;
        m->lapsed = true;
        rb_host_note(h, "%s (\"%s\") has given no sign of life for %.1f s", m->name, m->label,
                     (double)(now - m->heard_ns) * 1e-9);
    }
    h->connected = connected;
    h->looked_ns = now;
    pthread_mutex_unlock(&h->lock);
    cut_off_malformed(h);
}

bool rb_host_lost(void *host, int stage, char *text, size_t size) {
    rb_host *h = host;
    int asked = h->asked ? atomic_load(h->asked) : 0; /* in the middle of a step, too, which may be long */
    if (asked > atomic_load(&h->stop)) atomic_store(&h->stop, asked);
    rb_host_check_leases(h);
    pthread_mutex_lock(&h->lock);
    const rb_member *m = h->seat[stage] >= 0 ? &h->member[h->seat[stage]] : NULL;
    bool lost = true;
    if (!m)
        snprintf(text, size, "is gone");
    else if (*m->revoked)
        snprintf(text, size, "was cut off (%.120s)", m->revoked);
    else if (m->left)
        snprintf(text, size, "has left");
    else if (m->lapsed)
        snprintf(text, size, "has given no sign of life for %.1f s",
                 (double)(rb_now_ns() - m->heard_ns) * 1e-9);
    else if (m->paused)
        snprintf(text, size, "is paused by its owner");
    else if (*m->ended)
        snprintf(text, size, "%s", m->ended);
    else
        lost = false;
    pthread_mutex_unlock(&h->lock);
    return lost;
}
