#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>
#include "core/bytes.h"
#include "core/clock.h"
#include "core/hash.h"
#include "core/rng.h"
#include "core/thread.h"
#include "link/carrier.h"
#include "packet.h"
#include "ring.h"

enum { MOST_STREAMS = 8192, MOST_OF_ONE = 64, MOST_SERVICES = 16, MOST_REPLIES = 256 };
#define FIRST_PING (300 * RB_MS)
#define LAST_PING  (2 * RB_SEC)
#define LATE_ACK   (40 * RB_MS)
#define GIVE_UP                                                                                              \
    (30 * RB_SEC) /* where the process has closed a stream and the other side takes nothing more */

typedef struct conn {
    struct conn *next;
    uint64_t id, port; /* port: the other side's, 0 until it is known */
    char peer[RB_STREAM_NAME];
    bool opened, done, eof;
    int fd;
    ring out, in;
    uint64_t sent, limit;     /* of out: sent at least once; may be sent */
    uint64_t farthest;        /* what comes before it and is sent again is counted */
    uint32_t ping, echo;      /* ping: the last one sent; echo: to be answered */
    uint64_t ping_sent;       /* `sent` at that ping */
    int64_t ping_ns, wait_ns; /* when the next one is due, RB_NEVER; how long until the one after */
    int64_t ack_ns;           /* when an ack is due; RB_NEVER: none */
    uint8_t ack_flags;
    int64_t back_ns; /* when bytes were last taken to be lost, for a gap */
    int64_t
        closed_ns; /* when the process closed it, though there may be more to read of what it wrote; 0: it has not */
    int64_t acked_ns; /* when the other side last took something */
    bool fin_due, fin_came;
    uint64_t fin_at;
} conn;

typedef struct reply {
    char to[RB_STREAM_NAME];
    packet p;
} reply;

typedef struct service {
    char name[RB_STREAM_NAME];
    int in, out; /* the pipe */
} service;

struct rb_streams {
    rb_bus bus;
    uint64_t port;
    size_t piece;
    int64_t give_up_ns;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread;
    bool started, stopping;
    int wake[2];
    conn *conns;
    int count;
    service services[MOST_SERVICES];
    int service_count;
    reply replies[MOST_REPLIES];
    int reply_count;
    rb_stream_counts counts;
    uint8_t *packet; /* of the thread */
};

#define RB_NEVER INT64_MAX

/* --- between the socket pair and the rings, with the lock --- */

static void wake(rb_streams *s) {
    (void)!write(s->wake[1], "", 1);
}

/* Takes in what the process wrote. */
static void read_fd(conn *c) {
    while (!c->eof && ring_room(&c->out)) {
        size_t k = ring_together(c->out.to, ring_room(&c->out));
        ssize_t n = recv(c->fd, c->out.data + c->out.to % RB_STREAM_WINDOW, k, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            c->eof = c->fin_due = true;
            if (!c->closed_ns) c->closed_ns = rb_now_ns();
            return;
        }
        c->out.to += (uint64_t)n;
    }
}

/* Hands the process what has come; its end once all of it is handed over. */
static void write_fd(conn *c) {
    while (c->in.from < c->in.to) {
        size_t k = ring_together(c->in.from, (size_t)(c->in.to - c->in.from));
        ssize_t n = send(c->fd, c->in.data + c->in.from % RB_STREAM_WINDOW, k, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno != EAGAIN) c->in.from = c->in.to; /* the process has closed it */
        if (n < 0) break;
        if (ring_room(&c->in) < RB_STREAM_WINDOW / 2) c->ack_ns = 0; /* the window opens again */
        c->in.from += (uint64_t)n;
    }
    if (c->fin_came && c->in.from == c->fin_at) shutdown(c->fd, SHUT_WR);
}

static void end_conn(rb_streams *s, conn *c) {
    c->done = true;
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    pthread_cond_broadcast(&s->changed);
}

static void free_conn(conn *c) {
    if (c->fd >= 0) close(c->fd);
    free(c->out.data);
    free(c->in.data);
    free(c);
}

static void drop_done(rb_streams *s) {
    for (conn **at = &s->conns; *at;) {
        conn *c = *at;
        if (c->done) {
            *at = c->next;
            free_conn(c);
            s->count--;
        } else {
            at = &c->next;
        }
    }
}

