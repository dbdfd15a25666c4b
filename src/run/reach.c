#include "run/reach.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include "core/clock.h"
#include "link/resolve.h"

#define DIAL_NS (3 * RB_SEC)
enum { MOST_ADDRESSES = 8, TOKEN = 16 };

/* --- addresses --- */

static rb_reach_kind kind4(uint32_t v) {
    if (!v) return RB_REACH_WILDCARD;
    if (v >> 24 == 127) return RB_REACH_LOOPBACK;
    if (v >> 16 == (169 << 8 | 254)) return RB_REACH_LINK;
    if (v >> 22 == (100 << 2 | 1)) return RB_REACH_SHARED;
    bool private = v >> 24 == 10 || v >> 20 == (172 << 4 | 1) || v >> 16 == (192 << 8 | 168);
    return private ? RB_REACH_PRIVATE : RB_REACH_PUBLIC;
}

static rb_reach_kind kind6(const struct in6_addr *a) {
    uint32_t v4;
    memcpy(&v4, a->s6_addr + 12, 4);
    if (IN6_IS_ADDR_UNSPECIFIED(a)) return RB_REACH_WILDCARD;
    if (IN6_IS_ADDR_LOOPBACK(a)) return RB_REACH_LOOPBACK;
    if (IN6_IS_ADDR_V4MAPPED(a)) return kind4(ntohl(v4));
    if (IN6_IS_ADDR_LINKLOCAL(a)) return RB_REACH_LINK;
    return (a->s6_addr[0] & 0xfe) == 0xfc ? RB_REACH_PRIVATE : RB_REACH_PUBLIC;
}

rb_reach_kind rb_reach_kind_of(const struct sockaddr *a) {
    if (a->sa_family == AF_INET6) return kind6(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr);
    return kind4(ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr));
}

