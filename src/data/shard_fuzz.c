/* Token shards: any bytes are refused with a message or hold exactly the tokens that their header counts,
 * read in one go or in pieces, alone or behind another shard. */
#include "data/shard.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "core/bytes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* /proc path of a file in memory that holds the bytes; its descriptor in *fd. */
static void file_of(const uint8_t *data, size_t size, int *fd, char path[64]) {
    *fd = memfd_create("shard", MFD_CLOEXEC);
    if (*fd < 0 || write(*fd, data, size) != (ssize_t)size) __builtin_trap();
    snprintf(path, 64, "/proc/self/fd/%d", *fd);
}

static int64_t id_at(const uint8_t *data, const rb_shard_header *h, int64_t i) {
    const uint8_t *p = data + RB_SHARD_HEADER_BYTES + i * h->width;
    return h->width == 2 ? rb_get16(p) : rb_get32(p);
}

/* Reads tokens [pos, pos+n) of a shard that stands `repeats` times in a row; each must be the file's own or
 * the read must have been refused for one outside the vocabulary. */
static void check_read(const rb_shards *s, const uint8_t *data, const rb_shard_header *h, int64_t vocab,
                       int64_t pos, int64_t n, int32_t *out) {
    rb_err err;
    bool whole = rb_shards_read(s, pos, n, out, &err) == RESBM_OK, fits = true;
    for (int64_t i = 0; i < n; i++) {
        int64_t want = id_at(data, h, (pos + i) % h->tokens);
        fits = fits && want < (vocab ? vocab : INT32_MAX);
        if (whole && out[i] != want) __builtin_trap();
    }
    if (whole != fits) __builtin_trap();
}

static void check_shards(const char *patterns, int repeats, const uint8_t *data, const rb_shard_header *h,
                         int64_t vocab) {
    rb_err err;
    rb_shards *s;
    if (rb_shards_open(patterns, vocab, &s, &err) != RESBM_OK) __builtin_trap();
    int64_t all = h->tokens * repeats;
    if (rb_shards_tokens(s) != all) __builtin_trap();
    int32_t *out = malloc((size_t)(all + 1) * sizeof *out);
    if (!out) __builtin_trap();
    check_read(s, data, h, vocab, 0, all, out);
    for (int64_t pos = 0; pos < all; pos += all / 5 + 1)
        check_read(s, data, h, vocab, pos, pos + 7 < all ? 7 : all - pos, out);
    if (rb_shards_read(s, 1, all, out, &err) == RESBM_OK || rb_shards_read(s, -1, 1, out, &err) == RESBM_OK)
        __builtin_trap();
    free(out);
    rb_shards_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    rb_err err;
    rb_shard_header h;
    rb_shards *s;
    char path[64], twice[160];
    int fd;
    /* A shard says how many tokens follow; a fuzzer seldom guesses that, so the header is tried with it too.
     */
    if (size >= 12) {
        uint64_t claimed = RB_SHARD_HEADER_BYTES + (uint64_t)rb_get32(data + 8) * 2;
        if (rb_shard_parse_header(data, claimed, &h, &err) == RESBM_OK &&
            RB_SHARD_HEADER_BYTES + (uint64_t)h.tokens * (uint64_t)h.width != claimed)
            __builtin_trap();
    }
    file_of(data, size, &fd, path);
    if (size < 12 || rb_shard_parse_header(data, size, &h, &err) != RESBM_OK) {
        if (rb_shards_open(path, 0, &s, &err) == RESBM_OK) __builtin_trap();
    } else {
        snprintf(twice, sizeof twice, "%s,%s", path, path);
        check_shards(path, 1, data, &h, 0);
        check_shards(twice, 2, data, &h, 300);
    }
    close(fd);
    return 0;
}
