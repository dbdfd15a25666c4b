/* What the coordinator keeps in the store: its claim, the epoch, commits, snapshots. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "checkpoint/checkpoint.h"
#include "checkpoint/delta.h"
#include "core/clock.h"
#include "core/hash.h"
#include "run/host.h"

#define LEASE_NS (2 * RB_SEC)
#define RENEW_NS (RB_SEC / 2)
enum {
    PIECE = 8 * RB_DELTA_MOST,
    FAR_PIECE = 2 * RB_DELTA_MOST, /* over a line that others wait for */
    TIDY = 10, /* snapshots between two times that small keys of a large company are written again, */
    FEW = 64   /* and of a small one with each */
};

static resbm_status get(rb_host *h, const char *key, rb_buf *out, uint64_t *revision, rb_err *err) {
    return h->carrier->module->store_get(h->carrier->state, key, out, revision, err);
}

static resbm_status set(rb_host *h, const char *key, const void *p, size_t n, uint64_t *revision,
                        rb_err *err) {
    return h->carrier->module->store_set(h->carrier->state, key, p, n, revision, err);
}

/* Tries again while the server is away, for a minute. */
static bool try_again(resbm_status st, int64_t since_ns) {
    if (st != RESBM_E_PEER && st != RESBM_E_TIMEOUT) return false;
    if (rb_now_ns() - since_ns > 60 * RB_SEC) return false;
    rb_sleep_ns(100 * RB_MS);
    return true;
}

/* --- the claim --- */

static void *keep_claim(void *arg) {
    rb_host *h = arg;
    while (!h->lost_claim && h->claiming) {
        rb_err why;
        char text[80];
        int n = snprintf(text, sizeof text, "%s %" PRId64, h->id, rb_now_ns());
        uint64_t revision = h->claim_revision;
        resbm_status st = set(h, "coordinator", text, (size_t)n, &revision, &why);
        if (!st) h->claim_revision = revision;
        if (st == RESBM_E_STATE) { /* unless it is this process's own write, whose answer was lost */
            rb_buf now = {0};
            if (!get(h, "coordinator", &now, &revision, &why)) {
                if (now.data && !strncmp(now.data, h->id, strlen(h->id)))
                    h->claim_revision = revision;
                else
                    h->lost_claim = true;
            }
            rb_buf_free(&now);
        }
        if (h->carrier->module->ended(h->carrier->state))
            h->lost_claim = true; /* a new process connects anew */
        if (h->lost_claim) atomic_store(&h->stop, 2);
        rb_sleep_ns(RENEW_NS);
    }
    return NULL;
}

/* The claim of another holds as long as it is renewed, by this process's clock; that of one that has ended for sure does not. */
static resbm_status wait_free(rb_host *h, uint64_t *revision, rb_err *err) {
    uint64_t before = UINT64_MAX;
    for (int64_t since = rb_now_ns(), begin = since;;) {
        rb_buf now = {0};
        resbm_status st = get(h, "coordinator", &now, revision, err);
        bool dead = !st && *h->before && now.data && !strncmp(now.data, h->before, strlen(h->before));
        rb_buf_free(&now);
        if (st && !try_again(st, begin)) return st;
        if (dead || (!st && !*revision)) return RESBM_OK;
        if (!st && *revision != before) since = rb_now_ns();
        if (!st) before = *revision;
        if (rb_now_ns() - since > LEASE_NS) return RESBM_OK;
        if (h->asked && atomic_load(h->asked)) return rb_fail(err, RESBM_E_CANCELLED, "stopped on request");
        rb_sleep_ns(100 * RB_MS);
    }
}

resbm_status rb_host_claim(rb_host *h, rb_err *err) {
    uint64_t revision;
    for (int i = 0;; i++) {
        RB_TRY(wait_free(h, &revision, err));
        resbm_status st = set(h, "coordinator", h->id, strlen(h->id), &revision, err);
        if (!st) break;
        if (st != RESBM_E_STATE || i == 10) return st;
    }
    h->claim_revision = revision;
    h->claiming = true;
    int bad = pthread_create(&h->claimer, NULL, keep_claim, h);
    if (bad) h->claiming = false;
    return bad ? rb_fail_errno(err, bad, "cannot start a thread") : RESBM_OK;
}

