#include "run/apart.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "core/bytes.h"
#include "core/clock.h"
#include "core/hash.h"
#include "device/pack_layout.h"

enum { PIECE = 256 * 1024 };

static rb_message *new_blob(size_t n, rb_traffic class) {
    rb_message *m = rb_message_new(n);
    if (!m) return NULL;
    m->head = (rb_frame_header){.kind = RB_FRAME_BLOB, .payload_bytes = n};
    m->traffic = class;
    return m;
}

/* Small enough that at this rate others wait a fiftieth of a second for it. */
static size_t piece_of(const rb_apart_pace *pace) {
    double n = pace && pace->bits > 0 ? pace->bits / 8 / 50 : PIECE;
    return n < 2048 ? 2048 : n > PIECE ? PIECE : (size_t)n;
}

/* Waits for the next piece's time, in short looks at *stop. */
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

resbm_status rb_apart_send_piece(rb_link *l, int peer, int fd, rb_apart_pace *pace, bool *end,
                                 int64_t patience_ns, rb_err *err) {
    size_t most = piece_of(pace);
    RB_TRY(keep_pace(pace, most, err));
    rb_message *m = new_blob(most, RB_TRAFFIC_SNAPSHOT);
    if (!m) return rb_fail(err, RESBM_E_MEMORY, "no memory for a piece of a snapshot");
    ssize_t n = read(fd, m->payload, most);
    if (n <= 0) {
        rb_message_free(m);
        *end = true;
        return n < 0 ? rb_fail_errno(err, errno, "reading a file of the snapshot") : RESBM_OK;
    }
    m->head.payload_bytes = (uint64_t)n;
    return rb_link_send(l, peer, m, rb_now_ns() + patience_ns, err);
}

resbm_status rb_apart_send_file(rb_link *l, int peer, const char *path, rb_apart_pace *pace,
                                int64_t patience_ns, rb_err *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    resbm_status st = RESBM_OK;
    if (fd < 0) return rb_fail_errno(err, errno, "cannot open %s", path);
    for (bool end = false; !end && !st;) st = rb_apart_send_piece(l, peer, fd, pace, &end, patience_ns, err);
    close(fd);
    return st;
}

static resbm_status next_blob(rb_link *l, int peer, const rb_apart_wait *w, int64_t patience_ns,
                              rb_message **out, rb_err *err) {
    int64_t until = rb_now_ns() + patience_ns;
    for (;;) {
        int from;
        bool looks = w->look != NULL;
        int64_t next = w->stop || looks ? rb_now_ns() + 100 * RB_MS : until;
        resbm_status st =
            rb_link_recv_any(l, peer, RB_FRAME_BLOB, looks || next < until ? next : until, &from, out, err);
        if (st != RESBM_E_TIMEOUT || (!looks && rb_now_ns() >= until)) return st;
        if (w->stop && atomic_load(w->stop))
            return rb_fail(err, RESBM_E_CANCELLED, "who sent a file is lost");
        if (looks) RB_TRY(w->look(w->ctx, err));
    }
}

static resbm_status recv_pieces(rb_link *l, int peer, int fd, const char *path, const rb_file_sum *sum,
                                const rb_apart_wait *w, int64_t patience_ns, rb_err *err) {
    rb_hasher *h = rb_hasher_new();
    char hash[33];
    resbm_status st = h ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory to check %s", path);
    for (uint64_t have = 0; have < sum->bytes && !st;) {
        rb_message *m = NULL;
        st = next_blob(l, peer, w, patience_ns, &m, err);
        uint64_t n = st ? 0 : m->head.payload_bytes;
        if (!st && (!n || n > PIECE || n > sum->bytes - have))
            st = rb_fail(err, RESBM_E_CORRUPT, "a piece of %llu bytes of %s came where %llu were due",
                         (unsigned long long)n, path, (unsigned long long)(sum->bytes - have));
        if (!st) st = rb_write_all(fd, m->payload, n, path, err);
        if (!st) rb_hasher_add(h, m->payload, n);
        if (!st && w->came) st = w->came(w->ctx, n, err);
        have += n;
        rb_message_free(m);
    }
    if (h) rb_hasher_finish(h, hash);
    if (st || !strcmp(hash, sum->hash)) return st;
    return rb_fail(err, RESBM_E_CORRUPT, "%s came with the hash %s, %s was announced", path, hash, sum->hash);
}

