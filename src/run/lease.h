/* How long a participant's silence means nothing: learned from the gaps between its own beats, on this machine's clock alone. */
#ifndef RB_RUN_LEASE_H
#define RB_RUN_LEASE_H

#include <stdint.h>
#include "core/clock.h"
#include "run/usual.h"

#define RB_BEAT_NS (400 * RB_MS) /* between a participant's beats, where nothing has it hurry */

typedef struct rb_lease {
    rb_usual gaps;
} rb_lease;

void rb_lease_note(rb_lease *l, int64_t gap_ns);
int64_t rb_lease_ns(const rb_lease *l);

#endif
