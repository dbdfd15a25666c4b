/* Small matrix products in registers, for attention's blocks: C (M,N) = [C +] A (M,K) B (K,N), where A is
 * read one number at a time (any strides, so it may be a transpose) and rows of B and C are whole aligned
 * vectors: N, ldb and ldc are multiples of RB_VL, b and c aligned to it.
 *
 * A tile of RB_MR x RB_NV vectors of C stays in registers over all of K; its sums run in ascending k. */
#ifndef RB_DEVICE_CPU_ISA_MICRO_H
#define RB_DEVICE_CPU_ISA_MICRO_H

#include <stdbool.h>
#include <stdint.h>

#if defined(__AVX512F__)
#define RB_VL 16
enum { RB_MR = 6, RB_NV = 4 };
#elif defined(__AVX__)
#define RB_VL 8
enum { RB_MR = 6, RB_NV = 2 };
#elif defined(__aarch64__)
#define RB_VL 4
enum { RB_MR = 6, RB_NV = 4 };
#else
#define RB_VL 4
enum { RB_MR = 6, RB_NV = 2 };
#endif

typedef float rb_vec __attribute__((vector_size(4 * RB_VL), may_alias));
typedef float rb_vec_unaligned __attribute__((vector_size(4 * RB_VL), may_alias, aligned(4)));

#define RB_INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define RB_UNROLL _Pragma("unroll")
#else
#define RB_UNROLL _Pragma("GCC unroll 16")
#endif

typedef int32_t rb_ivec __attribute__((vector_size(4 * RB_VL), may_alias));
typedef uint32_t rb_uvec __attribute__((vector_size(4 * RB_VL), may_alias));

/* rb_expf (math.h) of a whole vector, with the same polynomial. */
RB_INLINE rb_vec rb_exp_vec(rb_vec x) {
    const float shift = 12582912.0f;
    rb_vec z = x * 1.44269504f + shift, n = z - shift;
    rb_vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    rb_vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    rb_vec y = (p * r) * r + r + 1.0f;
    rb_ivec e = (rb_ivec)((rb_uvec)y + ((rb_uvec)z << 23)); /* wraps for what is replaced below */
    rb_ivec low = x<-87.33654f, high = x> 88.72283f, nan = x != x, inf = (rb_ivec){0} + 0x7f800000;
    e = (e & ~(low | high | nan)) | (inf & high) | ((rb_ivec)x & nan);
    return (rb_vec)e;
}

/* The larger of each pair; b where either is NaN. */
RB_INLINE rb_vec rb_max_vec(rb_vec a, rb_vec b) {
    rb_ivec m = a > b;
    return (rb_vec)(((rb_ivec)a & m) | ((rb_ivec)b & ~m));
}

/* row[j] = value for n <= j < padded (a multiple of RB_VL), by whole vectors: a narrower store would stall
 * the vector load that follows. */
RB_INLINE void rb_fill_tail(float *row, int64_t n, int64_t padded, float value) {
    rb_ivec number;
    for (int i = 0; i < RB_VL; i++) number[i] = i;
    for (int64_t j = n / RB_VL * RB_VL; j < padded; j += RB_VL) {
        rb_ivec *v = (rb_ivec *)(row + j), keep = number < (int32_t)(n - j);
        *v = (*v & keep) | ((rb_ivec)((rb_vec){0} + value) & ~keep);
    }
}

RB_INLINE float rb_sum_vec(rb_vec v) {
    float sum = 0;
    for (int i = 0; i < RB_VL; i++) sum += v[i];
    return sum;
}

static inline int64_t rb_pad(int64_t n) {
    return (n + RB_VL - 1) / RB_VL * RB_VL;
}

typedef struct rb_strided { /* A: element (i, k) at p[i * row + k * col] */
    const float *p;
    int64_t row, col;
} rb_strided;

RB_INLINE void rb_tile(int mr, int nv, int64_t K, rb_strided a, const float *b, int64_t ldb, float *c,
                       int64_t ldc, bool add) {
    rb_vec acc[RB_MR][RB_NV];
    RB_UNROLL
    for (int i = 0; i < mr; i++) {
        RB_UNROLL
        for (int j = 0; j < nv; j++)
            acc[i][j] = add ? *(const rb_vec *)(c + i * ldc + j * RB_VL) : (rb_vec){0};
    }
    for (int64_t k = 0; k < K; k++) {
        const float *pa = a.p + k * a.col;
        rb_vec row[RB_NV];
        RB_UNROLL
        for (int j = 0; j < nv; j++) row[j] = *(const rb_vec *)(b + k * ldb + j * RB_VL);
        RB_UNROLL
        for (int i = 0; i < mr; i++) {
            RB_UNROLL
            for (int j = 0; j < nv; j++) acc[i][j] += pa[i * a.row] * row[j];
        }
    }
    RB_UNROLL
    for (int i = 0; i < mr; i++) {
        RB_UNROLL
        for (int j = 0; j < nv; j++) *(rb_vec *)(c + i * ldc + j * RB_VL) = acc[i][j];
    }
}

/* One strip of at most RB_MR rows, all of N. */
RB_INLINE void rb_strip_of(int mr, int64_t N, int64_t K, const rb_strided *a, const float *b, int64_t ldb,
                           float *c, int64_t ldc, bool add) {
    int64_t j = 0;
    for (; j + RB_NV * RB_VL <= N; j += RB_NV * RB_VL) rb_tile(mr, RB_NV, K, *a, b + j, ldb, c + j, ldc, add);
    for (; RB_NV > 2 && j + 2 * RB_VL <= N; j += 2 * RB_VL)
        rb_tile(mr, 2, K, *a, b + j, ldb, c + j, ldc, add);
    for (; j < N; j += RB_VL) rb_tile(mr, 1, K, *a, b + j, ldb, c + j, ldc, add);
}

