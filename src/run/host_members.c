/* Who takes part: answers to what participants ask, leases, revocation. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "core/clock.h"
#include "data/utf8.h"
#include "run/host.h"
#include "run/invitation.h"

#define PAUSE                                                                                                \
    RB_SEC /* between two looks at leases: this process did not run itself, or was busy with the store */
enum { MOST_ANSWER = 60000, MOST_MALFORMED = 500, MOST_ANSWERED = 4 << 20 /* a minute */ };

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

/* A user's public NKey, checksum included: a server whose configuration holds one that is none refuses all of it, so that nobody else
 * could join, or be cut off. Base32 of the letter's byte, 32 bytes, and their CRC-16 (XMODEM), the low byte first. */
static bool user_key(const char *s) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    uint8_t b[35];
    uint32_t bits = 0, crc = 0;
    if (!s || strlen(s) != 56 || *s != 'U' || strspn(s, letters) != 56) return false;
    for (int i = 0, have = 0, n = 0; i < 56; i++) {
        bits = bits << 5 | (uint32_t)(strchr(letters, s[i]) - letters);
        have += 5;
        if (have >= 8) b[n++] = (uint8_t)(bits >> (have -= 8));
    }
    for (int i = 0; i < 33; i++) {
        crc ^= (uint32_t)b[i] << 8;
        for (int k = 0; k < 8; k++) crc = (crc << 1 ^ (crc & 0x8000 ? 0x1021 : 0)) & 0xffff;
    }
    return b[0] == 20 << 3 && crc == (uint32_t)(b[33] | b[34] << 8);
}

static bool same_version(const char *version, char why[300]) {
    if (version && !strcmp(version, resbm_version())) return true;
    snprintf(why, 300, "it runs resbm %.40s, the host %s: both need the same version",
             version ? version : "?", resbm_version());
    return false;
}

/* With the lock. Builds of one version may differ in what they say to one another: the first thing to know where a stage fails. */
static void note_build(rb_host *h, rb_member *m, const char *build) {
    static const char letters[] = "0123456789abcdefghijklmnopqrstuvwxyz.-";
    if (!build || !*build || build[strspn(build, letters)] || !h->build || !*h->build) return;
    if (!strncmp(build, m->build, sizeof m->build - 1)) return;
    snprintf(m->build, sizeof m->build, "%s", build);
    if (strcmp(build, h->build))
        rb_host_note_asked(h, &h->notes,
                           "%s (\"%s\") runs another build of resbm %s (%s) than this host (%s): should its "
                           "stage fail, build both from the same sources",
                           m->name, m->label, resbm_version(), m->build, h->build);
}

static void put_enrolled(rb_host *h, const char *key, const char *label, rb_buf *out) {
    rb_err err = {0};
    char given[RB_CARRIER_NAME] = "";
    bool later;
    resbm_status st = rb_host_enrol(h, key, label, given, &later, &err);
    if (!st) {
        put_json(json_pack("{s:s}", "name", given), out);
        rb_host_note_asked(h, &h->enrol_notes, "%s (\"%.60s\") has joined", given, label);
        return;
    }
    put_json(json_pack("{s:s, s:b}", "refused", err.text, "later", later), out);
    rb_host_note_asked(h, &h->enrol_notes, "refused to enrol \"%.60s\": %s", label, err.text);
}

static void on_enrol(void *ctx, const char *from, const char *question, size_t n, rb_buf *out) {
    rb_host *h = ctx;
    char why[300];
    (void)from;
    json_t *j = json_loadb(question, n, JSON_REJECT_DUPLICATES, NULL);
    const char *key = json_string_value(json_object_get(j, "public_key")),
               *label = json_string_value(json_object_get(j, "label")),
               *version = json_string_value(json_object_get(j, "version"));
    if (!user_key(key) || !label) {
        refuse(out, "the question to be enrolled is not well-formed");
        rb_host_note_asked(h, &h->enrol_notes, "refused to enrol: the question is not well-formed");
    } else if (!same_version(version, why)) {
        refuse(out, why);
        rb_host_note_asked(h, &h->enrol_notes, "refused to enrol \"%.60s\": %s", label, why);
    } else {
        put_enrolled(h, key, label, out);
    }
    json_decref(j);
}

/* With the lock: who asks in its own name has come with its key. */
static rb_member *asker(rb_host *h, const char *from) {
    rb_member *m = rb_host_find(h, from);
    if (m) m->came = true;
    return m;
}

/* With the lock. Joining takes a few of them, and so does looking on; a small question that is answered with much is none to flood the
 * host's uplink by. */
static bool may_have(rb_member *m, int64_t bytes) {
    int64_t minute = rb_now_ns() / (60 * RB_SEC);
    if (m->answered_minute != minute) m->answered = 0;
    m->answered_minute = minute;
    bool may = m->answered + bytes <= MOST_ANSWERED;
    if (may) m->answered += bytes;
    return may;
}

