/* A stage behind a faulty network, for tests of whole runs: stands between the stage it starts and everybody else.
 *
 *   frame_proxy FAULT NUMBER PROGRAM ... --control tcp:HOST:PORT --stage S ...
 *
 * Starts the stage with a control address of its own, passes the control channel through, and puts itself in place of
 * stage S+1 in the list of addresses that the coordinator tells. Passes NUMBER frames from S to S+1 as they are; the next
 * one suffers FAULT:
 *   checksum version shape step microbatch   that field is changed (shape and step with a checksum that fits again); after
 *            a wrong step both ends wait in vain, so the sender's complaint is held back: the receiver is to be heard first
 *   cut      half of the frame, then the connection is closed
 *   silent   nothing more passes between the two in either direction; the connections stay open
 *   gone     the same, and nothing on the control channel either: the machine has lost its network
 *   none     no fault
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "codec/frame.h"
#include "link/hello.h"

extern char **environ;
static const char *fault;
static long spared;                      /* frames that still pass unharmed */
static int next_stage;                   /* S+1 */
static char real_peer[64], own_peer[64]; /* "127.0.0.1:port": where S+1 listens, where we do in its place */
static pthread_mutex_t peer_lock = PTHREAD_MUTEX_INITIALIZER; /* real_peer's */
static int data_listener;
static atomic_bool data_mute, control_mute, sender_late;

static void die(const char *why) {
    perror(why);
    exit(3);
}

static int listen_somewhere(char name[64]) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (void *)&a, n) || listen(fd, 1) || getsockname(fd, (void *)&a, &n))
        die("frame_proxy: listen");
    snprintf(name, 64, "127.0.0.1:%d", ntohs(a.sin_port));
    return fd;
}

static int dial(const char *name) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const char *colon = strrchr(name, ':');
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    a.sin_port = htons((uint16_t)atoi(colon ? colon + 1 : "0"));
    if (fd < 0 || connect(fd, (void *)&a, sizeof a)) die("frame_proxy: connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static bool read_all(int fd, void *buf, size_t n) {
    for (size_t have = 0; have < n;) {
        ssize_t got = read(fd, (char *)buf + have, n - have);
        if (got <= 0) return false;
        have += (size_t)got;
    }
    return true;
}

static void write_all(int fd, const void *buf, size_t n) {
    for (size_t done = 0; done < n;) {
        ssize_t put = write(fd, (const char *)buf + done, n - done);
        if (put <= 0) return; /* the reader is gone; our own reads will tell */
        done += (size_t)put;
    }
}

/* Before the sender's end, or its last word, passes on. */
static void hold_back(void) {
    if (sender_late) sleep(1);
}

typedef struct lane {
    int from, to;
    bool control, told, harmed; /* told: carries the list of peers; harmed: the fault strikes here */
} lane;

/* "127.0.0.1:port" of stage S+1 in the coordinator's list becomes ours. There is room for 64 bytes more. */
static void put_us_in(rb_frame_header *h, char *text) {
    char list[4096];
    text[h->payload_bytes] = 0;
    if (!strstr(text, "\"t\":\"peers\"")) return;
    char *p = strstr(text, "[");
    for (int i = 0; p && i < next_stage; i++) p = strstr(p + 1, "\",");
    p = p ? strstr(p, "tcp:") : NULL;
    char *end = p ? strchr(p, '"') : NULL;
    if (!end || end - p > 60) return; /* S is the last stage */
    pthread_mutex_lock(&peer_lock);
    snprintf(real_peer, sizeof real_peer, "%.*s", (int)(end - p - 4), p + 4);
    pthread_mutex_unlock(&peer_lock);
    snprintf(list, sizeof list, "%.*s%s%s", (int)(p + 4 - text), text, own_peer, end);
    h->payload_bytes = strlen(list);
    memcpy(text, list, h->payload_bytes);
}

