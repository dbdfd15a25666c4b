/* Pieces of snapshots on their way, packed against the same range of a file that both ends have: the part of the same name in an
 * earlier snapshot. Bytes in, bytes out, whatever they are; what it is made for is little-endian f32.
 *
 *     word    the bits of a float, rotated by one so that the exponent is one byte and the sign the lowest bit; minus the base's, mod
 *             2^32, small ones of either sign as small numbers (2d or -2d-1). Without a base the rotated bits themselves.
 *     planes  byte i of every word in plane i; the bytes behind the last whole word, minus the base's, at the ends of planes 0, 1, 2.
 *     piece   header of 24 bytes: 0xd1, flags (1: against a base), which planes are compressed (bit i: plane i), 0; then u32 each:
 *             bytes of the piece, bytes of each plane as it follows. Then the planes: as they are, or as raw deflate.
 *
 * A plane is compressed where its bytes are worth it: low bytes of mantissas are random and are copied. Of zlib's strategies Z_RLE
 * takes the fewest bytes here and is the fastest (docs/internet-inside.md has figures). */
#ifndef RB_CHECKPOINT_DELTA_H
#define RB_CHECKPOINT_DELTA_H

#include <stdbool.h>
#include "core/err.h"

enum {
    RB_DELTA_PIECE = 64 << 10, /* most bytes of a piece */
    RB_DELTA_HEADER = 24,
    RB_DELTA_MOST = RB_DELTA_HEADER + RB_DELTA_PIECE /* that a piece takes packed */
};

/* Memory to work in, some 200 KB and zlib's; for one thread at a time. NULL: there is none. */
typedef struct rb_delta rb_delta;
rb_delta *rb_delta_new(void);
void rb_delta_free(rb_delta *d); /* NULL is fine */

/* Packs n (1 to RB_DELTA_PIECE) bytes into out, which holds RB_DELTA_HEADER + n; returns how many it took. base: n bytes, or NULL;
 * left aside where it does not help. */
size_t rb_delta_pack(rb_delta *d, const uint8_t *in, size_t n, const uint8_t *base, uint8_t *out);

/* What comes from another: the first `len` bytes of a packed piece of n bytes. How long it is with its header, and whether its base
 * is needed. RESBM_E_CORRUPT: it is none. */
resbm_status rb_delta_look(const uint8_t *head, size_t len, size_t n, size_t *packed, bool *based,
                           rb_err *err);
/* Of how many bytes it says to be the piece; 0: it says nothing that can be. Where no one knows better; unpacking checks the rest. */
size_t rb_delta_bytes(const uint8_t *head, size_t len);
/* Unpacks a whole one (`len` bytes, as rb_delta_look says) into the n bytes of out; never writes more. base: n bytes, where it is
 * needed. RESBM_E_CORRUPT: it is none, and what stands in out is worth nothing. */
resbm_status rb_delta_unpack(rb_delta *d, const uint8_t *packed, size_t len, const uint8_t *base,
                             uint8_t *out, size_t n, rb_err *err);

#endif
