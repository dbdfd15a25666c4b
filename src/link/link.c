/* The calls of compute threads: hand over, pick up, wait, close. */
#include "link/link.h"

#include <errno.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "core/clock.h"
#include "core/thread.h"
#include "link/internal.h"

rb_peer *rb_link_peer(rb_link *l, int number) {
    if (number == RB_PEER_COORDINATOR) return &l->peers[l->peer_count - 1];
    return number >= 0 && number < l->opt.stages ? &l->peers[number] : NULL;
}

void rb_link_wake(rb_link *l) {
    uint64_t one = 1;
    if (!l->sleeping) return;
    l->sleeping = false;
    (void)!write(l->wake_fd, &one, sizeof one);
}

void rb_link_all_changed(rb_link *l) {
    pthread_cond_broadcast(&l->arrived);
    pthread_cond_broadcast(&l->left);
}

/* Waits for a change, with the lock; false once the deadline has passed. */
static bool wait_change(rb_link *l, pthread_cond_t *change, int64_t deadline_ns) {
    return deadline_ns > 0 && rb_cond_wait_until(change, &l->lock, deadline_ns);
}

static resbm_status check_options(const rb_link_options *o, rb_err *err) {
    if (o->stages < 1 || o->stages > 4096 || o->self < RB_PEER_COORDINATOR || o->self >= o->stages)
        return rb_fail(err, RESBM_E_ARG, "a link of number %d among %d stages is not possible", o->self,
                       o->stages);
    if (o->limits.frame_bytes <= RB_FRAME_HEADER_BYTES || !o->limits.queued_bytes || !o->limits.inbox_bytes)
        return rb_fail(err, RESBM_E_ARG,
                       "link limits of %zu bytes per frame, %zu queued, %zu in the inbox leave no room",
                       o->limits.frame_bytes, o->limits.queued_bytes, o->limits.inbox_bytes);
    return rb_shape_check(&o->shape, err);
}

static void init_sync(rb_link *l) {
    pthread_mutex_init(&l->lock, NULL);
    rb_cond_init(&l->arrived);
    rb_cond_init(&l->left);
}

static resbm_status make_peers(rb_link *l, rb_err *err) {
    l->peer_count = l->opt.stages + 1;
    l->peers = calloc((size_t)l->peer_count, sizeof *l->peers);
    if (!l->peers) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d peers", l->peer_count);
    for (int i = 0; i < l->peer_count; i++) {
        rb_peer *p = &l->peers[i];
        p->number = i < l->opt.stages ? i : RB_PEER_COORDINATOR;
        p->shaped = rb_shape_any(&l->opt.shape) && i < l->opt.stages && l->opt.self != RB_PEER_COORDINATOR;
    }
    return RESBM_OK;
}

static resbm_status watch_fd(rb_link *l, int fd, void *mark, rb_err *err) {
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = mark};
    if (fd < 0 || l->epoll_fd < 0 || epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &e) != 0)
        return rb_fail_errno(err, errno, "cannot set up the link's event loop");
    return RESBM_OK;
}

static resbm_status open_fds(rb_link *l, rb_err *err) {
    l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    RB_TRY(watch_fd(l, l->wake_fd, &l->wake_fd, err));
    return watch_fd(l, l->timer_fd, &l->timer_fd, err);
}

static resbm_status start_thread(rb_link *l, rb_err *err) {
    int rc = rb_thread_start(&l->thread, "rb-link", rb_io_main, l);
    if (rc) return rb_fail_errno(err, rc, "cannot start the link's input/output thread");
    l->started = true;
    return RESBM_OK;
}

int64_t rb_link_cpu_ns(rb_link *l) {
    clockid_t id;
    struct timespec t;
    if (pthread_getcpuclockid(l->thread, &id) || clock_gettime(id, &t)) return 0;
    return t.tv_sec * RB_SEC + t.tv_nsec;
}

resbm_status rb_link_open(const rb_link_options *opt, rb_link **out, rb_err *err) {
    RB_TRY(check_options(opt, err));
    rb_link *l = calloc(1, sizeof *l);
    if (!l) return rb_fail(err, RESBM_E_MEMORY, "no memory for a link");
    l->opt = *opt;
    l->wake_fd = l->timer_fd = l->epoll_fd = -1;
    l->armed_ns = RB_NEVER;
    init_sync(l);
    rb_shape_init(&l->shape, &opt->shape);
    resbm_status st;
    RB_TRY_GOTO(st, make_peers(l, err), failed);
    RB_TRY_GOTO(st, open_fds(l, err), failed);
    RB_TRY_GOTO(st, start_thread(l, err), failed);
    *out = l;
    return RESBM_OK;
failed:
    rb_link_fini(l);
    return st;
}

