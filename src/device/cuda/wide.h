/* Several elements of a row at a time, as memory likes it: 16 bytes a thread, or the 8 bytes of four bf16 beside four f32. T is
 * float, or uint16_t for bf16. */
#ifndef RB_DEVICE_CUDA_WIDE_H
#define RB_DEVICE_CUDA_WIDE_H

#include "device/cuda/cuda.h"

/* Elements at once where all operands are in bf16, and where f32 is among them. */
enum { RB_WIDE_HALF = 8, RB_WIDE_F32 = 4 };

/* Whether every row of v can be walked n elements at a time. */
static inline bool rb_is_wide(const rb_view &v, int n) {
    size_t bytes = (size_t)n * rb_dtype_size(v.dtype);
    if ((uintptr_t)v.data % (bytes < 16 ? bytes : 16) || rb_row_width(&v) % n) return false;
    for (int i = 0; i < v.rank - 1; i++)
        if (v.shape[i] > 1 && v.stride[i] % n) return false;
    return true;
}

/* Loads and stores of B bytes at a multiple of B. */
#ifdef RB_CUDA_EMULATED
template <int B> static inline void rb_move(void *to, const void *from, const void *memory) {
    if ((uintptr_t)memory % B) __builtin_trap(); /* the GPU would not do it either */
    memcpy(to, from, B);
}
template <int B> static inline void rb_load_words(uint32_t *w, const void *p) {
    rb_move<B>(w, p, p);
}
template <int B> static inline void rb_store_words(void *p, const uint32_t *w) {
    rb_move<B>(p, w, p);
}
#else
template <int B> static __device__ __forceinline__ void rb_load_words(uint32_t *w, const void *p) {
    if (B == 16) {
        uint4 v = *(const uint4 *)p;
        w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
    } else if (B == 8) {
        uint2 v = *(const uint2 *)p;
        w[0] = v.x, w[1] = v.y;
    } else {
        w[0] = *(const uint32_t *)p;
    }
}
template <int B> static __device__ __forceinline__ void rb_store_words(void *p, const uint32_t *w) {
    if (B == 16)
        *(uint4 *)p = make_uint4(w[0], w[1], w[2], w[3]);
    else if (B == 8)
        *(uint2 *)p = make_uint2(w[0], w[1]);
    else
        *(uint32_t *)p = w[0];
}
#endif

/* N elements as they are in memory. */
template <class T, int N> struct rb_wide {
    enum { WORDS = N * (int)sizeof(T) / 4, AT_ONCE = WORDS < 4 ? WORDS : 4 };
    uint32_t w[WORDS];
    __device__ __forceinline__ void load(const T *p) {
        for (int k = 0; k < WORDS; k += AT_ONCE) rb_load_words<4 * AT_ONCE>(w + k, (const uint32_t *)p + k);
    }
    __device__ __forceinline__ void store(T *p) const {
        for (int k = 0; k < WORDS; k += AT_ONCE) rb_store_words<4 * AT_ONCE>((uint32_t *)p + k, w + k);
    }
    __device__ __forceinline__ float operator[](int i) const {
        if (sizeof(T) == 4) return __uint_as_float(w[i]);
        return __uint_as_float(i % 2 ? w[i / 2] & 0xffff0000u : w[i / 2] << 16);
    }
    __device__ __forceinline__ void set(const float *x) {
        if (sizeof(T) == 4)
            for (int i = 0; i < WORDS; i++) w[i] = __float_as_uint(x[i]);
        else
            for (int i = 0; i < WORDS; i++) w[i] = rb_bf16_pair(x[2 * i], x[2 * i + 1]);
    }
};
template <int N, class T> static __device__ __forceinline__ rb_wide<T, N> rb_take(const T *p) {
    rb_wide<T, N> v;
    v.load(p);
    return v;
}
template <int N, class T> static __device__ __forceinline__ void rb_give(T *p, const float *x) {
    if constexpr (N * sizeof(T) < sizeof(uint32_t)) { /* less than a word: a single bf16 */
        *p = rb_bf16_from_f32(*x);
    } else {
        rb_wide<T, N> v;
        v.set(x);
        v.store(p);
    }
}

/* Rows evenly apart, of a view simplified to one or two dimensions. */
template <class T> struct rb_lines {
    T *at;
    int64_t gap;
    explicit rb_lines(const rb_view &v) : at((T *)v.data), gap(v.rank == 1 ? 0 : v.stride[0]) {}
    __device__ __forceinline__ T *operator()(unsigned row, unsigned i) const { return at + row * gap + i; }
};

/* Does the same to every N elements: f.read(row, column) of two places before f.write(row, column, what was read) of the
 * first, so that loads of both are on their way. */
enum { RB_WIDE_THREADS = 256, RB_WIDE_PLACES = 2, RB_WIDE_BLOCK = RB_WIDE_THREADS * RB_WIDE_PLACES };

struct rb_wide_place {
    unsigned row, column;
    bool here;
    __device__ __forceinline__ rb_wide_place(unsigned at, unsigned count, unsigned per_row, unsigned n)
        : row(0), column(at * n), here(at < count) {
        if (count == per_row) return;
        row = at / per_row;
        column = (at - row * per_row) * n;
    }
};

template <class F>
__global__ void __launch_bounds__(RB_WIDE_THREADS) rb_each_wide_kernel(F f, unsigned count, unsigned per_row) {
    unsigned at = blockIdx.x * RB_WIDE_BLOCK + threadIdx.x;
    rb_wide_place a(at, count, per_row, F::N), b(at + RB_WIDE_THREADS, count, per_row, F::N);
    typename F::in x, y;
    if (a.here) f.read(a.row, a.column, x);
    if (b.here) f.read(b.row, b.column, y);
    if (a.here) f.write(a.row, a.column, x);
    if (b.here) f.write(b.row, b.column, y);
}

/* Whether rb_each_wide can walk these, which have been simplified together. */
static inline bool rb_can_walk(const rb_view *v, int n, int at_once) {
    for (int i = 0; i < n; i++)
        if (v[i].rank > 2 || v[i].rank != v[0].rank || !rb_is_wide(v[i], at_once)) return false;
    return rb_count(v[0]) <= RB_MOST_IN_32_BITS; /* places and columns are counted in 32 bits */
}
template <class F> static void rb_each_wide(rb_queue *base, int64_t rows, int64_t width, F f) {
    rb_cuda_queue *q = rb_cuda_queue_of(base);
    unsigned per_row = (unsigned)(width / F::N), count = (unsigned)rows * per_row;
    auto kernel = rb_each_wide_kernel<F>;
    RB_LAUNCH(q, kernel, (count + RB_WIDE_BLOCK - 1) / RB_WIDE_BLOCK, RB_WIDE_THREADS, f, count, per_row);
}
template <class F> static void rb_each_wide(rb_queue *base, const rb_view &v, F f) {
    rb_each_wide(base, rb_row_count(&v), rb_row_width(&v), f);
}

#endif
