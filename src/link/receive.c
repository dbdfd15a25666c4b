/* The way in: socket, downlink, inbox. Runs on the I/O thread only. */
#include "link/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include "core/clock.h"

static const size_t MOST_AT_ONCE = 1 << 20;

static bool paced(const rb_link *l, const rb_conn *c) {
    return c->shaped && l->shape.down->ns_per_byte > 0;
}

void rb_receive_stop(rb_link *l, rb_conn *c) {
    c->broken_rx = c->broken_tx = true;
    c->readable = c->writable = false;
    rb_receive_flush(l, c);
    rb_transmit_drop(l, c);
    if (c->incoming) rb_message_free(&c->incoming->msg);
    c->incoming = NULL;
    shutdown(c->fd, SHUT_RDWR);
    rb_link_see_end(l, c);
    pthread_mutex_lock(&l->lock);
    c->peer->deaf = true;
    rb_link_all_changed(l);
    pthread_mutex_unlock(&l->lock);
}

static void read_failed(rb_link *l, rb_conn *c, ssize_t n, int why) {
    char who[RB_WHO_TEXT];
    rb_who_at(who, c->peer->number, l->opt.places);
    if (n == 0 || why == ECONNRESET) {
        bool within = c->head_have > 0 || c->incoming;
        rb_io_fault(l, c, RESBM_E_PEER, "%s closed the connection%s", who,
                    within ? " in the middle of a frame" : "");
    } else {
        rb_io_fault(l, c, RESBM_E_PEER, "reading from %s failed (%s)", who, strerror(why));
    }
    rb_receive_stop(l, c);
}

static void refuse_frame(rb_link *l, rb_conn *c, const rb_err *e) {
    char who[RB_WHO_TEXT];
    rb_io_fault(l, c, e->code,
                "%s sent a bad frame (changed on its way, or by another version of the program): %s",
                rb_who_at(who, c->peer->number, l->opt.places), e->text);
    rb_receive_stop(l, c);
}

static bool inbox_wants(rb_link *l, rb_node *n) {
    rb_peer *p = n->conn->peer;
    if (n->msg.head.epoch < l->opt.epoch) {
        p->stats.dropped_epoch++;
        return false;
    }
    if (rb_seen_before(p->seen, &n->msg.head)) {
        p->stats.dropped_double++;
        return false;
    }
    return true;
}

/* A probe never reaches the inbox: this thread answers it. */
static bool answer_probe(rb_link *l, const rb_node *n) {
    if (n->msg.head.kind != RB_FRAME_PROBE || n->msg.head.direction != 0) return false;
    rb_message *m = rb_probe_answer(l, &n->msg.head);
    if (m) rb_transmit_own(l, n->conn, m);
    return true;
}

static void deliver(rb_link *l, rb_node *n) {
    rb_peer *p = n->conn->peer;
    bool probe = answer_probe(l, n) || rb_probe_is_sign_of_life(&n->msg.head);
    pthread_mutex_lock(&l->lock);
    p->stats.frames_received++;
    p->heard_ns = rb_now_ns();
    bool wanted = !probe && inbox_wants(l, n);
    if (wanted) {
        n->visible_ns = p->heard_ns;
        rb_list_push(&p->inbox, n);
        p->inbox_bytes += sizeof *n + n->capacity;
    }
    pthread_mutex_unlock(&l->lock);
    if (wanted)
        pthread_cond_broadcast(&l->arrived);
    else
        rb_message_free(&n->msg);
}

int64_t rb_receive_deliver(rb_link *l, int64_t now) {
    while (l->pending.head && l->pending.head->visible_ns <= now) deliver(l, rb_list_pop(&l->pending));
    return l->pending.head ? l->pending.head->visible_ns : RB_NEVER;
}

void rb_receive_flush(rb_link *l, rb_conn *c) {
    rb_list others = {0};
    for (rb_node *n; (n = rb_list_pop(&l->pending));) {
        if (n->conn == c)
            deliver(l, n);
        else
            rb_list_push(&others, n);
    }
    l->pending = others;
}

