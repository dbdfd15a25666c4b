/* How fast a device packs and unpacks; the cpu on one core. */
#ifndef RB_CODEC_BENCH_CODEC_H
#define RB_CODEC_BENCH_CODEC_H

#include "core/buf.h"

/* Appends a table to `out`: per width, scale and rounding the GB/s of f32 read by pack and written by unpack,
 * on one thread, (B,T) = (16,1024), on a device of its own memory (256,1024), fastest of several passes. Bytes and values of the last pass are compared
 * with the reference's: RESBM_E_INTERNAL names the row that differs. Blocks for about `seconds` (0: a quick
 * look). */
resbm_status rb_bench_codec(rb_buf *out, const char *device, double seconds, rb_err *err);

#endif
