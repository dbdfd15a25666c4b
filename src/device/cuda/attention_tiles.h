/* Tiles of heads for the tensor cores (rb_mma: m16n8k16). Operands come as rows of 16-bit numbers that begin at 16 bytes
 * (attention_halves.cu). A row lies in shared memory as chunks of eight; which chunk is where depends on the row, so
 * that neither the eight rows that ldmatrix takes at a time nor a row's chunks fall on the same banks. Products over the width
 * take rows plain, products over the rows take them transposed, out of the same memory.
 *
 *     lane = 4 g + t     A (16,16): word {row g or g+8, columns 2t, 2t+1 or + 8}
 *                        B (16,8):  word {rows 2t, 2t+1 or + 8, column g}
 *                        D (16,8):  {row g or g+8, columns 2t, 2t+1}
 */
#ifndef RB_DEVICE_CUDA_ATTENTION_TILES_H
#define RB_DEVICE_CUDA_ATTENTION_TILES_H

#include "device/cuda/attention.h"

enum { RB_TILE_THREADS = 128, RB_TILE_WARPS = RB_TILE_THREADS / RB_WARP };

static __device__ __forceinline__ int rb_lane() {
    return (int)threadIdx.x % RB_WARP;
}
static __device__ __forceinline__ int rb_warp() {
    return (int)threadIdx.x / RB_WARP;
}
static __device__ __forceinline__ int rb_least(int a, int b) {
    return a < b ? a : b;
}

/* Where a chunk of a row lies in a tile of rows of DP numbers. */
template <int DP> static __device__ __forceinline__ int rb_place(int row, int chunk) {
    return row * (DP / 8) + (chunk ^ (DP >= 64 ? row & 7 : row >> 1 & 3));
}

/* Rows of one head. */
struct rb_half_rows {
    const uint16_t *at;
    int64_t gap;
    int width;
};
static __device__ __forceinline__ rb_half_rows rb_rows_of_head(const rb_half_heads &v, int b, int h) {
    return rb_half_rows{v.at + b * v.per_b + h * v.per_h, v.per_t, v.width};
}

/* A head's rows as they pass by in tiles of ROWS, the first tile from row `first` on; a thread brings its chunk of some. */
template <int ROWS, int DP> struct rb_passing {
    enum { CHUNKS = DP / 8, STEP = RB_TILE_THREADS / CHUNKS };
    const uint16_t *at;
    int64_t gap;
    bool inside; /* the width */
    __device__ __forceinline__ rb_passing(const rb_half_rows &from, int first) {
        int chunk = (int)threadIdx.x % CHUNKS, row = (int)threadIdx.x / CHUNKS;
        at = from.at + (first + row) * from.gap + 8 * chunk;
        gap = from.gap;
        inside = 8 * chunk < from.width;
    }
    /* Begins to bring the next tile, of which `left` rows exist; the rest is 0. */
    __device__ __forceinline__ void fetch(rb_chunk *to, int left) {
        int chunk = (int)threadIdx.x % CHUNKS, row = (int)threadIdx.x / CHUNKS;
        if (!inside) left = 0;
#pragma unroll
        for (int r = row; r < row + ROWS; r += STEP, at += STEP * gap)
            if (ROWS % STEP == 0 || r < ROWS) rb_fetch_chunk(&to[rb_place<DP>(r, chunk)], at, r < left);
    }
};

/* 16 rows of a head as A of products over the width, from memory. */
template <int DP>
static __device__ __forceinline__ void rb_load_a(uint32_t (*a)[4], const rb_half_rows &from, int row,
                                                 int end) {
    int g = rb_lane() / 4, t = rb_lane() % 4;
#pragma unroll
    for (int k = 0; k < DP / 16; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int r = row + g + i % 2 * 8, c = 16 * k + 2 * t + i / 2 * 8;
            a[k][i] = r < end && c < from.width ? *(const uint32_t *)(from.at + r * from.gap + c) : 0u;
        }
}

