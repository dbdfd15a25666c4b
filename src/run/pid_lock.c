#include "run/pid_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>
#include "core/clock.h"

resbm_status rb_pid_lock(const char *path, int64_t patience_ns, int *fd, long *holder, rb_err *err) {
    char text[32];
    int64_t until = rb_now_ns() + patience_ns;
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (*fd < 0) return rb_fail_errno(err, errno, "cannot open %s", path);
    while (flock(*fd, LOCK_EX | LOCK_NB)) {
        ssize_t got = pread(*fd, text, sizeof text - 1, 0);
        text[got > 0 ? got : 0] = 0;
        *holder = strtol(text, NULL, 10);
        if (rb_now_ns() > until) return RESBM_E_STATE;
        rb_sleep_ns(50 * RB_MS);
    }
    int n = snprintf(text, sizeof text, "%d\n", (int)getpid());
    if (ftruncate(*fd, 0) || pwrite(*fd, text, (size_t)n, 0) != n)
        return rb_fail_errno(err, errno, "cannot write %s", path);
    return RESBM_OK;
}