/* What one read brings along. */
typedef struct intake {
    int64_t now, visible_ns;
    uint64_t counted[RB_TRAFFIC_COUNT];
} intake;

/* Counters go first: whoever holds a message finds it counted. */
static void add_counts(rb_link *l, rb_conn *c, intake *in) {
    pthread_mutex_lock(&l->lock);
    for (int i = 0; i < RB_TRAFFIC_COUNT; i++) c->peer->stats.received[i] += in->counted[i];
    pthread_mutex_unlock(&l->lock);
    memset(in->counted, 0, sizeof in->counted);
}

static bool finish_frame(rb_link *l, rb_conn *c, intake *in) {
    rb_node *n = c->incoming;
    rb_err e;
    add_counts(l, c, in);
    c->head_have = 0;
    if (rb_frame_check_payload(&n->msg.head, n->msg.payload, &e) != RESBM_OK) {
        refuse_frame(l, c, &e);
        return false;
    }
    c->incoming = NULL;
    n->visible_ns = in->visible_ns;
    /* What is pending may be due by now, and this one must not overtake it. */
    if (in->visible_ns > in->now || (paced(l, c) && l->pending.head))
        rb_list_push(&l->pending, n);
    else
        deliver(l, n);
    return true;
}

/* The header is whole: checks it against the limits before it takes memory for the payload. */
static bool begin_frame(rb_link *l, rb_conn *c) {
    rb_frame_header h;
    rb_err e;
    size_t most = l->opt.limits.frame_bytes - RB_FRAME_HEADER_BYTES;
    if (rb_frame_get(c->head, &h, &e) != RESBM_OK) {
        refuse_frame(l, c, &e);
        return false;
    }
    char what[RB_WHAT_TEXT];
    if (h.payload_bytes > most)
        rb_fail(&e, RESBM_E_CORRUPT, "%s has a payload of %llu bytes, at most %zu are accepted",
                rb_what(what, &h), (unsigned long long)h.payload_bytes, most);
    rb_message *m = h.payload_bytes > most ? NULL : rb_message_new(h.payload_bytes);
    if (!m) {
        if (h.payload_bytes <= most)
            rb_fail(&e, RESBM_E_MEMORY, "no memory for the %llu bytes of %s",
                    (unsigned long long)h.payload_bytes, rb_what(what, &h));
        refuse_frame(l, c, &e);
        return false;
    }
    m->head = h;
    m->traffic = rb_traffic_of(&h);
    rb_node *n = c->incoming = rb_node_of(m);
    n->conn = c;
    n->total = RB_FRAME_HEADER_BYTES + h.payload_bytes;
    n->io_bytes = RB_FRAME_HEADER_BYTES;
    return true;
}

static void charge(rb_link *l, rb_conn *c, intake *in, size_t bytes) {
    if (paced(l, c)) in->visible_ns = rb_shape_receive(&l->shape, &c->stream, c->ready_ns, bytes);
}

/* The payload's next `n` bytes are in place. */
static bool payload_came(rb_link *l, rb_conn *c, intake *in, size_t n) {
    rb_node *f = c->incoming;
    charge(l, c, in, n);
    rb_count_bytes(in->counted, f, f->io_bytes, f->io_bytes + n);
    f->io_bytes += n;
    return f->io_bytes < f->total || finish_frame(l, c, in);
}

static bool header_came(rb_link *l, rb_conn *c, intake *in, const uint8_t *p, size_t n) {
    memcpy(c->head + c->head_have, p, n);
    charge(l, c, in, n);
    c->head_have += n;
    if (c->head_have < RB_FRAME_HEADER_BYTES) return true;
    if (!begin_frame(l, c)) return false;
    rb_count_bytes(in->counted, c->incoming, 0, RB_FRAME_HEADER_BYTES);
    return c->incoming->io_bytes < c->incoming->total || finish_frame(l, c, in);
}

