/* Stages apart from the coordinator share no folder with it: files and token ids cross the control channel, as blobs beside its
 * messages. What comes is checked before it is used: length, hash, and that a file of weights holds finite numbers only. */
#ifndef RB_RUN_APART_H
#define RB_RUN_APART_H

#include <stdatomic.h>
#include "checkpoint/manifest.h"
#include "link/link.h"
#include "run/config.h"

enum { RB_APART_LEAST = 64 * 1024 }; /* bytes that count as some progress of a file */

/* A file that both ends have: what is packed against it takes fewer bytes (checkpoint/delta.h). */
typedef struct rb_apart_base {
    int fd; /* open for reading, from here on the one's it is given to; -1: there is none */
    char hash[33];
} rb_apart_base;

/* Who waits for a file may know better than a clock whether it still comes. */
typedef struct rb_apart_wait {
    const atomic_bool *stop; /* ends the wait; or NULL */
    /* Asked while nothing comes: RESBM_OK: wait on, however long it takes. NULL: the patience counts. */
    resbm_status (*look)(void *ctx, rb_err *err);
    resbm_status (*came)(void *ctx, size_t bytes, rb_err *err); /* of the file, written; or NULL */
    /* The sender has packed it against the file of this hash: opened, for whoever asks to close; -1: it is not here, or was not
     * offered. NULL: there is none. */
    int (*base)(void *ctx, const char *hash);
    void *ctx;
} rb_apart_wait;

/* How fast files are sent: bits per second over all of them (0: as fast as they go), until *stop. What counts is what crosses. */
typedef struct rb_apart_pace {
    double bits;
    const atomic_bool *stop; /* or NULL */
    int64_t next_ns;         /* the next message's time; 0 at first */
} rb_apart_pace;

/* A file on its way out. */
typedef struct rb_apart_out rb_apart_out;
/* Takes base.fd over, also where it fails. */
resbm_status rb_apart_out_open(const char *path, rb_apart_base base, rb_apart_out **out, rb_err *err);
/* Its next message; *end once there is none. It has until `patience_ns` to be taken. pace: NULL: none. RESBM_E_CANCELLED: stopped. */
resbm_status rb_apart_send_piece(rb_link *l, int peer, rb_apart_out *o, rb_apart_pace *pace, bool *end,
                                 int64_t patience_ns, rb_err *err);
/* Bytes of the file that messages stand for so far, and what these messages had. */
uint64_t rb_apart_out_done(const rb_apart_out *o, uint64_t *crossed);
void rb_apart_out_close(rb_apart_out *o); /* NULL is fine */

/* All of it. crossed (or NULL): bytes of messages. */
resbm_status rb_apart_send_file(rb_link *l, int peer, const char *path, rb_apart_base base,
                                rb_apart_pace *pace, int64_t patience_ns, uint64_t *crossed, rb_err *err);
/* Writes path (through path.part, synced). The patience is for each message; of the file and the messages, RB_APART_LEAST bytes
 * are to come in each on the average, once four of them have passed, else RESBM_E_TIMEOUT. RESBM_E_CORRUPT when it is not what `sum`
 * says. RESBM_E_CANCELLED once w->stop is set. RESBM_E_IO: of files, also a base that is damaged here. */
resbm_status rb_apart_recv_file(rb_link *l, int peer, const char *path, const rb_file_sum *sum,
                                const rb_apart_wait *w, int64_t patience_ns, uint64_t *crossed, rb_err *err);

rb_message *rb_apart_blob(size_t bytes, rb_traffic class); /* an empty one; NULL: no memory */
resbm_status rb_apart_send_ids(rb_link *l, int peer, const int32_t *ids, int64_t n, int64_t patience_ns,
                               rb_err *err);
resbm_status rb_apart_recv_ids(rb_link *l, int peer, int32_t *ids, int64_t n, int64_t vocab,
                               int64_t patience_ns, rb_err *err);

/* Every number in a file of weights is finite, and one that it can be; computed: not by device timed, whose memory is empty.
 * RESBM_E_FORMAT names file and tensor. */
resbm_status rb_apart_check_weights(const char *path, bool computed, rb_err *err);

#endif