/* True when nothing may follow. */
static bool strike(lane *l, uint8_t *frame, rb_frame_header *h, size_t size) {
    uint8_t *payload = frame + RB_FRAME_HEADER_BYTES;
    l->harmed = false;
    if (!strcmp(fault, "checksum")) payload[0] ^= 1;
    if (!strcmp(fault, "version")) frame[4] = 7;
    if (!strcmp(fault, "shape")) h->T--;
    if (!strcmp(fault, "step")) h->step += 1000;
    if (!strcmp(fault, "microbatch")) frame[24] ^= 64; /* the checksum no longer fits */
    if (!strcmp(fault, "shape") || !strcmp(fault, "step")) rb_frame_put(frame, h, payload);
    data_mute = !strcmp(fault, "silent") || !strcmp(fault, "gone");
    control_mute = !strcmp(fault, "gone");
    sender_late = !strcmp(fault, "step");
    if (strcmp(fault, "cut")) return false;
    write_all(l->to, frame, size / 2);
    shutdown(l->to, SHUT_RDWR);
    shutdown(l->from, SHUT_RDWR);
    return true;
}

static bool pass_frame(lane *l) {
    uint8_t head[RB_FRAME_HEADER_BYTES];
    rb_frame_header h;
    rb_err err;
    if (!read_all(l->from, head, sizeof head) || rb_frame_get(head, &h, &err) || h.payload_bytes > 1 << 24)
        return false;
    uint8_t *frame = malloc(sizeof head + h.payload_bytes + 64), *payload = frame + sizeof head;
    bool ok = frame && read_all(l->from, payload, h.payload_bytes), last = false;
    memcpy(frame, head, sizeof head);
    if (ok && l->told) {
        put_us_in(&h, (char *)payload);
        rb_frame_put(frame, &h, payload);
    }
    size_t size = sizeof head + h.payload_bytes;
    payload[h.payload_bytes] = 0;
    if (ok && l->control && strstr((char *)payload, "\"fault\"")) hold_back();
    if (ok && l->harmed && spared-- <= 0) last = strike(l, frame, &h, size);
    if (l->control ? control_mute : data_mute) pause();
    if (ok && !last) write_all(l->to, frame, size);
    free(frame);
    return ok && !last;
}

static void *carry(void *lane_) {
    lane *l = lane_;
    uint8_t hello[RB_HELLO_BYTES];
    if (read_all(l->from, hello, sizeof hello)) {
        write_all(l->to, hello, sizeof hello);
        while (pass_frame(l)) {
        }
    }
    hold_back();
    shutdown(l->to, SHUT_WR);
    return NULL;
}

static void begin_thread(void *(*run)(void *), void *arg) {
    pthread_t t;
    if (pthread_create(&t, NULL, run, arg)) die("frame_proxy: thread");
    pthread_detach(t);
}

static void start(int a, int b, bool control, bool harmed) {
    static lane lanes[2][2];
    lane *l = lanes[control];
    l[0] = (lane){.from = a, .to = b, .control = control, .harmed = harmed};
    l[1] = (lane){.from = b, .to = a, .control = control, .told = control};
    for (int i = 0; i < 2; i++) begin_thread(carry, &l[i]);
}

static void *wait_for_data(void *unused) {
    char name[64];
    int a = accept(data_listener, NULL, NULL);
    pthread_mutex_lock(&peer_lock);
    memcpy(name, real_peer, sizeof name);
    pthread_mutex_unlock(&peer_lock);
    if (a >= 0) start(a, dial(name), false, true);
    return unused;
}

int main(int argc, char **argv) {
    char name[64], control[80] = "";
    pid_t child;
    int status = 0;
    if (argc < 4) return 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    fault = argv[1];
    spared = atol(argv[2]);
    int listener = listen_somewhere(name);
    data_listener = listen_somewhere(own_peer);
    for (int i = 3; i + 1 < argc; i++) {
        if (!strcmp(argv[i], "--stage")) next_stage = atoi(argv[i + 1]) + 1;
        if (strcmp(argv[i], "--control")) continue;
        snprintf(real_peer, sizeof real_peer, "%s", argv[i + 1] + strlen("tcp:"));
        snprintf(control, sizeof control, "tcp:%s", name);
        argv[i + 1] = control;
    }
    if (!*control || posix_spawnp(&child, argv[3], NULL, NULL, argv + 3, environ)) die("frame_proxy: start");
    int joined = accept(listener, NULL, NULL);
    int control_fd = dial(real_peer);
    begin_thread(wait_for_data, NULL);
    start(joined, control_fd, true, false);
    while (waitpid(child, &status, 0) < 0) {
    }
    hold_back();
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
