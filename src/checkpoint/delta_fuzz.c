/* libFuzzer: a packed piece as it comes from another, then the same bytes as a piece to be packed. First byte: is there a base; the next
 * two: how long the piece is. Corpus: tests/corpus/delta. */
#include <stdlib.h>
#include <string.h>
#include "checkpoint/delta.h"
#include "core/bytes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds) {
    if (!holds) __builtin_trap();
}

/* Memory of exactly the length that may be touched. */
static uint8_t *made(size_t n, uint8_t first) {
    uint8_t *p = malloc(n);
    require(p != NULL);
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)(first + 31 * i);
    return p;
}

static void there_and_back(rb_delta *d, const uint8_t *in, size_t n, const uint8_t *base) {
    uint8_t *packed = made(RB_DELTA_HEADER + n, 0), *out = made(n, 0);
    rb_err err;
    size_t len = rb_delta_pack(d, in, n, base, packed);
    require(len <= RB_DELTA_HEADER + n);
    require(!rb_delta_unpack(d, packed, len, base, out, n, &err) && !memcmp(out, in, n));
    free(packed);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 4) return 0;
    rb_delta *d = rb_delta_new();
    require(d != NULL);
    size_t n = 1 + rb_get16(data + 1), len = size - 3;
    uint8_t *base = data[0] & 1 ? made(n > len ? n : len, data[0]) : NULL, *out = made(n, 1),
            *packed = malloc(len);
    rb_err err;
    require(packed != NULL);
    memcpy(packed, data + 3, len);
    if (!rb_delta_unpack(d, packed, len, base, out, n, &err)) there_and_back(d, out, n, base);
    if (len <= RB_DELTA_PIECE) there_and_back(d, packed, len, base);
    free(packed);
    free(out);
    free(base);
    rb_delta_free(d);
    return 0;
}
