/* impostor ACCESS.json BEAT SECONDS PARTICIPANT...: a participant that has a stage, and with it the secret of the epoch, calls as
 * the others. BEAT is what it says to be given its orders (the host's JSON, with the present epoch). At the next epoch's start it knocks as every other
 * process of the run, again and again: at the coordinator's door, where it would have another's stage, and at the doors of the others (PARTICIPANT is
 * process 0, 1, ...), to whom it would be their neighbour. Prints how often each door answered, and what; 1 if one let it in. */
#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "core/buf.h"
#include "core/clock.h"
#include "link/carrier.h"
#include "link/hello.h"
#include "run/access.h"

typedef struct order {
    uint32_t epoch;
    int stage, stages;
    uint64_t token;
} order;

static const rb_carrier_module *module;
static void *state;
static rb_access own;
static int welcome, refused[2]; /* by the coordinator, by stages */
static int64_t last_ns;         /* when */

static bool ask_order(const char *beat, order *o) {
    char subject[200];
    rb_buf answer = {0};
    rb_err err;
    snprintf(subject, sizeof subject, "beat.%s", own.name);
    bool heard = !module->ask(state, subject, beat, strlen(beat), rb_now_ns() + RB_SEC, &answer, &err);
    json_t *j = heard ? json_loadb(answer.data, answer.len, 0, NULL) : NULL;
    const char *token = json_string_value(json_object_get(j, "token"));
    if (token)
        *o = (order){.epoch = (uint32_t)json_integer_value(json_object_get(j, "epoch")),
                     .stage = (int)json_integer_value(json_object_get(j, "stage")),
                     .stages = (int)json_integer_value(json_object_get(j, "stages")),
                     .token = strtoull(token, NULL, 16)};
    bool got = token != NULL;
    json_decref(j);
    rb_buf_free(&answer);
    return got;
}

/* -1: no answer. */
static int verdict(int fd) {
    uint8_t b[RB_HELLO_BYTES];
    rb_hello h;
    rb_err err;
    size_t have = 0;
    for (int64_t until = rb_now_ns() + RB_SEC; have < sizeof b && rb_now_ns() < until;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        ssize_t n = poll(&p, 1, 100) > 0 ? recv(fd, b + have, sizeof b - have, MSG_DONTWAIT) : -1;
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return -1;
        if (n > 0) have += (size_t)n;
    }
    return have == sizeof b && !rb_hello_get(b, &h, &err) ? h.verdict : -1;
}

static void knock(const char *name, const char *service, const order *o, int peer, int as) {
    int fd;
    rb_err err;
    uint8_t b[RB_HELLO_BYTES];
    if (module->dial(state, name, service, rb_now_ns() + RB_SEC / 5, &fd, &err)) return;
    rb_hello h = {.version = RB_PROTOCOL_VERSION,
                  .self = as,
                  .peer = peer,
                  .stages = o->stages,
                  .token = o->token,
                  .fingerprint = rb_token_fingerprint(o->token)};
    rb_hello_put(b, &h);
    int said = send(fd, b, sizeof b, MSG_NOSIGNAL) == sizeof b ? verdict(fd) : -1;
    close(fd);
    if (said == RB_WELCOME) {
        welcome++;
        printf("ACCEPTED: %s let it in at %s as process %d\n", name, service, as);
    } else if (said > 0) {
        refused[peer >= 0]++;
        last_ns = rb_now_ns();
    }
}

static void knock_at_all(const order *o, char **names) {
    char service[100];
    for (int as = 0; as < o->stages && !welcome; as++) {
        if (as == o->stage) continue;
        snprintf(service, sizeof service, "control-%u", o->epoch);
        knock("coordinator", service, o, -1, as);
        for (int peer = 0; peer < o->stages && !welcome; peer++) {
            if (peer == o->stage || peer == as) continue;
            snprintf(service, sizeof service, "stage-%u-%d", o->epoch, peer);
            knock(names[peer], service, o, peer, as);
        }
    }
}

int main(int argc, char **argv) {
    rb_err err = {0};
    rb_buf text = {0};
    order first = {0}, now = {0};
    if (argc < 5 || rb_carrier_module_load("nats", &module, &err) ||
        rb_read_file(argv[1], 65536, &text, &err) || rb_access_parse(text.data, &own, &err)) {
        fprintf(stderr, "impostor: %s\n", err.text);
        return 2;
    }
    rb_buf_free(&text);
    rb_carrier_options o = {.url = own.url,
                            .run = own.run,
                            .name = own.name,
                            .seed = own.seed,
                            .certificate = own.certificate,
                            .deadline_ns = rb_now_ns() + 10 * RB_SEC};
    if (module->open(&o, &state, &err) || !ask_order(argv[2], &first) || first.stages != argc - 4) {
        fprintf(stderr, "impostor: no orders: %s\n", err.text);
        return 2;
    }
    printf("ready\n");
    fflush(stdout);
    int64_t until = rb_now_ns() + (int64_t)(atof(argv[3]) * 1e9);
    now = first;
    while (now.epoch == first.epoch && rb_now_ns() < until) {
        ask_order(argv[2], &now);
        rb_sleep_ns(5 * RB_MS);
    }
    while (now.epoch != first.epoch && !welcome && rb_now_ns() < until && /* all doors have closed: */
           !(refused[0] && rb_now_ns() - last_ns > 2 * RB_SEC))
        knock_at_all(&now, argv + 4);
    printf("epoch %u: refused by the coordinator %d, by stages %d, accepted %d\n", now.epoch, refused[0],
           refused[1], welcome);
    module->close(state, 0);
    return welcome || !refused[0];
}