resbm_status rb_apart_recv_file(rb_link *l, int peer, const char *path, const rb_file_sum *sum,
                                const rb_apart_wait *w, int64_t patience_ns, rb_err *err) {
    char part[PATH_MAX];
    snprintf(part, sizeof part, "%s.part", path);
    int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return rb_fail_errno(err, errno, "cannot write %s", part);
    resbm_status st = recv_pieces(l, peer, fd, path, sum, w, patience_ns, err);
    if (!st && fsync(fd)) st = rb_fail_errno(err, errno, "syncing %s", part);
    close(fd);
    if (!st && rename(part, path)) st = rb_fail_errno(err, errno, "cannot name %s", path);
    if (st) unlink(part);
    return st;
}

resbm_status rb_apart_send_ids(rb_link *l, int peer, const int32_t *ids, int64_t n, int64_t patience_ns,
                               rb_err *err) {
    rb_message *m = new_blob((size_t)n * 4, RB_TRAFFIC_TOKENS);
    if (!m) return rb_fail(err, RESBM_E_MEMORY, "no memory for %lld token ids", (long long)n);
    for (int64_t i = 0; i < n; i++) rb_put32(m->payload + 4 * i, (uint32_t)ids[i]);
    return rb_link_send(l, peer, m, rb_now_ns() + patience_ns, err);
}

resbm_status rb_apart_recv_ids(rb_link *l, int peer, int32_t *ids, int64_t n, int64_t vocab,
                               int64_t patience_ns, rb_err *err) {
    rb_message *m;
    RB_TRY(next_blob(l, peer, &(rb_apart_wait){0}, patience_ns, &m, err));
    resbm_status st = RESBM_OK;
    if (m->head.payload_bytes != (uint64_t)n * 4)
        st = rb_fail(err, RESBM_E_CORRUPT, "%llu bytes of token ids came, %lld were due",
                     (unsigned long long)m->head.payload_bytes, (long long)n * 4);
    for (int64_t i = 0; i < n && !st; i++) {
        uint32_t id = rb_get32(m->payload + 4 * i);
        if (id >= (uint64_t)vocab)
            st = rb_fail(err, RESBM_E_CORRUPT, "token id %u came, the vocabulary has %lld", id,
                         (long long)vocab);
        ids[i] = (int32_t)id;
    }
    rb_message_free(m);
    return st;
}

/* All ones in the exponent: an infinity, or no number. Whole numbers have no exponent. */
static bool all_finite(const rb_tensor_in *t) {
    const uint8_t *p = t->data, *end = p + t->bytes;
    bool bad = false;
    if (t->dtype == RB_F32)
        for (; p + 4 <= end; p += 4) bad |= (rb_get32(p) & 0x7f800000u) == 0x7f800000u;
    else if (t->dtype == RB_F64)
        for (; p + 8 <= end; p += 8) bad |= (rb_get64(p) >> 52 & 0x7ff) == 0x7ff;
    else if (t->dtype == RB_BF16 && !t->f16)
        for (; p + 2 <= end; p += 2) bad |= (rb_get16(p) & 0x7f80u) == 0x7f80u;
    else if (t->f16)
        for (; p + 2 <= end; p += 2) bad |= (rb_get16(p) & 0x7c00u) == 0x7c00u;
    return !bad;
}

static bool ends_in(const char *name, const char *end) {
    size_t n = strlen(name), e = strlen(end);
    return n >= e && !strcmp(name + n - e, end);
}

/* Learned steps lie where the codec takes them, means of squares are not below 0: either would show up later, at another. */
static bool all_within(const rb_tensor_in *t) {
    bool squares = strstr(t->name, "exp_avg_sq.") != NULL, steps = !squares && ends_in(t->name, ".steps");
    bool bad = false;
    if (t->dtype != RB_F32 || (!squares && !steps)) return true;
    for (const uint8_t *p = t->data, *end = p + t->bytes; p + 4 <= end; p += 4) {
        float v = rb_f32_of(rb_get32(p));
        bad |= squares ? v < 0 : !(v >= RB_UNIT_TINY && v <= RB_STEP_HUGE);
    }
    return !bad;
}

resbm_status rb_apart_check_weights(const char *path, rb_err *err) {
    rb_safetensors *s;
    RB_TRY(rb_safetensors_open(path, &s, err));
    resbm_status st = RESBM_OK;
    for (int i = 0; i < rb_safetensors_count(s) && !st; i++) {
        const rb_tensor_in *t = rb_safetensors_at(s, i);
        const char *wrong = !all_finite(t)   ? "is not finite"
                            : !all_within(t) ? "has values that it cannot have"
                                             : NULL;
        if (wrong) st = rb_fail(err, RESBM_E_FORMAT, "%s: tensor %s %s", path, t->name, wrong);
    }
    rb_safetensors_close(s);
    return st;
}
