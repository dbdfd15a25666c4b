/* crowd URL CERTIFICATE COUNT MESSAGES BYTES: so many connections to a NATS server over TLS, each with a subscription of its own,
 * each sending MESSAGES of BYTES to its neighbour. Says "connected", sends when a line comes on stdin, says "done" when all
 * have arrived, and ends at the next line. bench/relay.py measures the server meanwhile. */
#include <nats/nats.h>
#include <stdio.h>
#include <stdlib.h>
#include "core/clock.h"

static long arrived;

static void on_message(natsConnection *nc, natsSubscription *sub, natsMsg *msg, void *closure) {
    (void)nc;
    (void)sub;
    (void)closure;
    __atomic_add_fetch(&arrived, 1, __ATOMIC_RELAXED);
    natsMsg_Destroy(msg);
}

static void need(natsStatus s, const char *what, int which) {
    if (s == NATS_OK) return;
    fprintf(stderr, "crowd: %s of connection %d: %s\n", what, which, natsStatus_GetText(s));
    exit(1);
}

static natsConnection *dial(const char *url, const char *certificate, int which) {
    natsOptions *o = NULL;
    natsConnection *nc = NULL;
    natsSubscription *sub = NULL;
    char subject[32];
    snprintf(subject, sizeof subject, "crowd.%d", which);
    need(natsOptions_Create(&o), "options", which);
    natsOptions_SetURL(o, url);
    natsOptions_SetTimeout(o, 20000);
    natsOptions_SetSecure(o, true);
    need(natsOptions_LoadCATrustedCertificates(o, certificate), "certificate", which);
    need(natsConnection_Connect(&nc, o), "dialling", which);
    need(natsConnection_Subscribe(&sub, nc, subject, on_message, NULL), "subscription", which);
    need(natsConnection_Flush(nc), "flush", which);
    natsOptions_Destroy(o);
    return nc;
}

static void send_all(natsConnection **nc, int count, int messages, const char *data, int bytes) {
    char subject[32];
    for (int m = 0; m < messages; m++) {
        for (int i = 0; i < count; i++) {
            snprintf(subject, sizeof subject, "crowd.%d", (i + 1) % count);
            need(natsConnection_Publish(nc[i], subject, data, bytes), "publishing", i);
        }
        rb_sleep_ns(20 * RB_MS); /* as stages do, and not as fast as it goes: a write for each message */
    }
}

int main(int argc, char **argv) {
    if (argc != 6) return fprintf(stderr, "usage: crowd URL CERTIFICATE COUNT MESSAGES BYTES\n"), 2;
    int count = atoi(argv[3]), messages = atoi(argv[4]), bytes = atoi(argv[5]);
    natsConnection **nc = calloc((size_t)count, sizeof *nc);
    char *data = calloc(1, (size_t)bytes + 1);
    if (!nc || !data) return 1;
    for (int i = 0; i < count; i++) nc[i] = dial(argv[1], argv[2], i);
    puts("connected");
    fflush(stdout);
    if (getchar() == EOF) return 1;
    send_all(nc, count, messages, data, bytes);
    for (int64_t until = rb_now_ns() + 60 * RB_SEC;
         __atomic_load_n(&arrived, __ATOMIC_RELAXED) < (long)count * messages;) {
        if (rb_now_ns() > until) return fprintf(stderr, "crowd: %ld messages arrived\n", arrived), 1;
        rb_sleep_ns(RB_MS);
    }
    puts("done");
    fflush(stdout);
    return getchar() == EOF;
}
