/* How fast links are and how exact the shape is, between two endpoints of one process on this machine. */
#ifndef RB_LINK_BENCH_LINK_H
#define RB_LINK_BENCH_LINK_H

#include "core/buf.h"

/* Appends two tables to `out`: per transport and message size the latency (half a round trip of one message)
 * and the rate of many in a row, with the processor time both ends took; and per shaped rate the rate that
 * came out, wire bytes as tc tbf counts them. Blocks for about `seconds` (0: a quick look). */
resbm_status rb_bench_link(rb_buf *out, double seconds, rb_err *err);

#endif
