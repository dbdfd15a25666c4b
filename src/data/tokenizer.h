/* Tokenizers: text to token ids and back. One table of functions per kind, one registry line each (and one in
 * tokenizer_kinds.h). Text is bytes; what is no valid UTF-8 is no error. Ids that stand for no text (special
 * tokens) decode to nothing. A tokenizer may keep a cache: one thread at a time encodes with it. */
#ifndef RB_DATA_TOKENIZER_H
#define RB_DATA_TOKENIZER_H

#include <stdbool.h>
#include <stdint.h>
#include "core/buf.h"
#include "core/err.h"

typedef struct rb_ids { /* growing array; zero-initialise, free with rb_ids_free */
    int32_t *data;
    int64_t len, cap;
} rb_ids;
resbm_status rb_ids_add(rb_ids *a, int32_t id, rb_err *err);
void rb_ids_free(rb_ids *a);

typedef struct rb_tokenizer rb_tokenizer;

typedef struct rb_tokenizer_kind {
    const char *name, *summary;
    bool (*accepts)(const char *spec); /* is it this kind's spec? */
    resbm_status (*open)(const char *spec, rb_tokenizer *out, rb_err *err);
    void (*close)(rb_tokenizer *t);
    /* Adds the ids of n bytes of text. */
    resbm_status (*encode)(const rb_tokenizer *t, const char *text, size_t n, rb_ids *out, rb_err *err);
    /* Adds the bytes of one id: a piece of a UTF-8 character may come alone. */
    resbm_status (*decode)(const rb_tokenizer *t, int32_t id, rb_buf *out, rb_err *err);
    /* What the files call an id that may stand for no text, as "</s>"; borrowed. NULL, or a NULL result: nothing. */
    const char *(*called)(const rb_tokenizer *t, int32_t id);
} rb_tokenizer_kind;

struct rb_tokenizer {
    const rb_tokenizer_kind *kind;
    int64_t vocab;
    int32_t bos, eos; /* what stands before and behind a text; -1: none */
    void *state;
};

extern const rb_tokenizer_kind *const rb_tokenizers[]; /* NULL-terminated */

/* spec: "bytes", or the path of a SentencePiece model (.model) or of a Hugging Face tokenizer.json. */
const rb_tokenizer_kind *rb_tokenizer_find(const char *spec); /* NULL: none is called so */
resbm_status rb_tokenizer_open(const char *spec, rb_tokenizer *out, rb_err *err);
void rb_tokenizer_close(rb_tokenizer *t);
resbm_status rb_tokenizer_encode(const rb_tokenizer *t, const char *text, size_t n, rb_ids *out, rb_err *err);
resbm_status rb_tokenizer_decode(const rb_tokenizer *t, int32_t id, rb_buf *out, rb_err *err);
/* Bytes of a shard's token: 2 when every id fits, else 4. */
int rb_tokenizer_token_bytes(const rb_tokenizer *t);
/* How many of the n bytes can be shown now: all but a UTF-8 character at the end whose rest may still come.
 */
size_t rb_utf8_whole(const char *p, size_t n);

#endif
