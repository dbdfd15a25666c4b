/* impostor ACCESS.json STATE SECONDS PARTICIPANT...: what a participant can do that has a stage, and with it the secret of the epoch.
 * STATE is the epoch and the rest of what it says to be given its orders (of the host's JSON, from a comma on). It says that its stage has ended, and when
 * the next epoch begins it knocks as every other process of the run: at the coordinator's door, where it would have another's stage; and
 * at the doors of the others (PARTICIPANT is process 0, 1, ...), to whom it would be their neighbour. Then, as itself, it sends the
 * coordinator a frame that is none, and waits to be cut off. Prints how often each door has refused it, and what the host says in the end; 1
 * if a door let it in, or one never answered. First it prints the epoch's secret, for whoever looks for it elsewhere. */
#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
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
#include "run/control.h"

typedef struct order {
    uint32_t epoch;
    int stage, stages;
    uint64_t token;
} order;

static const rb_carrier_module *module;
static void *state;
static rb_access own;
static int welcome, refused[2]; /* by the coordinator, by stages */

/* False: it has none; why, if it is told. */
static bool ask_order(const char *rest, uint32_t epoch, const char *ended, order *o, char why[200]) {
    char subject[200], beat[1000];
    rb_buf answer = {0};
    rb_err err;
    snprintf(subject, sizeof subject, "beat.%s", own.name);
    snprintf(beat, sizeof beat, "{\"epoch\": %u, \"ended\": \"%s\"%s}", epoch, ended, rest);
    bool heard = !module->ask(state, subject, beat, strlen(beat), rb_now_ns() + RB_SEC, &answer, &err);
    json_t *j = heard ? json_loadb(answer.data, answer.len, 0, NULL) : NULL;
    const char *token = json_string_value(json_object_get(j, "token")),
               *refused_because = json_string_value(json_object_get(j, "refused"));
    if (token)
        *o = (order){.epoch = (uint32_t)json_integer_value(json_object_get(j, "epoch")),
                     .stage = (int)json_integer_value(json_object_get(j, "stage")),
                     .stages = (int)json_integer_value(json_object_get(j, "stages")),
                     .token = strtoull(token, NULL, 16)};
    if (refused_because) snprintf(why, 200, "%s", refused_because);
    bool got = token != NULL;
    json_decref(j);
    rb_buf_free(&answer);
    return got;
}

/* Signs of life all along. */
typedef struct beats {
    const char *rest;
    uint32_t epoch;
    atomic_bool over;
    char why[200]; /* once it is over: that it is cut off */
} beats;

static void *keep_alive(void *arg) {
    beats *b = arg;
    order ignored;
    while (!atomic_load(&b->over) && !*b->why && !module->ended(state)) {
        ask_order(b->rest, b->epoch, "", &ignored, b->why);
        rb_sleep_ns(200 * RB_MS);
    }
    atomic_store(&b->over, true);
    return NULL;
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
    }
}

static void at_the_coordinators(const order *o) {
    char service[100];
    snprintf(service, sizeof service, "control-%u", o->epoch);
    for (int as = 0; as < o->stages && !welcome; as++)
        if (as != o->stage) knock("coordinator", service, o, -1, as);
}

/* As itself, until the coordinator has told all where the others are. */
static rb_link *take_part(rb_carrier *c, const order *o, rb_err *err) {
    char address[200];
    rb_link *l;
    int from;
    json_t *j = NULL;
    rb_link_options lo = {.self = o->stage,
                          .stages = o->stages,
                          .token = o->token,
                          .limits = {64 << 20, 64 << 20, 64 << 20},
                          .carrier = c};
    if (rb_link_open(&lo, &l, err)) return NULL;
    snprintf(address, sizeof address, "nats:coordinator/control-%u", o->epoch);
    resbm_status st = rb_link_connect(l, RB_PEER_COORDINATOR, address, rb_now_ns() + 10 * RB_SEC, err);
    snprintf(address, sizeof address, "nats:%s/stage-%u-%d", own.name, o->epoch, o->stage);
    if (!st)
        st = rb_control_expect(l, RB_PEER_COORDINATOR, "config", rb_now_ns() + 15 * RB_SEC, &from, &j, err);
    json_decref(j);
    j = NULL;
    if (!st)
        st = rb_control_send(
            l, RB_PEER_COORDINATOR,
            json_pack("{s:s, s:s, s:f}", "t", "listening", "address", address, "gflops", 10.0),
            rb_now_ns() + RB_SEC, err);
    if (!st)
        st = rb_control_expect(l, RB_PEER_COORDINATOR, "peers", rb_now_ns() + 15 * RB_SEC, &from, &j, err);
    json_decref(j);
    if (!st) return l;
    rb_link_fini(l);
    return NULL;
}

/* Those behind us wait at theirs for us. */
static void at_the_stages(const order *o, char **names) {
    char service[100];
    for (int peer = 0; peer < o->stages && !welcome; peer++)
        for (int as = 0; as < o->stages && !welcome; as++) {
            if (peer == o->stage || as == o->stage || peer == as) continue;
            snprintf(service, sizeof service, "stage-%u-%d", o->epoch, peer);
            knock(names[peer], service, o, peer, as);
        }
}

int main(int argc, char **argv) {
    rb_err err = {0};
    rb_buf text = {0};
    order first = {0}, now = {0};
    char why[200] = "";
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
    const char *rest = argv[2];
    int64_t until = rb_now_ns() + (int64_t)(atof(argv[3]) * 1e9);
    uint32_t known = (uint32_t)strtoul(rest, NULL, 10);
    bool ready = !module->open(&o, &state, &err) && (rest = strchr(rest, ','));
    for (int i = 0; i < 10 && ready && !*why && !ask_order(rest, known, "", &first, why);)
        i++; /* a second each: who is asked may be busy */
    if (!ready || first.stages != argc - 4) {
        fprintf(stderr, "impostor: no orders: %s%s\n", err.text, why);
        return 2;
    }
    for (now = first; now.epoch == first.epoch && rb_now_ns() < until; rb_sleep_ns(5 * RB_MS))
        ask_order(rest, first.epoch, "has ended", &now, why);
    printf("secret %016llx\n", (unsigned long long)now.token);
    beats b = {.rest = rest, .epoch = now.epoch};
    pthread_t thread;
    if (pthread_create(&thread, NULL, keep_alive, &b)) return 2;
    while (!refused[0] && !welcome && rb_now_ns() < until) at_the_coordinators(&now);
    rb_carrier carrier = {module, state};
    rb_link *l = welcome ? NULL : take_part(&carrier, &now, &err);
    if (!l) printf("it could not take part as itself: %s\n", err.text);
    while (l && refused[1] < 3 && !welcome && rb_now_ns() < until) at_the_stages(&now, argv + 4);
    static const char none[] =
        "this is no frame, and whoever reads it should see that at once: what a frame begins with";
    if (l && send(rb_link_fd(l, RB_PEER_COORDINATOR), none, sizeof none, MSG_NOSIGNAL) != sizeof none)
        printf("its own connection is gone\n");
    while (!atomic_load(&b.over) && rb_now_ns() < until) rb_sleep_ns(20 * RB_MS);
    atomic_store(&b.over, true);
    pthread_join(thread, NULL);
    printf("epoch %u: refused by the coordinator %d, by stages %d, accepted %d; then: %s\n", now.epoch,
           refused[0], refused[1], welcome,
           *b.why                 ? b.why
           : module->ended(state) ? "its key opens nothing any more"
                                  : "nothing");
    rb_link_fini(l);
    module->close(state, 0);
    return welcome || !refused[0] || !refused[1];
}
