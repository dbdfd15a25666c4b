#include "core/hash.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

uint64_t rb_hash64(const void *p, size_t n) {
    return XXH3_64bits(p, n);
}

static void hex128(XXH128_hash_t h, char out[33]) {
    snprintf(out, 33, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
}

void rb_hash128_hex(const void *p, size_t n, char out[33]) {
    hex128(XXH3_128bits(p, n), out);
}

rb_hasher *rb_hasher_new(void) {
    XXH3_state_t *s = XXH3_createState();
    if (s) XXH3_128bits_reset(s);
    return (rb_hasher *)s;
}

void rb_hasher_add(rb_hasher *h, const void *p, size_t n) {
    XXH3_128bits_update((XXH3_state_t *)h, p, n);
}

void rb_hasher_finish(rb_hasher *h, char out[33]) {
    hex128(XXH3_128bits_digest((XXH3_state_t *)h), out);
    XXH3_freeState((XXH3_state_t *)h);
}

resbm_status rb_hash_file(const char *path, char out[33], uint64_t *bytes, rb_err *err) {
    enum { piece = 1 << 20 };
    FILE *f = fopen(path, "rb");
    if (!f) return rb_fail_errno(err, errno, "cannot open %s", path);
    XXH3_state_t *s = XXH3_createState();
    uint8_t *buf = malloc(piece);
    uint64_t total = 0;
    resbm_status st = RESBM_OK;
    if (!s || !buf) {
        st = rb_fail(err, RESBM_E_MEMORY, "no memory to hash %s", path);
    } else {
        XXH3_128bits_reset(s);
        for (size_t n; (n = fread(buf, 1, piece, f)) > 0; total += n) XXH3_128bits_update(s, buf, n);
        if (ferror(f)) st = rb_fail_errno(err, errno, "cannot read %s", path);
        hex128(XXH3_128bits_digest(s), out);
    }
    if (bytes) *bytes = total;
    XXH3_freeState(s);
    free(buf);
    fclose(f);
    return st;
}
