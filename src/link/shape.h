/* A slow link in user space: rate, latency, jitter, loss with retransmission, half or full duplex. No root.
 *
 * Rates count what tc tbf counts on Ethernet: every segment of up to 1448 payload bytes costs 66 bytes of
 * headers more. One shape belongs to one stage: all it sends shares `up`, all it receives shares `down`, half
 * duplex makes both share one. Latency and jitter delay what is sent (one way); a lost segment is sent again one
 * round trip later and everything behind it waits (as TCP does). Random draws are keyed by (seed, segment
 * number), so a run is repeatable. */
#ifndef RB_LINK_SHAPE_H
#define RB_LINK_SHAPE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct rb_shape_options {
    double up_bits, down_bits; /* bits per second; 0 = unshaped */
    int64_t latency_ns, jitter_ns;
    double loss;               /* share of segments lost, [0, 0.5] */
    bool half_duplex;
    uint64_t seed;
} rb_shape_options;

#endif
