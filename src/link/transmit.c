/* The way out: submitted messages, uplink, delay line, socket. Runs on the I/O thread only. */
#include "link/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include "core/clock.h"

enum { MOST_PIECES = 64, ROUNDS = 8 };
static const size_t MOST_AT_ONCE = 1 << 20;

static void uplink_push(rb_link *l, rb_node *n) {
    n->up_next = NULL;
    if (l->up_tail)
        l->up_tail->up_next = n;
    else
        l->up_head = n;
    l->up_tail = n;
}

void rb_transmit_take(rb_link *l, rb_list *submitted) {
    for (rb_node *n; (n = rb_list_pop(submitted));) {
        rb_list_push(&n->conn->queue, n);
        if (n->conn->shaped) uplink_push(l, n);
    }
}

void rb_transmit_own(rb_link *l, rb_conn *c, rb_message *m) {
    rb_node *n = rb_node_of(m);
    rb_frame_put(n->head, &m->head, m->payload);
    n->total = RB_FRAME_HEADER_BYTES + m->head.payload_bytes;
    n->queued_ns = rb_now_ns();
    n->conn = c;
    pthread_mutex_lock(&l->lock);
    bool room = c->peer->unsent <= l->opt.limits.queued_bytes && !c->broken_tx;
    if (room) c->peer->unsent += n->total;
    pthread_mutex_unlock(&l->lock);
    if (!room) {
        rb_message_free(m);
        return;
    }
    rb_list own = {.head = n, .tail = n};
    rb_transmit_take(l, &own);
    l->again = true;
}

static void uplink_forget(rb_link *l, const rb_conn *c) {
    rb_node *n = l->up_head;
    l->up_head = l->up_tail = NULL;
    for (rb_node *next; n; n = next) {
        next = n->up_next;
        if (n->conn != c) uplink_push(l, n);
    }
}

void rb_transmit_drop(rb_link *l, rb_conn *c) {
    size_t bytes = 0;
    if (c->shaped) uplink_forget(l, c);
    for (rb_node *n = c->queue.head; n; n = n->next) bytes += n->total - n->io_bytes;
    rb_list_free(&c->queue);
    c->delay_count = c->ready = 0;
    if (!bytes) return;
    pthread_mutex_lock(&l->lock);
    c->peer->unsent -= bytes;
    c->peer->undelivered += bytes;
    rb_link_all_changed(l);
    pthread_mutex_unlock(&l->lock);
}

/* Room for one more entry in the ring of delayed bytes. */
static bool delay_grow(rb_conn *c) {
    if (c->delay_count < c->delay_cap) return true;
    size_t cap = c->delay_cap ? 2 * c->delay_cap : 64;
    rb_delayed *ring = malloc(cap * sizeof *ring);
    if (!ring) return false;
    for (size_t i = 0; i < c->delay_count; i++) ring[i] = c->delay[(c->delay_head + i) % c->delay_cap];
    free(c->delay);
    c->delay = ring;
    c->delay_cap = cap;
    c->delay_head = 0;
    return true;
}

/* Puts bytes on the delay line; those of one frame that arrive within a quantum travel together. */
static bool delay_push(rb_conn *c, int64_t arrive_ns, size_t bytes, bool ends_frame) {
    if (c->delay_count) {
        rb_delayed *last = &c->delay[(c->delay_head + c->delay_count - 1) % c->delay_cap];
        if (!last->ends_frame && arrive_ns - last->first_ns < RB_QUANTUM_NS) {
            last->arrive_ns = arrive_ns;
            last->bytes += bytes;
            last->ends_frame = ends_frame;
            return true;
        }
    }
    if (!delay_grow(c)) return false;
    c->delay[(c->delay_head + c->delay_count++) % c->delay_cap] =
        (rb_delayed){.first_ns = arrive_ns, .arrive_ns = arrive_ns, .bytes = bytes, .ends_frame = ends_frame};
    return true;
}

static void count_losses(rb_link *l, rb_conn *c, uint64_t bytes) {
    pthread_mutex_lock(&l->lock);
    c->peer->stats.retransmitted_bytes += bytes;
    pthread_mutex_unlock(&l->lock);
}

