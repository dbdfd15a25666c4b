/* What the checkpoint layer does with folders. Private to it. */
#ifndef RB_CHECKPOINT_FOLDER_H
#define RB_CHECKPOINT_FOLDER_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include "core/err.h"

/* dir/name into out; RESBM_E_ARG when it is too long. */
resbm_status rb_path_join(const char *dir, const char *name, char out[PATH_MAX], rb_err *err);
/* Removes a folder of files (no deeper: that is all a checkpoint is). Missing is fine. */
resbm_status rb_remove_flat(const char *path, rb_err *err);
/* Steps of the step-N entries of dir, newest first; the caller frees. None, and *count 0, when dir does not
 * exist. */
resbm_status rb_list_steps(const char *dir, int64_t **steps, int *count, rb_err *err);
/* Removes every step-N.tmp and step-N.old.tmp. */
resbm_status rb_remove_unfinished(const char *dir, rb_err *err);
/* N of "step-N" followed by `tail`; -1 for any other name. */
int64_t rb_step_of(const char *name, const char *tail);

#endif
