/* Packing in whole vectors, where latents lie as they do in training. A thread reads eight values in two loads of
 * 16 bytes and writes their codes at once; unpacking, it writes four in one store, since then the stores of neighbours
 * fill whole sectors. Eight values are one block of random bits and whole bytes in every code. One kernel packs:
 * scales are found where the values are in registers already.
 *
 * Asked for (rb_pack_fits; pack.cu does the rest): sequences of a multiple of 8 values, fewer than 2^31; the eight
 * from a multiple of 8 on begin at 16 bytes, and their codes at a multiple of what they take (16 bytes at most); with
 * steps, a scale per token or gaps between rows also k a multiple of 8, so that eight values share a row. */
#ifndef RB_DEVICE_CUDA_PACK_FAST_H
#define RB_DEVICE_CUDA_PACK_FAST_H

extern "C" {
#include "core/bytes.h"
#include "core/rng.h"
#include "device/pack_layout.h"
}
#include "device/cuda/cuda.h"

/* A plan, and how rows are found without a division: idx / k = idx * magic >> 32 >> shift, exact for idx < 2^31 and
 * k > 1 (Granlund and Montgomery 1994). */
struct rb_pack_fast {
    rb_pack_plan p;
    uint32_t magic;
    int shift;
    bool flat; /* rows follow each other without gaps */
    int log2;  /* of the values that share a scale, where that is a power of two; else -1 */
};

/* Whether p can be done so; fills in f. */
bool rb_pack_fits(const rb_pack_plan *p, rb_pack_fast *f);
void rb_pack_fast_run(rb_cuda_queue *c, const rb_pack_fast *f);
void rb_unpack_fast_run(rb_cuda_queue *c, const rb_pack_fast *f);

#ifdef RB_FOR_KERNELS
/* The row of value idx of a sequence, and where in it. */
struct rb_pack_place {
    uint32_t t, i;
};
static __device__ __forceinline__ rb_pack_place rb_pack_place_of(const rb_pack_fast &f, uint32_t idx) {
    uint32_t t = (uint32_t)((uint64_t)idx * f.magic >> 32) >> f.shift;
    return rb_pack_place{t, idx - t * (uint32_t)f.p.k};
}
static __device__ __forceinline__ float *rb_pack_at(const rb_pack_fast &f, int64_t b, uint32_t idx) {
    float *x = f.p.x + b * f.p.stride_b;
    if (f.flat) return x + idx;
    rb_pack_place at = rb_pack_place_of(f, idx);
    return x + at.t * f.p.stride_t + at.i;
}

/* Every step is looked at by whoever holds it in the first row; of N the first that cannot be one is reported. */
template <int N>
static __device__ __forceinline__ void rb_pack_check_steps_of(const float *step, int op, int64_t coordinate,
                                                              rb_cuda_fault *fault) {
    int at = N;
    float value = 0;
#pragma unroll
    for (int i = N - 1; i >= 0; i--)
        if (!(step[i] >= RB_UNIT_TINY && step[i] <= RB_STEP_HUGE)) at = i, value = step[i];
    if (at < N) rb_cuda_report(fault, rb_cuda_fault{RB_FAULT_STEP, op, coordinate + at, 0, (double)value});
}
#endif

#endif