/* One end of a new pair goes to *theirs. */
static conn *new_conn(rb_streams *s, uint64_t id, const char *peer, int *theirs) {
    int fds[2];
    conn *c = s->count < MOST_STREAMS ? calloc(1, sizeof *c) : NULL;
    if (!c) return NULL;
    *c = (conn){.id = id, .fd = -1, .ping_ns = RB_NEVER, .ack_ns = RB_NEVER, .wait_ns = FIRST_PING};
    snprintf(c->peer, sizeof c->peer, "%s", peer);
    c->out.data = malloc(RB_STREAM_WINDOW);
    c->in.data = malloc(RB_STREAM_WINDOW);
    if (!c->out.data || !c->in.data ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds)) {
        free_conn(c);
        return NULL;
    }
    c->fd = fds[0];
    *theirs = fds[1];
    c->next = s->conns;
    s->conns = c;
    s->count++;
    return c;
}

/* --- what comes in, with the lock --- */

static void answer(rb_streams *s, const char *to, uint8_t type, uint64_t id, uint64_t port) {
    if (s->reply_count == MOST_REPLIES) return;
    reply *r = &s->replies[s->reply_count++];
    snprintf(r->to, sizeof r->to, "%s", to);
    r->p = (packet){.type = type, .id = id, .port = port, .window = RB_STREAM_WINDOW};
}

static int streams_of(const rb_streams *s, const char *peer) {
    int n = 0;
    for (const conn *c = s->conns; c; c = c->next) n += !strcmp(c->peer, peer);
    return n;
}

static conn *find(rb_streams *s, uint64_t id, const char *from) {
    for (conn *c = s->conns; c; c = c->next)
        if (c->id == id && !c->done && !strcmp(c->peer, from)) return c;
    return NULL;
}

/* Somebody opens a stream to a service. An opening that comes twice is answered twice. */
static void input_open(rb_streams *s, const char *from, const char *name, const packet *p) {
    conn *c = find(s, p->id, from);
    rb_carrier_stream theirs = {0}; /* less than PIPE_BUF bytes: written whole or not at all */
    snprintf(theirs.from, sizeof theirs.from, "%s", from);
    for (int i = 0; !c && name && i < s->service_count; i++) {
        if (strcmp(s->services[i].name, name) || streams_of(s, from) >= MOST_OF_ONE ||
            !(c = new_conn(s, p->id, from, &theirs.fd)))
            continue;
        if (write(s->services[i].out, &theirs, sizeof theirs) != sizeof theirs) { /* nobody takes them up */
            close(theirs.fd);
            end_conn(s, c);
            c = NULL;
            break;
        }
        c->opened = true;
        c->port = p->port;
        c->limit = RB_STREAM_WINDOW;
    }
    answer(s, from, c ? OPENED : RST, p->id, p->port);
}

static void input_data(rb_streams *s, conn *c, uint64_t seq, const uint8_t *p, size_t n) {
    uint64_t have = c->in.to;
    if (seq > have) {
        c->ack_flags |= GAP;
        c->ack_ns = 0;
        return;
    }
    if (seq + n <= have) {
        s->counts.doubles++;
        if (c->ack_ns > 0) c->ack_ns = 0;
        return;
    }
    p += have - seq;
    n -= (size_t)(have - seq);
    size_t room = ring_room(&c->in);
    ring_add(&c->in, p, n < room ? n : room);
    write_fd(c);
    if (c->ack_ns == RB_NEVER) c->ack_ns = rb_now_ns() + LATE_ACK;
    if (ring_room(&c->in) < RB_STREAM_WINDOW / 2) c->ack_ns = 0;
}

/* What the other side has: frees it here, and goes back to what was lost. */
static void input_ack(conn *c, const packet *p) {
    int64_t now = rb_now_ns();
    if (p->ack > c->out.to) return;
    if (p->ack > c->out.from) {
        c->out.from = p->ack;
        c->acked_ns = now;
        if (c->sent < p->ack) c->sent = p->ack; /* it had come before it was taken to be lost */
        c->wait_ns = FIRST_PING;
        c->ping_ns = c->out.from < c->sent ? now + c->wait_ns : RB_NEVER;
    }
    if (p->ack + p->window > c->limit) c->limit = p->ack + p->window;
    bool lost = p->type == ACK && p->ping && p->ping == c->ping && p->ack < c->ping_sent;
    if ((p->flags & GAP) && now - c->back_ns > 100 * RB_MS) lost = true;
    if (p->flags & RESUMED) lost = true;
    if (lost && c->out.from < c->sent) {
        c->sent = c->out.from;
        c->back_ns = now;
    }
    if (p->type == ACK && p->ping == c->ping) c->ping = 0;
    read_fd(c);
}

