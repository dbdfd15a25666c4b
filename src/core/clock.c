#include "core/clock.h"

#include <errno.h>
#include <time.h>

int64_t rb_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * RB_SEC + t.tv_nsec;
}

void rb_sleep_ns(int64_t ns) {
    if (ns <= 0) return;
    struct timespec t = {.tv_sec = ns / RB_SEC, .tv_nsec = ns % RB_SEC};
    while (nanosleep(&t, &t) && errno == EINTR) {}
}