/* On a new connection what went wrong with the old one is over; counters, inbox and addresses seen stay. */
resbm_status rb_link_adopt(rb_link *l, rb_peer *p, int fd, bool tcp, rb_conn *c, rb_err *err) {
    resbm_status st = RESBM_OK;
    pthread_mutex_lock(&l->lock);
    if (!p->seen) p->seen = calloc(1, sizeof *p->seen);
    if (!p->seen) {
        st = rb_fail(err, RESBM_E_MEMORY, "no memory for a connection");
    } else if (l->closed) {
        st = rb_fail(err, RESBM_E_CANCELLED, "the link was closed");
    } else {
        c->peer = p;
        c->fd = fd;
        c->tcp = tcp;
        c->shaped = p->shaped;
        c->next = l->fresh;
        l->fresh = c;
        p->conn = c;
        p->fault = RESBM_OK;
        p->deaf = false;
        p->undelivered = 0;
        p->stats.sent[RB_TRAFFIC_CONTROL] += RB_HELLO_BYTES;
        p->stats.received[RB_TRAFFIC_CONTROL] += RB_HELLO_BYTES;
        rb_link_wake(l);
    }
    pthread_mutex_unlock(&l->lock);
    return st;
}

static resbm_status check_message(rb_link *l, int peer, const rb_node *n, rb_err *err) {
    char me[RB_WHO_TEXT], what[RB_WHAT_TEXT];
    rb_who_at(me, l->opt.self, l->opt.places);
    rb_what(what, &n->msg.head);
    uint64_t bytes = n->msg.head.payload_bytes;
    rb_peer *p = rb_link_peer(l, peer);
    if (!p || peer == l->opt.self) return rb_fail(err, RESBM_E_ARG, "%s cannot send to number %d", me, peer);
    if (bytes > n->capacity || n->msg.token_bytes > bytes || n->msg.traffic >= RB_TRAFFIC_COUNT)
        return rb_fail(err, RESBM_E_ARG, "%s: %s has %llu bytes (%u of token ids) in room for %zu", me, what,
                       (unsigned long long)bytes, n->msg.token_bytes, n->capacity);
    if (bytes > l->opt.limits.frame_bytes - RB_FRAME_HEADER_BYTES)
        return rb_fail(err, RESBM_E_ARG, "%s: %s has %llu bytes, the link's limit is %zu", me, what,
                       (unsigned long long)bytes, l->opt.limits.frame_bytes - RB_FRAME_HEADER_BYTES);
    return RESBM_OK;
}

static resbm_status fail_closed(const rb_link *l, const char *doing, const rb_frame_header *h, rb_err *err) {
    char me[RB_WHO_TEXT], what[RB_WHAT_TEXT];
    return rb_fail(err, RESBM_E_CANCELLED, "%s stopped %s %s: the link was closed",
                   rb_who_at(me, l->opt.self, l->opt.places), doing, rb_what(what, h));
}

/* The peer's first fault, and what it kept us from. */
static resbm_status fail_fault(const rb_link *l, const rb_peer *p, const char *doing,
                               const rb_frame_header *h, rb_err *err) {
    char me[RB_WHO_TEXT], what[RB_WHAT_TEXT];
    return rb_fail(err, p->fault, "%s while %s %s %s", p->fault_text,
                   rb_who_at(me, l->opt.self, l->opt.places), doing, rb_what(what, h));
}

static resbm_status fail_unconnected(const rb_link *l, const rb_peer *p, rb_err *err) {
    char me[RB_WHO_TEXT], who[RB_WHO_TEXT];
    return rb_fail(err, RESBM_E_STATE, "%s has no connection to %s",
                   rb_who_at(me, l->opt.self, l->opt.places), rb_who_at(who, p->number, l->opt.places));
}

