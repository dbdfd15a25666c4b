#include "link/socket.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "core/clock.h"
#include "link/resolve.h"

enum { BACKLOG = 128, MOST_ADDRESSES = 8 };

typedef struct endpoint {
    struct sockaddr_storage addr;
    socklen_t len;
    int family;
} endpoint;

const char *rb_socket_path(const char *address) {
    return strncmp(address, "unix:", 5) == 0 ? address + 5 : NULL;
}

static resbm_status resolve_unix(const char *path, endpoint *out, rb_err *err) {
    struct sockaddr_un *un = (struct sockaddr_un *)&out->addr;
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof un->sun_path)
        return rb_fail(err, RESBM_E_ARG, "socket path \"%s\" has %zu bytes, 1 to %zu are possible", path, n,
                       sizeof un->sun_path - 1);
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, path, n + 1);
    out->family = AF_UNIX;
    out->len = sizeof *un;
    return RESBM_OK;
}

/* Splits "host:port" or "[v6]:port". */
static resbm_status split_host(const char *text, char host[256], const char **port, rb_err *err) {
    const char *colon = strrchr(text, ':');
    size_t n = colon ? (size_t)(colon - text) : 0;
    bool brackets = n >= 2 && text[0] == '[' && text[n - 1] == ']';
    if (brackets) text++, n -= 2;
    if (!colon || n == 0 || n >= 256 || colon[1] == 0)
        return rb_fail(err, RESBM_E_ARG, "address \"tcp:%s\" is not of the form tcp:host:port", text);
    memcpy(host, text, n);
    host[n] = 0;
    *port = colon + 1;
    return RESBM_OK;
}

/* *later: the name may be known when it is asked for again. */
static resbm_status resolve_tcp(const char *text, bool passive, int64_t deadline_ns,
                                endpoint out[MOST_ADDRESSES], int *count, bool *later, rb_err *err) {
    char host[256];
    const char *port = "";
    struct addrinfo *list;
    rb_err why;
    RB_TRY(split_host(text, host, &port, err));
    if (rb_resolve(host, port, passive ? AI_PASSIVE : 0, deadline_ns, &list, later, &why))
        return rb_fail(err, RESBM_E_IO, "address \"tcp:%s\": %s", text, why.text);
    *count = 0;
    for (const struct addrinfo *a = list; a && *count < MOST_ADDRESSES; a = a->ai_next) {
        endpoint *e = &out[(*count)++];
        memcpy(&e->addr, a->ai_addr, a->ai_addrlen);
        e->len = a->ai_addrlen;
        e->family = a->ai_family;
    }
    freeaddrinfo(list);
    return RESBM_OK;
}

static resbm_status resolve(const char *address, bool passive, int64_t deadline_ns,
                            endpoint out[MOST_ADDRESSES], int *count, bool *later, rb_err *err) {
    memset(out, 0, MOST_ADDRESSES * sizeof *out);
    const char *path = rb_socket_path(address);
    *later = false;
    *count = 1;
    if (path) return resolve_unix(path, out, err);
    if (strncmp(address, "tcp:", 4) == 0)
        return resolve_tcp(address + 4, passive, deadline_ns, out, count, later, err);
    return rb_fail(err, RESBM_E_ARG, "address \"%s\" starts with neither unix: nor tcp:", address);
}

static void tune(int fd, int family) {
    int one = 1, idle = 30;
    if (family == AF_UNIX) return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
}

