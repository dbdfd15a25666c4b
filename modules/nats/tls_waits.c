#include "tls_waits.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include "core/clock.h"

#define SEEN __attribute__((visibility("default")))

/* --- SSL_do_handshake: libnats makes the socket a blocking one for it, and waits for a server that has fallen silent for ever --- */

#define PATIENCE (10 * RB_SEC) /* several round trips of a line that carries a snapshot */

static int (*handshake)(SSL *ssl);
static _Thread_local bool silent;

bool rb_tls_fell_silent(void) {
    return silent;
}

/* libssl's own; what its name means here, to libssl too, is the function below. */
static void find_handshake(void) {
    Dl_info its;
    void *ssl =
        dladdr((void *)(uintptr_t)SSL_read_ex, &its) ? dlopen(its.dli_fname, RTLD_LAZY | RTLD_NOLOAD) : NULL;
    void *f = ssl ? dlsym(ssl, "SSL_do_handshake") : NULL;
    if (f != (void *)(uintptr_t)SSL_do_handshake) *(void **)&handshake = f;
}

static bool wait_for(const SSL *ssl, int want, int64_t until) {
    struct pollfd p = {.fd = SSL_get_fd(ssl), .events = want == SSL_ERROR_WANT_WRITE ? POLLOUT : POLLIN};
    int64_t left = (until - rb_now_ns()) / RB_MS;
    return left > 0 && (poll(&p, 1, (int)left) > 0 || errno == EINTR);
}

SEEN int SSL_do_handshake(SSL *ssl) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_handshake);
    silent = false;
    int fd = SSL_get_fd(ssl), flags = fcntl(fd, F_GETFL);
    if (!handshake || flags < 0) return -1;
    fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    int ok, want;
    for (int64_t until = rb_now_ns() + PATIENCE;;) {
        ERR_clear_error();
        ok = handshake(ssl);
        want = ok == 1 ? 0 : SSL_get_error(ssl, ok);
        if (want != SSL_ERROR_WANT_READ && want != SSL_ERROR_WANT_WRITE) break;
        silent = !wait_for(ssl, want, until);
        if (silent) break;
    }
    fcntl(fd, F_SETFL, flags);
    return ok;
}

/* --- SSL_read ---
 *
 * Before its release 3.8 (Debian 12 has 3.4) libnats reads on for ever, a byte of memory each time, where a connection breaks or the
 * server falls silent between the TLS handshake and the first answer: _readProto in its conn.c ends when the connection is closed, and on no other
 * fault. So any fault is a connection that is closed, and so is a wait that is over: behind its deadline libnats does not
 * wait any more before it asks again. */

enum { VAIN = 1000 }; /* a record comes in fewer pieces: of a segment each, it has twelve */

static _Thread_local struct {
    const SSL *of;
    int n; /* times in a row that nothing was there */
    int64_t since_ns;
} vain;

static bool asks_without_waiting(const SSL *ssl) {
    if (vain.of != ssl || !vain.n) {
        vain.of = ssl;
        vain.n = 0;
        vain.since_ns = rb_now_ns();
    }
    if (++vain.n < VAIN) return false;
    vain.n = 0;
    return rb_now_ns() - vain.since_ns < RB_SEC;
}

SEEN int SSL_read(SSL *ssl, void *buf, int num) {
    size_t n = 0;
    ERR_clear_error();
    errno = 0;
    if (SSL_read_ex(ssl, buf, (size_t)num, &n)) {
        vain.n = 0;
        return (int)n;
    }
    /* Another thread of libnats may be writing: what this one wanted is forgotten then, and errno says it. */
    int why = SSL_get_error(ssl, 0), number = errno;
    bool later = why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ||
                 (why == SSL_ERROR_SYSCALL && number == EAGAIN);
    if (later && !asks_without_waiting(ssl)) { /* libnats asks the same, and waits */
        errno = number;
        return -1;
    }
    vain.n = 0;
    ERR_clear_error(); /* of this thread: not of what it reads next */
    return 0;
}