static bool may_measure(rb_host *h, const char *from, long bytes) {
    pthread_mutex_lock(&h->lock);
    rb_member *m = asker(h, from);
    bool may = m && may_have(m, bytes);
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
    if (m->lapsed || !m->seen) rb_host_note_asked(h, &h->notes, "%s (\"%s\") is there", m->name, m->label);
    if (m->lapsed || !m->seen) m->came_ns = now;
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
    bool paused = json_is_true(json_object_get(j, "paused"));
    if (m->paused && !paused) m->came_ns = rb_now_ns();
    m->paused = paused;
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
    rb_member *m = asker(h, from);
    const char *version = json_string_value(json_object_get(j, "version"));
    if (m && *m->revoked) {
        refuse(out, m->revoked);
    } else if (m && version && !same_version(version, why)) { /* it was updated since it enrolled */
        rb_host_note_asked(h, &h->notes, "refused a beat of %s: %s", from, why);
        refuse(out, why);
    } else if (m && json_is_object(j)) {
        heard(h, m);
        read_beat(m, j);
        note_build(h, m, json_string_value(json_object_get(j, "build")));
        put_json(order_of(h, m), out);
    } else if (m) {
        m->malformed++;
        rb_host_note_asked(h, &h->notes, "%s sent a beat that is not well-formed", from);
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
    rb_member *m = asker(h, from);
    if (m) {
        m->left = m->lapsed = true;
        rb_host_note_asked(h, &h->notes, "%s (\"%s\") leaves", m->name, m->label);
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

/* With the lock. */
static json_t *list_members(const rb_host *h, int *unused) {
    json_t *list = json_array();
    for (int i = 0; i < h->members; i++) {
        const rb_member *m = &h->member[i];
        *unused += !m->came && !*m->revoked;
        if (!m->came) continue; /* somebody has asked for a name, no more */
        json_array_append_new(
            list,
            json_pack("{s:s, s:s, s:s, s:i, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:f, s:s}", "name",
                      m->name, "label", m->label, "state", state_of(h, m), "stage",
                      h->running ? m->stage : -1, "gflops", m->gflops, "memory", m->memory, "up_bits",
                      m->up_bits, "down_bits", m->down_bits, "latency_s", m->latency_s, "sent",
                      (json_int_t)m->sent + m->moved[0], "received", (json_int_t)m->received + m->moved[1],
                      "steps", (json_int_t)m->steps, "busy_s", m->busy_s, "reason", m->revoked));
    }
    return list;
}

static void on_status(void *ctx, const char *from, const char *question, size_t n, rb_buf *out) {
    enum { ROW = 400 }; /* bytes of one, about */
    rb_host *h = ctx;
    int unused = 0;
    (void)question;
    (void)n;
    char doing[260];
    pthread_mutex_lock(&h->lock);
    rb_member *asks = rb_host_find(h, from);
    if (asks && !may_have(asks, (int64_t)ROW * (h->members + 1))) {
        pthread_mutex_unlock(&h->lock);
        refuse(out, "this participant has asked for very many lists in this minute: ask in the next one");
        return;
    }
    int64_t left = h->next_try_ns - rb_now_ns();
    if (h->next_try_ns)
        snprintf(doing, sizeof doing, "the next try in %.0f s: %s", left > 0 ? (double)left * 1e-9 : 0.0,
                 h->vain);
    else
        snprintf(doing, sizeof doing, "%s", h->doing);
    json_t *list = list_members(h, &unused);
    json_t *all =
        json_pack("{s:I, s:I, s:I, s:I, s:s, s:i, s:o}", "step", (json_int_t)h->step, "steps",
                  (json_int_t)h->cfg->train.steps, "epoch", (json_int_t)h->epoch, "again",
                  (json_int_t)h->steps_again, "doing", doing, "unused", unused, "participants", list);
    pthread_mutex_unlock(&h->lock);
    put_json(all, out);
}

static void on_revoke(void *ctx, const char *from, const char *question, size_t n, rb_buf *out) {
    rb_host *h = ctx;
    rb_err err = {0};
    char name[RB_CARRIER_NAME];
    snprintf(name, sizeof name, "%.*s", n < sizeof name ? (int)n : 0, question);
    if (strcmp(from, h->access.name)) {
        rb_host_malformed(h, from);
        rb_host_note_asked(h, &h->notes, "%s asked to revoke a participant, which only the host may", from);
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
    rb_member *m = rb_host_find(h, name);
    resbm_status st = m ? RESBM_OK : rb_fail(err, RESBM_E_ARG, "the run has no participant \"%s\"", name);
    if (!st) rb_utf8_cut(m->revoked, sizeof m->revoked, why);
    if (!st) copy = *m;
    pthread_mutex_unlock(&h->lock);
    if (!st) st = rb_host_keep_member(h, &copy, err);
    if (!st) st = rb_host_tell_server(h, err);
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
    resbm_status st = rb_host_roll_open(h, err);
    for (size_t i = 0; i < sizeof services / sizeof *services && !st; i++)
        st = h->carrier->module->serve(h->carrier->state, services[i].subject, services[i].asker, h,
                                       services[i].answer, err);
    return st;
}

/* --- leases --- */

void rb_host_malformed(void *host, const char *from) {
    rb_host *h = host;
    pthread_mutex_lock(&h->lock);
    rb_member *m = rb_host_find(h, from);
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
