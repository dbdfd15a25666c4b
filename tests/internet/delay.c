/* Latency in user space: takes connections at 127.0.0.1:PORT and passes what comes on to HOST:PORT and back, each byte DELAY ms after it came.
 *
 *     delay PORT HOST PORT DELAY
 *
 * What waits is bounded per direction: then no more is read, as a line would. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS = 64, PIECES = 4096, PIECE = 16384 };

typedef struct piece {
    int64_t due_ns;
    int n, sent;
    char byte[PIECE];
} piece;

/* One direction of a connection: a ring of pieces. */
typedef struct lane {
    int from, to;
    bool ended;
    int first, count;
    piece *ring;
} lane;

static lane lanes[2 * CONNECTIONS];

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void prompt(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static void close_both(int i) {
    lane *l = &lanes[i & ~1];
    close(l[0].from);
    close(l[0].to);
    l[0].from = l[1].from = -1;
}

static void take(int listener, const struct sockaddr_in *server) {
    int in = accept4(listener, NULL, NULL, SOCK_CLOEXEC),
        out = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), i = 0;
    while (i < 2 * CONNECTIONS && lanes[i].from >= 0) i += 2;
    if (in < 0 || out < 0 || i == 2 * CONNECTIONS ||
        connect(out, (const struct sockaddr *)server, sizeof *server)) {
        if (in >= 0) close(in);
        if (out >= 0) close(out);
        return;
    }
    prompt(in);
    prompt(out);
    for (int k = 0; k < 2; k++) {
        lane *l = &lanes[i + k];
        if (!l->ring) l->ring = malloc(PIECES * sizeof *l->ring);
        if (!l->ring) exit(1);
        *l = (lane){.from = k ? out : in, .to = k ? in : out, .ring = l->ring};
    }
}

static void read_more(int i, int64_t delay_ns) {
    lane *l = &lanes[i];
    piece *p = &l->ring[(l->first + l->count) % PIECES];
    ssize_t n = recv(l->from, p->byte, PIECE, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    p->due_ns = now_ns() + delay_ns;
    p->n = n > 0 ? (int)n : 0; /* an end travels as long as bytes do */
    p->sent = 0;
    l->count++;
    l->ended = n <= 0;
}

/* When to look again. */
static int64_t pass_on(int i, int64_t now) {
    while (lanes[i].from >= 0 && lanes[i].count) {
        lane *l = &lanes[i];
        piece *p = &l->ring[l->first];
        if (p->due_ns > now) return p->due_ns;
        if (!p->n) {
            close_both(i);
            break;
        }
        ssize_t n = send(l->to, p->byte + p->sent, (size_t)(p->n - p->sent), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return now + 1000000;
        if (n < 0) {
            close_both(i);
            break;
        }
        p->sent += (int)n;
        if (p->sent < p->n) continue;
        l->first = (l->first + 1) % PIECES;
        l->count--;
    }
    return INT64_MAX;
}

int main(int argc, char **argv) {
    struct sockaddr_in mine = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)},
                       server = {.sin_family = AF_INET};
    if (argc != 5 || inet_pton(AF_INET, argv[2], &server.sin_addr) != 1) return 2;
    mine.sin_port = htons((uint16_t)atoi(argv[1]));
    server.sin_port = htons((uint16_t)atoi(argv[3]));
    int64_t delay_ns = (int64_t)(atof(argv[4]) * 1e6);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&mine, sizeof mine) || listen(listener, 16)) {
        perror("delay");
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < 2 * CONNECTIONS; i++) lanes[i].from = -1;
    for (;;) {
        struct pollfd p[2 * CONNECTIONS + 1] = {{.fd = listener, .events = POLLIN}};
        int of[2 * CONNECTIONS + 1], n = 1;
        int64_t now = now_ns(), next = INT64_MAX;
        for (int i = 0; i < 2 * CONNECTIONS; i++) {
            int64_t due = lanes[i].from >= 0 ? pass_on(i, now) : INT64_MAX;
            if (due < next) next = due;
        }
        for (int i = 0; i < 2 * CONNECTIONS; i++) {
            if (lanes[i].from < 0 || lanes[i].ended || lanes[i].count == PIECES) continue;
            of[n] = i;
            p[n++] = (struct pollfd){.fd = lanes[i].from, .events = POLLIN};
        }
        struct timespec wait = {0};
        if (next != INT64_MAX && next > now)
            wait = (struct timespec){(next - now) / 1000000000, (next - now) % 1000000000};
        if (ppoll(p, (nfds_t)n, next == INT64_MAX ? NULL : &wait, NULL) < 0 && errno != EINTR) return 1;
        if (p[0].revents) take(listener, &server);
        for (int k = 1; k < n; k++)
            if (p[k].revents && lanes[of[k]].from >= 0) read_more(of[k], delay_ns);
    }
}