void rb_host_unclaim(rb_host *h) {
    rb_err ignored;
    if (!h->claiming) return;
    h->claiming = false;
    pthread_join(h->claimer, NULL);
    if (!h->lost_claim) h->carrier->module->store_delete(h->carrier->state, "coordinator", &ignored);
}

resbm_status rb_host_next_epoch(rb_host *h, rb_err *err) {
    for (int64_t since = rb_now_ns();;) {
        rb_buf was = {0};
        uint64_t revision;
        char text[32];
        resbm_status st = get(h, "epoch", &was, &revision, err);
        uint32_t epoch = (uint32_t)strtoul(was.data ? was.data : "0", NULL, 10) + 1;
        rb_buf_free(&was);
        int n = snprintf(text, sizeof text, "%u", epoch);
        if (!st) st = set(h, "epoch", text, (size_t)n, &revision, err);
        if (!st) {
            pthread_mutex_lock(&h->lock);
            h->epoch = epoch;
            pthread_mutex_unlock(&h->lock);
            return RESBM_OK;
        }
        if (st != RESBM_E_STATE && !try_again(st, since)) return st;
        if (h->lost_claim) return rb_fail(err, RESBM_E_STATE, "another process has become the coordinator");
    }
}

/* --- commits --- */

/* With replicas a commit names the deals since the snapshot, in the last of three words: sums of other deals round otherwise. */
static bool other_deal(const char *was, const char *now) {
    const char *a = was ? strrchr(was, ' ') : NULL, *b = strrchr(now, ' ');
    bool replicas = a && b && strchr(was, ' ') != a && strchr(now, ' ') != b;
    return replicas && strcmp(a, b) != 0 && fabs(strtod(was, NULL) / strtod(now, NULL) - 1) < 0.05;
}

static resbm_status compare_commit(rb_host *h, const char *key, const char *text, int64_t step, rb_err *err) {
    rb_buf was = {0};
    uint64_t revision;
    resbm_status st = get(h, key, &was, &revision, err);
    if (!st && was.data && !strcmp(was.data, text)) {
        h->steps_again++;
    } else if (!st && other_deal(was.data, text)) {
        st = set(h, key, text, strlen(text), &revision, err);
    } else if (!st) {
        rb_host_note(h,
                     "step %lld was done again with another result (%s, committed was %s): machines with "
                     "other instructions "
                     "took part, or one of them computes wrongly",
                     (long long)step + 1, text, was.data ? was.data : "nothing");
        st = set(h, key, text, strlen(text), &revision, err);
    }
    rb_buf_free(&was);
    return st;
}

resbm_status rb_host_record_commit(rb_host *h, int64_t step, double loss, const char *fingerprint,
                                   rb_err *err) {
    char key[64], text[120];
    snprintf(key, sizeof key, "commit.%lld", (long long)step);
    snprintf(text, sizeof text, "%.17g %s", loss, fingerprint);
    for (int64_t since = rb_now_ns();;) {
        uint64_t revision = 0;
        if (h->lost_claim)
            return rb_fail(err, RESBM_E_CANCELLED, "another process has become the coordinator");
        resbm_status st = set(h, key, text, strlen(text), &revision, err);
        if (st == RESBM_E_STATE) st = compare_commit(h, key, text, step, err);
        if (!st) h->step = step + 1;
        if (!st || !try_again(st, since)) return st;
    }
}

/* --- snapshots --- */

static size_t piece_of(const rb_host *h) {
    size_t most = h->carrier->module->store_piece(h->carrier->state);
    size_t wanted = h->at.foreign ? FAR_PIECE : PIECE;
    return most < wanted ? most : wanted;
}

/* To somebody else's server the pieces go up this machine's line, beside what it tells the steps that go on meanwhile: the line is free
 * for these for the rest of the time. For whom the run waits, and on the own server, there is no pause. */