resbm_status rb_reach_split(const char *text, const char *option, int fallback, char host[256], int *port,
                            rb_err *err) {
    if (!strncmp(text, "tls://", 6) || !strncmp(text, "nats://", 7)) text = strstr(text, "://") + 3;
    if (text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:%-[]")])
        return rb_fail(err, RESBM_E_ARG,
                       "%s: \"%s\" is no name of a machine and no address: such have letters, digits, '.', "
                       "'-' and ':' only",
                       option, text);
    bool bracket = *text == '[';
    const char *first = strchr(text, ':'), *last = strrchr(text, ':'), *close = strchr(text, ']'), *at = NULL;
    size_t n = strlen(text);
    if (bracket && close) {
        n = (size_t)(close - text) - 1;
        at = close[1] ? close + 1 : NULL;
        text++;
    } else if (first && first == last) { /* more than one: an IPv6 address without brackets */
        n = (size_t)(first - text);
        at = first;
    }
    if (!n || n >= 256 || (bracket && !close) || (at && *at != ':'))
        return rb_fail(err, RESBM_E_ARG, "%s is to be HOST, HOST:PORT or [IPV6]:PORT, not \"%s\"", option,
                       text);
    snprintf(host, 256, "%.*s", (int)n, text);
    char *end = NULL;
    long p = at ? strtol(at + 1, &end, 10) : fallback;
    if (p < 0 || p > 65535 || (at && (end == at + 1 || *end)))
        return rb_fail(err, RESBM_E_ARG, "%s: \"%s\" is no port", option, at ? at + 1 : "");
    *port = (int)p;
    return RESBM_OK;
}

const char *rb_reach_bracket(const char *host, char out[260]) {
    snprintf(out, 260, strchr(host, ':') ? "[%.255s]" : "%.255s", host);
    return out;
}

static const char *text_of(const struct sockaddr *a, char out[INET6_ADDRSTRLEN]) {
    const void *p = a->sa_family == AF_INET6
                        ? (const void *)&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr
                        : (const void *)&((const struct sockaddr_in *)(const void *)a)->sin_addr;
    if (!inet_ntop(a->sa_family, p, out, INET6_ADDRSTRLEN)) snprintf(out, INET6_ADDRSTRLEN, "?");
    return out;
}

static bool equal(const struct sockaddr *a, const struct sockaddr *b) {
    char x[INET6_ADDRSTRLEN], y[INET6_ADDRSTRLEN];
    return a->sa_family == b->sa_family && !strcmp(text_of(a, x), text_of(b, y));
}

/* Is it one of this machine's? lan: its first address that others of its network know, for a router to forward to. */
static bool is_own(const struct sockaddr *a, char lan[INET6_ADDRSTRLEN]) {
    struct ifaddrs *all = NULL;
    bool own = rb_reach_kind_of(a) == RB_REACH_LOOPBACK; /* all of 127.0.0.0/8 */
    *lan = 0;
    if (getifaddrs(&all)) return own;
    for (const struct ifaddrs *i = all; i; i = i->ifa_next) {
        if (!i->ifa_addr || (i->ifa_addr->sa_family != AF_INET && i->ifa_addr->sa_family != AF_INET6))
            continue;
        own |= equal(i->ifa_addr, a);
        if (!*lan && i->ifa_addr->sa_family == AF_INET && rb_reach_kind_of(i->ifa_addr) >= RB_REACH_PRIVATE)
            text_of(i->ifa_addr, lan);
    }
    freeifaddrs(all);
    return own;
}

static resbm_status resolve(const char *host, int port, int flags, struct addrinfo **out, rb_err *err) {
    char service[8];
    bool later;
    rb_err why;
    snprintf(service, sizeof service, "%d", port);
    resbm_status st =
        rb_resolve(host, service, flags | AI_NUMERICSERV, rb_now_ns() + RB_RESOLVE_NS, out, &later, &why);
    if (!st) return RESBM_OK;
    if (st != RESBM_E_IO) return rb_fail(err, st, "\"%s\" could not be looked up: %s", host, why.text);
    return rb_fail(
        err, RESBM_E_CONFIG,
        "\"%s\" stands for no address (%s): correct the name, wait until its DNS entry is known, or "
        "give the address itself",
        host, why.text);
}

/* --- a listener that proves who it is --- */

typedef struct listener {
    int fd;
    int port;
    unsigned char token[TOKEN];
} listener;

static resbm_status cannot_listen(const char *host, int port, int why, bool free, rb_err *err) {
    const char *what =
        why == EADDRINUSE && !free ? "another program listens there already (ss -ltnp shows which): end it"
        : why == EADDRINUSE        ? "another program listens there already (ss -ltnp shows which): end "
                                     "it, or take another port with --listen"
        : why == EADDRNOTAVAIL && !free ? "this machine has that address no longer, by which the run's "
                                          "participants know it: give it back, "
                                          "or begin a new run in another --out"
        : why == EADDRNOTAVAIL
            ? "this machine has no such address: listen on 0.0.0.0, and give the address of the "
              "router or the name that leads here with --announce"
        : why == EACCES ? "ports below 1024 are for the superuser: take a higher one"
                        : strerror(why);
    return rb_fail(err, RESBM_E_CONFIG, "no server can listen on %s port %d: %s", host, port, what);
}

static int try_listen(const struct addrinfo *a, int *why) {
    int yes = 1, fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (fd >= 0 && !bind(fd, a->ai_addr, a->ai_addrlen) && !listen(fd, 8)) return fd;
    *why = errno;
    if (fd >= 0) close(fd);
    return -1;
}

static resbm_status open_listener(const char *host, int port, int64_t patience_ns, bool free, listener *l,
                                  rb_err *err) {
    struct addrinfo *a = NULL;
    struct sockaddr_storage real;
    socklen_t n = sizeof real;
    int why = 0;
    RB_TRY(resolve(host, port, AI_PASSIVE, &a, err));
    for (int64_t until = rb_now_ns() + patience_ns;;) {
        l->fd = try_listen(a, &why);
        if (l->fd >= 0 || why != EADDRINUSE || rb_now_ns() > until) break;
        rb_sleep_ns(50 * RB_MS);
    }
    freeaddrinfo(a);
    if (l->fd < 0) return cannot_listen(host, port, why, free, err);
    getsockname(l->fd, (struct sockaddr *)&real, &n);
    l->port = ntohs(real.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&real)->sin6_port
                                               : ((struct sockaddr_in *)(void *)&real)->sin_port);
    if (getrandom(l->token, TOKEN, 0) == TOKEN) return RESBM_OK;
    close(l->fd);
    return rb_fail_errno(err, errno, "getrandom");
}

