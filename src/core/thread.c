#include "core/thread.h"

#include <errno.h>
#include <signal.h>
#include <time.h>
#include "core/clock.h"

void rb_cond_init(pthread_cond_t *c) {
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(c, &a);
    pthread_condattr_destroy(&a);
}

bool rb_cond_wait_until(pthread_cond_t *c, pthread_mutex_t *lock, int64_t until_ns) {
    struct timespec t = {.tv_sec = until_ns / RB_SEC, .tv_nsec = until_ns % RB_SEC};
    return pthread_cond_timedwait(c, lock, &t) != ETIMEDOUT;
}

int rb_thread_start(pthread_t *out, const char *name, void *(*run)(void *), void *arg) {
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int bad = pthread_create(out, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (!bad && name) pthread_setname_np(*out, name);
    return bad;
}
