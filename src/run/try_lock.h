/* A file or folder that one process at a time works with. */
#ifndef RB_RUN_TRY_LOCK_H
#define RB_RUN_TRY_LOCK_H

#include "core/err.h"

/* Opens path with flags (O_CLOEXEC goes along; what is made is everybody's, but for the umask) and locks it until *fd is closed.
 * *fd -1 without a fault: somebody else has it. Never blocks. */
resbm_status rb_try_lock(const char *path, int flags, int *fd, rb_err *err);

#endif
