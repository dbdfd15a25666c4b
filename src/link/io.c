/* The input/output thread: one loop over epoll (edge-triggered), an eventfd that wakes it and a timerfd for
 * the next moment the shape asks for. A thread that wakes late catches up in virtual time. */
#include "link/internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "core/clock.h"

enum { MOST_EVENTS = 64 };
/* Moments closer together than this are served together: at 1 Gbit/s there would be one every 12 us. */
#define LEAST_SLEEP_NS (RB_MS / 10)

void rb_io_fault(rb_link *l, rb_conn *c, resbm_status code, const char *fmt, ...) {
    rb_peer *p = c->peer;
    pthread_mutex_lock(&l->lock);
    if (p->conn == c && p->fault == RESBM_OK) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(p->fault_text, sizeof p->fault_text, fmt, ap);
        va_end(ap);
        p->fault = code;
        rb_link_all_changed(l);
    }
    pthread_mutex_unlock(&l->lock);
}

static void watch(rb_link *l, rb_conn *c) {
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    rb_shape_stream_init(&c->stream, &l->shape, c->peer->number);
    c->readable = c->writable = true;
    c->next = l->conns;
    l->conns = c;
    if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, c->fd, &e) == 0) return;
    rb_io_fault(l, c, RESBM_E_IO, "cannot watch the connection (%s)", strerror(errno));
    rb_receive_stop(l, c);
}

/* Takes over what other threads left under the lock; false when the link is closed. */
static bool take_orders(rb_link *l) {
    rb_list submitted;
    pthread_mutex_lock(&l->lock);
    bool open = !l->closed;
    submitted = l->submitted;
    l->submitted = (rb_list){0};
    rb_conn *fresh = l->fresh;
    l->fresh = NULL;
    pthread_mutex_unlock(&l->lock);
    for (rb_conn *next; fresh; fresh = next) {
        next = fresh->next;
        watch(l, fresh);
    }
    rb_transmit_take(l, &submitted);
    return open;
}

static int64_t sooner(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t read_all(rb_link *l, int64_t now, bool *more) {
    int64_t next = RB_NEVER;
    for (rb_conn *c = l->conns; c; c = c->next) next = sooner(next, rb_receive_read(l, c, now, more));
    return next;
}

/* The first connection goes to the end, so that none is always served first. */
static void rotate(rb_link *l) {
    rb_conn *first = l->conns, **end = &l->conns;
    if (!first || !first->next) return;
    l->conns = first->next;
    while (*end) end = &(*end)->next;
    *end = first;
    first->next = NULL;
}

/* Reads and sends through the shape. At half duplex the directions share one lane: the one that used it last
 * goes second, so that neither waits for the other's end. */
static int64_t use_lanes(rb_link *l, int64_t now, bool *more) {
    const rb_shape_lane *up = l->shape.up;
    int64_t next = RB_NEVER, before = up->free_ns;
    if (l->up_turn) {
        next = rb_transmit_uplink(l, now);
        if (up->free_ns != before) l->up_turn = false;
        return sooner(next, read_all(l, now, more));
    }
    next = read_all(l, now, more);
    if (up->free_ns != before) l->up_turn = l->opt.shape.half_duplex;
    return sooner(next, rb_transmit_uplink(l, now));
}

/* One turn for everybody; returns when the next one is due (RB_NEVER: on an event only). */
static int64_t turn(rb_link *l, int64_t now, bool *more) {
    int64_t next = use_lanes(l, now, more);
    for (rb_conn *c = l->conns; c; c = c->next) next = sooner(next, rb_transmit_write(l, c, now, more));
    next = sooner(next, rb_receive_deliver(l, now));
    rotate(l);
    return next;
}

static void arm(rb_link *l, int64_t at_ns) {
    if (at_ns == l->armed_ns) return;
    struct itimerspec t = {0};
    if (at_ns != RB_NEVER)
        t.it_value = (struct timespec){.tv_sec = at_ns / RB_SEC, .tv_nsec = at_ns % RB_SEC};
    timerfd_settime(l->timer_fd, TFD_TIMER_ABSTIME, &t, NULL);
    l->armed_ns = at_ns;
}

/* With the lock: may the thread sleep? If so, others must wake it from now on. */
static bool may_sleep(rb_link *l) {
    pthread_mutex_lock(&l->lock);
    l->sleeping = !l->closed && !l->submitted.head && !l->fresh;
    bool sleeping = l->sleeping;
    pthread_mutex_unlock(&l->lock);
    return sleeping;
}

/* First come, first counted. */
void rb_link_see_end(rb_link *l, rb_conn *c) {
    pthread_mutex_lock(&l->lock);
    if (!c->gone_order) c->gone_order = ++l->gone;
    pthread_mutex_unlock(&l->lock);
}

static void note_event(rb_link *l, const struct epoll_event *e) {
    uint64_t count;
    if (e->data.ptr == &l->wake_fd) {
        (void)!read(l->wake_fd, &count, sizeof count);
    } else if (e->data.ptr == &l->timer_fd) {
        (void)!read(l->timer_fd, &count, sizeof count);
        l->armed_ns = RB_NEVER;
    } else {
        rb_conn *c = e->data.ptr;
        if (e->events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
            c->hung_up = true;
            rb_link_see_end(l, c); /* the kernel lists events in the order in which they came */
        }
        if (e->events & ~(uint32_t)EPOLLOUT) c->readable = true;
        if (e->events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) c->writable = true;
    }
}

/* Collects events; waits for the first one unless there is more to do at once. */
static void wait_events(rb_link *l, int64_t next, bool more) {
    struct epoll_event e[MOST_EVENTS];
    bool sleep = !more && may_sleep(l);
    if (sleep) arm(l, next);
    int n = epoll_wait(l->epoll_fd, e, MOST_EVENTS, sleep ? -1 : 0);
    if (sleep) {
        pthread_mutex_lock(&l->lock);
        l->sleeping = false;
        pthread_mutex_unlock(&l->lock);
    }
    for (int i = 0; i < n; i++) note_event(l, &e[i]);
}

void *rb_io_main(void *link) {
    rb_link *l = link;
    while (take_orders(l)) {
        bool more = false;
        l->again = false;
        int64_t now = rb_now_ns(), next = turn(l, now, &more);
        more = more || l->again;
        wait_events(l, next < now + LEAST_SLEEP_NS ? now + LEAST_SLEEP_NS : next, more);
    }
    for (rb_conn *c = l->conns; c; c = c->next) shutdown(c->fd, SHUT_RDWR);
    return NULL;
}
