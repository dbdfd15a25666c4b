/* hostile ACCESS.json INVITATION VICTIM COUNT SEED: a participant that turns on its run. With a good key of its own it sends COUNT
 * messages that are malformed or not its to send, asks for what is not its to read, and comes with keys and certificates that are
 * wrong. Prints "refused-by-server N", "malformed N", "accepted N"; what it did that was accepted, each a line.
 *
 * hostile flood ACCESS.json COUNT: sends the coordinator so many packets that are noise; 0 if its connection ends soon behind them.
 *
 * hostile enrol INVITATION: asks for a thousand names, each with a key of its own, and then for a hundred more a second until it is told
 * to end (SIGTERM). Prints "asked N, enrolled N, refused N".
 *
 * hostile store ACCESS.json: what must not change meanwhile: prints the keys of the run's store that nobody but the coordinator
 * may write, with the coordinator's own access. */
#include <jansson.h>
#include <nats/nats.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/buf.h"
#include "core/bytes.h"
#include "core/clock.h"
#include "core/hash.h"
#include "core/rng.h"
#include "link/carrier.h"
#include "run/access.h"
#include "run/invitation.h"

static const rb_carrier_module *module;
static rb_access own, invited;
static rb_rng rng;
static int violations, expected, malformed, accepted;

static natsStatus sign(char **error, unsigned char **signature, int *length, const char *nonce, void *seed) {
    (void)error;
    return nats_Sign(seed, nonce, signature, length);
}

static void on_error(natsConnection *nc, natsSubscription *sub, natsStatus s, void *closure) {
    (void)nc;
    (void)sub;
    (void)closure;
    if (s == NATS_NOT_PERMITTED) __atomic_add_fetch(&violations, 1, __ATOMIC_RELAXED);
}

static natsStatus dial(const rb_access *a, const char *seed, bool tls, const char *certificate,
                       natsConnection **out) {
    natsOptions *o = NULL;
    char key[RB_NKEY_TEXT], inbox[200];
    rb_err err;
    natsStatus s = natsOptions_Create(&o);
    char plain[320];
    snprintf(plain, sizeof plain, "nats://%s", strstr(a->url, "://") + 3);
    snprintf(inbox, sizeof inbox, "%s.inbox.%s", a->run, a->name);
    natsOptions_SetURL(o, tls ? a->url : plain);
    natsOptions_SetTimeout(o, 3000);
    natsOptions_SetAllowReconnect(o, false);
    natsOptions_SetErrorHandler(o, on_error, NULL);
    natsOptions_SetCustomInboxPrefix(o, inbox);
    if (tls) natsOptions_SetSecure(o, true), natsOptions_SetCATrustedCertificates(o, certificate);
    if (seed && !module->public_key(seed, key, &err))
        natsOptions_SetNKey(o, key, sign, (void *)(uintptr_t)seed);
    s = natsConnection_Connect(out, o);
    natsOptions_Destroy(o);
    return s;
}

static void took(const char *what) {
    accepted++;
    printf("ACCEPTED: %s\n", what);
}

static void must_not_connect(const char *what, const rb_access *a, const char *seed, bool tls,
                             const char *certificate) {
    natsConnection *nc = NULL;
    if (dial(a, seed, tls, certificate, &nc) == NATS_OK) took(what);
    natsConnection_Destroy(nc);
}

static void doors(void) {
    char seed[RB_NKEY_TEXT], key[RB_NKEY_TEXT];
    rb_buf certificate = {0}, secret = {0};
    rb_err err;
    module->make_key(seed, key, &err);
    module->make_certificate("10.88.0.1", &certificate, &secret, &err);
    must_not_connect("a key that nobody enrolled", &own, seed, true, own.certificate);
    must_not_connect("no key", &own, NULL, true, own.certificate);
    must_not_connect("no TLS", &own, own.seed, false, own.certificate);
    must_not_connect("a server with another certificate", &own, own.seed, true, certificate.data);
    rb_buf_free(&certificate);
    rb_buf_free(&secret);
}

static size_t noise(uint8_t *p, size_t most) {
    size_t n = rb_rng_below(&rng, most);
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)rb_rng_u32(&rng);
    return n;
}

