/* How connections come to be: listening, dialing, the exchange of hellos. Runs on the calling thread. */
#include "link/internal.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "core/clock.h"
#include "link/socket.h"

enum { WAITING = 16 };
#define HELLO_NS (5 * RB_SEC) /* a caller who has not said hello by then is let go */
#define MOST_DIAL_NS                                                                                         \
    (15 * RB_SEC) /* for one try to reach a peer; the first has a second, as the way there may be dead */
#define SLICE_NS (20 * RB_MS) /* how often a waiting call looks whether the link was closed */

/* A connection whose hello has not come whole yet. */
typedef struct caller {
    int fd;
    char from[RB_CARRIER_NAME]; /* over a carrier: who it is there */
    int64_t until_ns;
    size_t have;
    uint8_t hello[RB_HELLO_BYTES];
} caller;

struct rb_listener {
    int fd;
    char address[RB_ADDRESS_MAX];
    caller waiting[WAITING];
    int count;
    rb_carrier *carrier; /* fd is then a pipe from which connections are read */
};

static resbm_status listen_over(rb_listener *l, const char *address, rb_err *err) {
    char self[RB_CARRIER_NAME], service[RB_CARRIER_NAME];
    if (!l->carrier || !rb_carrier_address(address, self, service))
        return rb_socket_listen(address, &l->fd, l->address, err);
    RB_TRY(l->carrier->module->listen(l->carrier->state, service, &l->fd, err));
    snprintf(l->address, sizeof l->address, "%s", address);
    return RESBM_OK;
}

resbm_status rb_listen(const char *address, rb_listener **out, rb_err *err) {
    return rb_listen_over(NULL, address, out, err);
}

resbm_status rb_listen_over(rb_carrier *carrier, const char *address, rb_listener **out, rb_err *err) {
    rb_listener *l = calloc(1, sizeof *l);
    if (!l) return rb_fail(err, RESBM_E_MEMORY, "no memory to listen on %s", address);
    if (!strncmp(address, "nats:", 5)) l->carrier = carrier;
    resbm_status st = listen_over(l, address, err);
    if (st != RESBM_OK) {
        free(l);
        return st;
    }
    *out = l;
    return RESBM_OK;
}

const char *rb_listener_address(const rb_listener *l) {
    return l->address;
}

void rb_listener_close(rb_listener *l) {
    if (!l) return;
    const char *path = rb_socket_path(l->address);
    if (path) unlink(path);
    for (int i = 0; i < l->count; i++) close(l->waiting[i].fd);
    if (l->carrier)
        l->carrier->module->unlisten(l->carrier->state, l->fd);
    else
        close(l->fd);
    free(l);
}

static rb_hello my_hello(const rb_link *l, int peer) {
    return (rb_hello){.version = RB_PROTOCOL_VERSION,
                      .self = l->opt.self,
                      .peer = peer,
                      .stages = l->opt.stages,
                      .token = l->opt.token,
                      .fingerprint = rb_token_fingerprint(l->opt.token)};
}

static bool send_hello(int fd, const rb_hello *h) {
    uint8_t b[RB_HELLO_BYTES];
    rb_hello_put(b, h);
    return send(fd, b, sizeof b, MSG_NOSIGNAL) == (ssize_t)sizeof b;
}

static bool is_closed(rb_link *l) {
    pthread_mutex_lock(&l->lock);
    bool closed = l->closed;
    pthread_mutex_unlock(&l->lock);
    return closed;
}

