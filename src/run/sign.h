/* Signs of life over the control channel. Whoever waits long for an answer asks the other side's input/output thread,
 * which answers also while its process computes or writes; only a process that is stopped, a machine or a network that
 * is gone stays silent. */
#ifndef RB_RUN_SIGN_H
#define RB_RUN_SIGN_H

#include "link/link.h"

enum { RB_SIGN_SLICES = 8 }; /* a wait is cut into so many looks */

/* Counts looks, not time: after the waiting process itself was stopped for an hour it has missed one look. */
typedef struct rb_sign {
    int quiet;
    int64_t looked_ns, silent_from_ns;
} rb_sign;

int64_t rb_sign_slice(int64_t deadline_ns);
/* A new wait begins: silence before it does not count. */
void rb_sign_begin(rb_sign *s);
/* To be called once a slice or more often. False once the peer has stayed silent through a deadline's looks;
 * *silent_ns then tells since when. */
bool rb_sign_look(rb_sign *s, rb_link *l, int peer, int64_t deadline_ns, int64_t *silent_ns);

#endif
