/* Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
 * SC 2011). A draw is a pure function of (key, counter), so a value's bits never depend on which stage,
 * thread or microbatch asked for it. */
#ifndef RB_CORE_RNG_H
#define RB_CORE_RNG_H

#include <stdint.h>
#include "core/inline.h"

typedef struct rb_philox {
    uint32_t v[4];
} rb_philox;

#define RB_PHILOX_M0 0xD2511F53u
#define RB_PHILOX_M1 0xCD9E8D57u
#define RB_PHILOX_W0 0x9E3779B9u
#define RB_PHILOX_W1 0xBB67AE85u

/* The four words of counter `ctr` under the 64-bit key. */
RB_ANYWHERE rb_philox rb_philox4x32(rb_philox ctr, uint64_t key) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int r = 0; r < 10; r++) {
        uint64_t p0 = (uint64_t)RB_PHILOX_M0 * ctr.v[0], p1 = (uint64_t)RB_PHILOX_M1 * ctr.v[2];
        rb_philox n = {{(uint32_t)(p1 >> 32) ^ ctr.v[1] ^ k0, (uint32_t)p1,
                        (uint32_t)(p0 >> 32) ^ ctr.v[3] ^ k1, (uint32_t)p0}};
        ctr = n;
        k0 += RB_PHILOX_W0;
        k1 += RB_PHILOX_W1;
    }
    return ctr;
}

/* Mixes words into one well-spread 64-bit key (SplitMix64 finaliser after each). */
uint64_t rb_mix64(uint64_t a, uint64_t b);

/* A sequential reader over one key, for initialisation and sampling. Plain data; copy to save its state. */
typedef struct rb_rng {
    uint64_t key, index; /* index: number of 32-bit words drawn so far */
} rb_rng;

uint32_t rb_rng_u32(rb_rng *r);
double rb_rng_uniform(rb_rng *r);             /* [0, 1), 53 bits */
uint64_t rb_rng_below(rb_rng *r, uint64_t n); /* [0, n), unbiased; n >= 1 */
/* n standard normal numbers, by Box-Muller in double, value i a pure function of (key, i). */
void rb_normal_fill(uint64_t key, float *out, int64_t n, float mean, float std);
/* Values first to first + n of it; first is a multiple of 4. */
void rb_normal_fill_from(uint64_t key, int64_t first, float *out, int64_t n, float mean, float std);

#endif