static int64_t sooner(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Waits for events in slices, so that closing the link ends the wait. */
static resbm_status wait_open(rb_link *l, int fd, short events, int64_t deadline_ns, rb_err *err) {
    for (;;) {
        if (is_closed(l)) return rb_fail(err, RESBM_E_CANCELLED, "the link was closed");
        if (rb_socket_wait(fd, events, sooner(deadline_ns, rb_now_ns() + SLICE_NS))) return RESBM_OK;
        if (rb_now_ns() >= deadline_ns) return rb_fail(err, RESBM_E_TIMEOUT, "the deadline passed");
    }
}

static resbm_status read_answer(rb_link *l, int fd, int64_t deadline_ns, rb_hello *h, rb_err *err) {
    uint8_t b[RB_HELLO_BYTES];
    for (size_t have = 0; have < sizeof b;) {
        RB_TRY(wait_open(l, fd, POLLIN, deadline_ns, err));
        ssize_t n = recv(fd, b + have, sizeof b - have, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (n <= 0) return rb_fail(err, RESBM_E_PEER, "it closed the connection without a hello");
        have += (size_t)n;
    }
    return rb_hello_get(b, h, err);
}

static bool is_busy(rb_link *l, rb_peer *p) {
    pthread_mutex_lock(&l->lock);
    bool busy = p->conn && !p->deaf;
    pthread_mutex_unlock(&l->lock);
    return busy;
}

/* Makes the socket the peer's connection. */
static resbm_status adopt(rb_link *l, rb_peer *p, int fd, bool tcp, rb_err *err) {
    rb_conn *c = calloc(1, sizeof *c);
    uint8_t *staging = malloc(RB_STAGING_BYTES);
    if (!c || !staging) {
        free(c);
        free(staging);
        return rb_fail(err, RESBM_E_MEMORY, "no memory for a connection");
    }
    c->staging = staging;
    resbm_status st = rb_link_adopt(l, p, fd, tcp, c, err);
    if (st != RESBM_OK) {
        free(c);
        free(staging);
    }
    return st;
}

static bool is_tcp(int fd) {
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    return getsockname(fd, (struct sockaddr *)&a, &n) == 0 && a.ss_family != AF_UNIX;
}

static resbm_status dial(const rb_link *l, const char *address, int64_t until, int *fd, bool *retry,
                         rb_err *err) {
    char to[RB_CARRIER_NAME], service[RB_CARRIER_NAME];
    if (!l->opt.carrier || !rb_carrier_address(address, to, service))
        return rb_socket_dial(address, until, fd, retry, err);
    *retry = true; /* it may serve that later */
    return l->opt.carrier->module->dial(l->opt.carrier->state, to, service, until, fd, err) ? RESBM_E_PEER
                                                                                            : RESBM_OK;
}

/* One dialing attempt, until dial_ns, with its exchange of hellos. */
static resbm_status attempt(rb_link *l, rb_peer *p, const char *address, int64_t dial_ns, int64_t deadline_ns,
                            bool *retry, rb_err *err) {
    int fd;
    rb_hello mine = my_hello(l, p->number), answer;
    RB_TRY(dial(l, address, sooner(dial_ns, deadline_ns), &fd, retry, err));
    resbm_status st = send_hello(fd, &mine) ? RESBM_OK : rb_fail_errno(err, errno, "cannot send the hello");
    if (st == RESBM_OK) st = read_answer(l, fd, deadline_ns, &answer, err);
    *retry = st == RESBM_E_IO || st == RESBM_E_PEER; /* it hung up: it may have no time for this one now */
    if (st == RESBM_OK) {
        *retry = answer.verdict == RB_REFUSED_BUSY;
        st = rb_hello_answer(&mine, &answer, err);
    }
    if (st == RESBM_OK) st = adopt(l, p, fd, is_tcp(fd), err);
    if (st != RESBM_OK) close(fd);
    return st;
}

resbm_status rb_link_connect(rb_link *l, int peer, const char *address, int64_t deadline_ns, rb_err *err) {
    char me[RB_WHO_TEXT], who[RB_WHO_TEXT];
    rb_err why = {0};
    rb_peer *p = rb_link_peer(l, peer);
    rb_who_at(me, l->opt.self, l->opt.places);
    if (!p || peer == l->opt.self)
        return rb_fail(err, RESBM_E_ARG, "%s of %d cannot connect to number %d", me, l->opt.stages, peer);
    rb_who_at(who, peer, l->opt.places);
    if (is_busy(l, p)) return rb_fail(err, RESBM_E_STATE, "%s is already connected to %s", me, who);
    for (int64_t patience = RB_SEC, pause = 5 * RB_MS;; pause = sooner(2 * pause, 100 * RB_MS)) {
        bool retry = false;
        int64_t begin = rb_now_ns();
        resbm_status st = attempt(l, p, address, begin + patience, deadline_ns, &retry, &why);
        if (st == RESBM_OK) return RESBM_OK;
        if (rb_now_ns() - begin >= patience) patience = sooner(2 * patience, MOST_DIAL_NS); /* a slow way */
        if (is_closed(l))
            return rb_fail(err, RESBM_E_CANCELLED, "%s stopped connecting to %s: the link was closed", me,
                           who);
        if (!retry && st != RESBM_E_TIMEOUT)
            return rb_fail(err, st, "%s cannot connect to %s at %s: %s", me, who, address, why.text);
        if (st == RESBM_E_TIMEOUT || rb_now_ns() >= deadline_ns)
            return rb_fail(err, RESBM_E_TIMEOUT, "%s could not connect to %s at %s before the deadline: %s",
                           me, who, address, why.text);
        rb_sleep_ns(sooner(pause, deadline_ns - rb_now_ns()));
    }
}

resbm_status rb_link_attach(rb_link *l, int peer, int fd, int64_t deadline_ns, rb_err *err) {
    char me[RB_WHO_TEXT], who[RB_WHO_TEXT];
    rb_err why = {0};
    rb_peer *p = rb_link_peer(l, peer);
    rb_who_at(me, l->opt.self, l->opt.places);
    resbm_status st =
        p && peer != l->opt.self ? RESBM_OK : rb_fail(&why, RESBM_E_ARG, "there is no such number");
    rb_who_at(who, peer, l->opt.places);
    rb_hello mine = my_hello(l, peer), theirs;
    if (!st && is_busy(l, p)) st = rb_fail(&why, RESBM_E_STATE, "it is connected already");
    if (!st && !send_hello(fd, &mine)) st = rb_fail_errno(&why, errno, "cannot send the hello");
    if (!st) st = read_answer(l, fd, deadline_ns, &theirs, &why);
    if (!st && rb_hello_judge(&mine, &theirs, &why) != RB_WELCOME) st = RESBM_E_PEER;
    if (!st && theirs.self != peer) st = rb_fail(&why, RESBM_E_PEER, "it is number %d", theirs.self);
    if (!st) st = adopt(l, p, fd, is_tcp(fd), &why);
    if (!st) return RESBM_OK;
    close(fd);
    return rb_fail(err, st, "%s cannot take the connection to %s: %s", me, who, why.text);
}

static void let_go(rb_listener *from, int i) {
    close(from->waiting[i].fd);
    from->waiting[i] = from->waiting[--from->count];
}

void rb_link_expect(rb_link *l, int peer, const char *name) {
    rb_peer *p = rb_link_peer(l, peer);
    if (p) snprintf(p->name, sizeof p->name, "%s", name);
}

/* As how many peers is this one expected? */
static int expected(const rb_link *l, const char *name) {
    int n = 0;
    for (int i = 0; i < l->peer_count; i++) n += *name && !strcmp(l->peers[i].name, name);
    return n;
}

static void note_refused(rb_link *l, const char *from, const char *why) {
    enum { MOST = 100 };
    char text[500];
    if (!l->opt.refused || l->strangers++ >= MOST) return;
    snprintf(text, sizeof text, "refused a connection of %s: %.400s", from, why);
    l->opt.refused(l->opt.refused_ctx, text);
}

/* Over a carrier each has no more places to wait in than it is expected as peers: a newer caller takes an older one's, which it
 * may have given up itself, and who is expected nowhere has none. */
static bool take_stream(rb_link *l, rb_listener *from, caller *c) {
    rb_carrier_stream s;
    if (read(from->fd, &s, sizeof s) != sizeof s) return false;
    int room = expected(l, s.from), oldest = -1;
    *c = (caller){.fd = s.fd, .until_ns = rb_now_ns() + HELLO_NS};
    snprintf(c->from, sizeof c->from, "%s", s.from);
    if (!room) {
        note_refused(l, s.from, "it has no part in this epoch");
        close(c->fd);
        c->fd = -1;
        return true;
    }
    for (int i = from->count - 1; i >= 0; i--) {
        if (strcmp(from->waiting[i].from, s.from)) continue;
        room--;
        if (oldest < 0 || from->waiting[i].until_ns < from->waiting[oldest].until_ns) oldest = i;
    }
    if (room <= 0) let_go(from, oldest);
    return true;
}

static void take_callers(rb_link *l, rb_listener *from) {
    while (from->count < WAITING) {
        caller c = {0};
        if (from->carrier) {
            if (!take_stream(l, from, &c)) return;
            if (c.fd < 0) continue;
        } else {
            c = (caller){.fd = rb_socket_accept(from->fd), .until_ns = rb_now_ns() + HELLO_NS};
            if (c.fd < 0) return;
        }
        from->waiting[from->count++] = c;
    }
}

/* 1: the hello is whole; 0: not yet; -1: it will never be. */
static int read_hello(caller *c, rb_err *why) {
    ssize_t n = recv(c->fd, c->hello + c->have, sizeof c->hello - c->have, MSG_DONTWAIT);
    if (n > 0) c->have += (size_t)n;
    if (c->have == sizeof c->hello) return 1;
    if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR))) {
        if (rb_now_ns() < c->until_ns) return 0;
        rb_fail(why, RESBM_E_TIMEOUT, "a caller sent no hello");
        return -1;
    }
    rb_fail(why, RESBM_E_PEER, "a caller left without a hello");
    return -1;
}