/* `bytes` of the uplink's first frame are through; true when that was its end. */
static bool uplink_pass(rb_link *l, rb_node *n, size_t bytes, int64_t start_ns) {
    if (n->up_bytes == 0) n->started_ns = start_ns;
    n->up_bytes += bytes;
    if (n->up_bytes < n->total) return false;
    l->up_head = n->up_next;
    if (!l->up_head) l->up_tail = NULL;
    return true;
}

/* Bytes of the next segment: a frame that follows to the same peer without a pause fills it up, as TCP does;
 * not where draws are made per segment, which must not depend on when frames met in the queue, nor where a frame's end holds
 * up the next. */
static size_t segment_bytes(const rb_link *l, const rb_node *n, int64_t start_ns) {
    size_t bytes = n->total - n->up_bytes;
    if (l->opt.shape.loss > 0 || l->opt.shape.jitter_ns > 0 || l->opt.shape.latency_occupies)
        return bytes < RB_SEGMENT_PAYLOAD ? bytes : RB_SEGMENT_PAYLOAD;
    bytes = 0;
    for (const rb_node *f = n; f && f->conn == n->conn && (f == n || f->queued_ns <= start_ns);
         f = f->up_next) {
        bytes += f->total - f->up_bytes;
        if (bytes >= RB_SEGMENT_PAYLOAD) return RB_SEGMENT_PAYLOAD;
    }
    return bytes;
}

/* One segment, beginning with the uplink's first frame. */
static bool send_segment(rb_link *l, rb_node *n, int64_t start_ns) {
    rb_conn *c = n->conn;
    size_t bytes = segment_bytes(l, n, start_ns);
    rb_shape_trip t = rb_shape_send(&l->shape, &c->stream, n->queued_ns, (int)bytes);
    if (t.losses) count_losses(l, c, (uint64_t)t.losses * (bytes + RB_SEGMENT_HEADERS));
    bool ends = false;
    for (size_t left = bytes; left;) {
        n = l->up_head;
        size_t take = n->total - n->up_bytes < left ? n->total - n->up_bytes : left;
        ends = uplink_pass(l, n, take, t.start_ns) || ends;
        left -= take;
    }
    if (ends) rb_shape_end_message(&l->shape);
    return delay_push(c, t.arrive_ns, bytes, ends);
}

int64_t rb_transmit_uplink(rb_link *l, int64_t now) {
    /* Looking ahead by a quantum costs nothing in a first-in-first-out lane and lets the end of a frame leave
     * on time; where both directions share the lane it looks ahead less, so that neither starves. */
    int64_t ahead = l->opt.shape.half_duplex ? RB_QUANTUM_NS / 2 : RB_QUANTUM_NS;
    while (l->up_head) {
        rb_node *n = l->up_head;
        int64_t start = l->shape.up->free_ns > n->queued_ns ? l->shape.up->free_ns : n->queued_ns;
        if (start > now + ahead) return start - ahead / 2;
        if (!send_segment(l, n, start)) {
            rb_io_fault(l, n->conn, RESBM_E_MEMORY, "no memory for the delay line of the shaped link");
            n->conn->broken_tx = true;
            rb_transmit_drop(l, n->conn);
        }
    }
    return RB_NEVER;
}

static void release_arrived(rb_conn *c, int64_t now) {
    while (c->delay_count && c->delay[c->delay_head].arrive_ns <= now) {
        c->ready += c->delay[c->delay_head].bytes;
        c->delay_head = (c->delay_head + 1) % c->delay_cap;
        c->delay_count--;
    }
}

static size_t add_piece(struct iovec *v, int *count, const uint8_t *p, size_t size, size_t skip,
                        size_t room) {
    if (skip >= size || room == 0 || *count == MOST_PIECES) return 0;
    size_t n = size - skip < room ? size - skip : room;
    v[(*count)++] = (struct iovec){.iov_base = (uint8_t *)(uintptr_t)p + skip, .iov_len = n};
    return n;
}