/* A packet of a stream that is wrong in one way. */
static size_t bad_packet(uint8_t *p, int way) {
    size_t n = 56 + rb_rng_below(&rng, 200);
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)rb_rng_u32(&rng);
    rb_put32(p, 0x31534252);
    p[4] = way == 0 ? 9 : 1;   /* version */
    p[5] = way == 1 ? 77 : 3;  /* type */
    p[6] = way == 2 ? 255 : 0; /* flags */
    p[7] = 0;
    rb_put32(p + 40, way == 3 ? 0xffffffff : 4096); /* window */
    rb_put64(p + 48, rb_mix64(rb_hash64(p, 48), rb_hash64(p + 56, n - 56)));
    if (way == 4) p[55] ^= 1;                 /* checksum */
    if (way == 5) n = rb_rng_below(&rng, 56); /* cut */
    return n;
}

static void send_bad(natsConnection *nc, const char *victim, int i) {
    char subject[300];
    uint8_t p[70000];
    static const char *const services[] = {"control-1",          "control-2", "stage-1-0",
                                           "p-00000000000000ab", "p-zz",      "x"};
    size_t n = i % 3 ? bad_packet(p, i / 3 % 6) : noise(p, i % 50 ? 300 : sizeof p);
    snprintf(subject, sizeof subject, "%s.to.%s.%s.%s", own.run, i % 2 ? "coordinator" : victim,
             services[i % 6], own.name);
    natsConnection_Publish(nc, subject, p, (int)n);
    malformed++;
}

/* What the server has to stop. */
static void trespass(natsConnection *nc, const char *victim, int i) {
    char subject[400];
    static const char *const forms[] = {"%1$s.to.coordinator.control-1.%2$s",
                                        "%1$s.to.%3$s.stage-1-0.%2$s",
                                        "%1$s.ask.beat.%2$s",
                                        "%1$s.ask.leave.%2$s",
                                        "%1$s.ask.enrol",
                                        "$JS.API.STREAM.INFO.KV_resbm-%1$s",
                                        "$JS.API.STREAM.MSG.GET.KV_resbm-%1$s",
                                        "$JS.API.CONSUMER.CREATE.KV_resbm-%1$s",
                                        "$JS.API.STREAM.PURGE.KV_resbm-%1$s",
                                        "$JS.API.STREAM.DELETE.KV_resbm-%1$s",
                                        "$KV.resbm-%1$s.coordinator",
                                        "$KV.resbm-%1$s.epoch",
                                        "$JS.API.DIRECT.GET.KV_resbm-%1$s",
                                        "%1$s.inbox.%2$s.abc",
                                        "$SYS.REQ.SERVER.PING",
                                        "$JS.API.INFO",
                                        "%1$s.to.a.b.c.d.%3$s",
                                        "x"};
    snprintf(subject, sizeof subject, forms[i % (int)(sizeof forms / sizeof *forms)], own.run, victim,
             own.name);
    if (i % 18 == 1) snprintf(subject, sizeof subject, "%s.to.%s.stage-1-0.%s", own.run, own.name, victim);
    natsConnection_PublishString(nc, subject, "{}");
    expected++;
}

static void eavesdrop(natsConnection *nc, const char *victim) {
    static const char *const forms[] = {"%1$s.to.%2$s.*.*",  "%1$s.>",     ">",
                                        "%1$s.inbox.%2$s.>", "$KV.>",      "_INBOX.>",
                                        "$JS.API.>",         "%1$s.ask.>", "%1$s.to.*.*.*"};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        char subject[300], what[340];
        natsSubscription *sub = NULL;
        natsMsg *m = NULL;
        snprintf(subject, sizeof subject, forms[i], own.run, victim);
        snprintf(what, sizeof what, "reading %s", subject);
        if (natsConnection_SubscribeSync(&sub, nc, subject) == NATS_OK &&
            natsSubscription_NextMsg(&m, sub, 700) == NATS_OK)
            took(what);
        natsMsg_Destroy(m);
        natsSubscription_Destroy(sub);
        expected++;
    }
}

