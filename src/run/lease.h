/* How long a participant's silence means nothing: learned from the gaps between its own beats, on this machine's clock alone. */
#ifndef RB_RUN_LEASE_H
#define RB_RUN_LEASE_H

#include <stdint.h>
#include "core/clock.h"

#define RB_BEAT_NS (400 * RB_MS) /* between a participant's beats, where nothing has it hurry */

enum { RB_BEAT_GAPS = 32 };

typedef struct rb_lease {
    int64_t gap_ns[RB_BEAT_GAPS]; /* the last ones, in a ring */
    int gaps;                     /* that there were */
} rb_lease;

void rb_lease_note(rb_lease *l, int64_t gap_ns);
int64_t rb_lease_ns(const rb_lease *l);

#endif