/* Headers and payloads of the queue's front, at most `room` bytes. */
static int gather(const rb_conn *c, struct iovec v[MOST_PIECES], size_t room) {
    int count = 0;
    for (const rb_node *n = c->queue.head; n && room && count < MOST_PIECES; n = n->next) {
        size_t skip = n->io_bytes;
        room -= add_piece(v, &count, n->head, RB_FRAME_HEADER_BYTES, skip, room);
        skip = skip > RB_FRAME_HEADER_BYTES ? skip - RB_FRAME_HEADER_BYTES : 0;
        room -= add_piece(v, &count, n->msg.payload, n->total - RB_FRAME_HEADER_BYTES, skip, room);
    }
    return count;
}

static void record_event(rb_link *l, const rb_node *n, int64_t left_ns) {
    enum { MOST_EVENTS = 1 << 18 };
    if (!l->opt.record_events) return;
    if (l->event_count == l->event_cap) {
        int cap = l->event_cap ? 2 * l->event_cap : 256;
        rb_link_event *e = cap <= MOST_EVENTS ? realloc(l->events, (size_t)cap * sizeof *e) : NULL;
        if (!e) return; /* a trace with a hole beats a run that stops for it */
        l->events = e;
        l->event_cap = cap;
    }
    l->events[l->event_count++] = (rb_link_event){.peer = n->conn->peer->number,
                                                  .head = n->msg.head,
                                                  .queued_ns = n->queued_ns,
                                                  .started_ns = n->started_ns,
                                                  .left_ns = left_ns};
}

/* `bytes` have been written: counts them, gives credit back, frees the frames that have left whole. */
static void advance(rb_link *l, rb_conn *c, size_t bytes, int64_t now) {
    rb_list done = {0};
    pthread_mutex_lock(&l->lock);
    c->peer->unsent -= bytes;
    while (bytes) {
        rb_node *n = c->queue.head;
        size_t left = n->total - n->io_bytes, take = bytes < left ? bytes : left;
        if (n->io_bytes == 0 && !c->shaped) n->started_ns = now;
        rb_count_bytes(c->peer->stats.sent, n, n->io_bytes, n->io_bytes + take);
        n->io_bytes += take;
        bytes -= take;
        if (n->io_bytes < n->total) break;
        c->peer->stats.frames_sent++;
        record_event(l, n, rb_now_ns());
        rb_list_push(&done, rb_list_pop(&c->queue));
    }
    pthread_mutex_unlock(&l->lock);
    pthread_cond_broadcast(&l->left);
    rb_list_free(&done);
}

static void write_failed(rb_link *l, rb_conn *c, int why) {
    c->broken_tx = true;
    char who[RB_WHO_TEXT];
    rb_who_at(who, c->peer->number, l->opt.places);
    if (why == EPIPE || why == ECONNRESET)
        rb_io_fault(l, c, RESBM_E_PEER, "%s closed the connection", who);
    else
        rb_io_fault(l, c, RESBM_E_PEER, "writing to %s failed (%s)", who, strerror(why));
    rb_transmit_drop(l, c);
}

/* One write; false when the socket is full or broken. */
static bool write_once(rb_link *l, rb_conn *c, int64_t now, size_t room) {
    struct iovec v[MOST_PIECES];
    struct msghdr m = {.msg_iov = v};
    m.msg_iovlen = (size_t)gather(c, v, room);
    ssize_t n = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) return true;
    if (n < 0) {
        c->writable = false;
        if (errno != EAGAIN) write_failed(l, c, errno);
        return false;
    }
    if (c->shaped) c->ready -= (size_t)n;
    advance(l, c, (size_t)n, now);
    return true;
}

int64_t rb_transmit_write(rb_link *l, rb_conn *c, int64_t now, bool *more) {
    if (c->broken_tx) {
        if (c->queue.head) rb_transmit_drop(l, c);
        return RB_NEVER;
    }
    if (c->shaped) release_arrived(c, now);
    for (int i = 0; i < ROUNDS && c->writable && c->queue.head; i++) {
        size_t room = c->shaped && c->ready < MOST_AT_ONCE ? c->ready : MOST_AT_ONCE;
        if (!room || !write_once(l, c, now, room)) break;
    }
    if (c->writable && (c->shaped ? c->ready > 0 : c->queue.head != NULL)) *more = true;
    return c->delay_count ? c->delay[c->delay_head].arrive_ns : RB_NEVER;
}