/* Questions that the coordinator itself has to refuse. */
static void ask(natsConnection *nc, const char *subject, const char *text, const char *wanted,
                const char *what) {
    char full[300];
    natsMsg *m = NULL;
    snprintf(full, sizeof full, "%s.ask.%s", own.run, subject);
    natsStatus s = natsConnection_RequestString(&m, nc, full, text, 1500);
    if (s == NATS_OK && !strstr(natsMsg_GetData(m), wanted)) took(what);
    if (s != NATS_OK && s != NATS_TIMEOUT && s != NATS_NO_RESPONDERS) took(what);
    natsMsg_Destroy(m);
    malformed++;
}

static void questions(natsConnection *nc, const char *victim) {
    char subject[200], text[300];
    static const char *const beats[] = {"",
                                        "{",
                                        "[]",
                                        "7",
                                        "{\"epoch\": \"x\", \"epoch\": 2}",
                                        "\"\\u0000\"",
                                        "[[[[[[[[[[[[",
                                        "{\"epoch\": 1, \"version\": \"0.0.1\"}"};
    snprintf(subject, sizeof subject, "revoke.%s", own.name);
    ask(nc, subject, victim, "refused", "a participant revokes another");
    snprintf(subject, sizeof subject, "beat.%s", own.name);
    for (size_t i = 0; i < sizeof beats / sizeof *beats; i++) ask(nc, subject, beats[i], "refused", beats[i]);
    natsConnection *door = NULL;
    rb_access in = invited;
    snprintf(in.name, sizeof in.name, "%s", RB_INVITED);
    if (dial(&in, in.seed, true, in.certificate, &door) != NATS_OK) {
        printf("the invitation does not open\n");
        return;
    }
    static const char *const bad[] = {"", "{}", "{\"public_key\": 7, \"label\": \"x\", \"version\": \"1\"}",
                                      "{\"public_key\": \"SUAAA\", \"label\": \"x\"}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) ask(door, "enrol", bad[i], "refused", bad[i]);
    snprintf(text, sizeof text,
             "{\"public_key\": \"UAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\", \"label\": "
             "\"old\", \"version\": \"0.0.1\"}");
    ask(door, "enrol", text, "refused", "another version joins");
    snprintf(text, sizeof text, /* which the server would choke on */
             "{\"public_key\": \"UAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\", \"label\": "
             "\"choke\", \"version\": \"%s\"}",
             resbm_version());
    ask(door, "enrol", text, "refused", "a key with a wrong checksum joins");
    natsConnection_Destroy(door);
}

/* Questions like any other, but the answer is to go where the asker itself may not publish, and who answers may: the store, its
 * stream, another participant in the coordinator's name. */
static void ask_for_others(natsConnection *nc, const char *subject, const char *text, const char *victim) {
    static const char *const forms[] = {"$JS.API.STREAM.DELETE.KV_resbm-%1$s",
                                        "$JS.API.STREAM.PURGE.KV_resbm-%1$s",
                                        "$KV.resbm-%1$s.coordinator",
                                        "$KV.resbm-%1$s.epoch",
                                        "$KV.resbm-%1$s.snapshot",
                                        "%1$s.to.%2$s.x.coordinator",
                                        "%1$s.ask.revoke.coordinator",
                                        "%1$s.inbox.%2$s.x"};
    char full[300], reply[300];
    snprintf(full, sizeof full, "%s.ask.%s", own.run, subject);
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        snprintf(reply, sizeof reply, forms[i], own.run, victim);
        natsConnection_PublishRequestString(nc, full, reply, text);
        malformed++;
    }
}

static void answers_elsewhere(natsConnection *nc, const char *victim) {
    static const char *const questions[][2] = {
        {"status", "{}"}, {"measure", "2"}, {"beat", "{}"}, {"revoke", ""}, {"leave", "{}"}};
    char subject[200], text[400], seed[RB_NKEY_TEXT], key[RB_NKEY_TEXT];
    rb_err err;
    natsConnection *door = NULL;
    rb_access in = invited;
    snprintf(in.name, sizeof in.name, "%s", RB_INVITED);
    if (dial(&in, in.seed, true, in.certificate, &door) != NATS_OK || module->make_key(seed, key, &err)) {
        printf("the invitation does not open\n");
        return;
    }
    snprintf(text, sizeof text, "{\"public_key\": \"%s\", \"label\": \"enemy2\", \"version\": \"%s\"}", key,
             resbm_version());
    ask_for_others(door, "enrol", text, victim);
    natsConnection_FlushTimeout(door, 5000);
    natsConnection_Destroy(door);
    for (size_t i = 0; i < sizeof questions / sizeof *questions; i++) {
        snprintf(subject, sizeof subject, "%s.%s", questions[i][0], own.name);
        ask_for_others(nc, subject, questions[i][1], victim);
    }
    natsConnection_FlushTimeout(nc, 5000);
}