typedef enum dialed { SELF, STRANGER, REFUSED, SILENT, NO_WAY } dialed;

static int left_ms(int64_t until) {
    int64_t left = (until - rb_now_ns()) / RB_MS;
    return left < 0 ? 0 : (int)left;
}

/* One address that is dialed. All are at once: each may take its whole time. */
typedef struct attempt {
    const struct addrinfo *to;
    int fd; /* -1: it is known what came of it */
    bool connected;
    dialed how;
    unsigned char got[TOKEN];
    size_t have;
} attempt;

static void ends(attempt *a, dialed how) {
    a->how = how;
    if (a->fd >= 0) close(a->fd);
    a->fd = -1;
}

static void fails(attempt *a, int why) {
    ends(a, why == ECONNREFUSED ? REFUSED : why == ETIMEDOUT ? SILENT : NO_WAY);
}

static void dial(attempt *a, const struct addrinfo *to) {
    *a = (attempt){.to = to, .fd = socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    if (a->fd < 0)
        ends(a, NO_WAY);
    else if (!connect(a->fd, to->ai_addr, to->ai_addrlen))
        a->connected = true;
    else if (errno != EINPROGRESS)
        fails(a, errno);
}

/* Whatever has come to the listener gets the token; */
static void greet(const listener *l) {
    int other = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);
    if (other < 0) return;
    ssize_t sent = send(other, l->token, TOKEN, MSG_NOSIGNAL);
    (void)sent; /* then the one that was dialed has it not */
    close(other);
}

