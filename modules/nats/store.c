/* The store: one key-value bucket of JetStream, in the server's files. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/hash.h"
#include "module.h"

/* A value that is longer than a message may be lies in pieces, at KEY.more.HASH.0, KEY.more.HASH.1 and so on; KEY has this, then its
 * hash and length. Pieces of another value have other keys: the old value is whole until KEY names the new one. */
static const char cut_mark[] = "\x01"
                               "cut ";
enum { HEADERS = 512 /* of a message, which count */, CUT_HEAD = 80 };

typedef struct cut {
    char hash[33];
    size_t bytes;
} cut;

static bool read_cut(const char *p, size_t n, cut *out) {
    char text[CUT_HEAD + 1];
    if (n < sizeof cut_mark || n > CUT_HEAD || memcmp(p, cut_mark, sizeof cut_mark - 1) != 0) return false;
    memcpy(text, p, n);
    text[n] = 0;
    return sscanf(text + sizeof cut_mark - 1, "%32[0-9a-f] %zu", out->hash, &out->bytes) == 2;
}

static void name_piece(char out[300], const char *key, const char *hash, size_t i) {
    snprintf(out, 300, "%s.more.%s.%zu", key, hash, i);
}

size_t rb_nats_store_piece(void *state) {
    int64_t most = natsConnection_GetMaxPayload(((rb_nats *)state)->nc) - HEADERS;
    return most > 256 ? (size_t)most : 256;
}

static resbm_status get_one(rb_nats *c, const char *key, rb_buf *out, uint64_t *revision, rb_err *err) {
    kvEntry *e = NULL;
    *revision = 0;
    natsStatus s = kvStore_Get(&e, c->kv, key);
    if (s == NATS_NOT_FOUND) return RESBM_OK;
    if (s) return rb_nats_fail(err, s, "cannot read from the run's store");
    *revision = kvEntry_Revision(e);
    rb_buf_add(out, kvEntry_Value(e), (size_t)kvEntry_ValueLen(e));
    kvEntry_Destroy(e);
    return rb_buf_status(out, err);
}

/* RESBM_E_CORRUPT: a piece is gone, as where another process has set the key meanwhile. */
static resbm_status get_cut(rb_nats *c, const char *key, const cut *of, rb_buf *out, rb_err *err) {
    size_t begin = out->len;
    for (size_t i = 0; out->len - begin < of->bytes; i++) {
        char piece[300], hash[33];
        uint64_t revision;
        size_t before = out->len;
        name_piece(piece, key, of->hash, i);
        RB_TRY(get_one(c, piece, out, &revision, err));
        bool last = out->len - begin >= of->bytes;
        if (last) rb_hash128_hex(out->data + begin, out->len - begin, hash);
        if (out->len == before || out->len - begin > of->bytes || (last && strcmp(hash, of->hash) != 0))
            return rb_fail(err, RESBM_E_CORRUPT, "the run's store has \"%s\" not whole", key);
    }
    return RESBM_OK;
}

resbm_status rb_nats_store_get(void *state, const char *key, rb_buf *out, uint64_t *revision, rb_err *err) {
    enum { TRIES = 5 };
    size_t begin = out->len;
    cut of;
    for (int i = 0;; i++) {
        RB_TRY(get_one(state, key, out, revision, err));
        if (!out->data || !read_cut(out->data + begin, out->len - begin, &of)) return RESBM_OK;
        out->len = begin;
        resbm_status st = get_cut(state, key, &of, out, err);
        if (st != RESBM_E_CORRUPT || i == TRIES) return st;
        out->len = begin;
    }
}