static int flood(const char *path, int count) {
    rb_err err = {0};
    rb_buf text = {0};
    natsConnection *nc = NULL;
    uint8_t p[300];
    char subject[200];
    if (rb_read_file(path, 65536, &text, &err) || rb_access_parse(text.data, &own, &err)) return 2;
    rb_buf_free(&text);
    for (int i = 0; i < 4 && !nc; i++)
        if (dial(&own, own.seed, true, own.certificate, &nc) != NATS_OK) nc = NULL;
    if (!nc) return 2;
    snprintf(subject, sizeof subject, "%s.to.coordinator.x.%s", own.run, own.name);
    for (int i = 0; i < count; i++) natsConnection_Publish(nc, subject, p, (int)noise(p, sizeof p));
    natsConnection_FlushTimeout(nc, 5000);
    for (int64_t until = rb_now_ns() + 15 * RB_SEC; !natsConnection_IsClosed(nc) && rb_now_ns() < until;)
        rb_sleep_ns(20 * RB_MS);
    bool closed = natsConnection_IsClosed(nc);
    natsConnection_Destroy(nc);
    return !closed;
}

static atomic_int enough, enrolled, put_off;

static void on_term(int sig) {
    (void)sig;
    atomic_store(&enough, 1);
}

static void on_answer(natsConnection *nc, natsSubscription *sub, natsMsg *m, void *closure) {
    char text[200];
    (void)nc;
    (void)sub;
    (void)closure;
    snprintf(text, sizeof text, "%.*s", natsMsg_GetDataLength(m), natsMsg_GetData(m));
    atomic_fetch_add(strstr(text, "\"name\"") ? &enrolled : &put_off, 1);
    natsMsg_Destroy(m);
}

static void ask_for_a_name(natsConnection *nc, int i) {
    char subject[200], back[240], text[300], seed[RB_NKEY_TEXT], key[RB_NKEY_TEXT];
    rb_err err;
    if (module->make_key(seed, key, &err)) return;
    snprintf(subject, sizeof subject, "%s.ask.enrol", own.run);
    snprintf(back, sizeof back, "%s.inbox.%s.crowd.%d", own.run, own.name, i);
    snprintf(text, sizeof text, "{\"public_key\": \"%s\", \"label\": \"flood\", \"version\": \"%s\"}", key,
             resbm_version());
    natsConnection_PublishRequestString(nc, subject, back, text);
}

static int enrol_flood(const char *invitation) {
    enum { AT_ONCE = 1000 };
    rb_err err = {0};
    natsConnection *nc = NULL;
    natsSubscription *sub = NULL;
    char all[200];
    int asked = 0;
    if (rb_invitation_read(invitation, &own, &err)) return 2;
    snprintf(own.name, sizeof own.name, "%s", RB_INVITED);
    snprintf(all, sizeof all, "%s.inbox.%s.crowd.*", own.run, own.name);
    signal(SIGTERM, on_term);
    for (int i = 0; i < 4 && !nc; i++)
        if (dial(&own, own.seed, true, own.certificate, &nc) != NATS_OK) nc = NULL;
    if (!nc || natsConnection_Subscribe(&sub, nc, all, on_answer, NULL) != NATS_OK) return 2;
    for (; !atomic_load(&enough) || asked < AT_ONCE; asked++) {
        ask_for_a_name(nc, asked);
        if (asked >= AT_ONCE) rb_sleep_ns(10 * RB_MS);
    }
    natsConnection_FlushTimeout(nc, 5000);
    for (int64_t until = rb_now_ns() + 10 * RB_SEC;
         atomic_load(&enrolled) + atomic_load(&put_off) < asked && rb_now_ns() < until;)
        rb_sleep_ns(20 * RB_MS);
    printf("asked %d, enrolled %d, refused %d\n", asked, atomic_load(&enrolled), atomic_load(&put_off));
    natsSubscription_Destroy(sub);
    natsConnection_Destroy(nc);
    return 0;
}

