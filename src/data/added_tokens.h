/* The added tokens of a tokenizer.json: texts such as <|endoftext|> that are cut out of a text before
 * anything else looks at it. At each place the longest one counts; those with "normalized": false are looked
 * for in the whole text first, the others in what lies between them. */
#ifndef RB_DATA_ADDED_TOKENS_H
#define RB_DATA_ADDED_TOKENS_H

#include <jansson.h>
#include <stdbool.h>
#include "core/err.h"

typedef struct rb_added_token {
    char *text;
    size_t len;
    int32_t id;
    bool special, normalized;
} rb_added_token;

typedef struct rb_added_tokens {
    rb_added_token *item; /* in the order of their ids, which differ */
    int count;
    bool first[2][256]; /* [normalized][byte]: some token starts with it */
} rb_added_tokens;

/* From the file's "added_tokens" (NULL: none). Ids must lie in [0, limit). Free also after a failure. */
resbm_status rb_added_load(rb_added_tokens *a, const json_t *list, int64_t limit, rb_err *err);
void rb_added_free(rb_added_tokens *a);
/* The first added token of this group in text[0..n): its place in *at. NULL: none. */
const rb_added_token *rb_added_find(const rb_added_tokens *a, bool normalized, const char *text, size_t n,
                                    size_t *at);
const rb_added_token *rb_added_by_id(const rb_added_tokens *a, int32_t id);
/* The id of the special token with this text, -1 without one. */
int32_t rb_added_special(const rb_added_tokens *a, const char *text);

#endif