static void input_fin(rb_streams *s, conn *c, const packet *p) {
    if (p->seq == c->in.to) {
        c->fin_came = true;
        c->fin_at = p->seq;
        write_fd(c);
        answer(s, c->peer, RST, c->id, p->port); /* nothing can follow: the stream is over on both sides */
    } else if (p->seq > c->in.to) {
        c->ack_flags |= GAP;
        c->ack_ns = 0;
    }
}

static void input_known(rb_streams *s, conn *c, const packet *p, const uint8_t *payload, size_t n) {
    if (c->port && p->port != c->port) return; /* not the process this stream was opened with */
    if (p->type == OPENED && !c->opened) {
        c->opened = true;
        c->port = p->port;
        c->limit = p->window;
        pthread_cond_broadcast(&s->changed);
    }
    if (p->type == RST) {
        c->fin_came = true;
        c->fin_at = c->in.to;
        write_fd(c);
        if (c->in.from == c->in.to || c->eof || !c->opened) end_conn(s, c);
        return;
    }
    if (!c->opened) return;
    input_ack(c, p);
    if (p->type == DATA) input_data(s, c, p->seq, payload, n);
    if (p->type == FIN) input_fin(s, c, p);
    if (p->type == PING) {
        c->echo = p->ping;
        c->ack_ns = 0;
    }
}

void rb_streams_input(rb_streams *s, const char *from, const char *name, const uint8_t *b, size_t n) {
    packet p;
    bool good = rb_packet_get(b, n, &p) && (name != NULL) == (p.type == OPEN);
    if (!good && s->bus.refused) s->bus.refused(s->bus.ctx, from, n);
    pthread_mutex_lock(&s->lock);
    s->counts.packets_in++;
    s->counts.bytes_in += n;
    if (!good) {
        s->counts.refused++;
    } else if (p.type == OPEN) {
        input_open(s, from, name, &p);
    } else {
        conn *c = find(s, p.id, from);
        if (c)
            input_known(s, c, &p, b + RB_STREAM_HEADER, n - RB_STREAM_HEADER);
        else if (p.type != RST)
            answer(s, from, RST, p.id, p.port);
    }
    wake(s);
    pthread_mutex_unlock(&s->lock);
}

void rb_streams_resumed(rb_streams *s) {
    pthread_mutex_lock(&s->lock);
    for (conn *c = s->conns; c; c = c->next) {
        if (!c->opened || c->done) continue;
        c->sent = c->out.from;
        c->ack_flags |= RESUMED;
        c->ack_ns = 0;
        if (c->eof) c->fin_due = true;
    }
    wake(s);
    pthread_mutex_unlock(&s->lock);
}

/* --- what goes out --- */

static size_t fill(rb_streams *s, conn *c, uint8_t type, uint64_t seq, size_t payload) {
    packet p = {.type = type,
                .flags = type == ACK ? c->ack_flags : 0,
                .id = c->id,
                .port = s->port,
                .seq = seq,
                .ack = c->in.to,
                .window = (uint32_t)ring_room(&c->in),
                .ping = type == PING  ? c->ping
                        : type == ACK ? c->echo
                                      : 0};
    if (type == ACK) {
        c->ack_flags = 0;
        c->echo = 0;
    }
    if (!c->echo && !c->ack_flags) c->ack_ns = RB_NEVER;
    rb_packet_put(s->packet, &p, payload);
    return RB_STREAM_HEADER + payload;
}

static size_t next_data(rb_streams *s, conn *c, int64_t now) {
    uint64_t end = c->out.to < c->limit ? c->out.to : c->limit;
    if (c->sent >= end) return 0;
    size_t n = end - c->sent < s->piece ? (size_t)(end - c->sent) : s->piece;
    ring_copy(&c->out, c->sent, s->packet + RB_STREAM_HEADER, n);
    size_t bytes = fill(s, c, DATA, c->sent, n);
    c->sent += n;
    if (c->sent > c->farthest)
        c->farthest = c->sent;
    else
        s->counts.again_bytes += n;
    if (c->ping_ns == RB_NEVER) c->ping_ns = now + c->wait_ns;
    return bytes;
}

