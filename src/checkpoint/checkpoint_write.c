/* Writing: begin, parts, commit, pruning. */
#include "checkpoint/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "checkpoint/folder.h"

static const char untouched[] =
    "; earlier checkpoints are untouched: make room or the folder writable, and resume";

static resbm_status step_path(const char *dir, int64_t step, const char *tail, char out[PATH_MAX],
                              rb_err *err) {
    char name[64];
    snprintf(name, sizeof name, "step-%lld%s", (long long)step, tail);
    return rb_path_join(dir, name, out, err);
}

/* Adds the remedy behind a message of the system. */
static resbm_status with_remedy(resbm_status st, rb_err *err) {
    if (st != RESBM_E_IO || !err) return st;
    size_t n = strlen(err->text);
    snprintf(err->text + n, sizeof err->text - n, "%s", untouched);
    return st;
}

void rb_checkpoint_file_name(char out[RB_PART_NAME], const char *what, int index, const char *side,
                             const char *tail) {
    snprintf(out, RB_PART_NAME, "%s-%d%s%s%s.safetensors", what, index, *side ? "." : "", side, tail);
}

void rb_checkpoint_part_name(char out[RB_PART_NAME], const char *what, int index, const char *side,
                             bool optim) {
    rb_checkpoint_file_name(out, what, index, side, optim ? ".optim" : "");
}

resbm_status rb_checkpoint_path(const char *dir, int64_t step, char out[PATH_MAX], rb_err *err) {
    return step_path(dir, step, "", out, err);
}

resbm_status rb_checkpoint_clean(const char *dir, rb_err *err) {
    return rb_remove_unfinished(dir, err);
}

resbm_status rb_checkpoint_remove_all(const char *dir, rb_err *err) {
    int64_t *steps;
    int count;
    char path[PATH_MAX];
    RB_TRY(rb_remove_unfinished(dir, err));
    RB_TRY(rb_list_steps(dir, &steps, &count, err));
    resbm_status st = RESBM_OK;
    for (int i = 0; i < count && !st; i++) {
        st = rb_checkpoint_path(dir, steps[i], path, err);
        if (!st) st = rb_remove_flat(path, err);
    }
    free(steps);
    return st;
}

resbm_status rb_checkpoint_begin(const char *dir, int64_t step, char tmp[PATH_MAX], rb_err *err) {
    if (step < 0) return rb_fail(err, RESBM_E_ARG, "checkpoint of step %lld", (long long)step);
    RB_TRY(with_remedy(rb_make_dirs(dir, err), err));
    RB_TRY(with_remedy(rb_remove_unfinished(dir, err), err));
    RB_TRY(step_path(dir, step, ".tmp", tmp, err));
    if (mkdir(tmp, 0777)) return with_remedy(rb_fail_errno(err, errno, "cannot make folder %s", tmp), err);
    return RESBM_OK;
}

resbm_status rb_checkpoint_write_part(const char *tmp, const char *name, const rb_tensor_out *tensors,
                                      int count, rb_part_file *out, rb_err *err) {
    char path[PATH_MAX];
    if (!rb_part_name_ok(name))
        return rb_fail(err, RESBM_E_ARG, "'%.80s' is no name for a checkpoint's file", name);
    RB_TRY(rb_path_join(tmp, name, path, err));
    RB_TRY(with_remedy(rb_safetensors_write(path, tensors, count, &out->sum, err), err));
    snprintf(out->name, sizeof out->name, "%s", name);
    return RESBM_OK;
}

static resbm_status check_parts(const char *tmp, const rb_manifest *m, rb_err *err) {
    char path[PATH_MAX];
    struct stat sb;
    for (int i = 0; i < m->file_count; i++) {
        RB_TRY(rb_path_join(tmp, m->files[i].name, path, err));
        if (stat(path, &sb))
            return rb_fail_errno(err, errno, "cannot see %s, which a stage says it wrote", path);
        if ((uint64_t)sb.st_size != m->files[i].sum.bytes)
            return rb_fail(err, RESBM_E_CORRUPT, "%s has %lld bytes, the stage wrote %llu", path,
                           (long long)sb.st_size, (unsigned long long)m->files[i].sum.bytes);
    }
    return RESBM_OK;
}

