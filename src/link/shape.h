/* A slow link in user space: rate, latency, jitter, loss with retransmission, half or full duplex. No root.
 *
 * Rates count what tc tbf counts on Ethernet: every segment of up to 1448 payload bytes costs 66 bytes of
 * headers more; acknowledgements are not charged. One shape belongs to one stage: all it sends shares `up`,
 * all it receives shares `down`, half duplex makes both share one (`up`). Latency and jitter delay what is
 * sent, one way: latency plus a uniform draw from [0, jitter), never out of order. A lost segment is sent
 * again one round trip (twice the latency) later, costs the uplink once more, and everything behind it to the
 * same peer waits, as with TCP. Random draws are keyed by (seed, peer, segment number), so a run is
 * repeatable.
 *
 * Latency pipelines, as on a long line: a message may set out while the one before is still under way. Or it occupies the
 * wire, as where every message is waited for: the uplink then stands still for the latency after each.
 *
 * The model below is arithmetic in virtual time: it is told when something could start and says when it
 * leaves and arrives. Nothing in it sleeps or looks at a clock, so a thread that wakes late loses no rate. */
#ifndef RB_LINK_SHAPE_H
#define RB_LINK_SHAPE_H

#include <stdbool.h>
#include <stdint.h>
#include "core/err.h"

enum {
    RB_SEGMENT_PAYLOAD = 1448, /* TCP payload of a full Ethernet segment with time stamps */
    RB_SEGMENT_HEADERS = 66    /* Ethernet 14, IPv4 20, TCP 32 */
};

typedef struct rb_shape_options {
    double up_bits, down_bits; /* bits per second; 0 = unshaped */
    int64_t latency_ns, jitter_ns;
    double loss; /* share of segments lost, [0, 0.5] */
    bool half_duplex;
    bool latency_occupies;
    uint64_t seed;
} rb_shape_options;

/* One direction's clock: when it is free again, kept with a fraction so that rounding never adds up. */
typedef struct rb_shape_lane {
    double ns_per_byte; /* 0 = unshaped */
    int64_t free_ns;
    double fraction; /* [0, 1) ns beyond free_ns */
} rb_shape_lane;

typedef struct rb_shape {
    rb_shape_options opt;
    rb_shape_lane lane[2]; /* [0] up (also down when half duplex), [1] down */
    rb_shape_lane *up, *down;
} rb_shape;

/* What one peer's stream remembers: segments sent so far and the last arrival (arrivals never overtake); of
 * the way in, how many bytes the last segment could still hold. */
typedef struct rb_shape_stream {
    uint64_t key, segments;
    int64_t last_arrival_ns;
    uint64_t room;
} rb_shape_stream;

typedef struct rb_shape_trip {
    int64_t start_ns;  /* the first bit enters the uplink */
    int64_t leave_ns;  /* the last bit has left it, retransmissions included */
    int64_t arrive_ns; /* the segment may be handed to the receiver */
    int losses;        /* times it was sent in vain */
} rb_shape_trip;

/* Refuses negative rates and delays, loss outside [0, 0.5], half duplex with two different rates. */
resbm_status rb_shape_check(const rb_shape_options *opt, rb_err *err);
/* Does it change anything at all? */
bool rb_shape_any(const rb_shape_options *opt);
/* `s` must not move afterwards (up and down point into it). */
void rb_shape_init(rb_shape *s, const rb_shape_options *opt);
void rb_shape_stream_init(rb_shape_stream *t, const rb_shape *s, int peer);

/* Bytes on the Ethernet wire of `bytes` sent at once. */
uint64_t rb_shape_wire_bytes(uint64_t bytes);
/* Sends the next segment of `bytes` (1..1448) that was ready at ready_ns: advances the uplink and the stream.
 */
rb_shape_trip rb_shape_send(rb_shape *s, rb_shape_stream *t, int64_t ready_ns, int bytes);
/* The segment sent last ended a message: where latency occupies the wire, nothing leaves until it has passed. */
void rb_shape_end_message(rb_shape *s);
/* Takes `bytes` that were there at ready_ns in through the downlink; returns when they are in. Bytes that
 * follow others without a pause fill up their last segment, as TCP's do. */
int64_t rb_shape_receive(rb_shape *s, rb_shape_stream *t, int64_t ready_ns, uint64_t bytes);

#endif
