/* The roll: who is enrolled, as this process, the store and the server know it.
 *
 * Whoever has the invitation can ask to be enrolled as often as he likes. So names under which nobody has come yet are few, give way
 * to others once they had time to come, and go by themselves in the end; where the roll is full, names that are of no use any more give
 * way too. The server is told of many at once, by a thread (the clerk): it reads its whole configuration again each time, and a
 * foreign one takes long for that. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include "core/clock.h"
#include "data/utf8.h"
#include "run/host.h"

#define LOOK_NS  (50 * RB_MS)    /* of the clerk, */
#define TELL_NS  RB_SEC          /* who tells the server of changes so often at the most, */
#define AGAIN_NS (10 * RB_SEC)   /* and again when that failed */
#define GRACE_NS (10 * RB_SEC)   /* to come with one's key before another may have the place */
#define USE_NS   (3600 * RB_SEC) /* until a name that nobody has come under is gone */
#define AWAY_NS                                                                                              \
    (3600 * RB_SEC) /* one that was there and never computed gives way after that, in a full roll */

rb_member *rb_host_find(rb_host *h, const char *name) {
    for (int i = 0; i < h->members; i++)
        if (!strcmp(h->member[i].name, name)) return &h->member[i];
    return NULL;
}

/* --- the store's and the server's copy. Both may take a minute: the lock is not held meanwhile, only `changing` or `telling` --- */

static resbm_status set(rb_host *h, const char *key, const char *text, size_t n, rb_err *err) {
    uint64_t revision = UINT64_MAX;
    return h->carrier->module->store_set(h->carrier->state, key, text, n, &revision, err);
}

resbm_status rb_host_keep_member(rb_host *h, const rb_member *m, rb_err *err) {
    char key[100];
    json_t *j =
        json_pack("{s:s, s:s, s:s, s:b, s:I, s:I, s:I, s:f}", "public_key", m->public_key, "label", m->label,
                  "revoked", m->revoked, "came", m->came, "sent", (json_int_t)m->moved[0], "received",
                  (json_int_t)m->moved[1], "steps", (json_int_t)m->steps, "busy_s", m->busy_s);
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    if (!text) return rb_fail(err, RESBM_E_MEMORY, "no memory for a member");
    snprintf(key, sizeof key, "member.%s", m->name);
    resbm_status st = set(h, key, text, strlen(text), err);
    free(text);
    return st;
}

/* The list of names beside the members themselves. */
static resbm_status keep_names(rb_host *h, rb_err *err) {
    rb_buf b = {0};
    pthread_mutex_lock(&h->lock);
    for (int i = 0; i < h->members; i++) rb_buf_printf(&b, "%s\n", h->member[i].name);
    pthread_mutex_unlock(&h->lock);
    resbm_status st = rb_buf_status(&b, err);
    if (!st) st = set(h, "members", b.data ? b.data : "", b.len, err);
    rb_buf_free(&b);
    return st;
}

/* With `changing`. Members that *which is true of, or all. */
static resbm_status keep_some(rb_host *h, bool (*which)(const rb_member *), rb_err *err) {
    resbm_status st = RESBM_OK;
    for (int i = 0; i < RB_MOST_MEMBERS && !st; i++) {
        rb_member copy;
        pthread_mutex_lock(&h->lock);
        bool over = i >= h->members, wanted = !over && (!which || which(&h->member[i]));
        if (wanted) copy = h->member[i];
        pthread_mutex_unlock(&h->lock);
        if (over) break;
        if (!wanted) continue;
        st = rb_host_keep_member(h, &copy, err);
        pthread_mutex_lock(&h->lock); /* only who holds `changing` puts another into its place */
        if (!st) h->member[i].came_kept = copy.came;
        pthread_mutex_unlock(&h->lock);
    }
    return st;
}

/* A key that is written once lies in a file of the store among what was deleted since, and keeps it from being removed: a
 * participant would cost a megabyte for ever. Written again one behind the other, they lie together. */
