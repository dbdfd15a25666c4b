/* The module: a connection to a NATS server, the streams over it, questions and answers. Subjects:
 *
 *     RUN.to.PARTICIPANT.p-PORT.FROM    packets of streams, to one process
 *     RUN.to.PARTICIPANT.SERVICE.FROM   openings of streams
 *     RUN.ask.SUBJECT                   questions; the answer goes to the asker's private inbox
 *
 * The server lets a participant publish only with its own name in the place of FROM. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include "core/clock.h"
#include "core/rng.h"
#include "link/resolve.h"
#include "module.h"
#include "subject.h"
#include "tls_waits.h"

static bool publish(void *ctx, const char *to, const char *service, uint64_t port, const uint8_t *p,
                    size_t n) {
    rb_nats *c = ctx;
    char subject[320];
    if (natsConnection_Status(c->nc) != NATS_CONN_STATUS_CONNECTED) return false;
    if (service)
        snprintf(subject, sizeof subject, "%s.to.%s.%s.%s", c->run, to, service, c->name);
    else
        snprintf(subject, sizeof subject, "%s.to.%s.p-%016llx.%s", c->run, to, (unsigned long long)port,
                 c->name);
    return rb_nats_mischief(c, subject, p, n);
}

static void note(rb_nats *c, const char *text) {
    if (c->note) c->note(c->ctx, text);
}

/* Each is named, but a flood of them does not fill the disk. */
static void note_refused(rb_nats *c, const char *from, const char *text) {
    enum { MOST_A_MINUTE = 3000 };
    if (c->malformed) c->malformed(c->ctx, from);
    int64_t minute = rb_now_ns() / (60 * RB_SEC);
    pthread_mutex_lock(&c->lock);
    if (minute != c->refused_minute) {
        c->refused_minute = minute;
        c->refused_named = 0;
    }
    bool named = c->refused_named++ < MOST_A_MINUTE;
    pthread_mutex_unlock(&c->lock);
    if (named) note(c, text);
}

static void refused(void *ctx, const char *from, size_t bytes) {
    char text[200];
    snprintf(text, sizeof text, "refused a packet of %zu bytes from %s: it is not well-formed", bytes, from);
    note_refused(ctx, from, text);
}

/* The last part of a subject is its sender, vouched for by the server; a part of that would be somebody else. */
static void on_packet(natsConnection *nc, natsSubscription *sub, natsMsg *m, void *closure) {
    rb_nats *c = closure;
    char subject[RB_NATS_SUBJECT], *part[6] = {0}, *save = NULL;
    int n = 0;
    (void)nc;
    (void)sub;
    bool whole = snprintf(subject, sizeof subject, "%s", natsMsg_GetSubject(m)) < (int)sizeof subject;
    for (char *p = strtok_r(subject, ".", &save); p && n < 6; p = strtok_r(NULL, ".", &save)) part[n++] = p;
    if (whole && n == 5 && strlen(part[4]) < RB_STREAM_NAME)
        rb_streams_input(c->streams, part[4], strncmp(part[3], "p-", 2) ? part[3] : NULL,
                         (const uint8_t *)natsMsg_GetData(m), (size_t)natsMsg_GetDataLength(m));
    natsMsg_Destroy(m);
}

static void on_lost(natsConnection *nc, void *closure) {
    rb_nats *c = closure;
    (void)nc;
    if (!__atomic_load_n(&c->closing, __ATOMIC_ACQUIRE))
        note(c, "the connection to the server is lost; trying again");
}

static void on_back(natsConnection *nc, void *closure) {
    rb_nats *c = closure;
    (void)nc;
    __atomic_add_fetch(&c->reconnects, 1, __ATOMIC_RELAXED);
    note(c, "connected to the server again");
    if (c->streams) rb_streams_resumed(c->streams);
}

/* libnats gives up where the server refuses the key twice; nothing else ends a connection. */
static void on_closed(natsConnection *nc, void *closure) {
    rb_nats *c = closure;
    (void)nc;
    if (!__atomic_load_n(&c->closing, __ATOMIC_ACQUIRE)) {
        __atomic_store_n(&c->ended, true, __ATOMIC_RELEASE);
        note(c, "the server refuses this participant's key: it was revoked, or the run is over");
    }
    __atomic_store_n(&c->closed, true, __ATOMIC_RELEASE); /* the last that is done with c here */
}

static void on_subscription_over(void *closure) {
    rb_nats *c = closure;
    __atomic_sub_fetch(&c->at_work, 1, __ATOMIC_RELEASE);
}