/* Takes staged bytes apart into headers and payloads; false when the connection was shut off. */
static bool take_apart(rb_link *l, rb_conn *c, intake *in, const uint8_t *p, size_t n) {
    while (n) {
        size_t room =
            c->incoming ? c->incoming->total - c->incoming->io_bytes : RB_FRAME_HEADER_BYTES - c->head_have;
        size_t take = n < room ? n : room;
        if (c->incoming) {
            memcpy(c->incoming->msg.payload + (c->incoming->io_bytes - RB_FRAME_HEADER_BYTES), p, take);
            if (!payload_came(l, c, in, take)) return false;
        } else if (!header_came(l, c, in, p, take)) {
            return false;
        }
        p += take;
        n -= take;
    }
    return true;
}

/* One read of at most `budget` bytes: the rest of a payload goes to its place, what follows to the staging
 * area. Returns how many were taken; 0 when there is nothing more now. */
static size_t read_once(rb_link *l, rb_conn *c, int64_t now, size_t budget) {
    rb_node *f = c->incoming;
    size_t direct = f ? f->total - f->io_bytes : 0;
    if (direct > budget) direct = budget;
    size_t staged = budget - direct < RB_STAGING_BYTES ? budget - direct : RB_STAGING_BYTES;
    struct iovec v[2] = {{.iov_base = f ? f->msg.payload + (f->io_bytes - RB_FRAME_HEADER_BYTES) : c->staging,
                          .iov_len = direct},
                         {.iov_base = c->staging, .iov_len = staged}};
    ssize_t n = readv(c->fd, v, 2);
    if (n < 0 && errno == EINTR) return 0;
    if (n < 0 && errno == EAGAIN) {
        c->readable = c->backlogged = false;
        return 0;
    }
    if (n <= 0) {
        read_failed(l, c, n, errno);
        return 0;
    }
    /* A short read means drained; only the end of the stream may follow without a new event. */
    if ((size_t)n < direct + staged && !c->hung_up) c->readable = c->backlogged = false;
    intake in = {.now = now};
    size_t got = (size_t)n, first = got < direct ? got : direct;
    bool ok = !first || payload_came(l, c, &in, first);
    if (ok && got > first) ok = take_apart(l, c, &in, c->staging, got - first);
    add_counts(l, c, &in);
    return ok ? got : 0;
}

/* Is there room in the inbox? If not, rb_link_recv wakes the thread once there is. */
static bool inbox_has_room(rb_link *l, rb_peer *p) {
    pthread_mutex_lock(&l->lock);
    p->paused = p->inbox_bytes >= l->opt.limits.inbox_bytes;
    bool room = !p->paused;
    pthread_mutex_unlock(&l->lock);
    return room;
}

static size_t quantum_bytes(const rb_link *l) {
    double n = (double)RB_QUANTUM_NS / l->shape.down->ns_per_byte;
    return n < RB_SEGMENT_PAYLOAD ? RB_SEGMENT_PAYLOAD : n > (double)MOST_AT_ONCE ? MOST_AT_ONCE : (size_t)n;
}

int64_t rb_receive_read(rb_link *l, rb_conn *c, int64_t now, bool *more) {
    if (c->broken_rx || !c->readable) return RB_NEVER;
    bool pace = paced(l, c);
    int64_t ahead = l->opt.shape.half_duplex ? RB_QUANTUM_NS / 2 : 0;
    if (pace && l->shape.down->free_ns > now + ahead) return l->shape.down->free_ns - ahead / 2;
    if (!inbox_has_room(l, c->peer)) {
        c->backlogged = false;
        return RB_NEVER;
    }
    /* Bytes that waited for the pace were there when the lane got free; others came now at the latest. */
    c->ready_ns = c->backlogged ? 0 : now;
    size_t budget = pace ? quantum_bytes(l) : MOST_AT_ONCE;
    while (budget && c->readable) {
        size_t n = read_once(l, c, now, budget);
        if (!n) break;
        budget -= n;
    }
    if (!c->readable) return RB_NEVER;
    c->backlogged = pace;
    *more = *more || !pace || l->shape.down->free_ns <= now + ahead;
    return pace ? l->shape.down->free_ns - ahead / 2 : RB_NEVER;
}
