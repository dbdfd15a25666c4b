/* The working memory that the tensor cores' attention takes. Shared with what plans memory (run/fit.c). */
#ifndef RB_DEVICE_CUDA_ATTENTION_ROOM_H
#define RB_DEVICE_CUDA_ATTENTION_ROOM_H

#include <stddef.h>
#include <stdint.h>

/* Queries of a head that have two numbers each in the backward pass: the last tile is whole. */
static inline int64_t rb_attention_stride(int64_t T) {
    return (T + 63) / 64 * 64;
}
static inline size_t rb_attention_ends(int64_t B, int64_t T, int64_t H) {
    return (size_t)(B * H * rb_attention_stride(T)) * 8;
}

/* Bytes of q and dout of H heads, k and v of G, rounded. */
static inline size_t rb_attention_operands(int64_t B, int64_t T, int64_t H, int64_t G, int64_t D) {
    return (size_t)(B * T * ((D + 7) / 8) * 2 * (H + G)) * 16;
}

#endif
