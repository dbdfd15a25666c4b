/* Can others reach a server here? Looks at the address that is announced to them, at this machine's own, and dials. */
#ifndef RB_RUN_REACH_H
#define RB_RUN_REACH_H

#include <stdbool.h>
#include <sys/socket.h>
#include "core/buf.h"
#include "core/err.h"

typedef enum rb_reach_kind {                    /* of an address, from nearest to farthest */
                             RB_REACH_WILDCARD, /* 0.0.0.0, ::: none that anybody could dial */
                             RB_REACH_LOOPBACK, /* this machine alone */
                             RB_REACH_LINK,     /* link-local: this cable */
                             RB_REACH_PRIVATE,  /* this network */
                             RB_REACH_SHARED, /* 100.64.0.0/10: one that a provider gives to many customers at once */
                             RB_REACH_PUBLIC
} rb_reach_kind;

rb_reach_kind rb_reach_kind_of(const struct sockaddr *a);

/* "HOST", "HOST:PORT", "[::1]:PORT", "::1" into host (256) and port (`fallback` where there is none); a tls:// or
 * nats:// in front is left out. RESBM_E_ARG names `option`. */
resbm_status rb_reach_split(const char *text, const char *option, int fallback, char host[256], int *port,
                            rb_err *err);
/* host, in brackets where it is an IPv6 address. */
const char *rb_reach_bracket(const char *host, char out[260]);

/* Appends sentences, a line each: which addresses `announce` stands for, who can dial them, whether they are this machine's, what
 * came of dialing them at announced_port (0: the same as `port`) while a listener that can prove itself is on host:port (port 0: on
 * any), and what to do. For an announced 0.0.0.0 or :: an address of this machine is looked at. *everywhere: participants elsewhere can be expected to get here. Takes up to 3 s where an address does not
 * answer, all of them being dialed at once. A name is looked up for 10 s: of `announce` one more sentence, of `host` RESBM_E_TIMEOUT where no
 * name server answers. RESBM_E_CONFIG, with what to do (free: --listen may be another one): nobody can listen there (waits up to `patience_ns` for a port that is taken). */
resbm_status rb_reach_check(const char *host, int port, const char *announce, int announced_port,
                            int64_t patience_ns, bool free, rb_buf *out, bool *everywhere, rb_err *err);

#endif
