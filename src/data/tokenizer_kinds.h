/* The registry's entries. */
#ifndef RB_DATA_TOKENIZER_KINDS_H
#define RB_DATA_TOKENIZER_KINDS_H

#include "data/tokenizer.h"

extern const rb_tokenizer_kind rb_tokenizer_bytes; /* every byte its own token */

#endif
