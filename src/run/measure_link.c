#include "run/measure_link.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <sys/socket.h>
#include "core/clock.h"
#include "link/pair.h"
#include "run/measure.h"

enum { A = 1, B = 2, MOST_MESSAGES = 64, MOST_BYTES = 16 << 20 };

/* As stages of a run on one machine are connected. */
static resbm_status open_pair(const rb_config *c, rb_link_pair *p, rb_err *err) {
    int fd[2];
    if (c->pipeline.transport == RB_TRANSPORT_TCP)
        return rb_link_pair_open("tcp:127.0.0.1:0", &c->link, &c->link, p, err);
    *p = (rb_link_pair){0};
    resbm_status st = rb_link_pair_end(A, &c->link, &p->a, err);
    if (!st) st = rb_link_pair_end(B, &c->link, &p->b, err);
    if (!st && socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd))
        st = rb_fail_errno(err, errno, "cannot make a pair of sockets");
    if (!st) st = rb_link_pair_attach(p->a, p->b, B, fd, err);
    if (st) rb_link_pair_close(p);
    return st;
}

static uint64_t received(rb_link *l, uint64_t *frames) {
    rb_link_stats s;
    uint64_t bytes = 0;
    rb_link_get_stats(l, A, &s);
    for (int i = 0; i < RB_TRAFFIC_COUNT; i++) bytes += s.received[i];
    *frames = s.frames_received;
    return bytes;
}

/* The time is over and something has passed, or nothing will. */
static bool over(const rb_link_pair *p, int64_t end, uint64_t from, uint64_t *frames) {
    int64_t now = rb_now_ns();
    return (received(p->b, frames) > from && now >= end) || now >= end + 5 * RB_SEC;
}

/* Message after message until the time is over; slow links get no further than a part of the first. */
static resbm_status stream(const rb_link_pair *p, size_t bytes, double seconds, uint64_t from, rb_err *err) {
    int64_t end = rb_now_ns() + (int64_t)(seconds * 1e9);
    uint64_t before, frames;
    received(p->b, &before);
    RB_TRY(rb_link_pair_send(p->a, B, 0, bytes, err));
    for (uint32_t i = 0; i + 1 < MOST_MESSAGES; i++) {
        bool last = over(p, end, from, &frames);
        if (last) break;
        RB_TRY(rb_link_pair_send(p->a, B, i + 1, bytes, err));
        while (!last && frames - before <= i) {
            rb_sleep_ns(RB_MS / 4);
            last = over(p, end, from, &frames);
        }
        if (frames - before > i) RB_TRY(rb_link_pair_take(p->b, A, i, err));
    }
    return RESBM_OK;
}

resbm_status rb_measure_link(const rb_config *cfg, double seconds, double *cpu, rb_err *err) {
    rb_link_pair p;
    uint64_t frames;
    double bytes = (rb_measure_message(cfg, 0) + rb_measure_message(cfg, 1)) / 2;
    *cpu = 0;
    RB_TRY(open_pair(cfg, &p, err));
    uint64_t from = received(p.b, &frames);
    int64_t begin = rb_link_cpu_ns(p.a) + rb_link_cpu_ns(p.b);
    resbm_status st = stream(&p, (size_t)fmin(bytes, MOST_BYTES) - RB_FRAME_HEADER_BYTES, seconds, from, err);
    double took = (double)(rb_link_cpu_ns(p.a) + rb_link_cpu_ns(p.b) - begin) * 1e-9,
           moved = (double)(received(p.b, &frames) - from);
    if (!st && moved > 0) *cpu = took * bytes / moved;
    rb_link_pair_close(&p);
    return st;
}
