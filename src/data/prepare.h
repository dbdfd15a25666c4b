/* Text files to token shards: what `resbm data` does.
 *
 * The texts (text_source.h tells which kinds) are read one after the other and encoded piece by piece; pieces
 * grow with the text from 1 KB to 64 KB and end where the tokenizer does not notice. Each piece goes to
 * validation when the validation part is still short of its share of all text so far, else to training: so
 * validation text comes from everywhere, in contiguous pieces, and short texts have some too. Where the
 * tokenizer has a token for the start or, failing that, the end of a text, it is put before each file.
 *
 * DIR/train-000.bin ..., DIR/val-000.bin ... and DIR/meta.json (tokenizer, vocabulary, tokens and bytes of
 * each part, for bits per byte) are made in DIR/.partial and put in place of older ones when all are whole,
 * meta.json last. */
#ifndef RB_DATA_PREPARE_H
#define RB_DATA_PREPARE_H

#include <stdbool.h>
#include <stdint.h>
#include "core/err.h"

typedef struct rb_prepare_options {
    const char *const *inputs;
    int count;
    const char *out, *tokenizer;
    double val_share;     /* (0, 0.5]; 0 = 0.02 */
    int64_t shard_tokens; /* 0 = 100 million */
    int64_t max_bytes;    /* of text taken in all; 0 = no limit */
    bool raw;             /* leave dictionaries as they are */
} rb_prepare_options;

typedef struct rb_prepare_result {
    int64_t bytes[2], tokens[2]; /* train, val */
    int shards[2];
    int64_t vocab;
} rb_prepare_result;

/* Bytes of text per token of validation shards: 1 for the byte tokenizer, else from the meta.json beside the
 * first shard; NaN where that tells nothing. Bits per byte = loss / ln 2 / this. */
double rb_data_bytes_per_token(const char *tokenizer, const char *val_pattern);

resbm_status rb_data_prepare(const rb_prepare_options *o, rb_prepare_result *out, rb_err *err);

#endif
