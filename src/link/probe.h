/* Measures a link to a connected peer, which is to be opened for it (rb_link_options.measured); others answer with empty messages.
 * Every endpoint answers probes from its input/output thread, so the peer's program takes no part; probes pass the shape as all
 * else does, and their bytes count as control. */
#ifndef RB_LINK_PROBE_H
#define RB_LINK_PROBE_H

#include "link/link.h"

typedef struct rb_link_probe_result {
    int64_t round_trip_ns;     /* shortest of several, of empty messages */
    int64_t typical_ns;        /* their median */
    double up_bits, down_bits; /* payload bits per second towards the peer and from it */
    size_t bytes;              /* of the largest message sent for it */
} rb_link_probe_result;

/* Takes about half a second each way on a slow link, less on a fast one; ends at the deadline at the latest
 * (RESBM_E_TIMEOUT when not even the round trip could be measured). */
resbm_status rb_link_probe(rb_link *l, int peer, int64_t deadline_ns, rb_link_probe_result *out, rb_err *err);

#endif
