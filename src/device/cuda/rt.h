/* What kernels and their callers see of CUDA: the toolkit's headers, or the emulation of it (emu/emu.h) that lets the
 * same sources run on the host. */
#ifndef RB_DEVICE_CUDA_RT_H
#define RB_DEVICE_CUDA_RT_H

#ifdef RB_CUDA_EMULATED
#include "device/cuda/emu/emu.h"
#else
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>
#endif

/* Makes a card the thread's. Others in the process may have chosen another one since: that is looked up, which costs
 * a fraction of choosing. The first time chooses in any case, for libraries that want a context to be there. */
inline cudaError_t rb_cuda_choose(int index) {
    static thread_local bool chosen;
    int now = -1;
    if (chosen && cudaGetDevice(&now) == cudaSuccess && now == index) return cudaSuccess;
    chosen = true;
    return cudaSetDevice(index);
}

/* Launches fn (a kernel's name, or a variable that holds one) on the queue's stream. */
#ifdef RB_CUDA_EMULATED
#define RB_LAUNCH(q, fn, grid, block, ...)                                                                   \
    (emu_f16 = (q)->f16, emu_launch_with((q)->stream, dim3(grid), dim3(block), fn, __VA_ARGS__))
#else
#define RB_LAUNCH(q, fn, grid, block, ...)                                                                   \
    (rb_cuda_choose((q)->index), fn<<<(grid), (block), 0, (q)->stream>>>(__VA_ARGS__))
#endif

enum { RB_WARP = 32 };
/* Blocks across a grid's second dimension, of which there are 65535 at most: kernels go on from block y to y + gridDim.y.
 * The emulation has two, so that they do. */
#ifdef RB_CUDA_EMULATED
static const int64_t RB_GRID_ROWS = 2;
#else
static const int64_t RB_GRID_ROWS = 65535;
#endif
static inline unsigned rb_grid_rows(int64_t n) {
    return (unsigned)(n < RB_GRID_ROWS ? n : RB_GRID_ROWS);
}
/* What kernels count in 32 bits is at most so much; more of it goes other ways, which count in 64. No test has so much: the
 * emulation does with less, so that both ways are met. */
#ifdef RB_CUDA_EMULATED
static const int64_t RB_MOST_IN_32_BITS = 8192;
#else
static const int64_t RB_MOST_IN_32_BITS = INT32_MAX;
#endif
#define RB_ALL_LANES 0xffffffffu

/* What follows is for kernels; sources that only call the GPU are compiled by the C++ compiler, which knows none of it. */
#if defined(__CUDACC__) || defined(RB_CUDA_EMULATED)
#define RB_FOR_KERNELS 1

/* --- the tensor cores' 16-bit numbers: bf16 from compute capability 8.0 on, f16 on 7.5 */

/* Two numbers, the first in the low half. */
static __device__ __forceinline__ uint32_t rb_half2(float lo, float hi) {
#if defined(RB_CUDA_EMULATED)
    return emu_half_of(lo) | (uint32_t)emu_half_of(hi) << 16;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    uint32_t d;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(hi), "f"(lo));
    return d;
#else
    uint16_t l, h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(l) : "f"(lo));
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(hi));
    return l | (uint32_t)h << 16;
#endif
}

static __device__ __forceinline__ uint16_t rb_half1(float x) {
    return (uint16_t)rb_half2(x, 0.0f);
}

/* x as those numbers have it. */
static __device__ __forceinline__ float rb_half_round(float x) {
#if defined(RB_CUDA_EMULATED)
    return emu_half_value(emu_half_of(x));
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    return __uint_as_float(rb_half2(0.0f, x) & 0xffff0000u);
#else
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(rb_half1(x)));
    return f;
#endif
}