static resbm_status fail_credit(const rb_link *l, const rb_peer *p, const rb_frame_header *h, int64_t since,
                                rb_err *err) {
    char me[RB_WHO_TEXT], who[RB_WHO_TEXT], what[RB_WHAT_TEXT];
    return rb_fail(
        err, RESBM_E_TIMEOUT,
        "%s waited %.3f s to send %s to %s, which does not take its bytes: %zu wait unsent, %zu may",
        rb_who_at(me, l->opt.self, l->opt.places), (double)(rb_now_ns() - since) / 1e9, rb_what(what, h),
        rb_who_at(who, p->number, l->opt.places), p->unsent, l->opt.limits.queued_bytes);
}

/* With the lock: waits until the peer may be sent more. */
static resbm_status wait_credit(rb_link *l, rb_peer *p, const rb_frame_header *h, int64_t deadline_ns,
                                rb_err *err) {
    int64_t since = rb_now_ns();
    for (bool in_time = true;; in_time = wait_change(l, &l->left, deadline_ns)) {
        if (l->closed) return fail_closed(l, "sending", h, err);
        if (!p->conn) return fail_unconnected(l, p, err);
        if (p->fault) return fail_fault(l, p, "was sending", h, err);
        if (p->unsent <= l->opt.limits.queued_bytes) return RESBM_OK;
        if (!in_time) return fail_credit(l, p, h, since, err);
    }
}

resbm_status rb_link_send(rb_link *l, int peer, rb_message *m, int64_t deadline_ns, rb_err *err) {
    rb_node *n = rb_node_of(m);
    resbm_status st = check_message(l, peer, n, err);
    if (st == RESBM_OK) {
        rb_peer *p = rb_link_peer(l, peer);
        rb_frame_put(n->head, &m->head, m->payload);
        n->total = RB_FRAME_HEADER_BYTES + m->head.payload_bytes;
        n->io_bytes = n->up_bytes = 0;
        n->queued_ns = rb_now_ns();
        pthread_mutex_lock(&l->lock);
        st = wait_credit(l, p, &m->head, deadline_ns, err);
        if (st == RESBM_OK) {
            n->conn = p->conn;
            p->unsent += n->total;
            rb_list_push(&l->submitted, n);
            rb_link_wake(l);
        }
        pthread_mutex_unlock(&l->lock);
    }
    if (st != RESBM_OK) rb_message_free(m);
    return st;
}

static bool same_address(const rb_frame_header *a, const rb_frame_header *b) {
    return a->kind == b->kind && a->direction == b->direction && a->boundary == b->boundary &&
           a->attempt == b->attempt && a->epoch == b->epoch && a->microbatch == b->microbatch &&
           a->step == b->step;
}

static bool same_kind(const rb_frame_header *a, const rb_frame_header *b) {
    return a->kind == b->kind;
}

typedef bool (*matcher)(const rb_frame_header *, const rb_frame_header *);

/* With the lock: takes the oldest message that matches out of the inbox. */
static rb_node *inbox_take(rb_link *l, rb_peer *p, const rb_frame_header *want, matcher matches) {
    rb_node *before = NULL, *n = p->inbox.head;
    for (; n && !matches(&n->msg.head, want); n = n->next) before = n;
    if (!n) return NULL;
    if (before)
        before->next = n->next;
    else
        p->inbox.head = n->next;
    if (!n->next) p->inbox.tail = before;
    p->inbox_bytes -= sizeof *n + n->capacity;
    if (p->paused && p->inbox_bytes < l->opt.limits.inbox_bytes) {
        p->paused = false;
        rb_link_wake(l);
    }
    return n;
}

static resbm_status fail_late(const rb_link *l, const rb_peer *p, const rb_frame_header *want, int64_t since,
                              rb_err *err) {
    char me[RB_WHO_TEXT], who[RB_WHO_TEXT], what[RB_WHAT_TEXT], other[RB_WHAT_TEXT], heard[RB_WHAT_TEXT + 64];
    int64_t now = rb_now_ns();
    const rb_node *instead =
        p->inbox.head; /* a frame with a wrong step or microbatch has come whole and lies there */
    while (instead && instead->msg.head.kind != want->kind) instead = instead->next;
    if (p->inbox_bytes >= l->opt.limits.inbox_bytes) /* whether or not more has come and waits */
        snprintf(heard, sizeof heard, "its inbox is full with %zu bytes that nobody asks for",
                 p->inbox_bytes);
    else if (instead && want->kind != RB_FRAME_CONTROL)
        snprintf(heard, sizeof heard, "instead came %s, which nobody asks for",
                 rb_what(other, &instead->msg.head));
    else if (p->heard_ns)
        snprintf(heard, sizeof heard, "its last message came %.3f s ago", (double)(now - p->heard_ns) / 1e9);
    else
        snprintf(heard, sizeof heard, "nothing ever came from it");
    return rb_fail(err, RESBM_E_TIMEOUT, "%s waited %.3f s for %s from %s; %s",
                   rb_who_at(me, l->opt.self, l->opt.places), (double)(now - since) / 1e9,
                   rb_what(what, want), rb_who_at(who, p->number, l->opt.places), heard);
}

