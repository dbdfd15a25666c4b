/* Elementary functions that the compiler can turn into vector code: no branches, no tables, no errno. */
#ifndef RB_DEVICE_CPU_ISA_MATH_H
#define RB_DEVICE_CPU_ISA_MATH_H

#include <math.h>
#include <stdint.h>

typedef union rb_f32_bits {
    float f;
    int32_t i;
} rb_f32_bits;

/* e^x within 1.5 ulp where the result is normal; below 2^-126 gives 0, above the largest float inf, NaN stays
 * NaN. x = n ln 2 + r, |r| <= ln 2 / 2; e^r by Cephes' polynomial, n added to the exponent. */
static inline float rb_expf(float x) {
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
    rb_f32_bits z, y;
    z.f = x * 1.44269504f + shift;
    float n = z.f - shift;
    float r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    y.f = (p * r) * r + r + 1.0f;
    y.i = (int32_t)((uint32_t)y.i + ((uint32_t)z.i << 23));
    float e = x < -87.33654f ? 0.0f : y.f;
    e = x > 88.72283f ? INFINITY : e;
    return x != x ? x : e;
}

static inline float rb_sigmoidf(float x) {
    return 1.0f / (1.0f + rb_expf(-x));
}

#endif