/* Its handler uses c until on_subscription_over. */
static void counted(rb_nats *c, natsSubscription *sub) {
    __atomic_add_fetch(&c->at_work, 1, __ATOMIC_RELAXED);
    if (natsSubscription_SetOnCompleteCB(sub, on_subscription_over,
                                         c)) /* closed already, with its connection */
        __atomic_sub_fetch(&c->at_work, 1, __ATOMIC_RELAXED);
}

/* libnats tells on_closed and the end of each subscription from threads of its own, some time after natsConnection_Close.
 * False: it has not yet, and c must stay. */
static bool through_with(const rb_nats *c) {
    int64_t until = rb_now_ns() + 5 * RB_SEC;
    while (c->nc && (!__atomic_load_n(&c->closed, __ATOMIC_ACQUIRE) ||
                     __atomic_load_n(&c->at_work, __ATOMIC_ACQUIRE))) {
        if (rb_now_ns() > until) return false;
        rb_sleep_ns(RB_MS);
    }
    return true;
}

static void on_error(natsConnection *nc, natsSubscription *sub, natsStatus s, void *closure) {
    rb_nats *c = closure;
    char text[400];
    const char *last = NULL;
    (void)sub;
    natsConnection_GetLastError(nc, &last);
    snprintf(text, sizeof text, "the server says: %s", last && *last ? last : natsStatus_GetText(s));
    note(c, text);
}

static natsStatus sign(char **error, unsigned char **signature, int *length, const char *nonce,
                       void *closure) {
    rb_nats *c = closure;
    (void)error;
    return nats_Sign(c->seed, nonce, signature, length);
}

static natsStatus set_options(rb_nats *c, const rb_carrier_options *o, natsOptions *n) {
    natsStatus s = natsOptions_SetURL(n, o->url);
    if (!s) s = natsOptions_SetName(n, o->name);
    if (!s) s = natsOptions_SetSendAsap(n, true);
    if (!s) s = natsOptions_SetTimeout(n, 3000);
    if (!s) s = natsOptions_SetPingInterval(n, 1500);
    if (!s) s = natsOptions_SetMaxPingsOut(n, 2);
    if (!s) s = natsOptions_SetMaxReconnect(n, 1 << 30);
    if (!s) s = natsOptions_SetReconnectWait(n, 200);
    if (!s) s = natsOptions_SetReconnectJitter(n, 50, 100);
    if (!s) s = natsOptions_SetReconnectBufSize(n, 1);
    if (!s) s = natsOptions_SetWriteDeadline(n, 5000);
    if (!s) s = natsOptions_SetIgnoreDiscoveredServers(n, true);
    if (!s) s = natsOptions_SetDisconnectedCB(n, on_lost, c);
    if (!s) s = natsOptions_SetReconnectedCB(n, on_back, c);
    if (!s) s = natsOptions_SetErrorHandler(n, on_error, c);
    if (!s) s = natsOptions_SetClosedCB(n, on_closed, c);
    char inbox[160];
    snprintf(inbox, sizeof inbox, "%s.inbox.%s", c->run, c->name);
    if (!s) s = natsOptions_SetCustomInboxPrefix(n, inbox);
    if (!s && *c->seed) s = natsOptions_SetNKey(n, c->public_key, sign, c);
    if (!s && o->certificate) s = natsOptions_SetSecure(n, true);
    if (!s && o->certificate) s = natsOptions_SetCATrustedCertificates(n, o->certificate);
    return s;
}

resbm_status rb_nats_fail(rb_err *err, natsStatus s, const char *what) {
    return rb_fail(err,
                   s == NATS_TIMEOUT                  ? RESBM_E_TIMEOUT
                   : s == NATS_CONNECTION_AUTH_FAILED ? RESBM_E_CONFIG
                                                      : RESBM_E_PEER,
                   "%s: %s", what, natsStatus_GetText(s));
}

/* What a status of libnats means to who wants to take part; NULL: no more than its own words. */
static const char *meaning(natsStatus s) {
    bool broken =
        s == NATS_PROTOCOL_ERROR || s == NATS_CONNECTION_CLOSED || s == NATS_IO_ERROR || s == NATS_TIMEOUT;
    return broken ? "it was reached, and broke the connection off or said nothing more: it is too busy, or "
                    "something in "
                    "between lets no TLS pass; try again later, or look into DIR/host/server.log on the host"
           : s == NATS_NO_SERVER
               ? "nothing answers there: the host has ended, or its port is not open to this machine"
               : NULL;
}

/* Does HOST in "tls://HOST:PORT" stand for an address? libnats looks it up for itself, for as long as the name servers take: only
 * what has just been found is worth that. */
