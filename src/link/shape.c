#include "link/shape.h"

#include <math.h>
#include "core/rng.h"

enum { MOST_LOSSES = 32 };

resbm_status rb_shape_check(const rb_shape_options *o, rb_err *err) {
    if (!(o->up_bits >= 0) || !(o->down_bits >= 0) || !isfinite(o->up_bits) || !isfinite(o->down_bits))
        return rb_fail(err, RESBM_E_ARG, "link rates of %g up and %g down bits per second are not possible",
                       o->up_bits, o->down_bits);
    if (o->latency_ns < 0 || o->jitter_ns < 0)
        return rb_fail(err, RESBM_E_ARG, "link latency %lld ns and jitter %lld ns must not be negative",
                       (long long)o->latency_ns, (long long)o->jitter_ns);
    if (!(o->loss >= 0 && o->loss <= 0.5))
        return rb_fail(err, RESBM_E_ARG, "link loss %g is not within 0 to 0.5", o->loss);
    if (o->half_duplex && o->up_bits != o->down_bits)
        return rb_fail(err, RESBM_E_ARG,
                       "a half duplex link has one rate, not %g up and %g down bits per second", o->up_bits,
                       o->down_bits);
    return RESBM_OK;
}

bool rb_shape_any(const rb_shape_options *o) {
    return o->up_bits > 0 || o->down_bits > 0 || o->latency_ns > 0 || o->jitter_ns > 0 || o->loss > 0;
}

static double ns_per_byte(double bits) {
    return bits > 0 ? 8e9 / bits : 0;
}

void rb_shape_init(rb_shape *s, const rb_shape_options *opt) {
    *s = (rb_shape){.opt = *opt};
    s->up = &s->lane[0];
    s->down = &s->lane[opt->half_duplex ? 0 : 1];
    s->lane[0].ns_per_byte = ns_per_byte(opt->up_bits);
    s->lane[1].ns_per_byte = ns_per_byte(opt->down_bits);
}

void rb_shape_stream_init(rb_shape_stream *t, const rb_shape *s, int peer) {
    *t = (rb_shape_stream){.key = rb_mix64(s->opt.seed, (uint64_t)(uint32_t)peer)};
}

uint64_t rb_shape_wire_bytes(uint64_t bytes) {
    return bytes + RB_SEGMENT_HEADERS * ((bytes + RB_SEGMENT_PAYLOAD - 1) / RB_SEGMENT_PAYLOAD);
}

/* Occupies the lane with `bytes` from ready_ns at the earliest; *start gets the beginning, the end is
 * returned. */
static int64_t occupy(rb_shape_lane *l, int64_t ready_ns, uint64_t bytes, int64_t *start) {
    if (l->free_ns < ready_ns) {
        l->free_ns = ready_ns;
        l->fraction = 0;
    }
    *start = l->free_ns;
    double ns = (double)bytes * l->ns_per_byte + l->fraction;
    int64_t whole = (int64_t)ns;
    l->free_ns += whole;
    l->fraction = ns - (double)whole;
    return l->free_ns;
}

/* Uniform in [0, 1): draw `which` of the stream's current segment. */
static double draw(const rb_shape_stream *t, uint32_t which) {
    rb_philox c = {{(uint32_t)t->segments, (uint32_t)(t->segments >> 32), which, 0}};
    return rb_philox4x32(c, t->key).v[0] * 0x1p-32;
}

rb_shape_trip rb_shape_send(rb_shape *s, rb_shape_stream *t, int64_t ready_ns, int bytes) {
    const rb_shape_options *o = &s->opt;
    rb_shape_trip trip = {.losses = 0};
    if (o->loss > 0)
        while (trip.losses < MOST_LOSSES && draw(t, 1 + (uint32_t)trip.losses) < o->loss) trip.losses++;
    uint64_t wire = (uint64_t)(bytes + RB_SEGMENT_HEADERS) * (uint64_t)(1 + trip.losses);
    trip.leave_ns = occupy(s->up, ready_ns, wire, &trip.start_ns);
    trip.arrive_ns = trip.leave_ns + o->latency_ns + 2 * trip.losses * o->latency_ns;
    if (o->jitter_ns > 0) trip.arrive_ns += (int64_t)(draw(t, 0) * (double)o->jitter_ns);
    if (trip.arrive_ns < t->last_arrival_ns) trip.arrive_ns = t->last_arrival_ns;
    t->last_arrival_ns = trip.arrive_ns;
    t->segments++;
    return trip;
}

void rb_shape_end_message(rb_shape *s) {
    if (s->opt.latency_occupies) s->up->free_ns += s->opt.latency_ns;
}

int64_t rb_shape_receive(rb_shape *s, rb_shape_stream *t, int64_t ready_ns, uint64_t bytes) {
    int64_t start;
    if (ready_ns > s->down->free_ns) t->room = 0; /* after a pause a segment begins */
    uint64_t fill = bytes < t->room ? bytes : t->room;
    uint64_t wire = fill + rb_shape_wire_bytes(bytes - fill);
    t->room = t->room - fill + (wire - bytes) / RB_SEGMENT_HEADERS * RB_SEGMENT_PAYLOAD - (bytes - fill);
    return occupy(s->down, ready_ns, wire, &start);
}
