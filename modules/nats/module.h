/* What the files of the NATS module share. */
#ifndef RB_NATS_MODULE_H
#define RB_NATS_MODULE_H

#include <nats/nats.h>
#include <pthread.h>
#include "link/carrier.h"
#include "stream.h"

enum { RB_NATS_SERVICES = 32 };

typedef struct rb_nats_service {
    int pipe; /* -1: of questions */
    natsSubscription *sub;
} rb_nats_service;

/* For tests (mischief.c): what happens to packets on their way out. */
typedef struct rb_nats_mischief_plan {
    bool any;
    uint64_t seed, drawn;
    double twice, late, lost;
    uint8_t *held; /* a packet that is overtaken by the next one */
    size_t held_bytes;
    char held_subject[320];
    pthread_mutex_t lock;
} rb_nats_mischief_plan;

typedef struct rb_nats {
    char run[64], name[RB_STREAM_NAME], seed[RB_NKEY_TEXT], public_key[RB_NKEY_TEXT];
    uint64_t port, reconnects;
    natsConnection *nc;
    natsSubscription *packets;
    rb_streams *streams;
    bool closing,
        closed; /* atomic: we close it; libnats has told that it is closed, and is through with this struct */
    int at_work; /* atomic: subscriptions whose handlers may still run */
    bool ended, catch_all;
    pthread_mutex_t lock; /* of services, of what was refused in this minute, and of cut_keys */
    int64_t refused_minute;
    int refused_named;
    rb_nats_service services[RB_NATS_SERVICES];
    int service_count;
    void *servers[RB_NATS_SERVICES];
    int server_count;
    jsCtx *js;
    kvStore *kv;
    rb_buf cut_keys; /* store.c */
    void *ctx;
    void (*note)(void *ctx, const char *text);
    void (*malformed)(void *ctx, const char *from);
    rb_nats_mischief_plan mischief;
} rb_nats;

resbm_status rb_nats_fail(rb_err *err, natsStatus s, const char *what);
void rb_nats_close(void *state, int64_t linger_until_ns);

/* mischief.c: RESBM_MISCHIEF="seed=1,twice=0.01,late=0.01,lost=0.01" doubles, reorders and loses packets, for tests. */
void rb_nats_read_mischief(rb_nats *c);
bool rb_nats_mischief(rb_nats *c, const char *subject, const uint8_t *p, size_t n); /* publishes */

/* store.c */
resbm_status rb_nats_store_open(void *state, const char *bucket, int64_t most_bytes, rb_err *err);
size_t rb_nats_store_piece(void *state);
resbm_status rb_nats_store_get(void *state, const char *key, rb_buf *out, uint64_t *revision, rb_err *err);
resbm_status rb_nats_store_set(void *state, const char *key, const void *p, size_t n, uint64_t *revision,
                               rb_err *err);
resbm_status rb_nats_store_delete(void *state, const char *key, rb_err *err);
resbm_status rb_nats_store_keys(void *state, rb_buf *out, rb_err *err);
void rb_nats_store_close(rb_nats *c);

/* keys.c */
resbm_status rb_nats_make_key(char seed[RB_NKEY_TEXT], char public_key[RB_NKEY_TEXT], rb_err *err);
resbm_status rb_nats_public_key(const char *seed, char public_key[RB_NKEY_TEXT], rb_err *err);
resbm_status rb_nats_make_certificate(const char *host, rb_buf *certificate, rb_buf *private_key,
                                      rb_err *err);

#endif
