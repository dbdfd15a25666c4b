/* Tiles of heads for the tensor cores (rb_mma: m16n8k16). Rows of a head come from memory, are rounded to 16 bits where they are f32, and
 * lie in shared memory as words of two neighbours: along the width for products over the width, and "upright", along the
 * rows, for products over the rows. Padding of 4 words keeps the fragments' loads free of bank conflicts.
 *
 *     lane = 4 g + t     A (16,16): word {row g or g+8, columns 2t, 2t+1 or + 8}
 *                        B (16,8):  word {rows 2t, 2t+1 or + 8, column g}
 *                        D (16,8):  {row g or g+8, columns 2t, 2t+1}
 */
#ifndef RB_DEVICE_CUDA_ATTENTION_TILES_H
#define RB_DEVICE_CUDA_ATTENTION_TILES_H

#include "device/cuda/attention.h"

enum { RB_TILE_THREADS = 128, RB_TILE_WARPS = RB_TILE_THREADS / RB_WARP, RB_TILE_ROWS = 16 * RB_TILE_WARPS };

/* Words from one row to the next. */
#define RB_FLAT_GAP(DP)      ((DP) / 2 + 4)
#define RB_UPRIGHT_GAP(ROWS) ((ROWS) / 2 + 4)

/* Some rows of one head: [first, end) exist, `width` columns do; the rest reads as 0. */
struct rb_head_rows {
    rb_cells base; /* row 0 of the head */
    int64_t gap, end;
    int width;
    float factor;
    bool words; /* neighbours are words in memory already */
    __device__ float at(int64_t row, int col) const {
        return row < end && col < width ? factor * base.get(row * gap + col) : 0.0f;
    }
    __device__ uint32_t pair(int64_t row, int col) const {
        if (words && row < end && col + 1 < width)
            return *(const uint32_t *)((const uint16_t *)base.at + row * gap + col);
        return rb_half2(at(row, col), at(row, col + 1));
    }
};
/* What is in bf16 crosses unchanged where the tensor cores take bf16, rows begin at words and nothing is multiplied. */
static __device__ __forceinline__ bool rb_rows_are_words(const rb_cells &base, int64_t gap, float factor) {
#if !defined(RB_CUDA_EMULATED) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    return false;
#elif defined(RB_CUDA_EMULATED)
    if (emu_f16) return false;
#endif
    return base.half && factor == 1.0f && gap % 2 == 0 && (uintptr_t)base.at % sizeof(uint32_t) == 0;
}

static __device__ __forceinline__ rb_head_rows rb_rows_of_head(const rb_view &v, int64_t b, int64_t h,
                                                               int64_t end, int width, float factor) {
    rb_cells base = rb_cells_at(v, b * v.stride[0] + h * v.stride[2]);
    return rb_head_rows{base, v.stride[1], end, width, factor, rb_rows_are_words(base, v.stride[1], factor)};
}

/* to [ROWS][RB_FLAT_GAP(DP)] */
template <int ROWS, int DP>
static __device__ void rb_load_flat(uint32_t *to, const rb_head_rows &from, int64_t first) {
    for (int i = (int)threadIdx.x; i < ROWS * DP / 2; i += RB_TILE_THREADS) {
        int row = i / (DP / 2), word = i % (DP / 2);
        to[row * RB_FLAT_GAP(DP) + word] = from.pair(first + row, 2 * word);
    }
}
/* to [DP][RB_UPRIGHT_GAP(ROWS)] */
template <int ROWS, int DP>
static __device__ void rb_load_upright(uint32_t *to, const rb_head_rows &from, int64_t first) {
    for (int i = (int)threadIdx.x; i < ROWS * DP / 2; i += RB_TILE_THREADS) {
        int col = i % DP, word = i / DP;
        to[col * RB_UPRIGHT_GAP(ROWS) + word] =
            rb_half2(from.at(first + 2 * word, col), from.at(first + 2 * word + 1, col));
    }
}

/* The warp's 16 rows as A of products over the width, from memory. */
template <int DP> static __device__ void rb_load_a(uint32_t (*a)[4], const rb_head_rows &from, int64_t row) {
    int lane = (int)threadIdx.x % RB_WARP, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int k = 0; k < DP / 16; k++) {
        a[k][0] = from.pair(row + g, 16 * k + 2 * t);
        a[k][1] = from.pair(row + g + 8, 16 * k + 2 * t);
        a[k][2] = from.pair(row + g, 16 * k + 2 * t + 8);
        a[k][3] = from.pair(row + g + 8, 16 * k + 2 * t + 8);
    }
}

/* d [N][4] (16 rows, 8 N columns) = a b^T, b: 8 N rows lying flat. */
template <int N, int DP>
static __device__ void rb_scores(float (*d)[4], uint32_t (*a)[4], const uint32_t *b) {
    int lane = (int)threadIdx.x % RB_WARP, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < N; n++) {
        d[n][0] = d[n][1] = d[n][2] = d[n][3] = 0;
        const uint32_t *row = b + (8 * n + g) * RB_FLAT_GAP(DP) + t;
#pragma unroll
        for (int k = 0; k < DP / 16; k++) {
            uint32_t pair[2] = {row[8 * k], row[8 * k + 4]};
            rb_mma(d[n], a[k], pair);
        }
    }
}

/* d [DP/8][4] += p b: p (16 rows, 8 N columns) as rb_scores leaves it, b: 8 N rows standing upright. */
template <int N, int DP> static __device__ void rb_weigh(float (*d)[4], float (*p)[4], const uint32_t *b) {
    int lane = (int)threadIdx.x % RB_WARP, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int k = 0; k < N / 2; k++) {
        uint32_t a[4] = {rb_half2(p[2 * k][0], p[2 * k][1]), rb_half2(p[2 * k][2], p[2 * k][3]),
                         rb_half2(p[2 * k + 1][0], p[2 * k + 1][1]),
                         rb_half2(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < DP / 8; n++) {
            const uint32_t *col = b + (8 * n + g) * RB_UPRIGHT_GAP(8 * N) + 8 * k + t;
            uint32_t pair[2] = {col[0], col[4]};
            rb_mma(d[n], a, pair);
        }
    }
}

/* The warp's 16 rows of d, times a factor per half of them (rows g, rows g + 8). */
template <int DP>
static __device__ void rb_store(const rb_view &to, int64_t b, int64_t h, int64_t row, int64_t end, int width,
                                float (*d)[4], float low, float high) {
    int lane = (int)threadIdx.x % RB_WARP, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < DP / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int64_t r = row + g + (i < 2 ? 0 : 8);
            int c = 8 * n + 2 * t + i % 2;
            if (r < end && c < width) rb_cells_of_head(to, b, r, h).put(c, d[n][i] * (i < 2 ? low : high));
        }
}

static __device__ __forceinline__ float rb_exp(float x) {
#ifdef RB_CUDA_EMULATED
    return expf(x);
#else
    return __expf(x);
#endif
}

#endif
