/* The part of CUDA that src/device/cuda uses, for the host: the same kernels and the same host code compile as C++
 * and run without a GPU (tests only). A block's threads are fibres of one host thread, which change places at barriers,
 * shuffles and tensor-core products; a stream is a host thread, so that what is queued completes late. What the
 * tensor cores compute is written down here from the PTX manual's tables of fragments.
 *
 * Shared memory keeps what the block before left in it and fresh memory is full of NaN: whoever reads what nobody
 * wrote sees it. */
#ifndef RB_DEVICE_CUDA_EMU_H
#define RB_DEVICE_CUDA_EMU_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <functional>

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static thread_local

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

/* Vectors, aligned as the GPU's are. */
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
static inline uint2 make_uint2(unsigned x, unsigned y) {
    return uint2{x, y};
}
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return uint4{x, y, z, w};
}
static inline float4 make_float4(float x, float y, float z, float w) {
    return float4{x, y, z, w};
}

/* Where the running fibre is. */
struct emu_place {
    dim3 thread, block, block_size, grid;
};
extern thread_local emu_place emu_at;
#define threadIdx (emu_at.thread)
#define blockIdx  (emu_at.block)
#define blockDim  (emu_at.block_size)
#define gridDim   (emu_at.grid)

/* All threads of the block, or all lanes of the warp, meet. The last lane to come runs `act` on what every lane
 * brought; lanes that meet with different acts are a fault of the kernel, and the program is stopped there. */
void emu_block_meet();
void emu_warp_meet(void (*act)(void *const *lane), void *mine);

static inline void __syncthreads() {
    emu_block_meet();
}
static inline void __syncwarp(unsigned = ~0u) {
    emu_warp_meet(nullptr, nullptr);
}

struct emu_shuffle {
    uint32_t bits, got;
    int from;
};
static inline void emu_do_shuffle(void *const *lane) {
    for (int i = 0; i < 32; i++) {
        emu_shuffle *s = (emu_shuffle *)lane[i];
        s->got = ((emu_shuffle *)lane[s->from & 31])->bits;
    }
}
template <class T> static inline T emu_shfl(T v, int from) {
    static_assert(sizeof(T) == 4, "32-bit values");
    emu_shuffle s = {0, 0, from};
    memcpy(&s.bits, &v, 4);
    emu_warp_meet(emu_do_shuffle, &s);
    memcpy(&v, &s.got, 4);
    return v;
}
static inline int emu_lane() {
    return (int)(threadIdx.x & 31);
}
template <class T> static inline T __shfl_xor_sync(unsigned, T v, int mask) {
    return emu_shfl(v, emu_lane() ^ mask);
}
template <class T> static inline T __shfl_sync(unsigned, T v, int from) {
    return emu_shfl(v, from);
}
static inline double __shfl_xor_sync(unsigned, double v, int mask) {
    uint32_t w[2];
    memcpy(w, &v, 8);
    w[0] = emu_shfl(w[0], emu_lane() ^ mask);
    w[1] = emu_shfl(w[1], emu_lane() ^ mask);
    memcpy(&v, w, 8);
    return v;
}
static inline unsigned long long __shfl_xor_sync(unsigned, unsigned long long v, int mask) {
    uint32_t w[2];
    memcpy(w, &v, 8);
    w[0] = emu_shfl(w[0], emu_lane() ^ mask);
    w[1] = emu_shfl(w[1], emu_lane() ^ mask);
    memcpy(&v, w, 8);
    return v;
}
struct emu_vote {
    bool yes;
    unsigned all;
};
static inline void emu_do_vote(void *const *lane) {
    unsigned all = 0;
    for (int i = 0; i < 32; i++) all |= (unsigned)((emu_vote *)lane[i])->yes << i;
    for (int i = 0; i < 32; i++) ((emu_vote *)lane[i])->all = all;
}
static inline unsigned __ballot_sync(unsigned, bool yes) {
    emu_vote v = {yes, 0};
    emu_warp_meet(emu_do_vote, &v);
    return v.all;
}
static inline int __ffs(unsigned x) {
    return __builtin_ffs((int)x);
}
static inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
static inline unsigned __float_as_uint(float x) {
    unsigned u;
    memcpy(&u, &x, 4);
    return u;
}
static inline float __uint_as_float(unsigned u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}
/* The sum rounded down: what rounding to nearest left out says whether it went up (Knuth's two-sum). */
static inline float __fadd_rd(float a, float b) {
    float sum = a + b, of_b = sum - a, left = (a - (sum - of_b)) + (b - of_b);
    return left < 0 ? nextafterf(sum, -INFINITY) : sum;
}
static inline unsigned long long atomicAdd(unsigned long long *p, unsigned long long v) {
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
static inline unsigned atomicAdd(unsigned *p, unsigned v) {
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
static inline void __threadfence() {} /* blocks follow each other */
static inline int atomicCAS(int *p, int was, int now) {
    __atomic_compare_exchange_n(p, &was, now, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return was;
}
static inline unsigned atomicMax(unsigned *p, unsigned v) {
    unsigned was = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (was < v && !__atomic_compare_exchange_n(p, &was, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return was;
}

/* 16-bit numbers of the tensor cores: bf16, or f16 where the device's products are f16. */
extern thread_local bool emu_f16;
uint16_t emu_half_of(float x);
float emu_half_value(uint16_t h);
/* d (16,8) += a (16,16) b (16,8): fragments as in the PTX manual, mma.m16n8k16. */
void emu_mma(float *d, const uint32_t *a, const uint32_t *b);
/* ldmatrix.x4, as the PTX manual has it. */
void emu_ldmatrix(uint32_t *r, const void *row);
void emu_ldmatrix_trans(uint32_t *r, const void *row);
/* cp.async of 16 bytes, which is there at once; `there`: else zeros. */
void emu_copy16(void *to, const void *from, bool there);

/* --- the runtime's functions */
enum cudaError_t {
    cudaSuccess,
    cudaErrorMemoryAllocation,
    cudaErrorNoDevice,
    cudaErrorInvalidDevice,
    cudaErrorIllegalAddress,
    cudaErrorNoKernelImageForDevice,
    cudaErrorInsufficientDriver
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum { cudaStreamNonBlocking = 1, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };
struct emu_stream;
struct emu_event;
typedef emu_stream *cudaStream_t;
typedef emu_event *cudaEvent_t;
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor, multiProcessorCount;
};
struct cudaFuncAttributes {
    int ptxVersion;
};
const char *cudaGetErrorString(cudaError_t e);
cudaError_t cudaGetLastError();
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int i);
cudaError_t cudaGetDevice(int *i);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int i);
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, const void *kernel);
cudaError_t cudaMemGetInfo(size_t *free, size_t *total);
cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocHost(void **p, size_t bytes);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaEventCreate(cudaEvent_t *e); /* of the kind that knows when it passed */
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t s);
cudaError_t cudaMemsetAsync(void *p, int byte, size_t bytes, cudaStream_t s);

/* Queues host code, or a kernel over a grid, on a stream. */
void emu_enqueue(cudaStream_t s, std::function<void()> work);
void emu_launch(cudaStream_t s, dim3 grid, dim3 block, std::function<void()> kernel);
/* The arguments are copied now, as a launch does. */
template <class F, class... A>
static inline void emu_launch_with(cudaStream_t s, dim3 grid, dim3 block, F fn, A... args) {
    emu_launch(s, grid, block, [=] { fn(args...); });
}

#endif
