/* What the tests of links share: transports plain and shaped, pairs of endpoints within this process, messages whose
 * every byte is known. */
#ifndef RB_LINK_TESTING_H
#define RB_LINK_TESTING_H

#include "rb_cmocka.h"

#include "core/clock.h"
#include "link/pair.h"

typedef struct variant {
    const char *address;
    resbm_status (*stream)(
        int fd[2], rb_err *err); /* both ends of a stream of an engine's own; NULL: address is dialed */
    rb_shape_options shape;
} variant;

static const variant unix_plain = {.address = "unix:link.sock"};
static const variant tcp_plain = {.address = "tcp:127.0.0.1:0"};
#define SHAPE                                                                                                \
    {                                                                                                        \
        .up_bits = 200e6, .down_bits = 200e6, .latency_ns = RB_MS, .jitter_ns = RB_MS / 2, .loss = 0.01,     \
        .seed = 7                                                                                            \
    }
static const variant unix_shaped = {.address = "unix:link.sock", .shape = SHAPE};
static const variant tcp_shaped = {.address = "tcp:127.0.0.1:0", .shape = SHAPE};

enum { STAGES = 4 };
static const uint64_t token = 0x1234567812345678ull;

static inline int64_t in_ms(int64_t ms) {
    return rb_now_ns() + ms * RB_MS;
}

static inline rb_link_options options(const variant *v, int self) {
    return (rb_link_options){
        .self = self,
        .stages = STAGES,
        .epoch = 5,
        .token = token,
        .shape = v->shape,
        .limits = {.frame_bytes = 4 << 20, .queued_bytes = 1 << 20, .inbox_bytes = 16 << 20},
        .record_events = true};
}

/* Connects a to b, b listening. */
static inline void join(const variant *v, rb_link *a, rb_link *b, int number_b) {
    rb_err err;
    int fd[2];
    if (v->stream) {
        assert_ok(v->stream(fd, &err), &err);
        assert_ok(rb_link_pair_attach(a, b, number_b, fd, &err), &err);
        return;
    }
    assert_ok(rb_link_pair_join(v->address, a, b, number_b, &err), &err);
}

typedef struct pair {
    rb_link *a, *b; /* stages 1 and 2 */
} pair;

static inline rb_link *open_link(const rb_link_options *o) {
    rb_link *l;
    rb_err err;
    assert_ok(rb_link_open(o, &l, &err), &err);
    return l;
}

static inline pair open_pair_with(const variant *v, rb_link_options oa, rb_link_options ob) {
    pair p = {.a = open_link(&oa), .b = open_link(&ob)};
    join(v, p.a, p.b, ob.self);
    return p;
}

static inline pair open_pair(const variant *v) {
    return open_pair_with(v, options(v, 1), options(v, 2));
}

static inline void close_pair(pair p) {
    rb_link_fini(p.a);
    rb_link_fini(p.b);
}

static inline rb_frame_header forward(uint64_t step, uint32_t microbatch) {
    return (rb_frame_header){
        .kind = RB_FRAME_FORWARD, .boundary = 1, .epoch = 5, .step = step, .microbatch = microbatch};
}

static inline rb_message *message(rb_frame_header h, size_t bytes) {
    rb_message *m = rb_message_new(bytes);
    assert_non_null(m);
    h.payload_bytes = bytes;
    m->head = h;
    m->traffic = h.kind == RB_FRAME_FORWARD    ? RB_TRAFFIC_ACTIVATION
                 : h.kind == RB_FRAME_BACKWARD ? RB_TRAFFIC_GRADIENT
                                               : RB_TRAFFIC_CONTROL;
    for (size_t i = 0; i < bytes; i++) m->payload[i] = (uint8_t)(i * 31 + h.microbatch + h.step * 7);
    return m;
}

static inline void put(rb_link *l, int to, rb_frame_header h, size_t bytes) {
    rb_err err;
    assert_ok(rb_link_send(l, to, message(h, bytes), in_ms(60000), &err), &err);
}

/* Receives the message and compares every byte. */
static inline void expect(rb_link *l, int from, rb_frame_header h, size_t bytes) {
    rb_err err;
    rb_message *m, *want = message(h, bytes);
    assert_ok(rb_link_recv(l, from, &h, in_ms(60000), &m, &err), &err);
    assert_ok(rb_frame_expect(&m->head, &want->head, &err), &err);
    assert_int_equal(m->traffic, want->traffic);
    if (bytes) assert_memory_equal(m->payload, want->payload, bytes);
    rb_message_free(m);
    rb_message_free(want);
}

/* The sentence tells how long stage 1 waited: as long as its deadline gave it, less what passed before the wait began (on a busy
 * machine some of it), and not for ever. */
static inline void assert_waited(const rb_err *err, double seconds) {
    double waited = 0;
    const char *at = strstr(err->text, "stage 1 waited ");
    assert_non_null(at);
    assert_int_equal(sscanf(at, "stage 1 waited %lf s", &waited), 1);
    if (waited < seconds / 2 || waited > seconds + 30)
        fail_msg("%s: where %g s were given", err->text, seconds);
}

static inline uint64_t sum(const uint64_t x[RB_TRAFFIC_COUNT]) {
    uint64_t s = 0;
    for (int i = 0; i < RB_TRAFFIC_COUNT; i++) s += x[i];
    return s;
}

static inline rb_link_stats stats_of(rb_link *l, int peer) {
    rb_link_stats s;
    rb_link_get_stats(l, peer, &s);
    return s;
}

#define STAMP(f)                                                                                             \
    {#f " (unix)", f, NULL, NULL, (void *)(uintptr_t)&unix_plain},                                           \
        {#f " (tcp)", f, NULL, NULL, (void *)(uintptr_t)&tcp_plain},                                         \
        {#f " (unix, shaped)", f, NULL, NULL, (void *)(uintptr_t)&unix_shaped}, {                            \
#f " (tcp, shaped)", f, NULL, NULL, (void *)(uintptr_t)&tcp_shaped                                   \
    }

#endif
