#include "core/clock.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int64_t rb_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * RB_SEC + t.tv_nsec;
}

/* Field 22 of /proc/self/stat: ticks after the machine's start. The name before it may hold blanks and
 * brackets. */
int64_t rb_process_start_ns(void) {
    char text[1024] = "";
    unsigned long long ticks = 0;
    struct timespec up;
    FILE *f = fopen("/proc/self/stat", "re");
    if (f && !fgets(text, sizeof text, f)) text[0] = 0;
    if (f) fclose(f);
    const char *rest = strrchr(text, ')');
    clock_gettime(CLOCK_BOOTTIME, &up);
    if (!rest ||
        sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
               &ticks) != 1)
        return rb_now_ns();
    int64_t age = (int64_t)up.tv_sec * RB_SEC + up.tv_nsec - (int64_t)ticks * (RB_SEC / sysconf(_SC_CLK_TCK));
    return rb_now_ns() - (age > 0 ? age : 0);
}

void rb_sleep_ns(int64_t ns) {
    if (ns <= 0) return;
    struct timespec t = {.tv_sec = ns / RB_SEC, .tv_nsec = ns % RB_SEC};
    while (nanosleep(&t, &t) && errno == EINTR) {
    }
}

void rb_sleep_until(int64_t ns) {
    struct timespec t = {.tv_sec = ns / RB_SEC, .tv_nsec = ns % RB_SEC};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
    }
}
