/* Byte-pair encoding of single words (Sennrich et al., arXiv 1508.07909): start from bytes and join, again
 * and again, the neighbours whose merge was learned first; among equals the leftmost. A word of n bytes takes
 * O(n log n). Words already seen come out of a small cache, so one thread at a time encodes with one rb_bpe.
 */
#ifndef RB_DATA_BPE_H
#define RB_DATA_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "core/err.h"
#include "data/tokenizer.h"

typedef struct rb_bpe rb_bpe;

/* ids 0 .. vocab-1, up to `merges` merges. */
resbm_status rb_bpe_new(int64_t vocab, int64_t merges, rb_bpe **out, rb_err *err);
void rb_bpe_free(rb_bpe *b);
/* Gives an id its bytes. Each id once. */
resbm_status rb_bpe_set(rb_bpe *b, int32_t id, const void *bytes, size_t n, rb_err *err);
/* Adds the next merge; the first one added joins first; of a pair added twice the later counts. */
void rb_bpe_merge(rb_bpe *b, int32_t left, int32_t right, int32_t joined);
/* After the last set and merge. ignore_merges: a word that is a token as a whole is that token (Llama 3).
 * RESBM_E_FORMAT when one of the 256 bytes has no token. */
resbm_status rb_bpe_ready(rb_bpe *b, bool ignore_merges, rb_err *err);

resbm_status rb_bpe_word(rb_bpe *b, const char *word, size_t n, rb_ids *out, rb_err *err);
/* Bytes of an id; NULL for one that was never set. */
const char *rb_bpe_bytes(const rb_bpe *b, int32_t id, size_t *n);

#endif
