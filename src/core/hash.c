#include "core/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
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

resbm_status rb_hash_fd(int fd, const char *path, char out[33], uint64_t *bytes, rb_err *err) {
    enum { PIECE = 1 << 20 };
    rb_hasher *h = rb_hasher_new();
    uint8_t *buf = malloc(PIECE);
    uint64_t total = 0;
    ssize_t n = 0;
    resbm_status st = h && buf ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory to hash %s", path);
    while (!st && ((n = pread(fd, buf, PIECE, (off_t)total)) > 0 || (n < 0 && errno == EINTR))) {
        if (n < 0) continue;
        rb_hasher_add(h, buf, (size_t)n);
        total += (uint64_t)n;
    }
    if (n < 0) st = rb_fail_errno(err, errno, "cannot read %s", path);
    if (bytes) *bytes = total;
    if (h) rb_hasher_finish(h, out);
    free(buf);
    return st;
}

resbm_status rb_hash_file(const char *path, char out[33], uint64_t *bytes, rb_err *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return rb_fail_errno(err, errno, "cannot open %s", path);
    resbm_status st = rb_hash_fd(fd, path, out, bytes, err);
    close(fd);
    return st;
}