static size_t next_ping(rb_streams *s, conn *c, int64_t now) {
    bool waits = c->out.from < c->sent || c->sent < c->out.to;
    if (!waits) c->ping_ns = RB_NEVER;
    if (waits && c->ping_ns == RB_NEVER) c->ping_ns = now + c->wait_ns;
    if (c->ping_ns > now) return 0;
    c->ping = (uint32_t)(now / RB_MS) | 1; /* 0 is none */
    c->ping_sent = c->sent;
    c->wait_ns = c->wait_ns * 2 < LAST_PING ? c->wait_ns * 2 : LAST_PING;
    c->ping_ns = now + c->wait_ns;
    return fill(s, c, PING, c->sent, 0);
}

static size_t next_fin(rb_streams *s, conn *c, int64_t now) {
    if (!c->eof || c->out.from < c->out.to) return 0;
    if (!c->fin_due && c->ping_ns > now) return 0;
    c->fin_due = false;
    c->ping_ns = now + c->wait_ns;
    return fill(s, c, FIN, c->out.to, 0);
}

/* The next packet of a stream, 0: it has none now. */
static size_t next_of(rb_streams *s, conn *c, int64_t now) {
    if (!c->opened || c->done) return 0;
    size_t n = 0;
    if (c->ack_flags || c->echo) n = fill(s, c, ACK, 0, 0);
    if (!n) n = next_data(s, c, now);
    if (!n && c->ack_ns <= now) n = fill(s, c, ACK, 0, 0);
    if (!n) n = next_fin(s, c, now);
    if (!n && !(c->eof && c->out.from == c->out.to)) n = next_ping(s, c, now);
    return n;
}

/* With the lock: writes the next packet to s->packet, and to whom it goes. Streams take turns. */
static size_t next_packet(rb_streams *s, int64_t now, char to[RB_STREAM_NAME], uint64_t *port) {
    if (s->reply_count) {
        reply r = s->replies[--s->reply_count];
        snprintf(to, RB_STREAM_NAME, "%s", r.to);
        *port = r.p.port;
        r.p.port = s->port;
        rb_packet_put(s->packet, &r.p, 0);
        return RB_STREAM_HEADER;
    }
    for (conn **at = &s->conns, *c; (c = *at); at = &c->next) {
        size_t n = next_of(s, c, now);
        if (!n) continue;
        snprintf(to, RB_STREAM_NAME, "%s", c->peer);
        *port = c->port;
        if (c->next) { /* to the end */
            *at = c->next;
            conn **end = at;
            while (*end) end = &(*end)->next;
            *end = c;
            c->next = NULL;
        }
        return n;
    }
    return 0;
}

/* Sends all there is; false when the bus did not take it. */
static bool send_all(rb_streams *s) {
    char to[RB_STREAM_NAME];
    uint64_t port;
    for (;;) {
        pthread_mutex_lock(&s->lock);
        size_t n = next_packet(s, rb_now_ns(), to, &port);
        if (n) {
            s->counts.packets_out++;
            s->counts.bytes_out += n;
        }
        pthread_mutex_unlock(&s->lock);
        if (!n) return true;
        if (!s->bus.publish(s->bus.ctx, to, NULL, port, s->packet, n)) return false;
    }
}

static int64_t due(const rb_streams *s) {
    int64_t at = RB_NEVER;
    for (const conn *c = s->conns; c; c = c->next) {
        if (c->done || !c->opened) continue;
        if (c->ack_ns < at) at = c->ack_ns;
        if (c->ping_ns < at) at = c->ping_ns;
    }
    return at;
}

/* With the lock: what to wait for. Returns how many. */
static int watch(const rb_streams *s, struct pollfd *p, int *ms) {
    int n = 0;
    int64_t left = due(s);
    p[n++] = (struct pollfd){.fd = s->wake[0], .events = POLLIN};
    for (const conn *c = s->conns; c; c = c->next) {
        short e = (short)((c->opened && !c->eof && ring_room(&c->out) ? POLLIN : 0) |
                          (c->in.from < c->in.to ? POLLOUT : 0));
        if (e && c->fd >= 0) p[n++] = (struct pollfd){.fd = c->fd, .events = e};
    }
    if (left != RB_NEVER) left = left > rb_now_ns() ? (left - rb_now_ns() + RB_MS - 1) / RB_MS : 0;
    *ms = left > 1000 ? 1000 : (int)left;
    return n;
}