/* What the server says of a write; codes of JetStream's own. */
static resbm_status fail_set(const char *key, size_t n, natsStatus s, jsErrCode code, rb_err *err) {
    enum {
        WRONG_LAST_SEQUENCE = 10071,
        NO_RESOURCES = 10023,
        STORAGE = 10047,
        STORE_FAILED = 10077,
        ACCOUNT = 10002
    };
    const char *why = nats_GetLastError(NULL);
    if ((int)code == WRONG_LAST_SEQUENCE)
        return rb_fail(err, RESBM_E_STATE, "\"%s\" of the run's store was changed by another: %s", key, why);
    if ((int)code == NO_RESOURCES || (int)code == STORAGE || (int)code == STORE_FAILED ||
        (int)code == ACCOUNT)
        return rb_fail(
            err, RESBM_E_IO,
            "the run's store on the server is full (%s): make room on its disk, or raise "
            "jetstream.max_file_store, the account's or the bucket's limit; the run goes on from there",
            why);
    if (s == NATS_MAX_PAYLOAD)
        return rb_fail(err, RESBM_E_CONFIG, "%zu bytes of \"%s\" are more than the server's max_payload", n,
                       key);
    if (s == NATS_TIMEOUT)
        return rb_fail(
            err, RESBM_E_TIMEOUT,
            "cannot write to the run's store: no answer in time (a server whose disk is full gives none)");
    return code ? rb_fail(err, RESBM_E_IO, "cannot write \"%s\" to the run's store: %s", key, why)
                : rb_nats_fail(err, s, "cannot write to the run's store");
}

/* A bucket is a stream of this name, a key a subject of it; returns how long the subject is in front of the key. */
static int stream_of(const rb_nats *c, const char *key, char stream[200], char subject[400]) {
    const char *bucket = kvStore_Bucket(c->kv);
    snprintf(stream, 200, "KV_%s", bucket);
    return snprintf(subject, 400, "$KV.%s.%s", bucket, key) - (int)strlen(key);
}

/* Not kvStore_Put and the like: they keep the server's code to themselves. */
static resbm_status set_one(rb_nats *c, const char *key, const void *p, size_t n, uint64_t *revision,
                            rb_err *err) {
    char stream[200], subject[400];
    jsPubOptions o;
    jsPubAck *ack = NULL;
    jsErrCode code = 0;
    stream_of(c, key, stream, subject);
    jsPubOptions_Init(&o);
    if (!*revision)
        o.ExpectNoMessage = true;
    else if (*revision != UINT64_MAX)
        o.ExpectLastSubjectSeq = *revision;
    natsStatus s = js_Publish(&ack, c->js, subject, p, (int)n, &o, &code);
    if (s) return fail_set(key, n, s, code, err);
    *revision = ack->Sequence;
    jsPubAck_Destroy(ack);
    return RESBM_OK;
}

/* Keys that have had pieces, so that whoever writes or deletes one of them looks for those, and others cost no question more. Lines;
 * with c->lock. */
static const char *find_cut_key(const rb_nats *c, const char *key) {
    char line[300];
    snprintf(line, sizeof line, "\n%s\n", key);
    return c->cut_keys.data ? strstr(c->cut_keys.data, line) : NULL;
}

static void note_cut_key(rb_nats *c, const char *key) {
    pthread_mutex_lock(&c->lock);
    if (!find_cut_key(c, key)) rb_buf_printf(&c->cut_keys, c->cut_keys.len ? "%s\n" : "\n%s\n", key);
    pthread_mutex_unlock(&c->lock);
}

static bool is_cut_key(rb_nats *c, const char *key) {
    pthread_mutex_lock(&c->lock);
    bool is = find_cut_key(c, key) != NULL || c->cut_keys.failed;
    pthread_mutex_unlock(&c->lock);
    return is;
}

static resbm_status purge(rb_nats *c, const char *key, rb_err *err) {
    jsOptions o;
    char stream[200], subject[400];
    stream_of(c, key, stream, subject);
    jsOptions_Init(&o);
    o.Wait = 5000;
    o.Stream.Purge.Subject = subject;
    natsStatus s = js_PurgeStream(c->js, stream, &o, NULL);
    return s && s != NATS_NOT_FOUND ? rb_nats_fail(err, s, "cannot delete from the run's store") : RESBM_OK;
}

/* What is left of it is in nobody's way, and goes with the next writing. */
static void drop_cut(rb_nats *c, const char *key, const char *hash) {
    char all[300];
    rb_err ignored;
    snprintf(all, sizeof all, "%s.more.%s.*", key, hash);
    purge(c, all, &ignored);
}

