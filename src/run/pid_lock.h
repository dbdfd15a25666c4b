/* A folder's file with the number of the process that works there, locked for as long as it does. */
#ifndef RB_RUN_PID_LOCK_H
#define RB_RUN_PID_LOCK_H

#include <stdint.h>
#include "core/err.h"

/* Opens and locks path and writes this process's number into it; *fd holds the lock until it is closed (-1: path was not opened).
 * RESBM_E_STATE after patience_ns, without a message: process *holder has it. Blocks for so long at most. */
resbm_status rb_pid_lock(const char *path, int64_t patience_ns, int *fd, long *holder, rb_err *err);

#endif
