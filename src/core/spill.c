#include "core/spill.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include "core/buf.h"
#include "core/clock.h"
#include "core/thread.h"

enum { QUEUE = 64 };

typedef struct transfer {
    bool write;
    uint64_t offset;
    char *p;
    size_t n;
} transfer;

struct rb_spill {
    char dir[PATH_MAX];
    int fd;       /* -1: memory */
    char *memory; /* what is kept without a folder */
    bool direct;
    uint64_t bytes;
    int64_t deadline_ns, delay_ns;
    pthread_t thread;
    bool started, closing;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    transfer queue[QUEUE];
    uint64_t queued, done; /* tickets; transfer i lies in queue[i % QUEUE] */
    int64_t begun_ns;      /* when the transfer under way began; 0: none */
    rb_err fault;          /* the first; code 0 = none */
    rb_spill_stats stats;
};

void *rb_spill_memory(size_t bytes) {
    void *p = NULL;
    size_t n = rb_spill_round(bytes ? bytes : 1);
    if (posix_memalign(&p, RB_SPILL_ALIGN, n)) return NULL;
    return memset(p, 0, n);
}

/* --- the file */

/* A file without a name in dir; -1 and errno. */
static int nameless(const char *dir, int flags) {
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC | flags, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)) return fd;
    char path[PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/.resbm-offload-XXXXXX", dir);
    fd = mkostemp(path, O_CLOEXEC | flags);
    if (fd >= 0 && unlink(path)) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

static resbm_status too_small(const rb_spill *s, int why, rb_err *err) {
    struct statvfs v;
    if (fstatvfs(s->fd, &v))
        return rb_fail_errno(err, why, "cannot reserve %llu bytes in %s", (unsigned long long)s->bytes,
                             s->dir);
    return rb_fail_errno(err, why, "cannot reserve %llu bytes in %s, where %llu are free",
                         (unsigned long long)s->bytes, s->dir,
                         (unsigned long long)v.f_bavail * (unsigned long long)v.f_frsize);
}

static resbm_status open_file(rb_spill *s, const char *dir, rb_err *err) {
    if (snprintf(s->dir, sizeof s->dir, "%s", dir) >= (int)sizeof s->dir)
        return rb_fail(err, RESBM_E_ARG, "path too long: %.200s", dir);
    RB_TRY(rb_make_dirs(dir, err));
    s->direct = true;
    s->fd = nameless(dir, O_DIRECT);
    if (s->fd < 0 && errno == EINVAL) {
        s->direct = false;
        s->fd = nameless(dir, 0);
    }
    if (s->fd < 0) return rb_fail_errno(err, errno, "cannot make a file in %s", dir);
    if (!fallocate(s->fd, 0, 0, (off_t)s->bytes)) return RESBM_OK;
    if (errno == EOPNOTSUPP && !ftruncate(s->fd, (off_t)s->bytes))
        return RESBM_OK; /* a full disk shows later */
    return too_small(s, errno, err);
}

/* Pages of a range that went through the cache do not stay there. */
static void drop(const rb_spill *s, const transfer *t) {
    off_t at = (off_t)t->offset, n = (off_t)t->n;
    if (t->write)
        sync_file_range(s->fd, at, n,
                        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    posix_fadvise(s->fd, at, n, POSIX_FADV_DONTNEED);
}

/* Some file systems take O_DIRECT at open and refuse it at the first transfer. */
static bool leave_direct(rb_spill *s) {
    int flags = fcntl(s->fd, F_GETFL);
    if (!s->direct || flags < 0 || fcntl(s->fd, F_SETFL, flags & ~O_DIRECT)) return false;
    s->direct = false;
    return true;
}

static resbm_status move_file(rb_spill *s, const transfer *t, rb_err *err) {
    for (size_t done = 0; done < t->n;) {
        off_t at = (off_t)(t->offset + done);
        ssize_t k = t->write ? pwrite(s->fd, t->p + done, t->n - done, at)
                             : pread(s->fd, t->p + done, t->n - done, at);
        if (k < 0 && (errno == EINTR || (errno == EINVAL && leave_direct(s)))) continue;
        if (k <= 0)
            return rb_fail_errno(err, k ? errno : EIO,
                                 "cannot %s %zu bytes at %llu of the offload file in %s",
                                 t->write ? "write" : "read", t->n, (unsigned long long)t->offset, s->dir);
        done += (size_t)k;
    }
    if (!s->direct) drop(s, t);
    return RESBM_OK;
}

static resbm_status move(rb_spill *s, const transfer *t, rb_err *err) {
    rb_sleep_ns(s->delay_ns);
    if (s->fd >= 0) return move_file(s, t, err);
    memcpy(t->write ? s->memory + t->offset : t->p, t->write ? t->p : s->memory + t->offset, t->n);
    return RESBM_OK;
}

/* --- the thread */

static bool next(rb_spill *s, transfer *t) {
    pthread_mutex_lock(&s->lock);
    while (s->done == s->queued && !s->closing) pthread_cond_wait(&s->changed, &s->lock);
    bool more = s->done != s->queued && !s->closing; /* what nobody waits for any more is not written */
    if (more) {
        *t = s->queue[s->done % QUEUE];
        s->begun_ns = rb_now_ns();
    }
    pthread_mutex_unlock(&s->lock);
    return more;
}

static void *work(void *arg) {
    rb_spill *s = arg;
    for (transfer t; next(s, &t);) {
        rb_err err = {0};
        resbm_status st = s->fault.code ? RESBM_OK : move(s, &t, &err);
        pthread_mutex_lock(&s->lock);
        if (st) s->fault = err;
        s->stats.busy_ns += rb_now_ns() - s->begun_ns;
        s->begun_ns = 0;
        *(t.write ? &s->stats.written : &s->stats.read) += t.n;
        s->done++;
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->lock);
    }
    return NULL;
}

/* --- open and close */

static resbm_status start(rb_spill *s, rb_err *err) {
    pthread_mutex_init(&s->lock, NULL);
    rb_cond_init(&s->changed);
    int e = pthread_create(&s->thread, NULL, work, s);
    s->started = !e;
    return e ? rb_fail_errno(err, e, "no thread for the offload file in %s", s->dir) : RESBM_OK;
}

resbm_status rb_spill_open(const rb_spill_options *o, rb_spill **out, rb_err *err) {
    *out = NULL;
    rb_spill *s = calloc(1, sizeof *s);
    if (!s) return rb_fail(err, RESBM_E_MEMORY, "no memory for an offload file");
    s->fd = -1;
    s->bytes = rb_spill_round(o->bytes ? o->bytes : 1);
    s->deadline_ns = o->deadline_ns;
    s->delay_ns = o->delay_ns;
    resbm_status st = RESBM_OK;
    if (o->dir)
        st = open_file(s, o->dir, err);
    else if (!(s->memory = rb_spill_memory(s->bytes)))
        st = rb_fail(err, RESBM_E_MEMORY, "no host memory for %llu bytes to offload",
                     (unsigned long long)s->bytes);
    if (!st) st = start(s, err);
    if (st)
        rb_spill_close(s);
    else
        *out = s;
    return st;
}

void rb_spill_close(rb_spill *s) {
    if (!s) return;
    if (s->started) {
        pthread_mutex_lock(&s->lock);
        s->closing = true;
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
        pthread_cond_destroy(&s->changed);
        pthread_mutex_destroy(&s->lock);
    }
    if (s->fd >= 0) close(s->fd);
    free(s->memory);
    free(s);
}

/* --- transfers */

/* The lock is held. */
static resbm_status slow(const rb_spill *s, rb_err *err) {
    const transfer *t = &s->queue[s->done % QUEUE];
    return rb_fail(
        err, RESBM_E_TIMEOUT,
        "the offload file in %s has been at %s %zu bytes for %.1f s; put optim.offload_dir on a faster disk "
        "or raise pipeline.deadline",
        s->dir, t->write ? "writing" : "reading", t->n,
        (double)(s->begun_ns ? rb_now_ns() - s->begun_ns : 0) * 1e-9);
}

/* Until `ticket` is done; the lock is held. The deadline is that of each transfer, not of all before it. */
static resbm_status wait_for(rb_spill *s, uint64_t ticket, rb_err *err) {
    int64_t begin = rb_now_ns(), moved = begin;
    resbm_status st = RESBM_OK;
    for (uint64_t seen = s->done; s->done < ticket && !s->fault.code && !st;) {
        bool late = !rb_cond_wait_until(&s->changed, &s->lock, moved + s->deadline_ns);
        if (s->done != seen)
            moved = rb_now_ns();
        else if (late)
            st = slow(s, err);
        seen = s->done;
    }
    s->stats.waited_ns += rb_now_ns() - begin;
    if (!s->fault.code) return st;
    if (err) *err = s->fault;
    return s->fault.code;
}

static resbm_status add(rb_spill *s, const transfer *t, uint64_t *ticket, rb_err *err) {
    if (t->offset % RB_SPILL_ALIGN || t->n % RB_SPILL_ALIGN || (uintptr_t)t->p % RB_SPILL_ALIGN ||
        t->n > s->bytes || t->offset > s->bytes - t->n)
        return rb_fail(err, RESBM_E_ARG,
                       "offload file of %llu bytes: %zu bytes at %llu, memory at %p: not inside or "
                       "not aligned",
                       (unsigned long long)s->bytes, t->n, (unsigned long long)t->offset, (void *)t->p);
    pthread_mutex_lock(&s->lock);
    resbm_status st = wait_for(s, s->queued >= QUEUE ? s->queued - QUEUE + 1 : 0, err);
    if (!st) {
        s->queue[s->queued++ % QUEUE] = *t;
        if (ticket) *ticket = s->queued;
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return st;
}

resbm_status rb_spill_read(rb_spill *s, uint64_t offset, void *p, size_t n, uint64_t *ticket, rb_err *err) {
    return add(s, &(transfer){false, offset, p, n}, ticket, err);
}

resbm_status rb_spill_write(rb_spill *s, uint64_t offset, const void *p, size_t n, uint64_t *ticket,
                            rb_err *err) {
    return add(s, &(transfer){true, offset, (char *)(uintptr_t)p, n}, ticket, err);
}

resbm_status rb_spill_wait(rb_spill *s, uint64_t ticket, rb_err *err) {
    pthread_mutex_lock(&s->lock);
    resbm_status st = wait_for(s, ticket, err);
    pthread_mutex_unlock(&s->lock);
    return st;
}

void rb_spill_get_stats(rb_spill *s, rb_spill_stats *out) {
    pthread_mutex_lock(&s->lock);
    *out = s->stats;
    pthread_mutex_unlock(&s->lock);
}