static resbm_status look_up(const rb_carrier_options *o, bool *later, rb_err *err) {
    char host[256];
    const char *at = strstr(o->url, "://");
    at = at ? at + 3 : o->url;
    bool bracket = *at == '[';
    at += bracket;
    snprintf(host, sizeof host, "%.*s", (int)strcspn(at, bracket ? "]" : ":/"), at);
    struct addrinfo *list;
    rb_err why;
    resbm_status st = rb_resolve(host, "0", 0, o->deadline_ns, &list, later, &why);
    if (!st) freeaddrinfo(list);
    if (st == RESBM_E_IO)
        return rb_fail(err, RESBM_E_PEER,
                       "cannot connect to the server at %s as %s: its name stands for no address here (%s): "
                       "check the network, or ask the host for an address",
                       o->url, o->name, why.text);
    return st ? rb_fail(err, st, "cannot connect to the server at %s as %s: %s", o->url, o->name, why.text)
              : RESBM_OK;
}

static resbm_status fail_to_connect(const rb_carrier_options *o, natsStatus s, rb_err *err) {
    char what[700];
    const char *means = meaning(s);
    snprintf(what, sizeof what, "cannot connect to the server at %s as %s%s%s", o->url, o->name,
             means ? ": " : "", means ? means : "");
    return rb_nats_fail(err, s, what);
}

static resbm_status connect_to(rb_nats *c, const rb_carrier_options *o, rb_err *err) {
    natsOptions *n = NULL;
    resbm_status unknown = RESBM_OK;
    natsStatus s = natsOptions_Create(&n);
    if (!s) s = set_options(c, o, n);
    /* libnats 3.4 leaves out signatures that begin with a zero: one in 256 is refused without a reason. A certificate that is not
     * the expected one stays so. */
    int refused = 0;
    for (bool again = !s; again;) {
        bool later = true, final = false;
        unknown = look_up(o, &later, err);
        if (!unknown) {
            s = natsConnection_Connect(&c->nc, n);
            if (s == NATS_SSL_ERROR && rb_tls_fell_silent()) s = NATS_TIMEOUT;
            final = s == NATS_CONNECTION_AUTH_FAILED || s == NATS_SSL_ERROR || s == NATS_INVALID_ARG;
        }
        again = unknown ? later && rb_now_ns() < o->deadline_ns
                        : s && (final ? ++refused < 4 : rb_now_ns() < o->deadline_ns);
        if (again) rb_sleep_ns(100 * RB_MS);
    }
    natsOptions_Destroy(n);
    if (unknown) return unknown;
    return s ? fail_to_connect(o, s, err) : RESBM_OK;
}

static resbm_status subscribe(rb_nats *c, rb_err *err) {
    char subject[320];
    if (c->catch_all)
        snprintf(subject, sizeof subject, "%s.to.%s.*.*", c->run, c->name);
    else
        snprintf(subject, sizeof subject, "%s.to.%s.p-%016llx.*", c->run, c->name,
                 (unsigned long long)c->port);
    natsStatus s = natsConnection_Subscribe(&c->packets, c->nc, subject, on_packet, c);
    if (!s) counted(c, c->packets);
    if (!s) s = natsConnection_FlushTimeout(c->nc, 5000);
    return s ? rb_nats_fail(err, s, "cannot subscribe to this participant's packets") : RESBM_OK;
}

static resbm_status open_carrier(const rb_carrier_options *o, void **out, rb_err *err) {
    rb_nats *c = calloc(1, sizeof *c);
    *out = NULL;
    if (!c) return rb_fail(err, RESBM_E_MEMORY, "no memory for a connection to %s", o->url);
    snprintf(c->run, sizeof c->run, "%s", o->run);
    snprintf(c->name, sizeof c->name, "%s", o->name);
    snprintf(c->seed, sizeof c->seed, "%s", o->seed ? o->seed : "");
    c->catch_all = o->catch_all;
    c->ctx = o->ctx;
    c->note = o->note;
    c->malformed = o->malformed;
    pthread_mutex_init(&c->lock, NULL);
    rb_nats_read_mischief(c);
    resbm_status st = getrandom(&c->port, sizeof c->port, 0) == sizeof c->port
                          ? RESBM_OK
                          : rb_fail(err, RESBM_E_IO, "getrandom");
    c->port |= 1; /* 0 is none */
    if (!st && o->seed) st = rb_nats_public_key(o->seed, c->public_key, err);
    if (!st) st = connect_to(c, o, err);
    if (!st) {
        int64_t most = natsConnection_GetMaxPayload(c->nc) - RB_STREAM_HEADER;
        rb_bus bus = {.ctx = c, .publish = publish, .refused = refused};
        st = most < 65536 - RB_STREAM_HEADER
                 ? rb_fail(err, RESBM_E_CONFIG,
                           "the server's max_payload of %lld bytes is too small: set 64 KB or more",
                           (long long)most + RB_STREAM_HEADER)
                 : rb_streams_open(&bus, c->port, most < 32768 ? (size_t)most : 32768, &c->streams, err);
    }
    if (!st && !o->only_asks) st = subscribe(c, err);
    if (st)
        rb_nats_close(c, 0);
    else
        *out = c;
    return st;
}

