/* Stage processes: started by posix_spawn (never fork: OpenMP threads do not survive one), watched, ended. */
#ifndef RB_RUN_SPAWN_H
#define RB_RUN_SPAWN_H

#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "core/err.h"

typedef struct rb_child {
    pid_t pid; /* 0: not running */
    bool ended;
    int status;         /* of waitpid, once ended */
    int64_t stopped_ns; /* since when it has been stopped by a signal (SIGSTOP, a debugger); 0: it runs */
} rb_child;

/* posix_spawnp of argv (ends with NULL) with no signal blocked and flags beside (POSIX_SPAWN_SETSID, POSIX_SPAWN_SETPGROUP: a
 * group of its own). Destroys acts. Returns an errno, 0: *pid runs. */
int rb_spawn(char *const *argv, posix_spawn_file_actions_t *acts, int flags, pid_t *pid);
/* Starts `program stage --control ADDRESS --stage N --stages M` behind `launcher` (a command prefix split at blanks, with
 * {stage} replaced; "" = none), hands it `token` as one line on its standard input, and `access` (one line of JSON; NULL:
 * none) as another. Standard output and error are inherited. */
resbm_status rb_spawn_stage(const char *program, const char *launcher, const char *control, int stage,
                            int stages, uint64_t token, const char *access, rb_child *out, rb_err *err);
/* Starts argv (ends with NULL) in a process group of its own, so that a terminal's Ctrl-C reaches only the parent.
 * Standard output and error are appended to `log`, standard input is empty; the child and its children hold `lock` (a file
 * descriptor) open for as long as they live. */
resbm_status rb_spawn_logged(char *const *argv, const char *log, int lock, rb_child *out, rb_err *err);
/* Reaps children that have ended, and notes which are stopped, without waiting. */
void rb_children_poll(rb_child *c, int n);
/* Waits until every child has ended or the deadline; then SIGTERM, half a second later SIGKILL. All are reaped on
 * return. */
void rb_children_end(rb_child *c, int n, int64_t deadline_ns);
/* "exited with status 3", "was killed by signal 11 (Segmentation fault)". */
void rb_child_describe(const rb_child *c, char *out, size_t size);

#endif
