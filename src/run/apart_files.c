/* Files over the control channel. First comes the hash of the base that the file is packed against (zeros: none), then its packed
 * pieces (checkpoint/delta.h) one after the other, cut into messages as the pace wants them. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "checkpoint/delta.h"
#include "core/bytes.h"
#include "core/clock.h"
#include "core/hash.h"
#include "run/apart.h"

enum { MESSAGE = 256 * 1024, LEAST = 2048, HASH = 16 };
enum { FREE = 4 }; /* times the patience that a file may take, however little comes of it */

/* --- the base --- */

/* What lies behind its end counts as zeros. */
static resbm_status read_base(int fd, uint64_t at, uint8_t *out, size_t n, rb_err *err) {
    size_t have = 0;
    for (ssize_t got = 1; have < n && got > 0; have += (size_t)(got > 0 ? got : 0)) {
        got = pread(fd, out + have, n - have, (off_t)(at + have));
        if (got < 0) return rb_fail_errno(err, errno, "reading what a file is packed against");
    }
    memset(out + have, 0, n - have);
    return RESBM_OK;
}

static bool is_whole(int fd, const char *hash) {
    char is[33];
    rb_err why;
    resbm_status st = rb_hash_fd(fd, "what a file is packed against", is, NULL, &why);
    return st == RESBM_E_MEMORY || (!st && !strcmp(is, hash)); /* without memory nobody knows */
}

static void put_hash(uint8_t out[HASH], const char *hash) {
    for (int i = 0; i < HASH; i++) {
        const char two[3] = {hash[2 * i], hash[2 * i + 1]};
        out[i] = (uint8_t)strtoul(two, NULL, 16);
    }
}

/* --- out --- */

struct rb_apart_out {
    char path[PATH_MAX];
    int fd;
    rb_apart_base base;
    uint64_t read, crossed; /* bytes of the file; of messages */
    bool begun, over;
    rb_delta *delta;
    uint8_t piece[RB_DELTA_PIECE], same[RB_DELTA_PIECE], packed[RB_DELTA_MOST];
    size_t have, sent; /* of packed */
};

resbm_status rb_apart_out_open(const char *path, rb_apart_base base, rb_apart_out **out, rb_err *err) {
    rb_apart_out *o = calloc(1, sizeof *o);
    if (o) o->delta = rb_delta_new();
    if (!o || !o->delta) {
        free(o);
        if (base.fd >= 0) close(base.fd);
        return rb_fail(err, RESBM_E_MEMORY, "no memory to send %s", path);
    }
    snprintf(o->path, sizeof o->path, "%s", path);
    o->base = base;
    o->fd = open(path, O_RDONLY | O_CLOEXEC);
    int why = errno;
    if (o->fd >= 0) {
        *out = o;
        return RESBM_OK;
    }
    rb_apart_out_close(o);
    return rb_fail_errno(err, why, "cannot open %s", path);
}

void rb_apart_out_close(rb_apart_out *o) {
    if (!o) return;
    if (o->fd >= 0) close(o->fd);
    if (o->base.fd >= 0) close(o->base.fd);
    rb_delta_free(o->delta);
    free(o);
}

uint64_t rb_apart_out_done(const rb_apart_out *o, uint64_t *crossed) {
    if (crossed) *crossed = o->crossed;
    return o->read;
}

/* Small enough that at this rate others wait a fiftieth of a second for it. */
static size_t message_of(const rb_apart_pace *pace) {
    double n = pace && pace->bits > 0 ? pace->bits / 8 / 50 : MESSAGE;
    return n < LEAST ? LEAST : n > MESSAGE ? MESSAGE : (size_t)n;
}

/* Waits for the next message's time, in short looks at *stop. */
static resbm_status keep_pace(rb_apart_pace *p, size_t bytes, rb_err *err) {
    int64_t now = rb_now_ns();
    if (!p) return RESBM_OK;
    if (p->next_ns < now) p->next_ns = now;
    while (p->next_ns > rb_now_ns() && !(p->stop && atomic_load(p->stop))) {
        int64_t left = p->next_ns - rb_now_ns();
        rb_sleep_ns(left < 50 * RB_MS ? left : 50 * RB_MS);
    }
    if (p->bits > 0) p->next_ns += (int64_t)(8e9 * (double)bytes / p->bits);
    return p->stop && atomic_load(p->stop) ? rb_fail(err, RESBM_E_CANCELLED, "stopped on request") : RESBM_OK;
}

static resbm_status pack_next(rb_apart_out *o, rb_err *err) {
    size_t n = 0;
    for (ssize_t got = 1; n < sizeof o->piece && got > 0; n += (size_t)(got > 0 ? got : 0)) {
        got = read(o->fd, o->piece + n, sizeof o->piece - n);
        if (got < 0) return rb_fail_errno(err, errno, "reading %s", o->path);
    }
    o->over = !n;
    if (o->over) return RESBM_OK;
    bool based = o->base.fd >= 0;
    if (based) RB_TRY(read_base(o->base.fd, o->read, o->same, n, err));
    o->have = rb_delta_pack(o->delta, o->piece, n, based ? o->same : NULL, o->packed);
    o->sent = 0;
    o->read += n;
    return RESBM_OK;
}