/* d (16 MT rows, 8 N columns) = a b^T, b: 8 N rows. */
template <int MT, int N, int DP>
static __device__ __forceinline__ void rb_scores(float (*d)[N][4], uint32_t (*a)[DP / 16][4],
                                                 const rb_chunk *b) {
    int row = rb_lane() % 8 + rb_lane() / 16 * 8, chunk = rb_lane() / 8 % 2;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < N; n++) d[m][n][0] = d[m][n][1] = d[m][n][2] = d[m][n][3] = 0;
#pragma unroll
    for (int k = 0; k < DP / 16; k++)
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t two[4]; /* columns 8 n and on, 8 n + 8 and on */
            rb_ldmatrix(two, &b[rb_place<DP>(8 * n + row, 2 * k + chunk)]);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                rb_mma(d[m][n], a[m][k], two);
                rb_mma(d[m][n + 1], a[m][k], two + 2);
            }
        }
}

/* d (16 MT rows, DP columns) += p b: p (16 MT rows, 8 N columns) as rb_scores leaves it, b: 8 N rows. */
template <int MT, int N, int DP>
static __device__ __forceinline__ void rb_weigh(float (*d)[DP / 8][4], float (*p)[N][4], const rb_chunk *b) {
    int row = rb_lane() % 16, chunk = rb_lane() / 16;
#pragma unroll
    for (int k = 0; k < N / 2; k++) {
        uint32_t a[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float *two = &p[m][2 * k + i / 2][i % 2 * 2];
                a[m][i] = rb_half2(two[0], two[1]);
            }
#pragma unroll
        for (int n = 0; n < DP / 8; n += 2) {
            uint32_t two[4];
            rb_ldmatrix_trans(two, &b[rb_place<DP>(16 * k + row, n + chunk)]);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                rb_mma(d[m][n], a[m], two);
                rb_mma(d[m][n + 1], a[m], two + 2);
            }
        }
    }
}

/* Scores of keys that the query does not see become -inf. `seen`: last column that row 0 of the 16 sees. */
template <int N> static __device__ __forceinline__ void mask_keys(float (*p)[4], int seen) {
    seen += rb_lane() / 4 - 2 * (rb_lane() % 4);
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (8 * n + i % 2 > seen + i / 2 * 8) p[n][i] = -INFINITY;
}

/* Results: rows of one head, in f32 or bf16. */
struct rb_result_rows {
    rb_cells base; /* row 0 of the head */
    int64_t gap;
    int end, width;
    bool pairs; /* even columns lie where two can be written at once, and the width is even */
};
static __device__ __forceinline__ rb_result_rows rb_results_of_head(const rb_view &v, int b, int h, int end) {
    rb_cells base = rb_cells_at(v, b * v.stride[0] + h * v.stride[2]);
    int width = (int)v.shape[3];
    bool pairs = (v.stride[1] | width) % 2 == 0 && (uintptr_t)base.at % (base.half ? 4 : 8) == 0;
    return rb_result_rows{base, v.stride[1], end, width, pairs};
}

/* 16 rows of d, times a factor per half of them (rows g, rows g + 8). */
template <int DP>
static __device__ __forceinline__ void rb_store(const rb_result_rows &to, int row, float (*d)[4], float low,
                                                float high) {
    int first = 2 * (rb_lane() % 4), left = to.width - first;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        int r = row + rb_lane() / 4 + 4 * i;
        float by = i ? high : low;
        if (r >= to.end) continue;
        rb_cells at = {(char *)to.base.at + (r * to.gap + first) * (to.base.half ? 2 : 4), to.base.half};
        if (to.pairs && at.half) {
#pragma unroll
            for (int n = 0; n < DP / 8; n++)
                if (8 * n < left) ((uint32_t *)at.at)[4 * n] = rb_bf16_pair(d[n][i] * by, d[n][i + 1] * by);
        } else if (to.pairs) {
#pragma unroll
            for (int n = 0; n < DP / 8; n++)
                if (8 * n < left) ((rb_two *)at.at)[4 * n] = rb_two{d[n][i] * by, d[n][i + 1] * by};
        } else {
#pragma unroll
            for (int n = 0; n < DP / 8; n++) {
                if (8 * n < left) at.put(8 * n, d[n][i] * by);
                if (8 * n + 1 < left) at.put(8 * n + 1, d[n][i + 1] * by);
            }
        }
    }
}

#define RB_LOG2_E 1.4426950408889634f

#endif
