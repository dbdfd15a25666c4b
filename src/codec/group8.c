#include "codec/group8.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>
#include "core/bytes.h"

static int64_t groups_of(int64_t n) {
    return (n + RB_GROUP8 - 1) / RB_GROUP8;
}

size_t rb_group8_bytes(int64_t n) {
    return (size_t)groups_of(n) * sizeof(float) + (size_t)n;
}

static uint32_t bits_of(float v) {
    uint32_t b;
    memcpy(&b, &v, sizeof b);
    return b;
}

/* One group. A value that is not finite makes the scale so, which the receiver refuses by name. */
static float pack_group(int8_t *out, const float *values, float *lost, int64_t n) {
    float v[RB_GROUP8], most = 0;
    for (int64_t i = 0; i < n; i++) {
        v[i] = values[i] + (lost ? lost[i] : 0);
        if (!(fabsf(v[i]) <= most)) most = fabsf(v[i]);
    }
    float scale = most / 127, inverse = scale > 0 ? 1 / scale : 0;
    if (!isfinite(inverse))
        inverse = scale = 0; /* so small that its inverse is too large: all of it is lost, and kept */
    bool whole = isfinite(most);
    for (int64_t i = 0; i < n; i++) {
        float q = whole ? rintf(v[i] * inverse) : 0;
        out[i] = (int8_t)fmaxf(-127, fminf(127, q));
        if (lost) lost[i] = whole ? v[i] - (float)out[i] * scale : 0;
    }
    return whole ? scale : NAN;
}

void rb_group8_pack(uint8_t *out, const float *values, float *lost, int64_t n) {
    int8_t *codes = (int8_t *)out + (size_t)groups_of(n) * sizeof(float);
    for (int64_t g = 0; g < groups_of(n); g++) {
        int64_t at = g * RB_GROUP8, size = n - at < RB_GROUP8 ? n - at : RB_GROUP8;
        rb_put32(out + 4 * g, bits_of(pack_group(codes + at, values + at, lost ? lost + at : NULL, size)));
    }
}

resbm_status rb_group8_unpack(float *out, const uint8_t *in, int64_t n, rb_err *err) {
    const int8_t *codes = (const int8_t *)in + (size_t)groups_of(n) * sizeof(float);
    for (int64_t g = 0; g < groups_of(n); g++) {
        int64_t at = g * RB_GROUP8, size = n - at < RB_GROUP8 ? n - at : RB_GROUP8;
        uint32_t bits = rb_get32(in + 4 * g);
        float scale;
        memcpy(&scale, &bits, sizeof scale);
        if (!isfinite(scale) || scale < 0)
            return rb_fail(
                err, RESBM_E_CORRUPT,
                "the scale of group %lld of %lld is %g: damaged, or made of values that are not finite",
                (long long)g, (long long)groups_of(n), (double)scale);
        for (int64_t i = 0; i < size; i++) out[at + i] = (float)codes[at + i] * scale;
    }
    return RESBM_OK;
}
