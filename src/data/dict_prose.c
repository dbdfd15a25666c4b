#include "data/dict_prose.h"

#include <string.h>

/* Names of the books that gcide's entries come from, as its source lines write them. */
static bool names_source(const char *p, size_t n) {
    static const char *const names[] = {"Webster", "WordNet", "PJC", "Century", "MICRA"};
    if (n < 3 || p[0] != '[' || p[n - 1] != ']' || memchr(p, ']', n - 1)) return false;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (memmem(p, n, names[i], strlen(names[i]))) return true;
    return false;
}

/* Adds the line's text: runs of blanks become one; braces and, in a headword line, \re*spellings\ are left
 * out. */
static void add_text(const char *p, size_t n, bool headword, rb_buf *out) {
    bool gap = false;
    for (size_t i = 0; i < n; i++) {
        const char *end = headword && p[i] == '\\' ? memchr(p + i + 1, '\\', n - i - 1) : NULL;
        if (end) {
            i = (size_t)(end - p);
            if (i + 1 < n && strchr(",;.", p[i + 1])) gap = false;
            continue;
        }
        if (p[i] == '{' || p[i] == '}') continue;
        if (p[i] == ' ' || p[i] == '\t') {
            gap = true;
            continue;
        }
        if (gap) rb_buf_add(out, " ", 1);
        gap = false;
        rb_buf_add(out, p + i, 1);
    }
}

void rb_dict_line(rb_dict_prose *d, const char *line, size_t n, rb_buf *out) {
    size_t indent = 0;
    while (n && strchr(" \t\r", line[n - 1])) n--;
    while (indent < n && (line[indent] == ' ' || line[indent] == '\t')) indent++;
    line += indent;
    n -= indent;
    if (!n) {
        if (d->open) rb_buf_add(out, "\n", 1);
        d->open = false;
        return;
    }
    if (names_source(line, n)) return;
    if (!indent && d->started)
        rb_buf_puts(out, d->open ? "\n\n" : "\n");
    else if (d->open)
        rb_buf_add(out, " ", 1);
    d->started = d->open = true;
    add_text(line, n, !indent, out);
}
