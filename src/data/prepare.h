/* Text files to token shards: what `resbm data` does.
 *
 * The texts are read one after the other (plain or gzip, which Debian's .dict.dz is), encoded piece by piece
 * (cut at line ends), and pieces are dealt to train and val: of every `1/val_share` pieces one goes to val,
 * so validation text comes from everywhere. Writes DIR/train-000.bin ..., DIR/val-000.bin and DIR/meta.json
 * (tokenizer, vocabulary, tokens and bytes of each part, so that bits per byte can be told). */
#ifndef RB_DATA_PREPARE_H
#define RB_DATA_PREPARE_H

#include <stdint.h>
#include "core/err.h"

typedef struct rb_prepare_options {
    const char *const *inputs;
    int count;
    const char *out, *tokenizer;
    double val_share;     /* (0, 0.5]; 0 = 1/50 */
    int64_t shard_tokens; /* 0 = 100 million */
    int64_t max_bytes;    /* of text read in all; 0 = no limit */
} rb_prepare_options;

typedef struct rb_prepare_result {
    int64_t bytes[2], tokens[2]; /* train, val */
    int shards[2];
    int64_t vocab;
} rb_prepare_result;

resbm_status rb_data_prepare(const rb_prepare_options *o, rb_prepare_result *out, rb_err *err);

#endif
