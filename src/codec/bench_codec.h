/* How fast a device packs and unpacks; the cpu on one core. */
#ifndef RB_CODEC_BENCH_CODEC_H
#define RB_CODEC_BENCH_CODEC_H

#include "core/buf.h"

/* Appends a table to `out`: per width, scale and rounding the GB/s of f32 read by pack and written by unpack,
 * on one thread, (B,T) = (16,1024); on a device with memory of its own 268 MB of f32 at every width, several calls behind each other.
 * Fastest of several rounds. Bytes and values are compared
 * with the reference's: RESBM_E_INTERNAL names the row that differs. Blocks for about `seconds` (0: a quick
 * look). */
resbm_status rb_bench_codec(rb_buf *out, const char *device, double seconds, rb_err *err);

#endif
