#include "core/rng.h"

#include <math.h>

static uint64_t splitmix(uint64_t z) {
    z += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

uint64_t rb_mix64(uint64_t a, uint64_t b) {
    return splitmix(splitmix(a) ^ b);
}

uint32_t rb_rng_u32(rb_rng *r) {
    uint64_t block = r->index / 4;
    rb_philox c = {{(uint32_t)block, (uint32_t)(block >> 32), 0, 0}};
    return rb_philox4x32(c, r->key).v[r->index++ % 4];
}

double rb_rng_uniform(rb_rng *r) {
    uint64_t hi = rb_rng_u32(r), lo = rb_rng_u32(r);
    return (double)(((hi << 32) | lo) >> 11) * 0x1p-53;
}

uint64_t rb_rng_below(rb_rng *r, uint64_t n) {
    uint64_t limit = UINT64_MAX - UINT64_MAX % n;
    for (;;) {
        uint64_t hi = rb_rng_u32(r), x = (hi << 32) | rb_rng_u32(r);
        if (x < limit) return x % n;
    }
}

void rb_normal_fill(uint64_t key, float *out, int64_t n, float mean, float std) {
    rb_normal_fill_from(key, 0, out, n, mean, std);
}

void rb_normal_fill_from(uint64_t key, int64_t first, float *out, int64_t n, float mean, float std) {
    for (int64_t i = 0; i < n; i += 4) {
        uint64_t block = (uint64_t)(first + i) / 4;
        rb_philox c = {{(uint32_t)block, (uint32_t)(block >> 32), 0x6e6f726d, 0}};
        c = rb_philox4x32(c, key);
        for (int p = 0; p < 2; p++) {
            double u = ((double)c.v[2 * p] + 1.0) * 0x1p-32, a = (double)c.v[2 * p + 1] * 0x1p-32;
            double m = sqrt(-2.0 * log(u));
            int64_t j = i + 2 * p;
            if (j < n) out[j] = (float)(mean + std * m * cos(2 * M_PI * a));
            if (j + 1 < n) out[j + 1] = (float)(mean + std * m * sin(2 * M_PI * a));
        }
    }
}
