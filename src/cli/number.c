#include "cli/number.h"
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>

static bool digit_first(const char *text) {
    return isdigit((unsigned char)*text) != 0;
}

bool rb_read_int(const char *text, int64_t low, int64_t high, int64_t *out) {
    char *end;
    if (!digit_first(text + (*text == '-'))) return false; /* strtoll takes blanks and a plus sign, too */
    errno = 0;
    long long v = strtoll(text, &end, 10);
    *out = v;
    return !errno && !*end && v >= low && v <= high;
}

bool rb_read_uint(const char *text, uint64_t *out) {
    char *end;
    if (!digit_first(text)) return false;
    errno = 0;
    *out = strtoull(text, &end, 10);
    return !errno && !*end;
}

bool rb_read_real(const char *text, double low, double high, double *out) {
    char *end;
    if (!*text || isspace((unsigned char)*text)) return false;
    *out = strtod(text, &end);
    return !*end && *out >= low && *out <= high; /* NaN and infinity fall outside every range */
}

int64_t rb_cli_int(const char *flag, const char *text, int64_t low, int64_t high, struct argp_state *state) {
    int64_t v = low;
    if (!rb_read_int(text, low, high, &v))
        argp_error(state, "--%s is '%s'; it takes a whole number from %lld to %lld", flag, text,
                   (long long)low, (long long)high);
    return v;
}

uint64_t rb_cli_uint(const char *flag, const char *text, struct argp_state *state) {
    uint64_t v = 0;
    if (!rb_read_uint(text, &v))
        argp_error(state, "--%s is '%s'; it takes a whole number from 0 to %llu", flag, text,
                   (unsigned long long)UINT64_MAX);
    return v;
}

double rb_cli_real(const char *flag, const char *text, double low, double high, struct argp_state *state) {
    double v = low;
    if (!rb_read_real(text, low, high, &v))
        argp_error(state, "--%s is '%s'; it takes a number from %g to %g", flag, text, low, high);
    return v;
}