/* With the lock. Behind a full ring the process's end is not read: it is asked for. */
static bool is_late(const rb_streams *s, conn *c) {
    struct pollfd p = {.fd = c->fd, .events = POLLRDHUP};
    if (!c->closed_ns && !ring_room(&c->out) && poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLRDHUP)))
        c->closed_ns = rb_now_ns();
    int64_t since = c->closed_ns > c->acked_ns ? c->closed_ns : c->acked_ns;
    return c->closed_ns && rb_now_ns() - since > s->give_up_ns;
}

static void *pump(void *arg) {
    rb_streams *s = arg;
    struct pollfd *p = calloc(MOST_STREAMS + 1, sizeof *p);
    char drain[256];
    for (bool stop = false; p && !stop;) {
        bool sent = send_all(s);
        int ms;
        pthread_mutex_lock(&s->lock);
        drop_done(s);
        int n = watch(s, p, &ms);
        pthread_mutex_unlock(&s->lock);
        if (!sent) n = 1, ms = 50; /* cut off: looks again soon, and does not turn in circles */
        poll(p, (nfds_t)n, ms);
        if (p[0].revents) (void)!read(s->wake[0], drain, sizeof drain);
        pthread_mutex_lock(&s->lock);
        for (conn *c = s->conns; c; c = c->next) {
            if (c->done || c->fd < 0) continue;
            if (c->opened) read_fd(c);
            write_fd(c);
            if (is_late(s, c) || (c->fin_came && c->in.from == c->in.to && c->eof)) end_conn(s, c);
        }
        stop = s->stopping;
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->lock);
    }
    free(p);
    return NULL;
}

/* --- the calls --- */

static resbm_status start(rb_streams *s, rb_err *err) {
    pthread_mutex_init(&s->lock, NULL);
    rb_cond_init(&s->changed);
    if (pipe2(s->wake, O_CLOEXEC | O_NONBLOCK))
        return rb_fail_errno(err, errno, "cannot make a pipe for streams");
    int bad = rb_thread_start(&s->thread, "rb-streams", pump, s);
    if (bad) return rb_fail_errno(err, bad, "cannot start the thread of streams");
    s->started = true;
    return RESBM_OK;
}

resbm_status rb_streams_open(const rb_bus *bus, uint64_t port, size_t piece, rb_streams **out, rb_err *err) {
    rb_streams *s = calloc(1, sizeof *s);
    *out = NULL;
    if (s) s->packet = malloc(RB_STREAM_HEADER + piece);
    if (!s || !s->packet) {
        free(s);
        return rb_fail(err, RESBM_E_MEMORY, "no memory for streams");
    }
    s->bus = *bus;
    s->port = port;
    s->piece = piece;
    s->give_up_ns = bus->give_up_ns ? bus->give_up_ns : GIVE_UP;
    s->wake[0] = s->wake[1] = -1;
    resbm_status st = start(s, err);
    if (st)
        rb_streams_close(s, 0);
    else
        *out = s;
    return st;
}

static bool wait_changed(rb_streams *s, int64_t until_ns) {
    int64_t slice = rb_now_ns() + 50 * RB_MS;
    if (until_ns < slice) slice = until_ns;
    rb_cond_wait_until(&s->changed, &s->lock, slice);
    return rb_now_ns() < until_ns;
}

/* The process has closed its ends: what it wrote may still lie in the socket pairs, unread. */
static bool unfinished(const rb_streams *s) {
    for (const conn *c = s->conns; c; c = c->next)
        if (!c->done && c->opened) return true;
    return false;
}

void rb_streams_drain(rb_streams *s, int64_t until_ns) {
    pthread_mutex_lock(&s->lock);
    while (unfinished(s) && wait_changed(s, until_ns)) {
    }
    pthread_mutex_unlock(&s->lock);
}

void rb_streams_stop(rb_streams *s) {
    if (!s->started) return;
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    wake(s);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    s->started = false;
}