/* and the one that was dialed has it or not. */
static void listen_to(attempt *a, const listener *l) {
    int why = 0;
    socklen_t size = sizeof why;
    if (!a->connected && (getsockopt(a->fd, SOL_SOCKET, SO_ERROR, &why, &size) || why)) {
        fails(a, why);
        return;
    }
    a->connected = true;
    ssize_t n = recv(a->fd, a->got + a->have, TOKEN - a->have, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    a->have += n > 0 ? (size_t)n : 0;
    if (n <= 0 || a->have == TOKEN)
        ends(a, a->have == TOKEN && !memcmp(a->got, l->token, TOKEN) ? SELF : STRANGER);
}

static void dial_all(const listener *l, attempt *a, int n) {
    for (int64_t until = rb_now_ns() + DIAL_NS; left_ms(until) > 0;) {
        struct pollfd p[MOST_ADDRESSES + 1] = {{l->fd, POLLIN, 0}};
        int of[MOST_ADDRESSES + 1], waits = 1;
        for (int i = 0; i < n; i++) {
            if (a[i].fd < 0) continue;
            p[waits] = (struct pollfd){a[i].fd, a[i].connected ? POLLIN : POLLOUT, 0};
            of[waits++] = i;
        }
        if (waits == 1) return;
        if (poll(p, (nfds_t)waits, left_ms(until)) < 1) continue;
        if (p[0].revents) greet(l);
        for (int i = 1; i < waits; i++)
            if (p[i].revents) listen_to(&a[of[i]], l);
    }
    for (int i = 0; i < n; i++)
        if (a[i].fd >= 0) ends(&a[i], a[i].connected ? STRANGER : SILENT);
}

/* --- words --- */

static const char *const who_reaches[] = {
    "is no address that anybody could dial",
    "is reached from this machine alone",
    "is link-local: reached from the same cable alone",
    "is of a private network: reached from this network alone",
    "is one that a provider shares among its customers (100.64.0.0/10): nobody outside can reach it, and no "
    "router of yours can "
    "forward to it",
    "is public"};

static const char *outcome(dialed d, bool own) {
    switch (d) {
    case SELF:
        return own ? "this machine has it; a server there answers"
                   : "dialing it from here leads back to this machine";
    case STRANGER:
        return "dialed from here, something else than this machine answers";
    case REFUSED:
        return "dialed from here it refuses: nothing forwards that port to this machine, or a firewall "
               "refuses";
    case SILENT:
        return "dialed from here nothing answers: a firewall drops it, nothing forwards the port, or the "
               "router does not lead "
               "its own network back in (many do not)";
    default:
        return "there is no way to it from here";
    }
}

static void advise(rb_reach_kind best, bool own, dialed d, int port, int to, const char *announce,
                   const char *lan, rb_buf *out) {
    if (best == RB_REACH_PUBLIC && d == SELF) {
        rb_buf_printf(out,
                      "Participants elsewhere reach it, unless a firewall in between refuses TCP port %d.\n",
                      port);
        return;
    }
    if (best == RB_REACH_PUBLIC && !own)
        rb_buf_printf(out, "To be sure, from outside, while the host runs: nc -vz %s %d\n", announce, port);
    rb_buf_puts(out, "For participants elsewhere:\n");
    if (best != RB_REACH_SHARED)
        rb_buf_printf(out,
                      "  - have the router forward TCP port %d to %s port %d, let it in (sudo ufw allow "
                      "%d/tcp where ufw "
                      "runs), and announce the router's public name or address: --announce NAME; or\n",
                      port, *lan ? lan : "this machine", to, to);
    rb_buf_printf(
        out,
        "  - host on a rented machine with a public address of its own, which may be small: there resbm host "
        "RUN.yaml --announce ITS-ADDRESS, with TCP port %d open.\n",
        to);
}

resbm_status rb_reach_check(const char *host, int port, const char *announce, int announced_port,
                            int64_t patience_ns, bool free, rb_buf *out, bool *everywhere, rb_err *err) {
    struct addrinfo *all = NULL;
    listener l;
    rb_reach_kind best = RB_REACH_WILDCARD;
    dialed d = NO_WAY;
    bool own = false;
    char lan[INET6_ADDRSTRLEN] = "", text[INET6_ADDRSTRLEN];
    const struct sockaddr_in none = {.sin_family = AF_INET};
    is_own((const struct sockaddr *)&none, lan);
    if (*lan && (!strcmp(announce, "0.0.0.0") || !strcmp(announce, "::"))) announce = lan;
    RB_TRY(open_listener(host, port, patience_ns, free, &l, err));
    int dials = announced_port ? announced_port : l.port;
    rb_err unknown;
    if (resolve(announce, dials, 0, &all, &unknown)) rb_buf_printf(out, "%s\n", unknown.text);
    attempt tried[MOST_ADDRESSES];
    int count = 0;
    for (const struct addrinfo *a = all; a && count < MOST_ADDRESSES; a = a->ai_next)
        if (rb_reach_kind_of(a->ai_addr) == RB_REACH_WILDCARD)
            tried[count++] = (attempt){.to = a, .fd = -1, .how = NO_WAY};
        else
            dial(&tried[count++], a);
    dial_all(&l, tried, count);
    for (int n = 0; n < count; n++) {
        const struct addrinfo *a = tried[n].to;
        rb_reach_kind kind = rb_reach_kind_of(a->ai_addr);
        bool mine = is_own(a->ai_addr, lan);
        dialed how = tried[n].how;
        text_of(a->ai_addr, text);
        rb_buf_printf(out, "%s%s%s%s %s; %s.\n", announce, strcmp(announce, text) ? " (" : "",
                      strcmp(announce, text) ? text : "", strcmp(announce, text) ? ")" : "",
                      who_reaches[kind], outcome(how, mine));
        if (n && (kind < best || (kind == best && how >= d))) continue;
        best = kind;
        d = how;
        own = mine;
    }
    if (all) freeaddrinfo(all);
    close(l.fd);
    *everywhere = best == RB_REACH_PUBLIC && d == SELF;
    advise(best, own, d, dials, l.port, announce, lan, out);
    return rb_buf_status(out, err);
}