/* The store as it is: keys and the hashes of their values. */
static int show_store(const char *path) {
    static const char *const keys[] = {"coordinator", "epoch", "members"};
    rb_err err = {0};
    rb_buf text = {0};
    rb_access a;
    void *state = NULL;
    char bucket[100];
    if (rb_read_file(path, 65536, &text, &err) || rb_access_parse(text.data, &a, &err)) goto failed;
    rb_carrier_options o = {.url = a.url,
                            .run = a.run,
                            .name = a.name,
                            .seed = a.seed,
                            .certificate = a.certificate,
                            .only_asks = true,
                            .deadline_ns = rb_now_ns() + 10 * RB_SEC};
    snprintf(bucket, sizeof bucket, "resbm-%s", a.run);
    if (module->open(&o, &state, &err) || module->store_open(state, bucket, -1, &err)) goto failed;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        rb_buf value = {0};
        uint64_t revision = 0;
        if (module->store_get(state, keys[i], &value, &revision, &err)) goto failed;
        size_t n = value.data ? strcspn(value.data, " ") : 0; /* behind it: when the claim was renewed */
        printf("%s %s %016llx\n", keys[i], revision ? "is there" : "is gone",
               (unsigned long long)rb_hash64(value.data ? value.data : "", n));
        rb_buf_free(&value);
    }
    module->close(state, 0);
    rb_buf_free(&text);
    return 0;
failed:
    fprintf(stderr, "hostile: %s\n", err.text);
    return 2;
}

static void oversize(natsConnection *nc) {
    char subject[200];
    size_t n = (2 << 20) + 1;
    uint8_t *p = calloc(1, n);
    snprintf(subject, sizeof subject, "%s.to.coordinator.control-1.%s", own.run, own.name);
    if (natsConnection_Publish(nc, subject, p, (int)n) == NATS_OK) took("a message above max_payload");
    free(p);
}

int main(int argc, char **argv) {
    rb_err err = {0};
    rb_buf text = {0};
    natsConnection *nc = NULL;
    if (rb_carrier_module_load("nats", &module, &err)) {
        fprintf(stderr, "hostile: %s\n", err.text);
        return 2;
    }
    if (argc == 4 && !strcmp(argv[1], "flood")) return flood(argv[2], atoi(argv[3]));
    if (argc == 3 && !strcmp(argv[1], "enrol")) return enrol_flood(argv[2]);
    if (argc == 3 && !strcmp(argv[1], "store")) return show_store(argv[2]);
    if (argc != 6 || rb_read_file(argv[1], 65536, &text, &err) || rb_access_parse(text.data, &own, &err) ||
        rb_invitation_read(argv[2], &invited, &err)) {
        fprintf(stderr, "hostile: %s\n", err.text);
        return 2;
    }
    int count = atoi(argv[4]);
    rng.key = strtoull(argv[5], NULL, 10);
    doors();
    if (dial(&own, own.seed, true, own.certificate, &nc) != NATS_OK &&
        dial(&own, own.seed, true, own.certificate, &nc) != NATS_OK) {
        fprintf(stderr, "hostile: its own key does not open\n");
        return 2;
    }
    for (int i = 0; i < count; i++) {
        if (i % 2)
            trespass(nc, argv[3], i / 2);
        else
            send_bad(nc, argv[3], i / 2);
        if (i % 50 == 0) natsConnection_FlushTimeout(nc, 5000);
    }
    eavesdrop(nc, argv[3]);
    questions(nc, argv[3]);
    answers_elsewhere(nc, argv[3]);
    oversize(nc);
    for (int64_t until = rb_now_ns() + 30 * RB_SEC;
         __atomic_load_n(&violations, __ATOMIC_RELAXED) < expected && rb_now_ns() < until;)
        rb_sleep_ns(50 * RB_MS);
    printf("refused-by-server %d of %d\nmalformed %d\naccepted %d\n", violations, expected, malformed,
           accepted);
    if (violations != expected)
        printf("ACCEPTED: %d messages or subscriptions that the server let pass\n", expected - violations);
    natsConnection_Destroy(nc);
    rb_buf_free(&text);
    return accepted || violations != expected;
}