/* With the lock. */
static resbm_status wait_message(rb_link *l, rb_peer *p, const rb_frame_header *want, matcher matches,
                                 int64_t since, int64_t deadline_ns, rb_node **out, rb_err *err) {
    for (bool in_time = true;; in_time = wait_change(l, &l->arrived, deadline_ns)) {
        if (l->closed) return fail_closed(l, "waiting for", want, err);
        if ((*out = inbox_take(l, p, want, matches))) return RESBM_OK;
        if (!p->conn) return fail_unconnected(l, p, err);
        if (p->deaf) return fail_fault(l, p, "waited for", want, err);
        if (!in_time) return fail_late(l, p, want, since, err);
    }
}

static resbm_status receive(rb_link *l, int peer, const rb_frame_header *want, matcher matches,
                            int64_t since_ns, int64_t deadline_ns, rb_message **out, rb_err *err) {
    char me[RB_WHO_TEXT];
    rb_peer *p = rb_link_peer(l, peer);
    rb_node *n = NULL;
    if (!p || peer == l->opt.self)
        return rb_fail(err, RESBM_E_ARG, "%s cannot receive from number %d",
                       rb_who_at(me, l->opt.self, l->opt.places), peer);
    pthread_mutex_lock(&l->lock);
    resbm_status st = wait_message(l, p, want, matches, since_ns, deadline_ns, &n, err);
    pthread_mutex_unlock(&l->lock);
    if (n) n->msg.from = peer;
    *out = n ? &n->msg : NULL;
    return st;
}

resbm_status rb_link_recv(rb_link *l, int peer, const rb_frame_header *want, int64_t deadline_ns,
                          rb_message **out, rb_err *err) {
    return receive(l, peer, want, same_address, rb_now_ns(), deadline_ns, out, err);
}

resbm_status rb_link_recv_since(rb_link *l, int peer, const rb_frame_header *want, int64_t since_ns,
                                int64_t deadline_ns, rb_message **out, rb_err *err) {
    return receive(l, peer, want, same_address, since_ns, deadline_ns, out, err);
}

static bool is_before(const rb_frame_header *a, const rb_frame_header *b) {
    return (a->kind == RB_FRAME_FORWARD || a->kind == RB_FRAME_BACKWARD || a->kind == RB_FRAME_SYNC) &&
           (int64_t)a->step < (int64_t)b->step; /* numbers of evaluations have bit 63 set */
}

void rb_link_drop_before(rb_link *l, uint64_t step) {
    rb_frame_header want = {.step = step};
    pthread_mutex_lock(&l->lock);
    for (int i = 0; i < l->peer_count; i++)
        for (rb_node *n; (n = inbox_take(l, &l->peers[i], &want, is_before));) rb_message_free(&n->msg);
    pthread_mutex_unlock(&l->lock);
}

/* With the lock: the peer whose oldest message of the kind came first. */
static rb_peer *oldest_inbox(rb_link *l, const rb_frame_header *want) {
    rb_peer *best = NULL;
    int64_t best_ns = RB_NEVER;
    for (int i = 0; i < l->peer_count; i++) {
        const rb_node *n = l->peers[i].inbox.head;
        while (n && n->msg.head.kind != want->kind) n = n->next;
        if (n && n->visible_ns < best_ns) {
            best = &l->peers[i];
            best_ns = n->visible_ns;
        }
    }
    return best;
}

/* With the lock: of the peers whose end has not been told through RB_PEER_ANY yet, the one that ended first; with all told,
 * any of them. */
static rb_peer *newly_deaf(rb_link *l) {
    rb_peer *gone = NULL, *first = NULL;
    bool alive = false;
    for (int i = 0; i < l->peer_count; i++) {
        rb_peer *p = &l->peers[i];
        if (!p->conn) continue;
        if (!p->deaf)
            alive = true;
        else if (p->conn == p->told)
            gone = p;
        else if (!first || p->conn->gone_order < first->conn->gone_order)
            first = p;
    }
    if (first) first->told = first->conn;
    return first ? first : alive ? NULL : gone;
}

