/* Names to addresses, with an end to the waiting: getaddrinfo alone asks for half a minute and longer where no name server
 * answers. */
#ifndef RB_LINK_RESOLVE_H
#define RB_LINK_RESOLVE_H

#include <netdb.h>
#include <stdbool.h>
#include <stdint.h>
#include "core/clock.h"
#include "core/err.h"

#define RB_RESOLVE_NS                                                                                        \
    (10 * RB_SEC) /* for who has no deadline: the usual resolver turns to its second server after 5 s */

/* Addresses for a stream to host and port; flags: of getaddrinfo's hints. The caller frees *out (freeaddrinfo). A numeric address
 * is known at once; a name is asked for until the deadline, and for a tenth of a second where that has passed: files like
 * /etc/hosts tell theirs in no time. On a fault err says why, as the end of a sentence that names the address, and *later whether
 * it may be known when it is asked for again. RESBM_E_TIMEOUT: no name server answered. */
resbm_status rb_resolve(const char *host, const char *port, int flags, int64_t deadline_ns,
                        struct addrinfo **out, bool *later, rb_err *err);

#endif
