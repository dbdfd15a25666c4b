/* The store: one key-value bucket of JetStream, in the server's files. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "module.h"

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
             : RESBM_OK;
}

resbm_status rb_nats_store_get(void *state, const char *key, rb_buf *out, uint64_t *revision, rb_err *err) {
    rb_nats *c = state;
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

resbm_status rb_nats_store_set(void *state, const char *key, const void *p, size_t n, uint64_t *revision,
                               rb_err *err) {
    rb_nats *c = state;
    natsStatus s;
    if (*revision == UINT64_MAX)
        s = kvStore_Put(revision, c->kv, key, p, (int)n);
    else if (*revision == 0)
        s = kvStore_Create(revision, c->kv, key, p, (int)n);
    else
        s = kvStore_Update(revision, c->kv, key, p, (int)n, *revision);
    if (s == NATS_ERR)
        return rb_fail(err, RESBM_E_STATE, "\"%s\" of the run's store was changed by another: %s", key,
                       nats_GetLastError(NULL));
    return s ? rb_nats_fail(err, s, "cannot write to the run's store") : RESBM_OK;
}

/* A bucket is a stream of this name, a key a subject of it; returns how long the subject is in front of the key. */
static int stream_of(const rb_nats *c, const char *key, char stream[200], char subject[400]) {
    const char *bucket = kvStore_Bucket(c->kv);
    snprintf(stream, 200, "KV_%s", bucket);
    return snprintf(subject, 400, "$KV.%s.%s", bucket, key) - (int)strlen(key);
}

/* Not kvStore_Purge: that leaves a mark for each key, for ever, and a run's keys are new ones with every step. */
resbm_status rb_nats_store_delete(void *state, const char *key, rb_err *err) {
    rb_nats *c = state;
    jsOptions o;
    char stream[200], subject[400];
    stream_of(c, key, stream, subject);
    jsOptions_Init(&o);
    o.Wait = 5000;
    o.Stream.Purge.Subject = subject;
    natsStatus s = js_PurgeStream(c->js, stream, &o, NULL);
    return s && s != NATS_NOT_FOUND ? rb_nats_fail(err, s, "cannot delete from the run's store") : RESBM_OK;
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

void rb_nats_store_close(rb_nats *c) {
    kvStore_Destroy(c->kv);
    jsCtx_Destroy(c->js);
}
