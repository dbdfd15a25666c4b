#include "run/compare_run.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "checkpoint/checkpoint.h"
#include "run/summary.h"
#include "run/try_lock.h"

enum { LOG_LIMIT = 1 << 26, TAIL = 8192, CANCELLED = 130 };

static const char *path_of(const rb_compare_run *r, const char *name, char out[PATH_MAX]) {
    snprintf(out, PATH_MAX, "%s/%s", r->dir, name);
    return out;
}

/* ---- what is in the folder */

/* What run.yaml there and cfg differ in; none when there is no run.yaml. One that does not load is another program's. */
static resbm_status find_changes(const rb_compare_run *r, const rb_config *cfg, rb_buf *changes,
                                 rb_err *err) {
    char path[PATH_MAX];
    rb_err why;
    if (access(path_of(r, "run.yaml", path), F_OK)) return RESBM_OK;
    rb_config *was = calloc(1, sizeof *was);
    if (!was) return rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration");
    resbm_status st = rb_config_defaults(was, err);
    if (!st && (rb_config_load_file(was, path, &why) || rb_config_validate(was, &why)))
        rb_buf_printf(changes, "%s", why.text);
    else if (!st)
        rb_config_loss_changes(was, cfg, changes);
    free(was);
    return st ? st : rb_buf_status(changes, err);
}

/* The results, when summary.json is there and tells of all the steps. */
static resbm_status take_results(rb_compare_run *r, rb_err *err) {
    char path[PATH_MAX];
    rb_summary s;
    rb_metrics m = {0};
    if (access(path_of(r, "summary.json", path), F_OK)) return RESBM_OK;
    RB_TRY(rb_summary_read(path, &s, err));
    r->loss = s.val_loss;
    bool whole = s.steps >= r->steps;
    rb_summary_free(&s);
    if (!whole) return RESBM_OK;
    rb_curve_free(&r->curve);
    RB_TRY(rb_metrics_read(path_of(r, "metrics.jsonl", path), &m, err));
    resbm_status st = rb_curve_of(&m, &r->curve, err);
    rb_metrics_free(&m);
    if (!st) r->state = RB_RUN_DONE;
    return st;
}

resbm_status rb_compare_run_look(rb_compare_run *r, const rb_config *cfg, rb_err *err) {
    rb_buf changes = {0};
    int64_t step = -1;
    rb_err torn;
    r->steps = cfg->train.steps;
    r->state = RB_RUN_NEW;
    resbm_status st = find_changes(r, cfg, &changes, err);
    if (!st && changes.len) {
        r->state = RB_RUN_CHANGED;
        snprintf(r->fault, sizeof r->fault, "%.600s", changes.data);
    }
    rb_buf_free(&changes);
    if (st || r->state == RB_RUN_CHANGED) return st;
    RB_TRY(take_results(r, err));
    if (r->state == RB_RUN_DONE) return RESBM_OK;
    if (rb_checkpoint_find_latest(r->dir, &step, NULL, &torn))
        return rb_compare_run_clear(r, err); /* none is whole */
    r->state = step >= 0 ? RB_RUN_HALF : RB_RUN_NEW;
    return RESBM_OK;
}

resbm_status rb_compare_run_clear(const rb_compare_run *r, rb_err *err) {
    static const char *const files[] = {"run.yaml",   "config.yaml", "metrics.jsonl", "summary.json",
                                        "trace.json", "report.html", "train.log"};
    char path[PATH_MAX];
    RB_TRY(rb_checkpoint_remove_all(r->dir, err));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (unlink(path_of(r, files[i], path)) && errno != ENOENT && errno != ENOTDIR)
            return rb_fail_errno(err, errno, "cannot remove %s", path);
    return RESBM_OK;
}

/* ---- the child */

/* Held by the child and its stages for as long as one of them lives. *fd -1 without a fault: somebody else does. */
static resbm_status lock_folder(const rb_compare_run *r, int *fd, rb_err *err) {
    char path[PATH_MAX];
    return rb_try_lock(path_of(r, "lock", path), O_RDWR | O_CREAT, fd, err);
}

