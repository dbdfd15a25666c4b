#include "link/probe.h"

#include <stdlib.h>
#include <string.h>
#include "core/clock.h"
#include "link/internal.h"

enum { ASKING = 1 }; /* attempt of a probe whose answer nobody waits for */
enum { ROUND_TRIPS = 9, FIRST_BYTES = 4096 };
#define LONG_ENOUGH_NS (100 * RB_MS)

/* What the receiving endpoint sends back: `step` bytes of payload at the same number where it is there to be measured, else none:
 * a frame of 56 bytes has nobody send megabytes. Called by the I/O thread. */
rb_message *rb_probe_answer(const rb_link *l, const rb_frame_header *asked) {
    size_t most = l->opt.measured ? l->opt.limits.frame_bytes - RB_FRAME_HEADER_BYTES : 0;
    size_t bytes = asked->step < most ? (size_t)asked->step : most;
    rb_message *m = rb_message_new(bytes);
    if (!m) return NULL;
    memset(m->payload, 0, bytes);
    m->head = *asked;
    m->head.direction = 1;
    m->head.payload_bytes = bytes;
    m->traffic = RB_TRAFFIC_CONTROL;
    return m;
}

bool rb_probe_is_sign_of_life(const rb_frame_header *h) {
    return h->kind == RB_FRAME_PROBE && h->direction == 1 && h->attempt == ASKING;
}

void rb_link_ask(rb_link *l, int peer) {
    rb_err not_heard_either;
    rb_message *m = rb_message_new(0);
    if (!m) return;
    m->head = (rb_frame_header){.kind = RB_FRAME_PROBE, .epoch = l->opt.epoch, .attempt = ASKING};
    m->traffic = RB_TRAFFIC_CONTROL;
    rb_link_send(l, peer, m, rb_now_ns(), &not_heard_either);
}

int64_t rb_link_heard_ns(rb_link *l, int peer) {
    rb_peer *p = rb_link_peer(l, peer);
    pthread_mutex_lock(&l->lock);
    int64_t at = p ? p->heard_ns : 0;
    pthread_mutex_unlock(&l->lock);
    return at;
}

/* One message of `up` bytes there and one of `down` bytes back. */
static resbm_status round_trip(rb_link *l, int peer, uint32_t number, size_t up, size_t down,
                               int64_t deadline_ns, int64_t *ns, rb_err *err) {
    rb_message *m = rb_message_new(up), *back;
    if (!m) return rb_fail(err, RESBM_E_MEMORY, "no memory for a probe of %zu bytes", up);
    memset(m->payload, 0, up);
    m->head =
        (rb_frame_header){.kind = RB_FRAME_PROBE, .epoch = l->opt.epoch, .microbatch = number, .step = down};
    m->head.payload_bytes = up;
    m->traffic = RB_TRAFFIC_CONTROL;
    rb_frame_header want = m->head;
    want.direction = 1;
    int64_t t0 = rb_now_ns();
    RB_TRY(rb_link_send(l, peer, m, deadline_ns, err));
    RB_TRY(rb_link_recv(l, peer, &want, deadline_ns, &back, err));
    *ns = rb_now_ns() - t0;
    rb_message_free(back);
    return RESBM_OK;
}

static int by_size(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Larger and larger messages until one takes long enough to tell the rate from the round trip. */
static resbm_status measure_rate(rb_link *l, int peer, bool up, uint32_t number, int64_t deadline_ns,
                                 rb_link_probe_result *r, double *bits, rb_err *err) {
    size_t most = l->opt.limits.frame_bytes - RB_FRAME_HEADER_BYTES;
    if (most > l->opt.limits.inbox_bytes) most = l->opt.limits.inbox_bytes;
    int64_t took = 0;
    for (size_t bytes = FIRST_BYTES; took < LONG_ENOUGH_NS; bytes *= 4) {
        if (bytes > most) bytes = most;
        resbm_status st =
            round_trip(l, peer, number++, up ? bytes : 0, up ? 0 : bytes, deadline_ns, &took, err);
        if (st == RESBM_E_TIMEOUT && *bits > 0) return RESBM_OK; /* the last figure stands */
        RB_TRY(st);
        int64_t own = took - r->round_trip_ns;
        *bits = (double)bytes * 8e9 / (double)(own > 0 ? own : 1);
        if (bytes > r->bytes) r->bytes = bytes;
        if (bytes == most) break;
    }
    return RESBM_OK;
}

resbm_status rb_link_probe(rb_link *l, int peer, int64_t deadline_ns, rb_link_probe_result *out,
                           rb_err *err) {
    int64_t ns[ROUND_TRIPS];
    uint32_t number =
        (uint32_t)(rb_now_ns() /
                   1000); /* a late answer to an earlier probe must not be taken for this one's */
    *out = (rb_link_probe_result){0};
    int n = 0;
    for (int64_t spent = 0; n < ROUND_TRIPS && spent < RB_SEC / 2; spent += ns[n++])
        RB_TRY(round_trip(l, peer, number++, 0, 0, deadline_ns, &ns[n], err));
    qsort(ns, (size_t)n, sizeof *ns, by_size);
    out->round_trip_ns = ns[0];
    out->typical_ns = ns[n / 2];
    RB_TRY(measure_rate(l, peer, true, number, deadline_ns, out, &out->up_bits, err));
    return measure_rate(l, peer, false, number + 100, deadline_ns, out, &out->down_bits, err);
}