void rb_streams_close(rb_streams *s, int64_t linger_until_ns) {
    if (!s) return;
    if (s->started) rb_streams_drain(s, linger_until_ns);
    rb_streams_stop(s);
    while (s->service_count) rb_streams_unlisten(s, s->services[0].in);
    for (conn *c = s->conns, *next; c; c = next) {
        next = c->next;
        free_conn(c);
    }
    if (s->wake[0] >= 0) close(s->wake[0]);
    if (s->wake[1] >= 0) close(s->wake[1]);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
    free(s->packet);
    free(s);
}

resbm_status rb_streams_listen(rb_streams *s, const char *name, int *fd, rb_err *err) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK))
        return rb_fail_errno(err, errno, "cannot make a pipe for service %s", name);
    pthread_mutex_lock(&s->lock);
    bool room = s->service_count < MOST_SERVICES;
    if (room) {
        service *v = &s->services[s->service_count++];
        snprintf(v->name, sizeof v->name, "%s", name);
        v->in = ends[0];
        v->out = ends[1];
    }
    pthread_mutex_unlock(&s->lock);
    *fd = ends[0];
    if (room) return RESBM_OK;
    close(ends[0]);
    close(ends[1]);
    return rb_fail(err, RESBM_E_STATE, "no more than %d services in one process", MOST_SERVICES);
}

void rb_streams_unlisten(rb_streams *s, int fd) {
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < s->service_count; i++) {
        if (s->services[i].in != fd) continue;
        for (rb_carrier_stream waiting; read(fd, &waiting, sizeof waiting) == sizeof waiting;)
            close(waiting.fd);
        close(s->services[i].out);
        close(fd);
        s->services[i] = s->services[--s->service_count];
        break;
    }
    pthread_mutex_unlock(&s->lock);
}

/* Says OPEN until there is an answer. */
static resbm_status knock(rb_streams *s, uint64_t id, const char *to, const char *name, int64_t deadline_ns,
                          rb_err *err) {
    uint8_t b[RB_STREAM_HEADER];
    packet p = {.type = OPEN, .id = id, .port = s->port, .window = RB_STREAM_WINDOW};
    rb_packet_put(b, &p, 0);
    for (int64_t again = 0;;) {
        if (rb_now_ns() >= again) {
            s->bus.publish(s->bus.ctx, to, name, 0, b, sizeof b);
            again = rb_now_ns() + 250 * RB_MS;
        }
        pthread_mutex_lock(&s->lock);
        conn *c = find(s, id, to);
        if (c && !c->opened) {
            wait_changed(s, deadline_ns < again ? deadline_ns : again);
            c = find(s, id, to);
        }
        bool gone = !c, opened = c && c->opened;
        pthread_mutex_unlock(&s->lock);
        if (opened) return RESBM_OK;
        if (gone) return rb_fail(err, RESBM_E_PEER, "%s does not serve \"%s\"", to, name);
        if (rb_now_ns() >= deadline_ns)
            return rb_fail(err, RESBM_E_TIMEOUT, "%s did not answer to \"%s\"", to, name);
    }
}

resbm_status rb_streams_dial(rb_streams *s, const char *to, const char *name, int64_t deadline_ns, int *fd,
                             rb_err *err) {
    uint64_t id;
    if (getrandom(&id, sizeof id, 0) != sizeof id) return rb_fail_errno(err, errno, "getrandom");
    pthread_mutex_lock(&s->lock);
    conn *c = new_conn(s, id, to, fd);
    pthread_mutex_unlock(&s->lock);
    if (!c) return rb_fail(err, RESBM_E_MEMORY, "no memory for a stream to %s", to);
    resbm_status st = knock(s, id, to, name, deadline_ns, err);
    if (!st) return RESBM_OK;
    close(*fd);
    pthread_mutex_lock(&s->lock);
    for (c = s->conns; c; c = c->next)
        if (c->id == id && !strcmp(c->peer, to) && !c->done) end_conn(s, c);
    wake(s);
    pthread_mutex_unlock(&s->lock);
    return st;
}

void rb_streams_count(rb_streams *s, rb_stream_counts *out) {
    pthread_mutex_lock(&s->lock);
    *out = s->counts;
    out->streams = (unsigned)s->count;
    pthread_mutex_unlock(&s->lock);
}
