/* UTF-8, strictly: no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef RB_DATA_UTF8_H
#define RB_DATA_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Length of the character at p (n >= 1 bytes left) and its code point; 0 when it is not valid. */
static inline size_t rb_utf8_decode(const unsigned char *p, size_t n, uint32_t *c) {
    size_t k = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;
    if (!k || k > n) return 0;
    *c = k == 1 ? p[0] : p[0] & (0xffu >> (k + 1));
    for (size_t i = 1; i < k; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        *c = *c << 6 | (p[i] & 0x3f);
    }
    if (k == 3 && (*c < 0x800 || (*c >= 0xd800 && *c < 0xe000))) return 0;
    return k == 4 && (*c < 0x10000 || *c > 0x10ffff) ? 0 : k;
}

/* The text as far as it fits into `size` bytes with its end, cut between two characters; what is no UTF-8 becomes '?'. */
static inline void rb_utf8_cut(char *out, size_t size, const char *text) {
    size_t n = strlen(text), k, at = 0;
    uint32_t c;
    for (const unsigned char *p = (const unsigned char *)text; n; p += k, n -= k) {
        bool good = (k = rb_utf8_decode(p, n, &c)) > 0;
        if (!good) k = 1;
        if (at + k >= size) break;
        for (size_t i = 0; i < k; i++) out[at++] = good ? (char)p[i] : '?';
    }
    out[at] = 0;
}

#endif
