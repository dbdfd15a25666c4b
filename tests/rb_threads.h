/* Threads that nobody joins: a test that leaves some behind waits until they are gone. */
#ifndef RB_TESTS_THREADS_H
#define RB_TESTS_THREADS_H

#include <glob.h>

#include "core/clock.h"
#include "rb_cmocka.h"

static inline int threads_named(const char *name) {
    glob_t all;
    int n = 0;
    if (glob("/proc/self/task/*/comm", 0, NULL, &all)) return -1;
    for (size_t i = 0; i < all.gl_pathc; i++) {
        char is[32] = "";
        FILE *f = fopen(all.gl_pathv[i], "r");
        if (f && fgets(is, sizeof is, f)) n += !strncmp(is, name, strlen(name));
        if (f) fclose(f);
    }
    globfree(&all);
    return n;
}

static inline void wait_for_threads(const char *name) {
    for (int i = 0; i < 3000 && threads_named(name); i++) rb_sleep_ns(20 * RB_MS);
    assert_int_equal(threads_named(name), 0);
}

#endif