void rb_nats_close(void *state, int64_t linger_until_ns) {
    rb_nats *c = state;
    __atomic_store_n(&c->closing, true, __ATOMIC_RELEASE);
    if (c->nc && natsConnection_Status(c->nc) != NATS_CONN_STATUS_CONNECTED) linger_until_ns = 0;
    rb_streams *streams = c->streams;
    if (c->nc) natsConnection_FlushTimeout(c->nc, 1000);
    if (streams) rb_streams_drain(streams, linger_until_ns);
    rb_nats_store_close(c);
    if (c->nc) natsConnection_Close(c->nc);
    bool through = through_with(c);
    for (int i = 0; i < c->service_count; i++) natsSubscription_Destroy(c->services[i].sub);
    natsSubscription_Destroy(c->packets);
    if (streams) rb_streams_stop(streams); /* until then it sends by c->nc */
    natsConnection_Destroy(c->nc);
    explicit_bzero(c->seed, sizeof c->seed);
    if (!through) return; /* a little memory is lost rather than used after its end */
    rb_streams_close(streams, 0);
    for (int i = 0; i < c->server_count; i++) free(c->servers[i]);
    free(c->mischief.held);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static resbm_status dial(void *state, const char *to, const char *service, int64_t deadline_ns, int *fd,
                         rb_err *err) {
    rb_nats *c = state;
    return rb_streams_dial(c->streams, to, service, deadline_ns, fd, err);
}

static resbm_status add_service(rb_nats *c, const char *subject, int pipe, natsMsgHandler on, void *closure,
                                rb_err *err) {
    natsSubscription *sub = NULL;
    natsStatus s = natsConnection_Subscribe(&sub, c->nc, subject, on, closure);
    if (!s) counted(c, sub);
    if (!s) s = natsConnection_FlushTimeout(c->nc, 5000);
    if (s) {
        natsSubscription_Destroy(sub);
        return rb_nats_fail(err, s, "cannot subscribe to a service");
    }
    pthread_mutex_lock(&c->lock);
    bool room = c->service_count < RB_NATS_SERVICES;
    if (room) c->services[c->service_count++] = (rb_nats_service){pipe, sub};
    pthread_mutex_unlock(&c->lock);
    if (room) return RESBM_OK;
    natsSubscription_Destroy(sub);
    return rb_fail(err, RESBM_E_STATE, "no more than %d services", RB_NATS_SERVICES);
}

static resbm_status listen_on(void *state, const char *service, int *pipe, rb_err *err) {
    rb_nats *c = state;
    char subject[320];
    RB_TRY(rb_streams_listen(c->streams, service, pipe, err));
    if (c->catch_all) return RESBM_OK; /* subscribed to already */
    snprintf(subject, sizeof subject, "%s.to.%s.%s.*", c->run, c->name, service);
    resbm_status st = add_service(c, subject, *pipe, on_packet, c, err);
    if (st) rb_streams_unlisten(c->streams, *pipe);
    return st;
}

static void unlisten(void *state, int pipe) {
    rb_nats *c = state;
    natsSubscription *sub = NULL;
    pthread_mutex_lock(&c->lock);
    for (int i = 0; i < c->service_count && !sub; i++) {
        if (c->services[i].pipe != pipe) continue;
        sub = c->services[i].sub;
        c->services[i] = c->services[--c->service_count];
    }
    pthread_mutex_unlock(&c->lock);
    natsSubscription_Destroy(sub);
    rb_streams_unlisten(c->streams, pipe);
}

static void count(void *state, rb_carrier_counts *out) {
    rb_nats *c = state;
    rb_stream_counts n;
    rb_streams_count(c->streams, &n);
    *out = (rb_carrier_counts){
        n.packets_out, n.bytes_out, n.packets_in, n.bytes_in,
        n.again_bytes, n.doubles,   n.refused,    __atomic_load_n(&c->reconnects, __ATOMIC_RELAXED)};
}

static bool connected(void *state) {
    rb_nats *c = state;
    return natsConnection_Status(c->nc) == NATS_CONN_STATUS_CONNECTED;
}

static bool ended(void *state) {
    rb_nats *c = state;
    return __atomic_load_n(&c->ended, __ATOMIC_ACQUIRE);
}

static resbm_status ask(void *state, const char *subject, const void *p, size_t n, int64_t deadline_ns,
                        rb_buf *answer, rb_err *err) {
    rb_nats *c = state;
    char full[320], what[400];
    natsMsg *m = NULL;
    snprintf(full, sizeof full, "%s.ask.%s", c->run, subject);
    int64_t ms = (deadline_ns - rb_now_ns()) / RB_MS;
    natsStatus s = natsConnection_Request(&m, c->nc, full, p, (int)n, ms > 0 ? ms : 1);
    snprintf(what, sizeof what, "no answer to \"%s\" from the run's coordinator", subject);
    if (s == NATS_NO_RESPONDERS)
        return rb_fail(err, RESBM_E_PEER,
                       "%s: none runs there; the host starts it again with the same `resbm host`", what);
    if (s) return rb_nats_fail(err, s, what);
    rb_buf_add(answer, natsMsg_GetData(m), (size_t)natsMsg_GetDataLength(m));
    natsMsg_Destroy(m);
    return rb_buf_status(answer, err);
}

typedef struct server {
    rb_nats *c;
    char asker[RB_CARRIER_NAME]; /* empty: the subject's last part */
    void *ctx;
    rb_carrier_answer answer;
} server;

static void question_refused(rb_nats *c, const char *asker, const char *why, const char *what) {
    char text[300];
    snprintf(text, sizeof text, "refused a question of %.63s: %s%.120s", asker, why, what);
    note_refused(c, asker, text);
}

static void on_question(natsConnection *nc, natsSubscription *sub, natsMsg *m, void *closure) {
    enum { MOST = 65536 };
    const server *v = closure;
    rb_buf out = {0};
    const char *back = natsMsg_GetReply(m), *last = strrchr(natsMsg_GetSubject(m), '.');
    const char *from = last ? last + 1 : "", *asker = *v->asker ? v->asker : from;
    (void)sub;
    if (!back || !rb_nats_may_answer(v->c->run, asker, back)) {
        question_refused(v->c, asker,
                         "its answer is wanted at a place that is not its own: ", back ? back : "none");
    } else if (natsMsg_GetDataLength(m) > MOST) {
        question_refused(v->c, asker, "it is too long", "");
    } else {
        v->answer(v->ctx, from, natsMsg_GetData(m), (size_t)natsMsg_GetDataLength(m), &out);
        if (!out.failed && out.len) natsConnection_Publish(nc, back, out.data, (int)out.len);
    }
    rb_buf_free(&out);
    natsMsg_Destroy(m);
}

static resbm_status serve(void *state, const char *subject, const char *asker, void *ctx,
                          rb_carrier_answer answer, rb_err *err) {
    rb_nats *c = state;
    char full[320];
    if (c->server_count == RB_NATS_SERVICES)
        return rb_fail(err, RESBM_E_STATE, "no more than %d services", RB_NATS_SERVICES);
    server *v = malloc(sizeof *v);
    if (!v) return rb_fail(err, RESBM_E_MEMORY, "no memory for a service");
    *v = (server){.c = c, .ctx = ctx, .answer = answer};
    snprintf(v->asker, sizeof v->asker, "%s", asker ? asker : "");
    c->servers[c->server_count++] = v;
    snprintf(full, sizeof full, "%s.ask.%s", c->run, subject);
    return add_service(c, full, -1, on_question, v, err);
}

__attribute__((visibility("default"))) const rb_carrier_module rb_carrier_module_table = {
    .version = RB_CARRIER_VERSION,
    .name = "nats",
    .open = open_carrier,
    .close = rb_nats_close,
    .dial = dial,
    .listen = listen_on,
    .unlisten = unlisten,
    .count = count,
    .connected = connected,
    .ended = ended,
    .ask = ask,
    .serve = serve,
    .store_open = rb_nats_store_open,
    .store_get = rb_nats_store_get,
    .store_set = rb_nats_store_set,
    .store_piece = rb_nats_store_piece,
    .store_delete = rb_nats_store_delete,
    .store_keys = rb_nats_store_keys,
    .make_key = rb_nats_make_key,
    .public_key = rb_nats_public_key,
    .make_certificate = rb_nats_make_certificate,
};
