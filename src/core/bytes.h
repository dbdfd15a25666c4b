/* Little-endian put and get: every format on disk and on the wire is written and read through these. */
#ifndef RB_CORE_BYTES_H
#define RB_CORE_BYTES_H

#include <stdint.h>
#include <string.h>
#include "core/inline.h"

RB_ANYWHERE void rb_put16(uint8_t *p, uint16_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}
RB_ANYWHERE void rb_put32(uint8_t *p, uint32_t v) {
    rb_put16(p, (uint16_t)v);
    rb_put16(p + 2, (uint16_t)(v >> 16));
}
RB_ANYWHERE void rb_put64(uint8_t *p, uint64_t v) {
    rb_put32(p, (uint32_t)v);
    rb_put32(p + 4, (uint32_t)(v >> 32));
}
RB_ANYWHERE uint16_t rb_get16(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}
RB_ANYWHERE uint32_t rb_get32(const uint8_t *p) {
    return rb_get16(p) | (uint32_t)rb_get16(p + 2) << 16;
}
RB_ANYWHERE uint64_t rb_get64(const uint8_t *p) {
    return rb_get32(p) | (uint64_t)rb_get32(p + 4) << 32;
}

/* bf16 of a float, rounded to nearest even; NaN stays NaN. */
RB_ANYWHERE uint16_t rb_bf16_from_f32(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
RB_ANYWHERE float rb_bf16_to_f32(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

#endif
