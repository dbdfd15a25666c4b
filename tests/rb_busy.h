/* For tests that measure time: the machine may be busy with something else just then. */
#ifndef RB_TESTS_BUSY_H
#define RB_TESTS_BUSY_H

#include "rb_cmocka.h"
#include <pthread.h>
#include <stdatomic.h>
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

typedef struct rb_watch {
    pthread_t thread;
    atomic_bool over;
    int64_t worst_ns; /* between two looks at the clock, a millisecond apart */
} rb_watch;

static inline void *rb_watch_clock(void *arg) {
    rb_watch *w = arg;
    for (int64_t last = rb_now_ns(), now; !atomic_load(&w->over); last = now) {
        rb_sleep_ns(RB_MS);
        now = rb_now_ns();
        if (now - last > w->worst_ns) w->worst_ns = now - last;
    }
    return NULL;
}

static inline void rb_watch_begin(rb_watch *w) {
    *w = (rb_watch){.worst_ns = 0};
    assert_int_equal(pthread_create(&w->thread, NULL, rb_watch_clock, w), 0);
}

static inline int64_t rb_watch_end(rb_watch *w) {
    atomic_store(&w->over, true);
    pthread_join(w->thread, NULL);
    return w->worst_ns;
}

/* Does it hold? *busy: the machine stood still for a while, or let a sleeper wait. */
static inline bool rb_watched(bool (*holds)(const void *arg), const void *arg, bool *busy) {
    rb_watch w;
    bool before = rb_machine_is_busy();
    rb_watch_begin(&w);
    bool held = holds(arg);
    *busy = rb_watch_end(&w) > 5 * RB_MS || before || (!held && rb_machine_is_busy());
    return held;
}

/* `holds` measures something that load can only make look worse: three tries, and up to ten where the machine
 * was busy meanwhile. Was it busy at each of them, the rest of the test is skipped, which says so. */
static inline void rb_measured(bool (*holds)(const void *arg), const void *arg, const char *what) {
    int quiet = 0;
    for (int tries = 0; tries < 10 && quiet < 3; tries++) {
        bool busy;
        if (rb_watched(holds, arg, &busy)) return;
        quiet += !busy;
    }
    if (quiet == 3) fail_msg("%s: not once in three tries on a quiet machine", what);
    print_message("%s: not judged, the machine is too busy\n", what);
    skip();
}

#endif