static resbm_status set_cut(rb_nats *c, const char *key, const uint8_t *p, size_t n, uint64_t *revision,
                            rb_err *err) {
    size_t most = rb_nats_store_piece(c);
    char hash[33], head[CUT_HEAD], piece[300];
    rb_buf was = {0};
    uint64_t old, new;
    cut before;
    rb_hash128_hex(p, n, hash);
    RB_TRY(get_one(c, key, &was, &old, err));
    bool had = was.data && read_cut(was.data, was.len, &before) && strcmp(before.hash, hash) != 0;
    rb_buf_free(&was);
    note_cut_key(c, key);
    for (size_t i = 0; i * most < n; i++) {
        size_t left = n - i * most;
        new = UINT64_MAX;
        name_piece(piece, key, hash, i);
        RB_TRY(set_one(c, piece, p + i * most, left < most ? left : most, &new, err));
    }
    int m = snprintf(head, sizeof head, "%s%s %zu", cut_mark, hash, n);
    RB_TRY(set_one(c, key, head, (size_t)m, revision, err));
    if (had) drop_cut(c, key, before.hash);
    return RESBM_OK;
}

/* A short value in the place of a long one: that one's pieces go once it is there, so that nobody reads half of either. */
resbm_status rb_nats_store_set(void *state, const char *key, const void *p, size_t n, uint64_t *revision,
                               rb_err *err) {
    if (n > rb_nats_store_piece(state)) return set_cut(state, key, p, n, revision, err);
    RB_TRY(set_one(state, key, p, n, revision, err));
    if (is_cut_key(state, key)) drop_cut(state, key, "*");
    return RESBM_OK;
}

/* Not kvStore_Purge: that leaves a mark for each key, for ever, and a run's keys are new ones with every step. */
resbm_status rb_nats_store_delete(void *state, const char *key, rb_err *err) {
    RB_TRY(purge(state, key, err));
    if (is_cut_key(state, key)) drop_cut(state, key, "*");
    return RESBM_OK;
}

/* By the stream's state, not kvStore_Keys: its consumer waits for a number of messages that the server gets wrong after purges. */
resbm_status rb_nats_store_keys(void *state, rb_buf *out, rb_err *err) {
    rb_nats *c = state;
    jsOptions o;
    jsStreamInfo *info = NULL;
    char stream[200], subjects[400];
    int skip = stream_of(c, ">", stream, subjects);
    jsOptions_Init(&o);
    o.Wait = 5000;
    o.Stream.Info.SubjectsFilter = subjects;
    natsStatus s = js_GetStreamInfo(&info, c->js, stream, &o, NULL);
    if (s) return rb_nats_fail(err, s, "cannot list the run's store");
    const jsStreamStateSubjects *list = info->State.Subjects;
    for (int i = 0; list && i < list->Count; i++)
        if ((int)strlen(list->List[i].Subject) > skip)
            rb_buf_printf(out, "%s\n", list->List[i].Subject + skip);
    jsStreamInfo_Destroy(info);
    return rb_buf_status(out, err);
}

/* Of another process, an earlier one of this run's. */
static resbm_status find_cuts(rb_nats *c, rb_err *err) {
    rb_buf keys = {0};
    char *save = NULL;
    RB_TRY(rb_nats_store_keys(c, &keys, err));
    for (char *k = keys.data ? strtok_r(keys.data, "\n", &save) : NULL; k; k = strtok_r(NULL, "\n", &save)) {
        char *more = strstr(k, ".more.");
        if (!more) continue;
        *more = 0;
        note_cut_key(c, k);
    }
    rb_buf_free(&keys);
    return RESBM_OK;
}

resbm_status rb_nats_store_open(void *state, const char *bucket, int64_t most_bytes, rb_err *err) {
    rb_nats *c = state;
    jsOptions o;
    kvConfig k;
    jsOptions_Init(&o);
    o.Wait = 5000;
    natsStatus s = natsConnection_JetStream(&c->js, c->nc, &o);
    kvConfig_Init(&k);
    k.Bucket = bucket;
    k.History = 1;
    k.MaxBytes = most_bytes;
    if (!s && (s = js_KeyValue(&c->kv, c->js, bucket)) != NATS_OK) s = js_CreateKeyValue(&c->kv, c->js, &k);
    return s ? rb_nats_fail(err, s, "cannot open the run's store on the server (it needs JetStream)")
             : find_cuts(c, err);
}

void rb_nats_store_close(rb_nats *c) {
    rb_buf_free(&c->cut_keys);
    kvStore_Destroy(c->kv);
    jsCtx_Destroy(c->js);
}