static inline void rb_strip(int64_t rows, int64_t N, int64_t K, const rb_strided *a, const float *b,
                            int64_t ldb, float *c, int64_t ldc, bool add) {
    switch (rows) {
    case 1:
        rb_strip_of(1, N, K, a, b, ldb, c, ldc, add);
        break;
    case 2:
        rb_strip_of(2, N, K, a, b, ldb, c, ldc, add);
        break;
    case 3:
        rb_strip_of(3, N, K, a, b, ldb, c, ldc, add);
        break;
    case 4:
        rb_strip_of(4, N, K, a, b, ldb, c, ldc, add);
        break;
    case 5:
        rb_strip_of(5, N, K, a, b, ldb, c, ldc, add);
        break;
    default:
        rb_strip_of(RB_MR, N, K, a, b, ldb, c, ldc, add);
        break;
    }
}

/* Interleaves two vectors' low and high halves: one stage of the transpose below. */
#if RB_VL == 16
#define RB_LOW_MASK  0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define RB_HIGH_MASK 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif RB_VL == 8
#define RB_LOW_MASK  0, 8, 1, 9, 2, 10, 3, 11
#define RB_HIGH_MASK 4, 12, 5, 13, 6, 14, 7, 15
#else
#define RB_LOW_MASK  0, 4, 1, 5
#define RB_HIGH_MASK 2, 6, 3, 7
#endif
#ifdef __clang__
#define RB_INTERLEAVE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t rb_mask __attribute__((vector_size(4 * RB_VL)));
#define RB_INTERLEAVE(a, b, ...) __builtin_shuffle(a, b, (rb_mask){__VA_ARGS__})
#endif

/* RB_VL x RB_VL numbers: to[j][i] = from[i][j]. from may be unaligned. log2(RB_VL) perfect shuffles. */
static inline void rb_transpose_square(float *to, int64_t ldt, const float *from, int64_t ldf) {
    rb_vec v[RB_VL], w[RB_VL];
    RB_UNROLL
    for (int i = 0; i < RB_VL; i++) v[i] = *(const rb_vec_unaligned *)(from + i * ldf);
    for (int stage = RB_VL; stage > 1; stage /= 2) {
        RB_UNROLL
        for (int i = 0; i < RB_VL / 2; i++) {
            w[2 * i] = RB_INTERLEAVE(v[i], v[i + RB_VL / 2], RB_LOW_MASK);
            w[2 * i + 1] = RB_INTERLEAVE(v[i], v[i + RB_VL / 2], RB_HIGH_MASK);
        }
        RB_UNROLL
        for (int i = 0; i < RB_VL; i++) v[i] = w[i];
    }
    RB_UNROLL
    for (int i = 0; i < RB_VL; i++) *(rb_vec *)(to + i * ldt) = v[i];
}

/* to (cols, rb_pad(rows)) = from (rows, cols)^T, zeros in the padding. */
static inline void rb_transpose(float *to, int64_t ldt, const float *from, int64_t ldf, int64_t rows,
                                int64_t cols) {
    int64_t r = 0;
    for (; r + RB_VL <= rows; r += RB_VL) {
        int64_t c = 0;
        for (; c + RB_VL <= cols; c += RB_VL)
            rb_transpose_square(to + c * ldt + r, ldt, from + r * ldf + c, ldf);
        for (; c < cols; c++)
            for (int64_t i = 0; i < RB_VL; i++) to[c * ldt + r + i] = from[(r + i) * ldf + c];
    }
    for (int64_t c = 0; c < cols && r < rows; c++)
        for (int64_t i = r; i < rb_pad(rows); i++) to[c * ldt + i] = i < rows ? from[i * ldf + c] : 0;
}

/* to (rows, cols) = scale * from; with zeros up to rb_pad(cols) when pad is set. */
static inline void rb_copy_rows(float *to, int64_t ldt, const float *from, int64_t ldf, int64_t rows,
                                int64_t cols, float scale, bool pad) {
    for (int64_t r = 0; r < rows; r++) {
        float *t = to + r * ldt;
        const float *f = from + r * ldf;
#pragma omp simd
        for (int64_t c = 0; c < cols; c++) t[c] = scale * f[c];
        for (int64_t c = cols; pad && c < rb_pad(cols); c++) t[c] = 0;
    }
}

/* Panels: a transposed (rows, cols) matrix as ceil(rows / RB_PANEL) blocks of (cols, RB_PANEL) numbers, so
 * that a tile walks memory in order. Rows missing from the last panel's last vector are zeros; vectors beyond
 * it are not written. */
enum { RB_PANEL = RB_NV * RB_VL };

static inline int64_t rb_panel_floats(int64_t rows, int64_t cols) {
    return (rows + RB_PANEL - 1) / RB_PANEL * RB_PANEL * cols;
}

static inline void rb_pack_panels(float *to, const float *from, int64_t ldf, int64_t rows, int64_t cols) {
    for (int64_t r = 0; r < rows; r += RB_PANEL)
        rb_transpose(to + r * cols, RB_PANEL, from + r * ldf, ldf, rows - r < RB_PANEL ? rows - r : RB_PANEL,
                     cols);
}

/* C (rows, N) = [C +] A (rows, K) B (K, N), B in panels, rows <= RB_MR. */
static inline void rb_strip_panels(int64_t rows, int64_t N, int64_t K, const rb_strided *a,
                                   const float *panels, float *c, int64_t ldc, bool add) {
    for (int64_t j = 0; j < N; j += RB_PANEL)
        rb_strip(rows, N - j < RB_PANEL ? N - j : RB_PANEL, K, a, panels + j * K, RB_PANEL, c + j, ldc, add);
}

#endif