static resbm_status wait_any(rb_link *l, const rb_frame_header *want, int64_t deadline_ns, int *from,
                             rb_node **out, rb_err *err) {
    char me[RB_WHO_TEXT], what[RB_WHAT_TEXT];
    int64_t since = rb_now_ns();
    for (bool in_time = true;; in_time = wait_change(l, &l->arrived, deadline_ns)) {
        if (l->closed) return fail_closed(l, "waiting for", want, err);
        rb_peer *p = oldest_inbox(l, want);
        if (p) {
            *from = p->number;
            *out = inbox_take(l, p, want, same_kind);
            return RESBM_OK;
        }
        if ((p = newly_deaf(l))) {
            *from = p->number;
            return fail_fault(l, p, "waited for", want, err);
        }
        if (!in_time)
            return rb_fail(err, RESBM_E_TIMEOUT, "%s waited %.3f s for %s from any stage",
                           rb_who_at(me, l->opt.self, l->opt.places), (double)(rb_now_ns() - since) / 1e9,
                           rb_what(what, want));
    }
}

resbm_status rb_link_recv_any(rb_link *l, int peer, uint8_t kind, int64_t deadline_ns, int *from,
                              rb_message **out, rb_err *err) {
    rb_frame_header want = {.kind = kind};
    rb_node *n = NULL;
    int who = peer;
    resbm_status st;
    if (peer == RB_PEER_ANY) {
        pthread_mutex_lock(&l->lock);
        st = wait_any(l, &want, deadline_ns, &who, &n, err);
        pthread_mutex_unlock(&l->lock);
        if (n) n->msg.from = who;
        *out = n ? &n->msg : NULL;
    } else {
        st = receive(l, peer, &want, same_kind, rb_now_ns(), deadline_ns, out, err);
    }
    if (from) *from = who;
    return st;
}

static void add_stats(rb_link_stats *sum, const rb_link_stats *s) {
    for (int i = 0; i < RB_TRAFFIC_COUNT; i++) {
        sum->sent[i] += s->sent[i];
        sum->received[i] += s->received[i];
    }
    sum->frames_sent += s->frames_sent;
    sum->frames_received += s->frames_received;
    sum->dropped_epoch += s->dropped_epoch;
    sum->dropped_double += s->dropped_double;
    sum->retransmitted_bytes += s->retransmitted_bytes;
}

void rb_link_get_stats(rb_link *l, int peer, rb_link_stats *out) {
    rb_peer *p = rb_link_peer(l, peer);
    memset(out, 0, sizeof *out);
    pthread_mutex_lock(&l->lock);
    if (p)
        *out = p->stats;
    else if (peer == RB_PEER_ANY)
        for (int i = 0; i < l->opt.stages; i++) add_stats(out, &l->peers[i].stats);
    pthread_mutex_unlock(&l->lock);
}

int rb_link_fd(rb_link *l, int peer) {
    rb_peer *p = rb_link_peer(l, peer);
    pthread_mutex_lock(&l->lock);
    int fd = p && p->conn ? p->conn->fd : -1;
    pthread_mutex_unlock(&l->lock);
    return fd;
}

const char *rb_link_who(const rb_link *l, int peer, char buf[RB_WHO_TEXT]) {
    return rb_who_at(buf, peer, l->opt.places);
}

int rb_link_stages(const rb_link *l) {
    return l->opt.stages;
}

int rb_link_bad_peer(rb_link *l) {
    int bad = -1;
    pthread_mutex_lock(&l->lock);
    for (int i = 0; i < l->opt.stages && bad < 0; i++)
        if (l->peers[i].fault == RESBM_E_CORRUPT || l->peers[i].fault == RESBM_E_FORMAT) bad = i;
    pthread_mutex_unlock(&l->lock);
    return bad;
}

int rb_link_gone_order(rb_link *l, int peer) {
    const rb_peer *p = rb_link_peer(l, peer);
    pthread_mutex_lock(&l->lock);
    int order = p && p->conn ? p->conn->gone_order : 0;
    pthread_mutex_unlock(&l->lock);
    return order;
}

