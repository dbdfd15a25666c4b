#include "data/pretokenize.h"

#include <stdbool.h>
#include <string.h>
#include "data/unicode_ranges.h"
#include "data/utf8.h"

typedef enum class { OTHER, LETTER, NUMBER, SPACE, END } class;

typedef struct scan {
    const unsigned char *p;
    size_t n;
} scan;

static bool within(const uint32_t (*ranges)[2], int count, uint32_t c) {
    int lo = 0, hi = count;
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (ranges[mid][1] < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < count && ranges[lo][0] <= c;
}

#define WITHIN(ranges, c) within(ranges, (int)(sizeof(ranges) / sizeof(ranges)[0]), c)

static class classify(uint32_t c) {
    if (c < 0x80) {
        if ((c | 32) - 'a' < 26) return LETTER;
        if (c - '0' < 10) return NUMBER;
        return c == ' ' || c - 9 < 5 ? SPACE : OTHER;
    }
    if (WITHIN(rb_letter_ranges, c)) return LETTER;
    if (WITHIN(rb_number_ranges, c)) return NUMBER;
    return WITHIN(rb_space_ranges, c) ? SPACE : OTHER;
}

/* Class of the character at `at`, its length in *len (0 at the end). */
static class look(scan s, size_t at, size_t *len) {
    *len = 0;
    if (at >= s.n) return END;
    *len = 1;
    if (s.p[at] < 0x80) return classify(s.p[at]);
    uint32_t c;
    size_t k = rb_utf8_decode(s.p + at, s.n - at, &c);
    if (!k) return OTHER;
    *len = k;
    return classify(c);
}

/* End of the run of at most `most` characters of class k from `at`. */
static size_t run(scan s, size_t at, class k, size_t most) {
    size_t len;
    for (; most-- && look(s, at, &len) == k;) at += len;
    return at;
}

static bool is_newline(unsigned char c) {
    return c == '\r' || c == '\n';
}

/* Length of a contraction's ending at the start ('s 't 're 've 'm 'll 'd), 0 for none. Ignoring case as
 * Unicode does, the long s (U+017F) is an s. */
static size_t contraction(scan s, bool fold) {
    if (s.n < 2 || s.p[0] != '\'') return 0;
    if (fold && s.n >= 3 && s.p[1] == 0xc5 && s.p[2] == 0xbf) return 3;
    unsigned a = s.p[1], b = s.n > 2 ? s.p[2] : 0;
    if (fold && a - 'A' < 26) a |= 32;
    if (fold && b - 'A' < 26) b |= 32;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    return ((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

/* \s+(?!\S)|\s+ : a run of spaces leaves its last one to the word that follows, unless it is the only one. */
static size_t spaces(scan s) {
    size_t at = 0, last = 0, len;
    while (look(s, at, &len) == SPACE) {
        last = at;
        at += len;
    }
    return at < s.n && last > 0 ? last : at;
}

/* \s*[\r\n]+ : spaces up to the last line end among them, 0 without one. */
static size_t line_ends(scan s) {
    size_t end = 0, len;
    for (size_t at = 0; look(s, at, &len) == SPACE; at += len)
        if (is_newline(s.p[at])) end = at + 1;
    return end;
}

static size_t gpt2_word(scan s) {
    size_t len, at = contraction(s, false);
    if (at) return at;
    at = s.p[0] == ' ';
    class k = look(s, at, &len);
    if (k == LETTER || k == NUMBER || k == OTHER) return run(s, at, k, s.n);
    return spaces(s);
}

static size_t llama_word(scan s, size_t digits) {
    size_t len, next, at = contraction(s, true);
    if (at) return at;
    class k = look(s, 0, &len);
    if (k == LETTER) return run(s, 0, LETTER, s.n);
    if (k == NUMBER) return run(s, 0, NUMBER, digits);
    if (!is_newline(s.p[0]) && look(s, len, &next) == LETTER) return run(s, len, LETTER, s.n);
    at = s.p[0] == ' ';
    if (look(s, at, &len) == OTHER) {
        at = run(s, at, OTHER, s.n);
        while (at < s.n && is_newline(s.p[at])) at++;
        return at;
    }
    at = line_ends(s);
    return at ? at : spaces(s);
}

size_t rb_pattern_word(rb_pattern p, const char *text, size_t n) {
    scan s = {(const unsigned char *)text, n};
    if (p == RB_PATTERN_GPT2) return gpt2_word(s);
    return llama_word(s, p == RB_PATTERN_QWEN2 ? 1 : 3);
}

#define CONTRACTIONS "'s|'t|'re|'ve|'m|'ll|'d"
#define LLAMA(digits)                                                                                        \
    "(?i:" CONTRACTIONS ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits                                            \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

rb_pattern rb_pattern_of_regex(const char *regex) {
    static const struct {
        const char *regex;
        rb_pattern pattern;
    } known[] = {
        {CONTRACTIONS "| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", RB_PATTERN_GPT2},
        {LLAMA("\\p{N}{1,3}"), RB_PATTERN_LLAMA3},
        {LLAMA("\\p{N}"), RB_PATTERN_QWEN2},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (!strcmp(regex, known[i].regex)) return known[i].pattern;
    return RB_PATTERN_NONE;
}