static resbm_status write_manifest(const char *tmp, const rb_manifest *m, rb_err *err) {
    char path[PATH_MAX];
    rb_buf text = {0};
    RB_TRY(rb_path_join(tmp, "manifest.json", path, err));
    resbm_status st = rb_manifest_print(m, &text, err);
    if (st == RESBM_OK) st = rb_write_file_atomic(path, text.data, text.len, err); /* syncs the folder too */
    rb_buf_free(&text);
    return st;
}

/* The folder takes its name. A step-N that is already there (an abandoned continuation) is swapped for the
 * new one, so that there is no moment without a step-N; where the file system cannot swap, it is moved away
 * first. */
static resbm_status publish(const char *dir, const char *tmp, int64_t step, rb_err *err) {
    char path[PATH_MAX], old[PATH_MAX];
    RB_TRY(step_path(dir, step, "", path, err));
    if (!renameat2(AT_FDCWD, tmp, AT_FDCWD, path, RENAME_NOREPLACE)) return rb_sync_dir(dir, err);
    if (errno == EEXIST && !renameat2(AT_FDCWD, tmp, AT_FDCWD, path, RENAME_EXCHANGE)) {
        RB_TRY(rb_sync_dir(dir, err));
        return rb_remove_flat(tmp, err); /* now the old one */
    }
    if (rename(tmp, path)) {
        if (errno != ENOTEMPTY && errno != EEXIST)
            return rb_fail_errno(err, errno, "cannot rename %s to %s", tmp, path);
        RB_TRY(step_path(dir, step, ".old.tmp", old, err));
        if (rename(path, old) || rename(tmp, path))
            return rb_fail_errno(err, errno, "cannot rename %s to %s", tmp, path);
        RB_TRY(rb_sync_dir(dir, err));
        return rb_remove_flat(old, err);
    }
    return rb_sync_dir(dir, err);
}

/* A checkpoint goes by becoming a step-N.tmp first, so that one that is half gone is never taken for one. */
static resbm_status remove_step(const char *dir, int64_t step, rb_err *err) {
    char path[PATH_MAX], tmp[PATH_MAX];
    RB_TRY(step_path(dir, step, "", path, err));
    RB_TRY(step_path(dir, step, ".tmp", tmp, err));
    if (rename(path, tmp)) return rb_fail_errno(err, errno, "cannot rename %s to %s", path, tmp);
    return rb_remove_flat(tmp, err);
}

/* Later steps than the one just written are of a continuation that was given up: not counted and not touched.
 */
static resbm_status prune(const char *dir, int64_t newest, int64_t keep, rb_err *err) {
    int64_t *steps, kept = 0;
    int count;
    resbm_status st = rb_list_steps(dir, &steps, &count, err);
    for (int i = 0; i < count && st == RESBM_OK; i++)
        if (steps[i] <= newest && kept++ >= keep) st = remove_step(dir, steps[i], err);
    free(steps);
    return st;
}

resbm_status rb_checkpoint_commit(const char *dir, const rb_manifest *m, int64_t keep, rb_err *err) {
    char tmp[PATH_MAX];
    if (keep < 1 || !m->config || m->file_count < 1)
        return rb_fail(err, RESBM_E_ARG, "checkpoint of step %lld: keep %lld, %d files", (long long)m->step,
                       (long long)keep, m->file_count);
    RB_TRY(step_path(dir, m->step, ".tmp", tmp, err));
    RB_TRY(with_remedy(check_parts(tmp, m, err), err));
    RB_TRY(with_remedy(write_manifest(tmp, m, err), err));
    RB_TRY(with_remedy(publish(dir, tmp, m->step, err), err));
    return prune(dir, m->step, keep, err);
}
