/* Cuts text into the words that byte-level BPE works on: what the regular expressions of GPT-2 and of Llama 3
 * (OpenAI's cl100k) match, one after another, written out by hand.
 *
 *   GPT-2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *   Llama 3  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|
 *            \s*[\r\n]+|\s+(?!\S)|\s+
 *   Qwen 2   the same with \p{N} for \p{N}{1,3}
 *
 * Bytes that are no valid UTF-8 count one by one as characters that are neither letter, number nor space. */
#ifndef RB_DATA_PRETOKENIZE_H
#define RB_DATA_PRETOKENIZE_H

#include <stddef.h>
#include <stdint.h>

typedef enum rb_pattern { RB_PATTERN_NONE, RB_PATTERN_GPT2, RB_PATTERN_LLAMA3, RB_PATTERN_QWEN2 } rb_pattern;

/* Which pattern a regular expression is, RB_PATTERN_NONE for any other. */
rb_pattern rb_pattern_of_regex(const char *regex);
/* Length in bytes (>= 1) of the word at the start of text[0..n), n >= 1. */
size_t rb_pattern_word(rb_pattern p, const char *text, size_t n);

#endif