/* d (16,8) += a (16,16) b (16,8) by the warp; fragments of mma.m16n8k16, sums in f32. 7.5 does it in two steps. */
static __device__ __forceinline__ void rb_mma(float *d, const uint32_t *a, const uint32_t *b) {
#if defined(RB_CUDA_EMULATED)
    emu_mma(d, a, b);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    for (int i = 0; i < 2; i++)
        asm volatile(
            "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[2 * i]), "r"(a[2 * i + 1]), "r"(b[i]));
#endif
}

/* 16 bytes: eight of those numbers. */
struct alignas(16) rb_chunk {
    uint32_t w[4];
};

/* Four matrices of 8 x 8 of those numbers out of shared memory; lane l names row l % 8 of matrix l / 8. r[i] of it is of matrix
 * i: row l / 4, columns 2 (l % 4) and the next. */
static __device__ __forceinline__ void rb_ldmatrix(uint32_t *r, const rb_chunk *row) {
#ifdef RB_CUDA_EMULATED
    emu_ldmatrix(r, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row)));
#endif
}
/* The same of the matrices transposed: rows 2 (l % 4) and the next, column l / 4. */
static __device__ __forceinline__ void rb_ldmatrix_trans(uint32_t *r, const rb_chunk *row) {
#ifdef RB_CUDA_EMULATED
    emu_ldmatrix_trans(r, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row)));
#endif
}

/* Copies 16 bytes into shared memory, or zeros where there is nothing (`from` is not read then). From 8.0 on the thread
 * goes on meanwhile: rb_fetch_wait() waits for its own copies, a barrier behind that for everybody's. */
static __device__ __forceinline__ void rb_fetch_chunk(rb_chunk *to, const void *from, bool there) {
#if defined(RB_CUDA_EMULATED)
    emu_copy16(to, from, there);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"((unsigned)__cvta_generic_to_shared(to)), "l"(__cvta_generic_to_global(from)),
                   "r"(there ? 16 : 0)
                 : "memory");
#else
    rb_chunk c = {{0, 0, 0, 0}};
    if (there) c = *(const rb_chunk *)from;
    *to = c;
#endif
}
static __device__ __forceinline__ void rb_fetch_wait() {
#if !defined(RB_CUDA_EMULATED) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" : : : "memory");
#endif
}

/* 2 to the x, to 2 units in the last place; what would be denormal is 0. */
static __device__ __forceinline__ float rb_exp2(float x) {
#ifdef RB_CUDA_EMULATED
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

/* --- reductions with an order fixed by the block's size */

template <class T> static __device__ __forceinline__ T rb_warp_sum(T v) {
    for (int o = RB_WARP / 2; o; o /= 2) v += __shfl_xor_sync(RB_ALL_LANES, v, o);
    return v;
}

/* A NaN wins, so that it is seen. */
static __device__ __forceinline__ float rb_nan_max(float a, float b) {
    return a > b || a != a ? a : b;
}

static __device__ __forceinline__ float rb_warp_max(float v) {
    for (int o = RB_WARP / 2; o; o /= 2) v = rb_nan_max(v, __shfl_xor_sync(RB_ALL_LANES, v, o));
    return v;
}

/* Every thread gets the sum (the maximum) over the block; `room`: one value per warp, shared memory. */
template <class T> static __device__ __forceinline__ T rb_block_sum(T v, T *room) {
    int warps = (int)blockDim.x / RB_WARP;
    v = rb_warp_sum(v);
    __syncthreads();
    if (threadIdx.x % RB_WARP == 0) room[threadIdx.x / RB_WARP] = v;
    __syncthreads();
    T sum = room[0];
    for (int i = 1; i < warps; i++) sum += room[i];
    return sum;
}

static __device__ __forceinline__ float rb_block_max(float v, float *room) {
    int warps = (int)blockDim.x / RB_WARP;
    v = rb_warp_max(v);
    __syncthreads();
    if (threadIdx.x % RB_WARP == 0) room[threadIdx.x / RB_WARP] = v;
    __syncthreads();
    float most = room[0];
    for (int i = 1; i < warps; i++) most = rb_nan_max(most, room[i]);
    return most;
}

#endif
#endif
