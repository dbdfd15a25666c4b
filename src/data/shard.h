/* Token shards in llm.c's .bin format, read by mmap.
 *
 *   256 int32, little-endian: magic, version, number of tokens, zeros; then the tokens.
 *   magic 20240520, version 1: uint16 tokens. magic 20240801, version 7: uint32 tokens.
 *
 * A file must be exactly as long as its header says. A file that another program cuts short while it is
 * mapped raises SIGBUS, as with every mmap: shards are written beside and renamed, never changed in place.
 */
#ifndef RB_DATA_SHARD_H
#define RB_DATA_SHARD_H

#include <stdint.h>
#include "core/err.h"

enum { RB_SHARD_HEADER_BYTES = 1024, RB_SHARD_MAGIC16 = 20240520, RB_SHARD_MAGIC32 = 20240801 };

typedef struct rb_shards rb_shards;

/* `patterns`: glob patterns, comma separated; the files sorted by name within each. vocab: ids at or above it
 * are refused when read (0 = not checked). A missing, foreign or truncated file is refused with its name and
 * numbers. */
resbm_status rb_shards_open(const char *patterns, int64_t vocab, rb_shards **out, rb_err *err);
void rb_shards_close(rb_shards *s);
int64_t rb_shards_tokens(const rb_shards *s);
/* The patterns it was opened with, for messages. */
const char *rb_shards_name(const rb_shards *s);
/* Tokens [pos, pos+n) of all shards in a row. */
resbm_status rb_shards_read(const rb_shards *s, int64_t pos, int64_t n, int32_t *out, rb_err *err);

/* What a file of `bytes` bytes beginning with `head` (at least 12 of them) holds. Pure. */
typedef struct rb_shard_header {
    int64_t tokens;
    int width; /* bytes per token: 2 or 4 */
} rb_shard_header;
resbm_status rb_shard_parse_header(const uint8_t *head, uint64_t bytes, rb_shard_header *out, rb_err *err);

/* Writes one shard: beside its name until close, which fills the count in, syncs and renames. */
typedef struct rb_shard_writer rb_shard_writer;
resbm_status rb_shard_create(const char *path, int width, rb_shard_writer **out, rb_err *err);
resbm_status rb_shard_write(rb_shard_writer *w, const int32_t *ids, int64_t n, rb_err *err);
int64_t rb_shard_written(const rb_shard_writer *w);
resbm_status rb_shard_finish(rb_shard_writer *w, rb_err *err); /* frees w, also when it fails */
void rb_shard_abandon(rb_shard_writer *w);                     /* removes what was written */

#endif
