/* oversize ACCESS.json: what the client library would not send. Over a connection of its own each time, with a good key, a participant
 * sends the server a message above the limit, one of a length that no number holds, a line that does not end, headers longer than their
 * message. Prints "closed N of N"; 0 if the server has closed every one of these connections, and none of an ordinary message. */
#include <arpa/inet.h>
#include <errno.h>
#include <jansson.h>
#include <nats/nats.h>
#include <netdb.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "core/buf.h"
#include "core/clock.h"
#include "link/carrier.h"
#include "run/access.h"

static const rb_carrier_module *module;
static rb_access own;

typedef struct raw {
    int fd;
    SSL_CTX *ctx;
    SSL *ssl;
    char said[4096]; /* by the server, so far */
    size_t have;
} raw;

static int dial(void) {
    char host[280];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *a = NULL;
    snprintf(host, sizeof host, "%s", strstr(own.url, "://") + 3);
    char *port = strrchr(host, ':');
    *port++ = 0;
    if (getaddrinfo(host, port, &hints, &a)) return -1;
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval patience = {5, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(fd, a->ai_addr, a->ai_addrlen)) close(fd), fd = -1;
    freeaddrinfo(a);
    return fd;
}

/* The server's first line, in the clear. */
static bool greeting(int fd, char out[2048]) {
    size_t n = 0;
    while (n < 2047 && recv(fd, out + n, 1, 0) == 1)
        if (out[n++] == '\n') break;
    out[n] = 0;
    return n && out[n - 1] == '\n';
}

/* Base64 of the web, without padding. */
static void encode(const unsigned char *p, int n, char *out) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint32_t bits = 0;
    int have = 0;
    for (int i = 0; i < n; i++) {
        bits = bits << 8 | p[i];
        for (have += 8; have >= 6; have -= 6) *out++ = letters[bits >> (have - 6) & 63];
    }
    if (have) *out++ = letters[bits << (6 - have) & 63];
    *out = 0;
}

static bool say(raw *r, const void *p, size_t n) {
    for (const char *at = p; n;) {
        int sent = SSL_write(r->ssl, at, n > 16384 ? 16384 : (int)n);
        if (sent <= 0) return false;
        at += sent;
        n -= (size_t)sent;
    }
    return true;
}

/* Reads until the server has said that (true) or has closed the connection. */
static bool hears(raw *r, const char *what, bool *closed) {
    *closed = false;
    while (!strstr(r->said, what) && r->have + 1 < sizeof r->said) {
        int n = SSL_read(r->ssl, r->said + r->have, (int)(sizeof r->said - 1 - r->have));
        if (n <= 0) {
            int why = SSL_get_error(r->ssl, n);
            *closed = why == SSL_ERROR_ZERO_RETURN || why == SSL_ERROR_SSL ||
                      (why == SSL_ERROR_SYSCALL && errno != EAGAIN);
            return false;
        }
        r->have += (size_t)n;
        r->said[r->have] = 0;
    }
    return strstr(r->said, what) != NULL;
}

static bool introduce(raw *r, const char *info) {
    char key[RB_NKEY_TEXT], text[120], line[600];
    unsigned char *signature = NULL;
    int n = 0;
    bool closed;
    rb_err err;
    json_t *j = json_loads(info + 5, JSON_DISABLE_EOF_CHECK, NULL);
    const char *nonce = json_string_value(json_object_get(j, "nonce"));
    bool signs = nonce && !nats_Sign(own.seed, nonce, &signature, &n) && n == 64 &&
                 !module->public_key(own.seed, key, &err);
    json_decref(j);
    if (!signs) return false;
    encode(signature, n, text);
    free(signature);
    n = snprintf(line, sizeof line,
                 "CONNECT "
                 "{\"verbose\":false,\"pedantic\":false,\"tls_required\":true,\"headers\":true,\"lang\":"
                 "\"raw\",\"version\":\"1\","
                 "\"protocol\":1,\"nkey\":\"%s\",\"sig\":\"%s\"}\r\nPING\r\n",
                 key, text);
    return say(r, line, (size_t)n) && hears(r, "PONG\r\n", &closed);
}

static bool open_raw(raw *r) {
    char info[2048];
    *r = (raw){.fd = dial()};
    if (r->fd < 0 || !greeting(r->fd, info)) return false;
    r->ctx = SSL_CTX_new(TLS_client_method());
    r->ssl = r->ctx ? SSL_new(r->ctx) : NULL;
    return r->ssl && SSL_set_fd(r->ssl, r->fd) && SSL_connect(r->ssl) == 1 && introduce(r, info);
}

static void close_raw(raw *r) {
    SSL_free(r->ssl);
    SSL_CTX_free(r->ctx);
    if (r->fd >= 0) close(r->fd);
}

/* Sends that, so many zeros, and a ping; was the connection closed before the answer to it? -1: it could not be made. */
static int is_closed(const char *head, size_t zeros) {
    raw r;
    bool closed = false, answered = false, there = false;
    for (int i = 0; i < 8 && !there;
         i++) { /* a server that reads its configuration again may refuse a key by mistake */
        if (i) close_raw(&r), rb_sleep_ns(300 * RB_MS);
        there = open_raw(&r);
    }
    char *body = calloc(1, zeros + 1);
    if (there && body) {
        r.have = 0;
        *r.said = 0;
        bool sent = say(&r, head, strlen(head)) && say(&r, body, zeros) && say(&r, "\r\nPING\r\n", 8);
        answered = hears(&r, "PONG\r\n", &closed);
        closed |= !sent;
        printf("%.40s... %s%s%.*s\n", head,
               answered ? "is taken"
               : closed ? "is refused"
                        : "is not answered",
               *r.said ? ", the server says: " : "", (int)strcspn(r.said, "\r\n"), r.said);
    }
    free(body);
    close_raw(&r);
    return there && (closed || answered) ? closed : -1;
}

int main(int argc, char **argv) {
    rb_err err = {0};
    rb_buf text = {0};
    static char head[9000];
    int closed = 0, tried = 0;
    if (argc != 2 || rb_carrier_module_load("nats", &module, &err) ||
        rb_read_file(argv[1], 65536, &text, &err) || rb_access_parse(text.data, &own, &err)) {
        fprintf(stderr, "oversize: %s\n", err.text);
        return 2;
    }
    rb_buf_free(&text);
    nats_Open(-1);
    signal(SIGPIPE, SIG_IGN);
    static const struct {
        const char *form;
        size_t zeros;
    } ways[] = {{"PUB %s.to.coordinator.control-1.%s 1048577\r\n", 1048577},
                {"PUB %s.to.coordinator.control-1.%s 99999999999999999999\r\n", 100},
                {"HPUB %s.to.coordinator.control-1.%s 4000 100\r\n", 100}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++, tried++) {
        snprintf(head, sizeof head, ways[i].form, own.run, own.name);
        closed += is_closed(head, ways[i].zeros) == 1;
    }
    int n = snprintf(head, sizeof head, "PUB %s.to.coordinator.", own.run);
    memset(head + n, 'x', sizeof head - (size_t)n - 1); /* longer than a line may be */
    closed += is_closed(head, 0) == 1;
    tried++;
    snprintf(head, sizeof head, "PUB %s.to.coordinator.control-1.%s 100\r\n", own.run, own.name);
    bool ordinary = is_closed(head, 100) == 0;
    printf("closed %d of %d\n", closed, tried);
    return closed != tried || !ordinary;
}
