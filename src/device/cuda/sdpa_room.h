/* How attention by a library is cut into calls, and the working memory it takes. Shared with what plans memory (run/fit.c). */
#ifndef RB_DEVICE_CUDA_SDPA_ROOM_H
#define RB_DEVICE_CUDA_SDPA_ROOM_H

#include <stddef.h>
#include <stdint.h>

/* cuDNN's backward pass with fixed sums keeps dP: 2 bytes for each head, query and key. Calls are made so small that this
 * stays below the limit, down to one key head and its queries. */
enum { RB_SDPA_MOST_DP = 256 << 20 };

/* A call does `sequences` of B with `groups` of G key heads; all of G where it does more than one sequence. */
typedef struct rb_sdpa_cut {
    int64_t sequences, groups;
} rb_sdpa_cut;

static inline int64_t rb_sdpa_dp(int64_t heads, int64_t T) {
    int64_t rows = (T + 127) / 128 * 128;
    return 2 * heads * rows * rows;
}

/* most: RB_SDPA_MOST_DP; the emulation has less, so that small shapes are cut too. */
static inline rb_sdpa_cut rb_sdpa_cut_for(int64_t B, int64_t T, int64_t H, int64_t G, int64_t most) {
    rb_sdpa_cut c = {B, G};
    while (c.sequences > 1 && (B % c.sequences || rb_sdpa_dp(c.sequences * H, T) > most)) c.sequences--;
    while (c.sequences == 1 && c.groups > 1 && (G % c.groups || rb_sdpa_dp(c.groups * (H / G), T) > most))
        c.groups--;
    return c;
}

/* Heads of D as the library has them. */
static inline int64_t rb_sdpa_width(int64_t D) {
    return (D + 7) / 8 * 8;
}

/* Bytes of operands and results in bf16: q, out, dout, dq of H heads, k, v, dk, dv of G. */
static inline size_t rb_sdpa_operands(int64_t B, int64_t T, int64_t H, int64_t G, int64_t D) {
    return (size_t)(B * T * rb_sdpa_width(D) * 4 * (H + G)) * 2 + 8 * 256;
}

/* Bytes the library takes besides, at the most: dP, and two results of every query head in f32. */
static inline size_t rb_sdpa_room(int64_t B, int64_t T, int64_t H, int64_t G, int64_t D) {
    rb_sdpa_cut c = rb_sdpa_cut_for(B, T, H, G, RB_SDPA_MOST_DP);
    int64_t heads = c.sequences * c.groups * (H / G), rows = (T + 127) / 128 * 128;
    return (size_t)(rb_sdpa_dp(heads, T) + 8 * heads * rows * rb_sdpa_width(D)) + (1u << 20);
}

#endif
