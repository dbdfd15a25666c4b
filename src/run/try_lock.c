#include "run/try_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

resbm_status rb_try_lock(const char *path, int flags, int *fd, rb_err *err) {
    *fd = open(path, flags | O_CLOEXEC, 0666);
    if (*fd < 0) return rb_fail_errno(err, errno, "cannot open %s", path);
    if (!flock(*fd, LOCK_EX | LOCK_NB)) return RESBM_OK;
    int why = errno;
    close(*fd);
    *fd = -1;
    return why == EWOULDBLOCK ? RESBM_OK : rb_fail_errno(err, why, "cannot lock %s", path);
}