static int new_socket(const endpoint *e) {
    return socket(e->family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

/* Removes the file of a listener that no longer answers. */
static void remove_stale(const endpoint *e) {
    int fd = new_socket(e);
    if (fd < 0) return;
    if (connect(fd, (const struct sockaddr *)&e->addr, e->len) != 0 && errno == ECONNREFUSED)
        unlink(((const struct sockaddr_un *)&e->addr)->sun_path);
    close(fd);
}

static void print_real(const char *address, int fd, char real[RB_ADDRESS_MAX]) {
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    char port[16];
    const char *colon = strrchr(address, ':');
    if (rb_socket_path(address) || getsockname(fd, (struct sockaddr *)&a, &n) != 0 ||
        getnameinfo((struct sockaddr *)&a, n, NULL, 0, port, sizeof port, NI_NUMERICSERV) != 0)
        snprintf(real, RB_ADDRESS_MAX, "%s", address);
    else
        snprintf(real, RB_ADDRESS_MAX, "%.*s:%s", (int)(colon - address), address, port);
}

resbm_status rb_socket_listen(const char *address, int *out, char real[RB_ADDRESS_MAX], rb_err *err) {
    endpoint all[MOST_ADDRESSES], e;
    int count;
    bool later;
    RB_TRY(resolve(address, true, rb_now_ns() + RB_RESOLVE_NS, all, &count, &later, err));
    e = all[0];
    int fd = new_socket(&e), one = 1;
    if (fd < 0) return rb_fail_errno(err, errno, "cannot open a socket for %s", address);
    if (e.family == AF_UNIX) {
        remove_stale(&e);
        fchmod(fd, 0600);
    } else {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    }
    if (bind(fd, (struct sockaddr *)&e.addr, e.len) != 0 || listen(fd, BACKLOG) != 0) {
        int why = errno;
        close(fd);
        return rb_fail_errno(err, why, "cannot listen on %s", address);
    }
    print_real(address, fd, real);
    *out = fd;
    return RESBM_OK;
}

bool rb_socket_wait(int fd, short events, int64_t deadline_ns) {
    for (;;) {
        int64_t left = deadline_ns - rb_now_ns();
        if (left < 0) left = 0;
        int ms = left > 1000 * RB_SEC ? 1000000 : (int)((left + RB_MS - 1) / RB_MS);
        struct pollfd p = {.fd = fd, .events = events};
        int n = poll(&p, 1, ms);
        if (n > 0) return true;
        if (rb_now_ns() >= deadline_ns) return false;
        if (n < 0 && errno != EINTR) return false;
    }
}

static bool may_come_later(int e) {
    return e == ECONNREFUSED || e == ENOENT || e == EAGAIN || e == ETIMEDOUT || e == EHOSTUNREACH ||
           e == ENETUNREACH || e == ECONNRESET || e == EADDRNOTAVAIL;
}

/* errno of the connection attempt, 0 when it stands. */
static int finish_connect(int fd, int64_t deadline_ns) {
    if (!rb_socket_wait(fd, POLLOUT, deadline_ns)) return ETIMEDOUT;
    int e = 0;
    socklen_t n = sizeof e;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n) != 0 ? errno : e;
}

static resbm_status dial(const char *address, const endpoint *e, int64_t deadline_ns, int *out, bool *retry,
                         rb_err *err) {
    int fd = new_socket(e);
    if (fd < 0) return rb_fail_errno(err, errno, "cannot open a socket for %s", address);
    tune(fd, e->family);
    int why = connect(fd, (const struct sockaddr *)&e->addr, e->len) == 0 ? 0 : errno;
    if (why == EINPROGRESS || why == EINTR) why = finish_connect(fd, deadline_ns);
    if (why) {
        close(fd);
        *retry |= may_come_later(why);
        return rb_fail_errno(err, why, "cannot connect to %s", address);
    }
    *out = fd;
    return RESBM_OK;
}

/* A name's addresses one after the other, each with its share of the time that is left. */
resbm_status rb_socket_dial(const char *address, int64_t deadline_ns, int *out, bool *retry, rb_err *err) {
    endpoint e[MOST_ADDRESSES];
    int count;
    RB_TRY(resolve(address, false, deadline_ns, e, &count, retry, err));
    for (int i = 0;; i++) {
        int64_t now = rb_now_ns(), until = now + (deadline_ns - now) / (count - i);
        resbm_status st = dial(address, &e[i], until, out, retry, err);
        if (!st || i + 1 == count) return st;
    }
}

int rb_socket_accept(int listener) {
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    int fd = accept4(listener, (struct sockaddr *)&a, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) tune(fd, a.ss_family);
    return fd;
}
