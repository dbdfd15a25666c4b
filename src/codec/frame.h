/* The frame: what every message between processes begins with. All integers little-endian.
 *
 *   0  u32 magic "RBF1"      12 u16 boundary      32 u32 T
 *   4  u8  version (1)       14 u16 attempt       36 u32 k
 *   5  u8  kind              16 u64 step          40 u64 payload bytes
 *   6  u8  direction         24 u32 microbatch    48 u64 checksum
 *   7  u8  code | scale << 4 28 u32 B             56 payload
 *   8  u32 run epoch
 *
 * code, scale: rb_code and rb_scale of the payload's first part, (B,T,k) its shape; all 0 where no tensor
 * travels. The first part (device/pack_layout.h, whose layout this version covers) begins the payload;
 * further parts and token ids may follow it. The checksum is rb_mix64(XXH3-64 of bytes 0..47, XXH3-64 of the
 * payload or 0 without one).
 */
#ifndef RB_CODEC_FRAME_H
#define RB_CODEC_FRAME_H

#include <stddef.h>
#include <stdint.h>
#include "core/err.h"

enum { RB_FRAME_HEADER_BYTES = 56, RB_FRAME_VERSION = 1 };

typedef enum rb_frame_kind {
    RB_FRAME_FORWARD = 1, /* packed activation (and token ids) */
    RB_FRAME_BACKWARD,    /* packed gradient */
    RB_FRAME_CONTROL,     /* JSON text between a stage and the coordinator */
    RB_FRAME_HELLO,
    RB_FRAME_PROBE, /* measuring a link */
    RB_FRAME_BLOB,  /* a piece of a file, or token ids, between a stage and the coordinator */
    RB_FRAME_SYNC,  /* between replicas of a stage: sums of gradients */
    RB_FRAME_KIND_END
} rb_frame_kind;

typedef struct rb_frame_header {
    uint8_t kind, direction, code, scale;
    uint16_t boundary, attempt;
    uint32_t epoch, microbatch, B, T, k;
    uint64_t step, payload_bytes, checksum; /* checksum: filled by put and get */
} rb_frame_header;

/* Writes the header of a frame with this payload (payload_bytes of it). */
void rb_frame_put(uint8_t out[RB_FRAME_HEADER_BYTES], const rb_frame_header *h, const void *payload);
/* Reads a header. RESBM_E_FORMAT: wrong magic, version, kind, direction, code or scale. RESBM_E_CORRUPT: a
 * shape that cannot be, or whose packed bytes the payload is too short for, or a shape in a frame that holds
 * no tensor. The payload's length is otherwise any: the caller checks it against its limit before it takes
 * memory. */
resbm_status rb_frame_get(const uint8_t in[RB_FRAME_HEADER_BYTES], rb_frame_header *out, rb_err *err);
/* The payload against the header's checksum. RESBM_E_CORRUPT. */
resbm_status rb_frame_check_payload(const rb_frame_header *h, const void *payload, rb_err *err);
/* Is `got` the frame that was wanted: kind, epoch, step, boundary, direction, microbatch, shape, code, scale
 * and payload length. RESBM_E_CORRUPT names the first field that differs, with both values. */
resbm_status rb_frame_expect(const rb_frame_header *got, const rb_frame_header *want, rb_err *err);

#endif
