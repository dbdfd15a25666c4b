/* Stream sockets of links: addresses "unix:/path" and "tcp:host:port" ("tcp:[::1]:7000" for IPv6). Every
 * socket is non-blocking and close-on-exec; TCP sockets have Nagle's algorithm off. */
#ifndef RB_LINK_SOCKET_H
#define RB_LINK_SOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include "core/err.h"

enum { RB_ADDRESS_MAX = 300 };

/* Listens; `real` gets the address with the system's port. A name is looked up for 10 s. A Unix socket's file is readable by its owner
 * only; one left behind by a dead process is replaced, one that still answers is not. */
resbm_status rb_socket_listen(const char *address, int *fd, char real[RB_ADDRESS_MAX], rb_err *err);
/* One attempt, which begins with looking up a name: finished or refused by the deadline. *retry tells whether a later
 * attempt could succeed. */
resbm_status rb_socket_dial(const char *address, int64_t deadline_ns, int *fd, bool *retry, rb_err *err);
/* Takes one waiting connection; -1 (errno) when there is none. */
int rb_socket_accept(int listener);
/* Waits for poll events until the deadline; false when it passed. */
bool rb_socket_wait(int fd, short events, int64_t deadline_ns);
/* The file of "unix:/path", NULL for other addresses. */
const char *rb_socket_path(const char *address);

#endif
