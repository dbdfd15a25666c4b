#include "core/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool reserve(rb_buf *b, size_t more) {
    if (b->failed) return false;
    if (b->len + more + 1 <= b->cap) return true;
    size_t cap = b->cap ? b->cap : 256;
    while (cap < b->len + more + 1) cap *= 2;
    char *p = realloc(b->data, cap);
    if (!p) {
        b->failed = true;
        return false;
    }
    b->data = p;
    b->cap = cap;
    return true;
}

void rb_buf_add(rb_buf *b, const void *p, size_t n) {
    if (!reserve(b, n)) return;
    if (n) memcpy(b->data + b->len, p, n);
    b->len += n;
    b->data[b->len] = 0;
}

void rb_buf_puts(rb_buf *b, const char *s) {
    rb_buf_add(b, s, strlen(s));
}

void rb_buf_printf(rb_buf *b, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0 || !reserve(b, (size_t)n)) {
        b->failed = true;
        return;
    }
    va_start(ap, fmt);
    vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
}

resbm_status rb_buf_status(const rb_buf *b, rb_err *err) {
    return b->failed ? rb_fail(err, RESBM_E_MEMORY, "no memory for a buffer of %zu bytes", b->cap) : RESBM_OK;
}

void rb_buf_free(rb_buf *b) {
    free(b->data);
    *b = (rb_buf){0};
}

resbm_status rb_read_file(const char *path, size_t limit, rb_buf *out, rb_err *err) {
    FILE *f = fopen(path, "rb");
    if (!f) return rb_fail_errno(err, errno, "cannot open %s", path);
    char piece[16384];
    resbm_status st = RESBM_OK;
    for (size_t n; st == RESBM_OK && (n = fread(piece, 1, sizeof piece, f)) > 0;) {
        if (out->len + n > limit)
            st = rb_fail(err, RESBM_E_FORMAT, "%s is longer than the %zu bytes it may have", path, limit);
        else
            rb_buf_add(out, piece, n);
    }
    if (st == RESBM_OK && ferror(f)) st = rb_fail_errno(err, errno, "cannot read %s", path);
    fclose(f);
    if (st == RESBM_OK) rb_buf_add(out, "", 0);
    return st == RESBM_OK ? rb_buf_status(out, err) : st;
}

resbm_status rb_sync_dir(const char *dir, rb_err *err) {
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return rb_fail_errno(err, errno, "cannot open folder %s", dir);
    int bad = fsync(fd), saved = errno;
    close(fd);
    return bad ? rb_fail_errno(err, saved, "cannot sync folder %s", dir) : RESBM_OK;
}

resbm_status rb_write_all(int fd, const void *p, size_t n, const char *path, rb_err *err) {
    for (size_t done = 0; done < n;) {
        ssize_t k = write(fd, (const char *)p + done, n - done);
        if (k < 0 && errno != EINTR) return rb_fail_errno(err, errno, "cannot write %s", path);
        if (k > 0) done += (size_t)k;
    }
    return RESBM_OK;
}

static resbm_status write_synced(const char *path, const void *p, size_t n, rb_err *err) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return rb_fail_errno(err, errno, "cannot create %s", path);
    resbm_status st = rb_write_all(fd, p, n, path, err);
    int bad = 0;
    if (!st && fsync(fd)) bad = errno;
    if (close(fd) && !bad) bad = errno;
    return st || !bad ? st : rb_fail_errno(err, bad, "cannot write %s", path);
}

resbm_status rb_write_file_atomic(const char *path, const void *p, size_t n, rb_err *err) {
    char tmp[4096], dir[4096];
    if (snprintf(tmp, sizeof tmp, "%s.tmp", path) >= (int)sizeof tmp)
        return rb_fail(err, RESBM_E_ARG, "path too long: %s", path);
    RB_TRY(write_synced(tmp, p, n, err));
    if (rename(tmp, path)) return rb_fail_errno(err, errno, "cannot rename %s to %s", tmp, path);
    const char *slash = strrchr(path, '/');
    if (!slash) return rb_sync_dir(".", err);
    snprintf(dir, sizeof dir, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    return rb_sync_dir(dir, err);
}

resbm_status rb_make_dirs(const char *dir, rb_err *err) {
    char path[4096];
    if (snprintf(path, sizeof path, "%s", dir) >= (int)sizeof path)
        return rb_fail(err, RESBM_E_ARG, "path too long: %s", dir);
    for (char *p = path + 1;; p++) {
        if (*p && *p != '/') continue;
        char c = *p;
        *p = 0;
        struct stat sb;
        if (mkdir(path, 0777) && (errno != EEXIST || stat(path, &sb) || !S_ISDIR(sb.st_mode)))
            return rb_fail_errno(err, errno, "cannot make folder %s", path);
        *p = c;
        if (!c) return RESBM_OK;
    }
}