resbm_status rb_apart_send_piece(rb_link *l, int peer, rb_apart_out *o, rb_apart_pace *pace, bool *end,
                                 int64_t patience_ns, rb_err *err) {
    size_t most = message_of(pace);
    if (!o->begun) {
        o->have = HASH;
        if (o->base.fd >= 0) put_hash(o->packed, o->base.hash);
        o->begun = true;
    } else if (o->sent == o->have) {
        RB_TRY(pack_next(o, err));
    }
    *end = o->over;
    if (o->over) return RESBM_OK;
    size_t n = o->have - o->sent < most ? o->have - o->sent : most;
    RB_TRY(keep_pace(pace, n, err));
    rb_message *m = rb_apart_blob(n, RB_TRAFFIC_SNAPSHOT);
    if (!m) return rb_fail(err, RESBM_E_MEMORY, "no memory for a piece of a snapshot");
    memcpy(m->payload, o->packed + o->sent, n);
    o->sent += n;
    o->crossed += n;
    return rb_link_send(l, peer, m, rb_now_ns() + patience_ns, err);
}

resbm_status rb_apart_send_file(rb_link *l, int peer, const char *path, rb_apart_base base,
                                rb_apart_pace *pace, int64_t patience_ns, uint64_t *crossed, rb_err *err) {
    rb_apart_out *o;
    RB_TRY(rb_apart_out_open(path, base, &o, err));
    resbm_status st = RESBM_OK;
    for (bool end = false; !end && !st;) st = rb_apart_send_piece(l, peer, o, pace, &end, patience_ns, err);
    rb_apart_out_done(o, crossed);
    rb_apart_out_close(o);
    return st;
}

/* --- in --- */

typedef struct incoming {
    rb_link *l;
    int peer, fd;
    const char *path;
    const rb_file_sum *sum;
    const rb_apart_wait *w;
    int64_t patience_ns;
    rb_message *m; /* the last one that came, `used` bytes of it; NULL: none */
    uint64_t used, crossed, written;
    int64_t begin_ns;
    rb_apart_base base;
    rb_hasher *hasher;
    rb_delta *delta;
    uint8_t packed[RB_DELTA_MOST], same[RB_DELTA_PIECE], piece[RB_DELTA_PIECE];
} incoming;

/* Each message has the patience to come, but a byte in each would keep whoever waits for ever. */
static resbm_status check_rate(const incoming *in, rb_err *err) {
    int64_t passed = rb_now_ns() - in->begin_ns;
    double came = (double)(in->crossed + in->written);
    if (in->w->look || (double)passed <= (double)in->patience_ns * (FREE + came / RB_APART_LEAST))
        return RESBM_OK;
    return rb_fail(err, RESBM_E_TIMEOUT,
                   "of the %llu bytes of %s only %llu have come in %.3g s; at least %d every %.3g s are due "
                   "(pipeline.deadline, link.snapshot_share)",
                   (unsigned long long)in->sum->bytes, in->path, (unsigned long long)in->written,
                   (double)passed * 1e-9, RB_APART_LEAST, (double)in->patience_ns * 1e-9);
}

static resbm_status next_blob(incoming *in, rb_err *err) {
    RB_TRY(check_rate(in, err));
    int64_t until = rb_now_ns() + in->patience_ns;
    const rb_apart_wait *w = in->w;
    rb_message_free(in->m);
    in->m = NULL;
    in->used = 0;
    for (;;) {
        int from;
        bool looks = w->look != NULL;
        int64_t next = w->stop || looks ? rb_now_ns() + 100 * RB_MS : until;
        resbm_status st = rb_link_recv_any(in->l, in->peer, RB_FRAME_BLOB,
                                           looks || next < until ? next : until, &from, &in->m, err);
        if (st != RESBM_E_TIMEOUT || (!looks && rb_now_ns() >= until)) return st;
        if (w->stop && atomic_load(w->stop))
            return rb_fail(err, RESBM_E_CANCELLED, "who sent a file is lost");
        if (looks) RB_TRY(w->look(w->ctx, err));
    }
}

/* The next n bytes, from however many messages. */
static resbm_status take(incoming *in, uint8_t *out, size_t n, rb_err *err) {
    for (size_t have = 0; have < n;) {
        if (!in->m || in->used == in->m->head.payload_bytes) {
            RB_TRY(next_blob(in, err));
            in->crossed += in->m->head.payload_bytes;
        }
        uint64_t left = in->m->head.payload_bytes - in->used;
        if (!left || left > MESSAGE)
            return rb_fail(err, RESBM_E_CORRUPT, "a message with a piece of %s has %llu bytes, not 1 to %d",
                           in->path, (unsigned long long)left, MESSAGE);
        size_t some = left < n - have ? (size_t)left : n - have;
        memcpy(out + have, in->m->payload + in->used, some);
        in->used += some;
        have += some;
    }
    return RESBM_OK;
}

