#include "subject.h"

#include <stdio.h>
#include <string.h>

/* Every part has a letter, none is a wildcard, and nothing could end the server's protocol line. */
static bool is_plain(const char *s) {
    bool begins = true;
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c <= ' ' || c > '~' || c == '*' || c == '>' || (c == '.' && begins)) return false;
        begins = c == '.';
    }
    return !begins;
}

bool rb_nats_may_answer(const char *run, const char *asker, const char *reply) {
    char own[RB_NATS_SUBJECT];
    int n = snprintf(own, sizeof own, "%s.inbox.%s.", run, asker);
    if (n < 0 || n >= (int)sizeof own || !*asker || strchr(asker, '.')) return false;
    return strnlen(reply, RB_NATS_SUBJECT) < RB_NATS_SUBJECT && !strncmp(reply, own, (size_t)n) &&
           is_plain(reply + n);
}