bool rb_compare_run_free_now(const rb_compare_run *r) {
    int fd;
    rb_err ignored;
    if (lock_folder(r, &fd, &ignored) || fd < 0) return false;
    close(fd);
    return true;
}

static resbm_status write_config(const rb_compare_run *r, const rb_config *cfg, rb_err *err) {
    char path[PATH_MAX];
    rb_buf text = {0};
    rb_config_print(cfg, &text);
    resbm_status st = rb_buf_status(&text, err);
    if (!st) st = rb_write_file_atomic(path_of(r, "run.yaml", path), text.data, text.len, err);
    rb_buf_free(&text);
    return st;
}

resbm_status rb_compare_run_start(rb_compare_run *r, const rb_config *cfg, const char *program, rb_err *err) {
    char config[PATH_MAX], log[PATH_MAX];
    int lock;
    bool half = r->state == RB_RUN_HALF;
    RB_TRY(rb_make_dirs(r->dir, err));
    RB_TRY(lock_folder(r, &lock, err));
    r->state = RB_RUN_BUSY;
    if (lock < 0) return RESBM_OK;
    resbm_status st = write_config(r, cfg, err);
    path_of(r, "run.yaml", config);
    path_of(r, "train.log", log);
    char *argv[] = {(char *)program,          "train", config, "--quiet", "--out", r->dir,
                    half ? "--resume" : NULL, NULL};
    if (!st) st = rb_spawn_logged(argv, log, lock, &r->child, err);
    close(lock);
    if (!st) r->state = RB_RUN_GOING;
    return st;
}

/* The child's last sentence for people; empty when it left none. */
static void last_sentence(const rb_compare_run *r, char *out, size_t size) {
    static const char mark[] = "resbm: ";
    char path[PATH_MAX];
    rb_buf log = {0};
    rb_err ignored;
    *out = 0;
    if (rb_read_file(path_of(r, "train.log", path), LOG_LIMIT, &log, &ignored)) return;
    const char *last = NULL;
    for (const char *p = log.data; p && (p = strstr(p, mark)); p += sizeof mark - 1)
        last = p + sizeof mark - 1;
    if (last) snprintf(out, size, "%.*s", (int)strcspn(last, "\n"), last);
    rb_buf_free(&log);
}

static void name_fault(rb_compare_run *r) {
    char how[120], said[560];
    rb_child_describe(&r->child, how, sizeof how);
    last_sentence(r, said, sizeof said);
    if (*said && !WIFSIGNALED(r->child.status))
        snprintf(r->fault, sizeof r->fault, "%s", said);
    else
        snprintf(r->fault, sizeof r->fault, "its process %s; see %s/train.log", how, r->dir);
}

resbm_status rb_compare_run_poll(rb_compare_run *r, bool keep, bool *ended, rb_err *err) {
    rb_children_poll(&r->child, 1);
    *ended = r->child.ended;
    if (!*ended) return RESBM_OK;
    int status = r->child.status;
    r->child.pid = 0;
    r->state = RB_RUN_FAILED;
    bool early =
        WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM; /* asked to stop before it could listen */
    if (early || (WIFEXITED(status) && WEXITSTATUS(status) == CANCELLED)) {
        r->state = RB_RUN_HALF;
        return RESBM_OK;
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status)) {
        name_fault(r);
        return RESBM_OK;
    }
    snprintf(r->fault, sizeof r->fault, "it ended before its last step; see %s/train.log", r->dir);
    RB_TRY(take_results(r, err));
    return keep || r->state != RB_RUN_DONE ? RESBM_OK : rb_checkpoint_remove_all(r->dir, err);
}

/* The last whole line begins {"step":N, */
int64_t rb_compare_run_progress(const rb_compare_run *r) {
    char path[PATH_MAX], text[TAIL + 1];
    int64_t step = 0;
    int fd = open(path_of(r, "metrics.jsonl", path), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    off_t size = lseek(fd, 0, SEEK_END);
    ssize_t n = pread(fd, text, TAIL, size > TAIL ? size - TAIL : 0);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    for (const char *p = text; (p = strstr(p, "{\"step\":")); p++) step = strtoll(p + 8, NULL, 10);
    return step;
}

void rb_compare_run_free(rb_compare_run *r) {
    rb_curve_free(&r->curve);
}
