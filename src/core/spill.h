/* Bytes that are kept out of memory: a file without a name, moved by a thread of its own.
 *
 * The file has no name in its folder (O_TMPFILE, or unlinked as soon as it is open): it is gone with the process
 * however that ends, so nothing stale can be found, let alone trusted. Its space is reserved when it is opened. It is
 * read and written past the page cache (O_DIRECT); where a file system refuses that, written ranges are synced and
 * dropped from the cache as they go, so that cached pages never stand for the memory that was saved.
 *
 * Transfers are queued and done one after another in the order of the calls: a read behind a write of the same bytes
 * sees them. The memory of a transfer belongs to the spill until its ticket has passed. One thread of the caller.
 *
 * Without a folder the same bytes are kept in host memory: what an accelerator offloads to. */
#ifndef RB_CORE_SPILL_H
#define RB_CORE_SPILL_H

#include <stddef.h>
#include <stdint.h>
#include "core/err.h"

enum { RB_SPILL_ALIGN = 4096 }; /* offsets, lengths and addresses of all transfers are multiples */

static inline uint64_t rb_spill_round(uint64_t n) {
    return (n + RB_SPILL_ALIGN - 1) / RB_SPILL_ALIGN * RB_SPILL_ALIGN;
}

typedef struct rb_spill rb_spill;

typedef struct rb_spill_options {
    const char *dir;     /* made when it is missing; NULL: host memory */
    uint64_t bytes;      /* of the file; all read as zero until they are written */
    int64_t deadline_ns; /* longest wait for one transfer */
    int64_t delay_ns;    /* tests: how much longer every transfer takes */
} rb_spill_options;

typedef struct rb_spill_stats {
    uint64_t read, written; /* bytes moved */
    int64_t busy_ns;        /* of the thread, in transfers */
    int64_t waited_ns;      /* of the caller, for transfers */
} rb_spill_stats;

/* RESBM_E_IO with the folder, the bytes asked for and the bytes free when the disk is too small. */
resbm_status rb_spill_open(const rb_spill_options *o, rb_spill **out, rb_err *err);
void rb_spill_close(rb_spill *s); /* waits for the transfer under way; NULL is fine */

/* Queue a transfer. *ticket (may be NULL) is passed to rb_spill_wait. Blocks while the queue is full. */
resbm_status rb_spill_read(rb_spill *s, uint64_t offset, void *p, size_t n, uint64_t *ticket, rb_err *err);
resbm_status rb_spill_write(rb_spill *s, uint64_t offset, const void *p, size_t n, uint64_t *ticket,
                            rb_err *err);
/* Until the transfer of that ticket, and all before it, are done. The first fault of any transfer is returned by every
 * call after it. RESBM_E_TIMEOUT says which transfer took longer than the deadline. */
resbm_status rb_spill_wait(rb_spill *s, uint64_t ticket, rb_err *err);
void rb_spill_get_stats(rb_spill *s, rb_spill_stats *out);

/* Memory for transfers: aligned, zeroed; free() when done. NULL when there is none. */
void *rb_spill_memory(size_t bytes);

#endif
