/* Dictionary lines (dictd's layout) to prose; see text_source.h for what is changed. */
#ifndef RB_DATA_DICT_PROSE_H
#define RB_DATA_DICT_PROSE_H

#include <stdbool.h>
#include "core/buf.h"

typedef struct rb_dict_prose { /* zero-initialise */
    bool started, open;        /* wrote anything; inside a paragraph */
} rb_dict_prose;

/* Takes one line without its line end and adds what remains of it. */
void rb_dict_line(rb_dict_prose *d, const char *line, size_t n, rb_buf *out);

#endif
