/* Carriers: streams of bytes to peers that no socket reaches, through something in between (a NATS server). What knows
 * how is a module, a shared object loaded when it is asked for, so that the program itself needs nothing of it. Links
 * connect over a carrier with addresses "nats:PARTICIPANT/SERVICE"; a participant's name is vouched for by the server.
 *
 * The same module holds the store: keys whose newest value is kept with a revision, in the server's file storage. */
#ifndef RB_LINK_CARRIER_H
#define RB_LINK_CARRIER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "core/buf.h"
#include "core/err.h"

enum { RB_CARRIER_VERSION = 4, RB_CARRIER_NAME = 64, RB_NKEY_TEXT = 64 };

typedef struct rb_carrier_options {
    const char *url;         /* "nats://127.0.0.1:4222", "tls://host:4222" */
    const char *run;         /* begins every subject */
    const char *name;        /* of this participant */
    const char *seed;        /* its NKey's seed; NULL: none */
    const char *certificate; /* PEM that the server's certificate must be or be signed by; NULL: no TLS */
    bool only_asks;          /* opens and serves no streams */
    bool
        catch_all; /* this is the participant's only process: takes in, and answers, also what is meant for none */
    int64_t deadline_ns; /* for the first connection */
    void *ctx;
    void (*note)(void *ctx,
                 const char *text); /* cut off, back again, refused by the server; any thread; or NULL */
    /* A participant has sent a packet or a question that is not well-formed (noted already); any thread; or NULL. */
    void (*malformed)(void *ctx, const char *from);
} rb_carrier_options;

typedef struct rb_carrier_counts {
    uint64_t packets_out, bytes_out, packets_in, bytes_in, again_bytes, doubles, refused, reconnects;
} rb_carrier_counts;

/* What is read from a service's pipe: a stream that somebody has opened, and who, which the server vouches for. */
typedef struct rb_carrier_stream {
    int fd;
    char from[RB_CARRIER_NAME];
} rb_carrier_stream;

typedef void (*rb_carrier_answer)(void *ctx, const char *from, const char *question, size_t n, rb_buf *out);

/* What a module offers. Statuses and sentences as everywhere; any thread may call. */
typedef struct rb_carrier_module {
    int version;
    const char *name;
    resbm_status (*open)(const rb_carrier_options *o, void **out, rb_err *err);
    void (*close)(void *c, int64_t linger_until_ns); /* waits until what was written has come over */
    resbm_status (*dial)(void *c, const char *to, const char *service, int64_t deadline_ns, int *fd,
                         rb_err *err);
    resbm_status (*listen)(
        void *c, const char *service, int *pipe,
        rb_err *err); /* rb_carrier_stream after rb_carrier_stream are read from the pipe */
    void (*unlisten)(void *c, int pipe);
    void (*count)(void *c, rb_carrier_counts *out);
    bool (*connected)(void *c);
    bool (*ended)(void *c); /* the server refuses this key from now on: nothing will come any more */
    /* One message without an answer's guarantee: to `subject` as it is (below the run), and the first answer to it. */
    resbm_status (*ask)(void *c, const char *subject, const void *p, size_t n, int64_t deadline_ns,
                        rb_buf *answer, rb_err *err);
    /* Serves such questions (`subject` may end in "*"): `answer` is called on a thread of the module, with the subject's last
     * part. That is the asker's name, vouched for by the server, unless `asker` (else NULL) says who alone may ask this. A
     * question whose answer is wanted elsewhere than in its asker's own inbox is refused, noted, and not asked. */
    resbm_status (*serve)(void *c, const char *subject, const char *asker, void *ctx,
                          rb_carrier_answer answer, rb_err *err);
    /* The store. Revision 0: the key is not there. set with revision != UINT64_MAX fails with RESBM_E_STATE unless the
     * key's newest revision is that one, and with RESBM_E_IO where the server has no room left. */
    resbm_status (*store_open)(void *c, const char *bucket, int64_t most_bytes, rb_err *err);
    resbm_status (*store_get)(void *c, const char *key, rb_buf *out, uint64_t *revision, rb_err *err);
    resbm_status (*store_set)(void *c, const char *key, const void *p, size_t n, uint64_t *revision,
                              rb_err *err);
    size_t (*store_piece)(
        void *
            c); /* bytes that the server takes at once; longer values are cut, and are one all the same: who writes or deletes one leaves nothing of it */
    resbm_status (*store_delete)(void *c, const char *key, rb_err *err);
    resbm_status (*store_keys)(void *c, rb_buf *out,
                               rb_err *err); /* all of them, each with a newline behind it */
    /* Keys and certificates. */
    resbm_status (*make_key)(char seed[RB_NKEY_TEXT], char public_key[RB_NKEY_TEXT], rb_err *err);
    resbm_status (*public_key)(const char *seed, char public_key[RB_NKEY_TEXT], rb_err *err);
    resbm_status (*make_certificate)(const char *host, rb_buf *certificate, rb_buf *private_key, rb_err *err);
} rb_carrier_module;

typedef struct rb_carrier {
    const rb_carrier_module *module;
    void *state;
} rb_carrier;

/* Loads resbm-NAME.so from beside the program or the library folder, once. RESBM_E_CONFIG says what is missing and how to
 * get it. */
resbm_status rb_carrier_module_load(const char *name, const rb_carrier_module **out, rb_err *err);

resbm_status rb_carrier_open(const rb_carrier_module *m, const rb_carrier_options *o, rb_carrier **out,
                             rb_err *err);
void rb_carrier_close(rb_carrier *c, int64_t linger_until_ns); /* NULL is fine */

/* Is it "nats:PARTICIPANT/SERVICE"? Splits it. */
bool rb_carrier_address(const char *address, char to[RB_CARRIER_NAME], char service[RB_CARRIER_NAME]);

#endif
