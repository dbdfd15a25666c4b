/* The registry's entries. */
#ifndef RB_DATA_TOKENIZER_KINDS_H
#define RB_DATA_TOKENIZER_KINDS_H

#include "data/tokenizer.h"

extern const rb_tokenizer_kind rb_tokenizer_bytes;         /* every byte its own token */
extern const rb_tokenizer_kind rb_tokenizer_huggingface;   /* byte-level BPE in a tokenizer.json */
extern const rb_tokenizer_kind rb_tokenizer_sentencepiece; /* a .model of SentencePiece */

/* Whether spec ends in `ending`. */
bool rb_spec_ends(const char *spec, const char *ending);
/* A tokenizer.json from memory; t->kind is set. On failure t holds nothing. */
resbm_status rb_huggingface_parse(const char *json, size_t n, rb_tokenizer *t, rb_err *err);

#endif