static resbm_status take_base(incoming *in, rb_err *err) {
    static const uint8_t none[HASH];
    uint8_t hash[HASH];
    RB_TRY(take(in, hash, HASH, err));
    if (!memcmp(hash, none, HASH)) return RESBM_OK;
    for (int i = 0; i < HASH; i++) snprintf(in->base.hash + 2 * i, 3, "%02x", hash[i]);
    if (in->w->base) in->base.fd = in->w->base(in->w->ctx, in->base.hash);
    if (in->base.fd >= 0) return RESBM_OK;
    return rb_fail(err, RESBM_E_CORRUPT, "%s is packed against a file with the hash %s, which is not here",
                   in->path, in->base.hash);
}

static resbm_status take_piece(incoming *in, uint64_t at, size_t n, rb_err *err) {
    size_t len;
    bool based;
    RB_TRY(take(in, in->packed, RB_DELTA_HEADER, err));
    RB_TRY(rb_delta_look(in->packed, RB_DELTA_HEADER, n, &len, &based, err));
    RB_TRY(take(in, in->packed + RB_DELTA_HEADER, len - RB_DELTA_HEADER, err));
    based &= in->base.fd >= 0;
    if (based) RB_TRY(read_base(in->base.fd, at, in->same, n, err));
    RB_TRY(rb_delta_unpack(in->delta, in->packed, len, based ? in->same : NULL, in->piece, n, err));
    RB_TRY(rb_write_all(in->fd, in->piece, n, in->path, err));
    rb_hasher_add(in->hasher, in->piece, n);
    in->written += n;
    return in->w->came ? in->w->came(in->w->ctx, n, err) : RESBM_OK;
}

static resbm_status take_all(incoming *in, rb_err *err) {
    RB_TRY(take_base(in, err));
    for (uint64_t have = 0; have < in->sum->bytes;) {
        uint64_t left = in->sum->bytes - have;
        size_t n = left < RB_DELTA_PIECE ? (size_t)left : RB_DELTA_PIECE;
        RB_TRY(take_piece(in, have, n, err));
        have += n;
    }
    if (in->m->head.payload_bytes == in->used) return RESBM_OK;
    return rb_fail(err, RESBM_E_CORRUPT, "more came of %s than the %llu bytes that were due", in->path,
                   (unsigned long long)in->sum->bytes);
}

static resbm_status check_hash(incoming *in, rb_err *err) {
    char hash[33];
    rb_hasher_finish(in->hasher, hash);
    in->hasher = NULL;
    if (!strcmp(hash, in->sum->hash)) return RESBM_OK;
    if (in->base.fd >= 0 && !is_whole(in->base.fd, in->base.hash))
        return rb_fail(err, RESBM_E_IO,
                       "%s was packed against a file with the hash %s, which is damaged on this disk",
                       in->path, in->base.hash);
    return rb_fail(err, RESBM_E_CORRUPT, "%s came with the hash %s, %s was announced", in->path, hash,
                   in->sum->hash);
}

static resbm_status recv_into(rb_link *l, int peer, int fd, const char *path, const rb_file_sum *sum,
                              const rb_apart_wait *w, int64_t patience_ns, uint64_t *crossed, rb_err *err) {
    incoming *in = calloc(1, sizeof *in);
    if (!in) return rb_fail(err, RESBM_E_MEMORY, "no memory to receive %s", path);
    in->l = l;
    in->peer = peer;
    in->fd = fd;
    in->path = path;
    in->sum = sum;
    in->w = w;
    in->patience_ns = patience_ns;
    in->begin_ns = rb_now_ns();
    in->base.fd = -1;
    in->hasher = rb_hasher_new();
    in->delta = rb_delta_new();
    resbm_status st = RESBM_OK;
    if (!in->hasher || !in->delta) st = rb_fail(err, RESBM_E_MEMORY, "no memory to receive %s", path);
    if (!st) st = take_all(in, err);
    if (!st) st = check_hash(in, err);
    char unused[33];
    if (in->hasher) rb_hasher_finish(in->hasher, unused);
    if (crossed) *crossed = in->crossed;
    if (in->base.fd >= 0) close(in->base.fd);
    rb_delta_free(in->delta);
    rb_message_free(in->m);
    free(in);
    return st;
}

resbm_status rb_apart_recv_file(rb_link *l, int peer, const char *path, const rb_file_sum *sum,
                                const rb_apart_wait *w, int64_t patience_ns, uint64_t *crossed, rb_err *err) {
    char part[PATH_MAX];
    snprintf(part, sizeof part, "%s.part", path);
    int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return rb_fail_errno(err, errno, "cannot write %s", part);
    resbm_status st = recv_into(l, peer, fd, path, sum, w, patience_ns, crossed, err);
    if (!st && fsync(fd)) st = rb_fail_errno(err, errno, "syncing %s", part);
    close(fd);
    if (!st && rename(part, path)) st = rb_fail_errno(err, errno, "cannot name %s", path);
    if (st) unlink(part);
    return st;
}