/* Is the caller who the carrier knows as this peer? */
static bool is_named(const rb_link *l, const rb_peer *p, const caller *c, rb_err *why) {
    char who[RB_WHO_TEXT];
    if (!strcmp(p->name, c->from)) return true;
    rb_fail(why, RESBM_E_PEER, "it called as %s, which is %s", rb_who_at(who, p->number, l->opt.places),
            *p->name ? p->name : "nobody");
    return false;
}

/* Judges a whole hello, answers it and takes the connection; RESBM_OK when it is a peer now. */
static resbm_status welcome(rb_link *l, const caller *c, bool carried, int *peer, rb_err *why) {
    rb_hello theirs, mine;
    RB_TRY(rb_hello_get(c->hello, &theirs, why));
    mine = my_hello(l, theirs.self);
    mine.verdict = (uint16_t)rb_hello_judge(&mine, &theirs, why);
    rb_peer *p = mine.verdict == RB_WELCOME ? rb_link_peer(l, theirs.self) : NULL;
    if (p && carried && !is_named(l, p, c, why)) {
        mine.verdict = RB_REFUSED_NAME;
    } else if (p && is_busy(l, p)) {
        mine.verdict = RB_REFUSED_BUSY;
        rb_fail(why, RESBM_E_PEER, "number %d called a second time", theirs.self);
    }
    if (mine.verdict != RB_WELCOME) mine.token = 0;
    if (!send_hello(c->fd, &mine)) return rb_fail_errno(why, errno, "cannot answer a hello");
    if (mine.verdict != RB_WELCOME) return RESBM_E_PEER;
    *peer = theirs.self;
    return adopt(l, p, c->fd, is_tcp(c->fd), why);
}