static void leave_the_line(const rb_host *h, int64_t step, int64_t took_ns) {
    int64_t until = rb_now_ns() + (int64_t)((double)took_ns * (1 / h->cfg->snapshot_share - 1));
    bool waits = !h->at.foreign || step >= h->cfg->train.steps;
    while (!waits && rb_now_ns() < until) {
        waits = h->lost_claim || (h->asked && atomic_load(h->asked)) || atomic_load(&h->stop);
        int64_t left = until - rb_now_ns();
        rb_sleep_ns(left < 50 * RB_MS ? left : 50 * RB_MS);
    }
}

/* Bytes of a file that one value holds at the most, packed (checkpoint/delta.h) without a base: the store has this snapshot alone. */
static size_t bytes_of_value(const rb_host *h) {
    size_t most = piece_of(h), whole = most / RB_DELTA_MOST;
    return whole ? whole * RB_DELTA_PIECE : most - RB_DELTA_HEADER;
}

static size_t pack(rb_delta *d, const uint8_t *in, size_t n, uint8_t *out) {
    size_t len = 0;
    for (size_t at = 0, part; at < n; at += part) {
        part = n - at < RB_DELTA_PIECE ? n - at : RB_DELTA_PIECE;
        len += rb_delta_pack(d, in + at, part, NULL, out + len);
    }
    return len;
}

static resbm_status put_values(rb_host *h, int64_t step, int fd, const rb_part_file *f, rb_delta *d,
                               uint8_t *piece, uint8_t *value, rb_err *err) {
    char key[128];
    ssize_t n;
    for (int i = 0; (n = read(fd, piece, bytes_of_value(h))) > 0; i++) {
        uint64_t revision = UINT64_MAX;
        size_t len = pack(d, piece, (size_t)n, value);
        resbm_status st;
        snprintf(key, sizeof key, "packed.%s.%d", f->sum.hash, i);
        int64_t since = rb_now_ns();
        do st = set(h, key, value, len, &revision, err);
        while (st && try_again(st, since));
        RB_TRY(st);
        leave_the_line(h, step, rb_now_ns() - since);
    }
    return n < 0 ? rb_fail_errno(err, errno, "reading %s", f->name) : RESBM_OK;
}

