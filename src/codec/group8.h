/* Eight bits a value for vectors that have no shape: gradients between replicas. Groups of 64 values share a scale, the
 * largest magnitude of the group / 127; values round to the nearest, so that packing has the same bits everywhere.
 *
 *   (groups) f32 scale, little-endian, then n i8 values
 *
 * Error feedback: what a value lost by rounding is kept by the packer and added to the next value of its place. */
#ifndef RB_CODEC_GROUP8_H
#define RB_CODEC_GROUP8_H

#include <stddef.h>
#include <stdint.h>
#include "core/err.h"

enum { RB_GROUP8 = 64 };

size_t rb_group8_bytes(int64_t n);
/* Packs values + lost, and leaves in lost (n) what that lost again; lost NULL: nothing is kept. */
void rb_group8_pack(uint8_t *out, const float *values, float *lost, int64_t n);
/* RESBM_E_CORRUPT names the first scale that is no finite number, or below 0. */
resbm_status rb_group8_unpack(float *out, const uint8_t *in, int64_t n, rb_err *err);

#endif
