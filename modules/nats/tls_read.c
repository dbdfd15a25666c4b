/* SSL_read, as libnats calls it: it finds this one before libssl's, as this module comes first among what dlopen has brought in.
 *
 * Before its release 3.8 (Debian 12 has 3.4) libnats reads on for ever, a byte of memory each time, where a connection breaks or the
 * server falls silent between the TLS handshake and the first answer: _readProto in its conn.c ends when the connection is closed, and on no other
 * fault. So any fault is a connection that is closed, and so is a wait that is over: behind its deadline libnats does not
 * wait any more before it asks again. */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include "core/clock.h"

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

__attribute__((visibility("default"))) int SSL_read(SSL *ssl, void *buf, int num) {
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
