/* Checksums: XXH3 of xxHash. 64 bits for frames, 128 bits (as 32 hex digits) for files in a manifest. They
 * find damage, not malice. */
#ifndef RB_CORE_HASH_H
#define RB_CORE_HASH_H

#include <stddef.h>
#include <stdint.h>
#include "core/err.h"

uint64_t rb_hash64(const void *p, size_t n);
void rb_hash128_hex(const void *p, size_t n, char out[33]);
/* Hash of a whole file read in pieces; also its length when bytes is not NULL. */
resbm_status rb_hash_file(const char *path, char out[33], uint64_t *bytes, rb_err *err);
/* The same of an open file, from its begin; where it is read does not move. path is for the message. */
resbm_status rb_hash_fd(int fd, const char *path, char out[33], uint64_t *bytes, rb_err *err);

/* The 128-bit hash of bytes that come in pieces. rb_hasher_new gives NULL when there is no memory; finish frees. */
typedef struct rb_hasher rb_hasher;
rb_hasher *rb_hasher_new(void);
void rb_hasher_add(rb_hasher *h, const void *p, size_t n);
void rb_hasher_finish(rb_hasher *h, char out[33]);

#endif