/* Goes through the callers once; true when one became a peer. */
static bool serve_callers(rb_link *l, rb_listener *from, int *peer, rb_err *why) {
    for (int i = 0; i < from->count;) {
        int got = read_hello(&from->waiting[i], why);
        const caller *c = &from->waiting[i];
        if (got == 1 && welcome(l, c, from->carrier != NULL, peer, why) == RESBM_OK) {
            from->waiting[i] = from->waiting[--from->count];
            return true;
        }
        if (got == 1 && from->carrier) note_refused(l, c->from, why->text);
        if (got == 0)
            i++;
        else
            let_go(from, i);
    }
    return false;
}

static void wait_callers(const rb_listener *from, int64_t until_ns) {
    struct pollfd p[WAITING + 1];
    for (int i = 0; i < from->count; i++) p[i] = (struct pollfd){.fd = from->waiting[i].fd, .events = POLLIN};
    p[from->count] = (struct pollfd){.fd = from->count < WAITING ? from->fd : -1, .events = POLLIN};
    int64_t left = until_ns - rb_now_ns();
    poll(p, (nfds_t)from->count + 1, left <= 0 ? 0 : (int)((left + RB_MS - 1) / RB_MS));
}

resbm_status rb_link_accept(rb_link *l, rb_listener *from, int64_t deadline_ns, int *peer, rb_err *err) {
    rb_err why = {0};
    char me[RB_WHO_TEXT];
    rb_who_at(me, l->opt.self, l->opt.places);
    for (;;) {
        if (is_closed(l))
            return rb_fail(err, RESBM_E_CANCELLED, "%s stopped waiting for connections: the link was closed",
                           me);
        take_callers(l, from);
        if (serve_callers(l, from, peer, &why)) return RESBM_OK;
        if (rb_now_ns() >= deadline_ns)
            return rb_fail(err, RESBM_E_TIMEOUT, "nobody connected to %s at %s before the deadline%s%s", me,
                           from->address, why.text[0] ? "; last refused: " : "", why.text);
        wait_callers(from, sooner(deadline_ns, rb_now_ns() + SLICE_NS));
    }
}

resbm_status rb_link_accept_all(rb_link *l, rb_listener *from, bool *missing, int64_t deadline_ns,
                                rb_err *err) {
    int left = 0;
    for (int i = 0; i < l->opt.stages; i++) left += missing[i];
    while (left) {
        int peer;
        RB_TRY(rb_link_accept(l, from, deadline_ns, &peer, err));
        if (peer < 0) continue;
        left -= missing[peer];
        missing[peer] = false;
    }
    return RESBM_OK;
}
