/* Text files as a stream of bytes, and where such a stream may be cut.
 *
 * Plain and gzip files read alike (Debian's .dict.dz is gzip). A file named *.dict or *.dict.dz is a
 * dictionary in dictd's layout and is cleaned into prose unless it is asked for raw: the wrapped, indented
 * lines of a paragraph become one line, an entry (a line that starts in column 0) is set off by an empty
 * line, braces round cross references and the \re*spelt\ headword go, and so do lines that only name the
 * source, such as [1913 Webster]. */
#ifndef RB_DATA_TEXT_SOURCE_H
#define RB_DATA_TEXT_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include "core/err.h"

typedef struct rb_text_source rb_text_source;

resbm_status rb_text_open(const char *path, bool raw, rb_text_source **out, rb_err *err);
/* The next n bytes; fewer (*got) only at the end. A damaged or cut gzip file is RESBM_E_CORRUPT. */
resbm_status rb_text_read(rb_text_source *s, char *buf, size_t n, size_t *got, rb_err *err);
void rb_text_close(rb_text_source *s); /* NULL is fine */

/* Where to cut text[0..n) in its second half, as late as possible, so that both parts encoded apart give the
 * ids of the whole under every known pre-tokenizer: behind a single line end or before a single blank. Text
 * without either is cut between two characters. n >= 8; the result is in [1, n]. */
size_t rb_text_cut(const char *text, size_t n);

#endif
