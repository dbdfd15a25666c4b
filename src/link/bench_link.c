#include "link/bench_link.h"

#include <pthread.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>
#include "core/clock.h"
#include "link/pair.h"

enum {
    AT_ONCE = 16 << 20
}; /* bytes on the way in a stream, so that memory stays in the caches' neighbourhood */

typedef struct stream {
    rb_link *from;
    uint32_t count;
    int64_t last_ns;
    resbm_status st;
    rb_err err;
} stream;

static void *take_stream(void *arg) {
    stream *s = arg;
    for (uint32_t i = 0; i < s->count && s->st == RESBM_OK; i++)
        s->st = rb_link_pair_take(s->from, 1, i, &s->err);
    s->last_ns = rb_now_ns();
    return NULL;
}

static double cpu_seconds(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

typedef struct figures {
    double seconds, cpu;
} figures;

/* `count` messages in a row from a to b. */
static resbm_status run_stream(const rb_link_pair *p, uint32_t count, size_t bytes, figures *f, rb_err *err) {
    stream s = {.from = p->b, .count = count};
    pthread_t t;
    double cpu = cpu_seconds();
    int64_t t0 = rb_now_ns();
    if (pthread_create(&t, NULL, take_stream, &s) != 0)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for a thread");
    resbm_status st = RESBM_OK;
    for (uint32_t i = 0; i < count && st == RESBM_OK; i++) st = rb_link_pair_send(p->a, 2, i, bytes, err);
    if (st != RESBM_OK) rb_link_close(p->b);
    pthread_join(t, NULL);
    RB_TRY(st);
    if (s.st != RESBM_OK && err) *err = s.err;
    *f = (figures){.seconds = (double)(s.last_ns - t0) * 1e-9, .cpu = cpu_seconds() - cpu};
    return s.st;
}

/* Half the shortest of many round trips. */
static resbm_status run_ping(const rb_link_pair *p, size_t bytes, double seconds, double *latency_s,
                             rb_err *err) {
    int64_t best = INT64_MAX, until = rb_now_ns() + (int64_t)(seconds * 1e9);
    uint32_t i = 1u << 30;
    do {
        int64_t t0 = rb_now_ns();
        RB_TRY(rb_link_pair_send(p->a, 2, i, bytes, err));
        RB_TRY(rb_link_pair_take(p->b, 1, i, err));
        RB_TRY(rb_link_pair_send(p->b, 1, i, bytes, err));
        RB_TRY(rb_link_pair_take(p->a, 2, i++, err));
        int64_t took = rb_now_ns() - t0;
        best = took < best ? took : best;
    } while (rb_now_ns() < until);
    *latency_s = (double)best * 0.5e-9;
    return RESBM_OK;
}

static resbm_status plain_row(const char *name, const char *address, size_t bytes, double seconds,
                              rb_buf *out, rb_err *err) {
    rb_link_pair p;
    figures f = {0};
    double latency;
    uint32_t count = (uint32_t)(AT_ONCE / (bytes + RB_FRAME_HEADER_BYTES)) + 1;
    if (count > 20000) count = 20000;
    RB_TRY(rb_link_pair_open(address, NULL, NULL, &p, err));
    resbm_status st = run_ping(&p, bytes, seconds / 2, &latency, err);
    if (st == RESBM_OK) st = run_stream(&p, count, bytes, &f, err);
    rb_link_pair_close(&p);
    RB_TRY(st);
    double total = (double)count * (double)(bytes + RB_FRAME_HEADER_BYTES);
    rb_buf_printf(out, "%-6s %9zu %12.1f %12.2f %14.0f %12.2f\n", name, bytes, latency * 1e6,
                  total / f.seconds * 1e-9, count / f.seconds, f.cpu / total * 1e9);
    return RESBM_OK;
}

/* A stage's message of 1024 tokens at k = 8 and int4, in a row, up and down shaped alike. */
static resbm_status shaped_row(const char *address, double bits, double seconds, rb_buf *out, rb_err *err) {
    enum { BYTES = 4608 };
    rb_shape_options o = {.up_bits = bits, .down_bits = bits};
    rb_link_pair p;
    figures f = {0};
    uint32_t count = (uint32_t)(bits * seconds / 8 / BYTES) + 4;
    RB_TRY(rb_link_pair_open(address, &o, &o, &p, err));
    resbm_status st = run_stream(&p, count, BYTES, &f, err);
    rb_link_pair_close(&p);
    RB_TRY(st);
    /* The last segment passes the downlink after the uplink: store and forward, not a lower rate. */
    double wire = (double)rb_shape_wire_bytes((uint64_t)count * (BYTES + RB_FRAME_HEADER_BYTES)) +
                  RB_SEGMENT_PAYLOAD + RB_SEGMENT_HEADERS;
    double got = wire * 8 / f.seconds;
    rb_buf_printf(out, "%12.1f %12.3f %10.2f%% %13.1f%%\n", bits * 1e-6, got * 1e-6, 100 * (got / bits - 1),
                  100 * f.cpu / f.seconds);
    return RESBM_OK;
}

resbm_status rb_bench_link(rb_buf *out, double seconds, rb_err *err) {
    static const size_t sizes[] = {64, 4608, 65536, 1 << 20, 4 << 20};
    static const double rates[] = {1e6, 5e6, 80e6, 1000e6};
    char file[80];
    snprintf(file, sizeof file, "unix:/tmp/resbm-bench-%d.sock", (int)getpid());
    const char *const name[] = {"unix", "tcp"}, *const address[] = {file, "tcp:127.0.0.1:0"};
    double share = seconds > 0 ? seconds / 14 : 0.02;
    rb_buf_puts(out, "links, unshaped, between two endpoints on this machine\n");
    rb_buf_printf(out, "%-6s %9s %12s %12s %14s %12s\n", "over", "bytes", "latency us", "GB/s", "messages/s",
                  "cpu s/GB");
    for (int i = 0; i < 2; i++)
        for (size_t j = 0; j < sizeof sizes / sizeof *sizes; j++)
            RB_TRY(plain_row(name[i], address[i], sizes[j], share, out, err));
    rb_buf_puts(out, "\nlinks, shaped, messages of 4608 bytes over tcp; wire bytes as tc tbf counts them\n");
    rb_buf_printf(out, "%12s %12s %11s %14s\n", "Mbit/s asked", "measured", "error", "cpu, both ends");
    for (size_t j = 0; j < sizeof rates / sizeof *rates; j++)
        RB_TRY(shaped_row(address[1], rates[j], seconds > 0 ? share : 0.1, out, err));
    return rb_buf_status(out, err);
}
