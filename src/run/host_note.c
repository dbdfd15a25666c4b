/* What the host says in its log. What others can make it say, as often as they like, is bounded: their log is not to fill its disk. */
#include <stdarg.h>
#include <stdio.h>
#include "core/clock.h"
#include "run/host.h"

enum { MOST_A_MINUTE = 500 };

static void say(rb_host *h, const char *fmt, va_list ap) {
    char text[600];
    vsnprintf(text, sizeof text, fmt, ap);
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < 32) *p = ' '; /* labels and reasons come from others */
    fprintf(h->out, "resbm host: %s\n", text);
    fflush(h->out);
}

void rb_host_note(rb_host *h, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    say(h, fmt, ap);
    va_end(ap);
}

static bool may_say(rb_host_asked *a, int64_t now, int *unsaid) {
    pthread_mutex_lock(&a->lock);
    bool over = a->minute != now / (60 * RB_SEC);
    *unsaid = over ? a->unsaid : 0;
    if (over) a->said = a->unsaid = 0;
    a->minute = now / (60 * RB_SEC);
    bool may = a->said < MOST_A_MINUTE;
    if (may)
        a->said++;
    else
        a->unsaid++;
    pthread_mutex_unlock(&a->lock);
    return may;
}

void rb_host_note_asked(rb_host *h, rb_host_asked *notes, const char *fmt, ...) {
    va_list ap;
    int unsaid;
    bool may = may_say(notes, rb_now_ns(), &unsaid);
    if (unsaid)
        rb_host_note(h, "%d more lines about questions were left out within a minute: at most %d are written",
                     unsaid, MOST_A_MINUTE);
    va_start(ap, fmt);
    if (may) say(h, fmt, ap);
    va_end(ap);
}
