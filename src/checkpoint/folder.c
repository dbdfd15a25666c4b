#include "checkpoint/folder.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

resbm_status rb_path_join(const char *dir, const char *name, char out[PATH_MAX], rb_err *err) {
    if (snprintf(out, PATH_MAX, "%s/%s", dir, name) < PATH_MAX) return RESBM_OK;
    return rb_fail(err, RESBM_E_ARG, "path too long: %.200s.../%.100s", dir, name);
}

int64_t rb_step_of(const char *name, const char *tail) {
    if (strncmp(name, "step-", 5)) return -1;
    const char *digits = name + 5;
    size_t n = strspn(digits, "0123456789");
    bool canonical = n && n <= 18 && (*digits != '0' || n == 1);
    return canonical && !strcmp(digits + n, tail) ? strtoll(digits, NULL, 10) : -1;
}

resbm_status rb_remove_flat(const char *path, rb_err *err) {
    DIR *d = opendir(path);
    if (!d) return errno == ENOENT ? RESBM_OK : rb_fail_errno(err, errno, "cannot open folder %s", path);
    resbm_status st = RESBM_OK;
    for (struct dirent *e; st == RESBM_OK && (e = readdir(d));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && unlinkat(dirfd(d), e->d_name, 0) &&
            errno != ENOENT)
            st = rb_fail_errno(err, errno, "cannot remove %s/%s", path, e->d_name);
    closedir(d);
    if (st == RESBM_OK && rmdir(path) && errno != ENOENT)
        st = rb_fail_errno(err, errno, "cannot remove folder %s", path);
    return st;
}

static int newest_first(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

resbm_status rb_list_steps(const char *dir, int64_t **steps, int *count, rb_err *err) {
    *steps = NULL;
    *count = 0;
    DIR *d = opendir(dir);
    if (!d) return errno == ENOENT ? RESBM_OK : rb_fail_errno(err, errno, "cannot open folder %s", dir);
    resbm_status st = RESBM_OK;
    for (struct dirent *e; st == RESBM_OK && (e = readdir(d));) {
        int64_t step = rb_step_of(e->d_name, "");
        if (step < 0) continue;
        int64_t *more = realloc(*steps, ((size_t)*count + 1) * sizeof **steps);
        if (more) {
            *steps = more;
            more[(*count)++] = step;
        } else {
            st = rb_fail(err, RESBM_E_MEMORY, "no memory to list %s", dir);
        }
    }
    closedir(d);
    if (*count) qsort(*steps, (size_t)*count, sizeof **steps, newest_first);
    return st;
}

resbm_status rb_remove_unfinished(const char *dir, rb_err *err) {
    char path[PATH_MAX];
    DIR *d = opendir(dir);
    if (!d) return errno == ENOENT ? RESBM_OK : rb_fail_errno(err, errno, "cannot open folder %s", dir);
    resbm_status st = RESBM_OK;
    for (struct dirent *e; st == RESBM_OK && (e = readdir(d));) {
        if (rb_step_of(e->d_name, ".tmp") < 0 && rb_step_of(e->d_name, ".old.tmp") < 0) continue;
        st = rb_path_join(dir, e->d_name, path, err);
        if (st == RESBM_OK) st = rb_remove_flat(path, err);
    }
    closedir(d);
    return st;
}