int rb_link_take_events(rb_link *l, rb_link_event *out, int max) {
    pthread_mutex_lock(&l->lock);
    int n = l->event_count < max ? l->event_count : max;
    if (n > 0) memcpy(out, l->events, (size_t)n * sizeof *out);
    l->event_count -= n;
    if (n > 0) memmove(l->events, l->events + n, (size_t)l->event_count * sizeof *out);
    pthread_mutex_unlock(&l->lock);
    return n;
}

/* With the lock: waits until nothing is queued for the peer. */
static resbm_status wait_drained(rb_link *l, const rb_peer *p, int64_t deadline_ns, rb_err *err) {
    char me[RB_WHO_TEXT], who[RB_WHO_TEXT];
    rb_who_at(me, l->opt.self, l->opt.places);
    rb_who_at(who, p->number, l->opt.places);
    for (bool in_time = true;; in_time = wait_change(l, &l->left, deadline_ns)) {
        if (p->undelivered)
            return rb_fail(err, p->fault, "%s; %llu bytes of %s for it were never sent", p->fault_text,
                           (unsigned long long)p->undelivered, me);
        if (!p->unsent) return RESBM_OK;
        if (l->closed)
            return rb_fail(err, RESBM_E_CANCELLED, "%s was closed with %zu bytes for %s unsent", me,
                           p->unsent, who);
        if (!in_time)
            return rb_fail(err, RESBM_E_TIMEOUT,
                           "%s could not send its last %zu bytes to %s before the deadline", me, p->unsent,
                           who);
    }
}

/* The kernel's part: until the other side's kernel has acknowledged everything, closing could lose it. */
static resbm_status wait_acknowledged(rb_link *l, const rb_peer *p, int fd, int64_t deadline_ns,
                                      rb_err *err) {
    char me[RB_WHO_TEXT], who[RB_WHO_TEXT];
    int left = 0;
    while (ioctl(fd, SIOCOUTQ, &left) == 0 && left > 0) {
        pthread_mutex_lock(&l->lock);
        bool over = p->deaf || l->closed;
        pthread_mutex_unlock(&l->lock);
        if (over) return RESBM_OK;
        if (rb_now_ns() >= deadline_ns)
            return rb_fail(
                err, RESBM_E_TIMEOUT, "%s: %s has not acknowledged the last %d bytes before the deadline",
                rb_who_at(me, l->opt.self, l->opt.places), rb_who_at(who, p->number, l->opt.places), left);
        rb_sleep_ns(RB_MS / 5);
    }
    return RESBM_OK;
}

resbm_status rb_link_stop(rb_link *l, int64_t deadline_ns, rb_err *err) {
    for (int i = 0; i < l->peer_count; i++) {
        rb_peer *p = &l->peers[i];
        pthread_mutex_lock(&l->lock);
        resbm_status st = wait_drained(l, p, deadline_ns, err);
        int fd = p->conn && p->conn->tcp && !p->deaf ? p->conn->fd : -1;
        pthread_mutex_unlock(&l->lock);
        RB_TRY(st);
        if (fd >= 0) RB_TRY(wait_acknowledged(l, p, fd, deadline_ns, err));
    }
    return RESBM_OK;
}

void rb_link_close(rb_link *l) {
    pthread_mutex_lock(&l->lock);
    l->closed = true;
    rb_link_all_changed(l);
    rb_link_wake(l);
    pthread_mutex_unlock(&l->lock);
}

static void free_conns(rb_conn *c) {
    for (rb_conn *next; c; c = next) {
        next = c->next;
        rb_list_free(&c->queue);
        if (c->incoming) rb_message_free(&c->incoming->msg);
        close(c->fd);
        free(c->delay);
        free(c->staging);
        free(c);
    }
}

static void close_fd(int fd) {
    if (fd >= 0) close(fd);
}

void rb_link_fini(rb_link *l) {
    if (!l) return;
    rb_link_close(l);
    if (l->started) pthread_join(l->thread, NULL);
    rb_list_free(&l->submitted);
    rb_list_free(&l->pending);
    free_conns(l->conns);
    free_conns(l->fresh);
    for (int i = 0; l->peers && i < l->peer_count; i++) {
        rb_list_free(&l->peers[i].inbox);
        free(l->peers[i].seen);
    }
    free(l->peers);
    free(l->events);
    close_fd(l->epoll_fd);
    close_fd(l->wake_fd);
    close_fd(l->timer_fd);
    pthread_cond_destroy(&l->arrived);
    pthread_cond_destroy(&l->left);
    pthread_mutex_destroy(&l->lock);
    free(l);
}