static resbm_status put_file(rb_host *h, int64_t step, const char *folder, const rb_part_file *f,
                             rb_err *err) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", folder, f->name);
    uint8_t *piece = malloc(PIECE), *value = malloc(PIECE);
    rb_delta *d = rb_delta_new();
    int fd = -1;
    resbm_status st = RESBM_OK;
    if (!piece || !value || !d) st = rb_fail(err, RESBM_E_MEMORY, "no memory for a piece of a snapshot");
    if (!st && (fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
        st = rb_fail_errno(err, errno, "cannot open %s", path);
    if (!st) st = put_values(h, step, fd, f, d, piece, value, err);
    if (fd >= 0) close(fd);
    rb_delta_free(d);
    free(piece);
    free(value);
    return st;
}

static void drop_file(rb_host *h, const rb_part_file *f) {
    char key[128];
    rb_err ignored;
    for (uint64_t at = 0, i = 0, most = bytes_of_value(h); at < f->sum.bytes; at += most, i++) {
        snprintf(key, sizeof key, "packed.%s.%d", f->sum.hash, (int)i);
        h->carrier->module->store_delete(h->carrier->state, key, &ignored);
    }
}

static bool holds(const rb_manifest *m, const char *hash) {
    for (int i = 0; i < m->file_count; i++)
        if (!strcmp(m->files[i].sum.hash, hash)) return true;
    return false;
}

static resbm_status read_snapshot(rb_host *h, rb_manifest *m, uint64_t *revision, rb_err *err) {
    rb_buf text = {0};
    *m = (rb_manifest){.step = -1};
    resbm_status st = get(h, "snapshot", &text, revision, err);
    if (!st && text.len) st = rb_manifest_parse(text.data, text.len, "the store's snapshot", m, err);
    rb_buf_free(&text);
    return st;
}

/* Is it of no use any more, with that snapshot in the store? */
static bool is_stale(const rb_manifest *now, const char *key) {
    char hash[33];
    if (!strncmp(key, "commit.", 7)) return strtoll(key + 7, NULL, 10) < now->step;
    return (sscanf(key, "packed.%32[0-9a-f].", hash) == 1 || sscanf(key, "file.%32[0-9a-f].", hash) == 1) &&
           !holds(now, hash);
}

/* What a coordinator that was killed, or a server that did not answer, left behind. */
static resbm_status sweep(rb_host *h, const rb_manifest *now, rb_err *err) {
    rb_buf keys = {0};
    char *save = NULL;
    rb_err ignored;
    resbm_status st = h->carrier->module->store_keys(h->carrier->state, &keys, err);
    for (char *k = st || !keys.data ? NULL : strtok_r(keys.data, "\n", &save); k;
         k = strtok_r(NULL, "\n", &save))
        if (is_stale(now, k)) h->carrier->module->store_delete(h->carrier->state, k, &ignored);
    rb_buf_free(&keys);
    return st;
}

/* Accounts of who has done how much, and what others left. A fault is none of the run's: the next time will do. */
static void tidy(rb_host *h, const rb_manifest *now) {
    rb_err err;
    bool due = ++h->snapshots % TIDY == 0;
    resbm_status st = due || h->members <= FEW ? rb_host_keep_members(h, &err) : RESBM_OK;
    if (!st && due) st = sweep(h, now, &err);
    if (st) rb_host_note(h, "the store was not tidied: %s", err.text);
}

/* Files that the last snapshot had too are not sent again; what only it had goes, and so do the commits before this one. */
resbm_status rb_host_keep_snapshot(rb_host *h, int64_t step, const char *folder, rb_err *err) {
    char path[PATH_MAX], key[64];
    rb_buf text = {0};
    rb_manifest old, now = {0};
    uint64_t revision;
    rb_err ignored;
    snprintf(path, sizeof path, "%s/manifest.json", folder);
    RB_TRY(read_snapshot(h, &old, &revision, err));
    resbm_status st = rb_read_file(path, RB_MANIFEST_LIMIT, &text, err);
    if (!st) st = rb_manifest_parse(text.data, text.len, path, &now, err);
    for (int i = 0; i < now.file_count && !st; i++)
        if (!holds(&old, now.files[i].sum.hash)) st = put_file(h, step, folder, &now.files[i], err);
    if (!st) st = set(h, "snapshot", text.data, text.len, &revision, err);
    for (int i = 0; i < old.file_count && !st; i++)
        if (!holds(&now, old.files[i].sum.hash)) drop_file(h, &old.files[i]);
    for (int64_t s = old.step < 0 ? 0 : old.step; s < step && !st; s++) {
        snprintf(key, sizeof key, "commit.%lld", (long long)s);
        h->carrier->module->store_delete(h->carrier->state, key, &ignored);
    }
    if (!st) tidy(h, &now);
    rb_manifest_free(&old);
    rb_manifest_free(&now);
    rb_buf_free(&text);
    return st;
}

typedef struct taken {
    const rb_part_file *f;
    int fd;
    uint64_t have;
    rb_hasher *hasher;
    rb_delta *delta;
    uint8_t piece[RB_DELTA_PIECE];
} taken;

static resbm_status keep_piece(taken *t, const uint8_t *p, size_t n, rb_err *err) {
    if (!n || n > t->f->sum.bytes - t->have)
        return rb_fail(err, RESBM_E_CORRUPT, "the store's copy of %s is not whole", t->f->name);
    RB_TRY(rb_write_all(t->fd, p, n, t->f->name, err));
    rb_hasher_add(t->hasher, p, n);
    t->have += n;
    return RESBM_OK;
}

static resbm_status unpack(taken *t, const uint8_t *p, size_t len, rb_err *err) {
    for (size_t at = 0, part; at < len; at += part) {
        bool based;
        size_t n = rb_delta_bytes(p + at, len - at);
        RB_TRY(rb_delta_look(p + at, len - at, n, &part, &based, err));
        if (part > len - at) part = len - at; /* which unpacking refuses */
        RB_TRY(rb_delta_unpack(t->delta, p + at, part, NULL, t->piece, n, err));
        RB_TRY(keep_piece(t, t->piece, n, err));
    }
    return RESBM_OK;
}

/* One value after the other: a file may be larger than this machine's memory. A store that was written before values were packed has
 * "file." where others have "packed.". */
static resbm_status take_values(rb_host *h, taken *t, rb_err *err) {
    bool packed = true;
    for (int i = 0; t->have < t->f->sum.bytes; i++) {
        char key[128];
        uint64_t revision;
        rb_buf value = {0};
        snprintf(key, sizeof key, "packed.%s.%d", t->f->sum.hash, i);
        resbm_status st = packed ? get(h, key, &value, &revision, err) : RESBM_OK;
        if (!i && !value.len) packed = false;
        snprintf(key, sizeof key, "file.%s.%d", t->f->sum.hash, i);
        if (!st && !packed) st = get(h, key, &value, &revision, err);
        if (!st && !value.len)
            st = rb_fail(err, RESBM_E_CORRUPT, "the store's copy of %s is not whole", t->f->name);
        const uint8_t *p = (const uint8_t *)value.data;
        if (!st) st = packed ? unpack(t, p, value.len, err) : keep_piece(t, p, value.len, err);
        rb_buf_free(&value);
        RB_TRY(st);
    }
    return RESBM_OK;
}

static resbm_status take_pieces(rb_host *h, int fd, const rb_part_file *f, rb_hasher *hasher, rb_err *err) {
    taken *t = calloc(1, sizeof *t);
    if (t) *t = (taken){.f = f, .fd = fd, .hasher = hasher, .delta = rb_delta_new()};
    resbm_status st = t && t->delta ? take_values(h, t, err)
                                    : rb_fail(err, RESBM_E_MEMORY, "no memory to take %s", f->name);
    if (t) rb_delta_free(t->delta);
    free(t);
    return st;
}

/* Into a folder that has no name of a snapshot yet. */
static resbm_status take_file(rb_host *h, const char *folder, const rb_part_file *f, rb_err *err) {
    char path[PATH_MAX], hash[33] = "";
    snprintf(path, sizeof path, "%s/%s", folder, f->name);
    rb_hasher *hasher = rb_hasher_new();
    int fd = hasher ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666) : -1;
    resbm_status st = !hasher  ? rb_fail(err, RESBM_E_MEMORY, "no memory to check %s", f->name)
                      : fd < 0 ? rb_fail_errno(err, errno, "cannot write %s", path)
                               : take_pieces(h, fd, f, hasher, err);
    if (!st && fsync(fd)) st = rb_fail_errno(err, errno, "syncing %s", path);
    if (fd >= 0) close(fd);
    if (hasher) rb_hasher_finish(hasher, hash);
    if (!st && strcmp(hash, f->sum.hash))
        st = rb_fail(err, RESBM_E_CORRUPT, "the store's copy of %s is not whole", f->name);
    return st;
}

resbm_status rb_host_restore_snapshot(rb_host *h, rb_err *err) {
    char tmp[PATH_MAX];
    int64_t here = -1;
    rb_err ignored;
    rb_manifest m;
    uint64_t revision;
    RB_TRY(read_snapshot(h, &m, &revision, err));
    rb_checkpoint_find_latest(h->dir, &here, NULL, &ignored);
    resbm_status st = RESBM_OK;
    if (m.step > here) {
        st = rb_checkpoint_begin(h->dir, m.step, tmp, err);
        for (int i = 0; i < m.file_count && !st; i++) st = take_file(h, tmp, &m.files[i], err);
        if (!st) st = rb_checkpoint_commit(h->dir, &m, h->cfg->train.keep, err);
        if (!st) rb_host_note(h, "took the snapshot of step %lld from the store", (long long)m.step);
    }
    rb_manifest_free(&m);
    return st;
}
