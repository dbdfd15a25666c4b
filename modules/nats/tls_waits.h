/* The two functions of libssl in which libnats waits, with an end to it: SSL_do_handshake and SSL_read. Its calls come here, as this module
 * is the first of what dlopen has brought in. */
#ifndef RB_NATS_TLS_WAITS_H
#define RB_NATS_TLS_WAITS_H

#include <stdbool.h>

/* Was the last handshake of this thread given up because the other end said nothing? */
bool rb_tls_fell_silent(void);

#endif
