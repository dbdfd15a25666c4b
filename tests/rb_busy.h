/* For tests that measure time: the machine may be busy with something else just then. */
#ifndef RB_TESTS_BUSY_H
#define RB_TESTS_BUSY_H

#include "rb_cmocka.h"
#include <stdbool.h>
#include "core/clock.h"

/* Are sleepers woken late, or runners held up? */
static inline bool rb_machine_is_busy(void) {
    int64_t begin = rb_now_ns(), spin = 0, last = begin, worst = 0;
    for (int i = 0; i < 20; i++) rb_sleep_ns(RB_MS);
    int64_t late = rb_now_ns() - begin - 20 * RB_MS;
    for (begin = last = rb_now_ns(); last - begin < 20 * RB_MS; last = spin) {
        spin = rb_now_ns();
        if (spin - last > worst) worst = spin - last;
    }
    return late > 8 * RB_MS || worst > 3 * RB_MS;
}

/* `holds` measures something that load can only make look worse: three tries, and up to ten where the machine
 * was busy meanwhile. Was it busy at each of them, the rest of the test is skipped, which says so. */
static inline void rb_measured(bool (*holds)(const void *arg), const void *arg, const char *what) {
    int quiet = 0;
    for (int tries = 0; tries < 10 && quiet < 3; tries++) {
        bool before = rb_machine_is_busy();
        if (holds(arg)) return;
        quiet += !before && !rb_machine_is_busy();
    }
    if (quiet == 3) fail_msg("%s: not once in three tries on a quiet machine", what);
    print_message("%s: not judged, the machine is too busy\n", what);
    skip();
}

#endif