resbm_status rb_host_keep_members(rb_host *h, rb_err *err) {
    pthread_mutex_lock(&h->changing);
    resbm_status st = keep_some(h, NULL, err);
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
        bool came = !json_is_false(json_object_get(j, "came"));
        *m = (rb_member){.stage = -1,
                         .came = came,
                         .came_kept = came,
                         .enrolled_ns = rb_now_ns(),
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

/* --- whose place another may have; with the lock --- */

static bool in_use(const rb_host *h, int member) {
    bool used = h->member[member].stage >= 0 || h->slow == member || h->swap_member == member;
    for (int w = 0; w < h->workers; w++) used |= h->seat[w] == member;
    return used;
}

static bool is_unused(const rb_member *m) {
    return !m->came && !*m->revoked;
}

enum { MAY_NOT, AWAY, UNUSED, REVOKED, EXPIRED };

static int may_go(const rb_host *h, int member, int64_t now) {
    const rb_member *m = &h->member[member];
    int64_t heard = m->heard_ns > m->enrolled_ns ? m->heard_ns : m->enrolled_ns;
    if (in_use(h, member)) return MAY_NOT;
    if (*m->revoked) return m->came ? REVOKED : EXPIRED;
    if (!m->came) return now - m->enrolled_ns >= GRACE_NS ? UNUSED : MAY_NOT;
    bool away = m->lapsed || m->left || !m->seen;
    return away && !m->steps && now - heard >= AWAY_NS ? AWAY : MAY_NOT;
}

/* Of those of kind `least` to `most` the one that may go soonest, the oldest of its kind; -1: there is none. */
static int find_room(const rb_host *h, int64_t now, int least, int most) {
    int best = -1, kind = least;
    for (int i = 0; i < h->members; i++) {
        int k = may_go(h, i, now);
        if (k < kind || k > most) continue;
        if (k == kind && best >= 0 && h->member[best].enrolled_ns <= h->member[i].enrolled_ns) continue;
        best = i;
        kind = k;
    }
    return best;
}

/* Where a new member is to stand: h->members: behind the others. -1: nowhere, now. */
static int find_place(const rb_host *h, int64_t now, bool *later) {
    int unused = 0, expired = find_room(h, now, EXPIRED, EXPIRED);
    for (int i = 0; i < h->members; i++) unused += is_unused(&h->member[i]);
    *later = true;
    if (unused >= RB_MOST_UNUSED) return find_room(h, now, UNUSED, UNUSED); /* in the place of one of them */
    if (expired >= 0) return expired;
    if (h->members < RB_MOST_MEMBERS) return h->members;
    *later = false;
    return find_room(h, now, AWAY, EXPIRED);
}

/* --- enrolment --- */

/* With the lock: the one that has the key already (its first answer was lost); NULL: none. */
static const rb_member *by_key(const rb_host *h, const char *key) {
    for (int i = 0; i < h->members; i++)
        if (!strcmp(h->member[i].public_key, key)) return &h->member[i];
    return NULL;
}

static resbm_status draw_name(rb_host *h, rb_member *m, rb_err *err) {
    uint32_t number;
    bool taken;
    do {
        if (getrandom(&number, sizeof number, 0) != sizeof number)
            return rb_fail(err, RESBM_E_IO, "getrandom");
        pthread_mutex_lock(&h->lock);
        snprintf(m->name, sizeof m->name, "p%d-%04x", h->members, number & 0xffff);
        taken = rb_host_find(h, m->name) != NULL;
        pthread_mutex_unlock(&h->lock);
    } while (taken);
    return RESBM_OK;
}

static resbm_status refuse_full(bool later, rb_err *err) {
    if (later)
        return rb_fail(
            err, RESBM_E_STATE,
            "%d machines were enrolled and have not come yet; their places are free in some seconds",
            RB_MOST_UNUSED);
    return rb_fail(err, RESBM_E_STATE,
                   "the run has its %d participants: the host can free places of those that will not come "
                   "back with resbm revoke",
                   RB_MOST_MEMBERS);
}

/* With `changing`. */
static resbm_status enrol_new(rb_host *h, const char *key, const char *label, char name[RB_CARRIER_NAME],
                              bool *later, rb_err *err) {
    rb_member m = {.stage = -1, .lapsed = true, .enrolled_ns = rb_now_ns()};
    char gone[100] = "";
    pthread_mutex_lock(&h->lock);
    int place = find_place(h, m.enrolled_ns, later);
    pthread_mutex_unlock(&h->lock);
    if (place < 0) return refuse_full(*later, err);
    snprintf(m.public_key, sizeof m.public_key, "%s", key);
    rb_utf8_cut(m.label, sizeof m.label, label);
    RB_TRY(draw_name(h, &m, err));
    RB_TRY(rb_host_keep_member(h, &m, err));
    pthread_mutex_lock(&h->lock); /* who was to go may have come meanwhile: it asks anew */
    bool behind = place == h->members, stays = !behind && may_go(h, place, rb_now_ns()) == MAY_NOT;
    if (!behind) snprintf(gone, sizeof gone, "member.%s", stays ? m.name : h->member[place].name);
    if (!stays) h->member[place] = m;
    h->members += behind;
    pthread_mutex_unlock(&h->lock);
    resbm_status st = stays ? refuse_full(*later = true, err) : keep_names(h, err);
    rb_err ignored;
    if (*gone) h->carrier->module->store_delete(h->carrier->state, gone, &ignored);
    if (!st) snprintf(name, RB_CARRIER_NAME, "%s", m.name);
    if (!st) atomic_store(&h->changed, true);
    return st;
}

resbm_status rb_host_enrol(rb_host *h, const char *key, const char *label, char name[RB_CARRIER_NAME],
                           bool *later, rb_err *err) {
    char revoked[200] = "", trouble[sizeof h->trouble] = "";
    *later = false;
    pthread_mutex_lock(&h->changing);
    pthread_mutex_lock(&h->lock);
    const rb_member *m = by_key(h, key);
    if (m) snprintf(name, RB_CARRIER_NAME, "%s", m->name);
    if (m) snprintf(revoked, sizeof revoked, "%s", m->revoked);
    if (!m) snprintf(trouble, sizeof trouble, "%s", h->trouble);
    pthread_mutex_unlock(&h->lock);
    resbm_status st = *revoked   ? rb_fail(err, RESBM_E_STATE, "this key was revoked: %s", revoked)
                      : m        ? RESBM_OK
                      : *trouble ? rb_fail(err, RESBM_E_PEER, "%s", trouble)
                                 : enrol_new(h, key, label, name, later, err);
    pthread_mutex_unlock(&h->changing);
    return st;
}

/* --- the clerk --- */

static bool came_newly(const rb_member *m) {
    return m->came && !m->came_kept;
}

static bool is_old(const rb_member *m, int64_t now) {
    return is_unused(m) && now - m->enrolled_ns >= USE_NS;
}

/* Their keys leave the server; their places go to the next ones. */
void rb_host_expire(rb_host *h, int64_t now) {
    int n = 0;
    pthread_mutex_lock(&h->lock);
    for (int i = 0; i < h->members; i++) {
        if (!is_old(&h->member[i], now)) continue;
        snprintf(h->member[i].revoked, sizeof h->member[i].revoked, "nobody came with it in time");
        n++;
    }
    pthread_mutex_unlock(&h->lock);
    if (n) atomic_store(&h->changed, true);
    if (n) rb_host_note(h, "%d enrolments that nobody came with have expired", n);
}

static bool any(rb_host *h, bool (*which)(const rb_member *)) {
    bool found = false;
    pthread_mutex_lock(&h->lock);
    for (int i = 0; i < h->members && !found; i++) found = which(&h->member[i]);
    pthread_mutex_unlock(&h->lock);
    return found;
}

/* Returns when to try again: a store that is full, or away, stays so for a while. */
static int64_t keep_those_who_came(rb_host *h) {
    rb_err ignored;
    if (!any(h, came_newly)) return 0;
    pthread_mutex_lock(&h->changing);
    resbm_status st = keep_some(h, came_newly, &ignored);
    pthread_mutex_unlock(&h->changing);
    return st ? rb_now_ns() + AGAIN_NS : 0;
}

/* Returns when it may be told again. */
static int64_t tell_of_changes(rb_host *h) {
    rb_err err = {0};
    resbm_status st = rb_host_tell_server(h, &err);
    if (st) atomic_store(&h->changed, true);
    pthread_mutex_lock(&h->lock);
    snprintf(h->trouble, sizeof h->trouble, "%s", st ? err.text : "");
    pthread_mutex_unlock(&h->lock);
    if (st) rb_host_note(h, "the server was not told who takes part: %s; trying again", err.text);
    return rb_now_ns() + (st ? AGAIN_NS : TELL_NS);
}

static void *clerk(void *arg) {
    rb_host *h = arg;
    for (int64_t tell = 0, keep = 0; atomic_load(&h->clerking); rb_sleep_ns(LOOK_NS)) {
        int64_t now = rb_now_ns();
        if (now >= keep) keep = keep_those_who_came(h);
        rb_host_expire(h, now);
        if (now >= tell && atomic_exchange(&h->changed, false)) tell = tell_of_changes(h);
    }
    return NULL;
}

resbm_status rb_host_roll_open(rb_host *h, rb_err *err) {
    RB_TRY(load_members(h, err)); /* nobody else is there yet */
    RB_TRY(rb_host_tell_server(h, err));
    atomic_store(&h->clerking, true);
    int bad = pthread_create(&h->clerk, NULL, clerk, h);
    if (bad) atomic_store(&h->clerking, false);
    return bad ? rb_fail_errno(err, bad, "cannot start a thread") : RESBM_OK;
}

void rb_host_roll_close(rb_host *h) {
    if (!atomic_exchange(&h->clerking, false)) return;
    pthread_join(h->clerk, NULL);
}
