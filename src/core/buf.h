/* A growing byte buffer and text builder. Zero-initialise it; rb_buf_free when done. Allocation failure is
 * sticky: later appends do nothing and rb_buf_status tells. */
#ifndef RB_CORE_BUF_H
#define RB_CORE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include "core/err.h"

typedef struct rb_buf {
    char *data; /* always NUL-terminated once anything was appended */
    size_t len, cap;
    bool failed;
} rb_buf;

void rb_buf_add(rb_buf *b, const void *p, size_t n);
void rb_buf_puts(rb_buf *b, const char *s);
void rb_buf_printf(rb_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
resbm_status rb_buf_status(const rb_buf *b, rb_err *err);
void rb_buf_free(rb_buf *b);

/* Whole file into memory (limit bytes at most, RESBM_E_FORMAT beyond). The caller frees with rb_buf_free. */
resbm_status rb_read_file(const char *path, size_t limit, rb_buf *out, rb_err *err);
/* All of it into an open file, whatever interrupts; path is for the message. */
resbm_status rb_write_all(int fd, const void *p, size_t n, const char *path, rb_err *err);
/* Writes beside (path.tmp), syncs, renames over path, syncs the folder. */
resbm_status rb_write_file_atomic(const char *path, const void *p, size_t n, rb_err *err);
/* fsync of a folder so that a rename in it lasts. */
resbm_status rb_sync_dir(const char *dir, rb_err *err);
/* mkdir -p */
resbm_status rb_make_dirs(const char *dir, rb_err *err);

#endif
