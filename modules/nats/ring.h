/* A queue of bytes between a stream's socket and its packets. */
#ifndef RB_NATS_RING_H
#define RB_NATS_RING_H

#include <stdint.h>
#include <string.h>
#include "stream.h"

/* The bytes [from, to) of a stream lie in RB_STREAM_WINDOW bytes. */
typedef struct ring {
    uint8_t *data;
    uint64_t from, to;
} ring;

static inline size_t ring_room(const ring *r) {
    return RB_STREAM_WINDOW - (size_t)(r->to - r->from);
}

/* Bytes that lie together from place `at` on, n at most. */
static inline size_t ring_together(uint64_t at, size_t n) {
    size_t left = RB_STREAM_WINDOW - (size_t)(at % RB_STREAM_WINDOW);
    return n < left ? n : left;
}

static inline void ring_add(ring *r, const uint8_t *p, size_t n) {
    while (n) {
        size_t k = ring_together(r->to, n);
        memcpy(r->data + r->to % RB_STREAM_WINDOW, p, k);
        r->to += k;
        p += k;
        n -= k;
    }
}

static inline void ring_copy(const ring *r, uint64_t at, uint8_t *p, size_t n) {
    while (n) {
        size_t k = ring_together(at, n);
        memcpy(p, r->data + at % RB_STREAM_WINDOW, k);
        at += k;
        p += k;
        n -= k;
    }
}

#endif
