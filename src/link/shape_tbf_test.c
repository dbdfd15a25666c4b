/* ctest: timeout=120 serial */
/* The shape against the kernel's own: two network namespaces joined by a veth pair, tc tbf on one side. The
 * same frames cross once through tbf with an unshaped link and once over the bare veth with a shaped one; and
 * what the interface counted is compared with what the link reports. Needs root; says why it is skipped
 * otherwise. */
#include "rb_busy.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>
#include "core/clock.h"
#include "link/pair.h"

typedef struct net {
    char name[2][32];
    int fd[2];
    char why[160]; /* why there is none */
} net;

static bool shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static bool shell(const char *fmt, ...) {
    char text[400], line[440];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    snprintf(line, sizeof line, "{ %s; } >/dev/null 2>&1", text);
    return system(line) == 0;
}

static bool make_end(net *n, int i) {
    const char *s = n->name[i];
    char path[80];
    snprintf(path, sizeof path, "/var/run/netns/%s", s);
    n->fd[i] = open(path, O_RDONLY | O_CLOEXEC);
    return n->fd[i] >= 0 &&
           shell("ip netns exec %s sysctl -qw net.ipv6.conf.all.disable_ipv6=1 || true", s) &&
           shell("ip -n %s addr add 10.203.77.%d/24 dev veth0", s, i + 1) &&
           shell("ip -n %s link set veth0 up", s) &&
           shell("ip -n %s link set veth0 gso_max_segs 1 || true", s);
}

static bool make_net(net *n) {
    if (geteuid() != 0) return snprintf(n->why, sizeof n->why, "network namespaces need root"), false;
    for (int i = 0; i < 2; i++) {
        snprintf(n->name[i], sizeof n->name[i], "resbm-%d-%c", (int)getpid(), 'a' + i);
        if (!shell("ip netns add %s", n->name[i]))
            return snprintf(n->why, sizeof n->why, "`ip netns add` is not possible here"), false;
    }
    if (!shell("ip link add veth0 netns %s type veth peer name veth0 netns %s", n->name[0], n->name[1]))
        return snprintf(n->why, sizeof n->why, "a veth pair is not possible here"), false;
    if (!make_end(n, 0) || !make_end(n, 1))
        return snprintf(n->why, sizeof n->why, "a veth pair cannot be set up here"), false;
    if (!shell("tc -n %s qdisc replace dev veth0 root tbf rate 1mbit burst 3000 limit 100000", n->name[0]) ||
        !shell("tc -n %s qdisc del dev veth0 root", n->name[0]))
        return snprintf(n->why, sizeof n->why, "tc tbf is not possible here"), false;
    return true;
}

static int setup(void **state) {
    net *n = calloc(1, sizeof *n);
    if (!n) return -1;
    n->fd[0] = n->fd[1] = -1;
    if (make_net(n)) n->why[0] = 0;
    *state = n;
    return 0;
}

static int teardown(void **state) {
    net *n = *state;
    for (int i = 0; i < 2; i++) {
        if (n->fd[i] >= 0) close(n->fd[i]);
        if (n->name[i][0]) shell("ip netns del %s", n->name[i]);
    }
    free(n);
    return 0;
}

static void skip_without(const net *n) {
    if (!n->why[0]) return;
    print_message("skipped: %s\n", n->why);
    skip();
}

/* A thread that opens its socket in a namespace; the sockets stay there. */
typedef struct opening {
    int ns;
    rb_link *l;
    rb_listener *listener;
    char address[64];
    resbm_status st;
    rb_err err;
} opening;

static void *listen_there(void *arg) {
    opening *o = arg;
    if (setns(o->ns, CLONE_NEWNET) != 0)
        o->st = rb_fail(&o->err, RESBM_E_IO, "setns failed");
    else
        o->st = rb_listen(o->address, &o->listener, &o->err);
    return NULL;
}

static void *dial_there(void *arg) {
    opening *o = arg;
    if (setns(o->ns, CLONE_NEWNET) != 0)
        o->st = rb_fail(&o->err, RESBM_E_IO, "setns failed");
    else
        o->st = rb_link_connect(o->l, 2, o->address, rb_now_ns() + 60 * RB_SEC, &o->err);
    return NULL;
}

/* Stage 1 in the first namespace, stage 2 in the second. */
static rb_link_pair open_across(const net *n, const rb_shape_options *shape) {
    rb_link_pair p;
    rb_err err;
    int peer;
    pthread_t t;
    opening to = {.ns = n->fd[1], .address = "tcp:10.203.77.2:0"}, from = {.ns = n->fd[0]};
    assert_ok(rb_link_pair_end(1, shape, &p.a, &err), &err);
    assert_ok(rb_link_pair_end(2, NULL, &p.b, &err), &err);
    assert_int_equal(pthread_create(&t, NULL, listen_there, &to), 0);
    pthread_join(t, NULL);
    assert_ok(to.st, &to.err);
    snprintf(from.address, sizeof from.address, "%s", rb_listener_address(to.listener));
    from.l = p.a;
    assert_int_equal(pthread_create(&t, NULL, dial_there, &from), 0);
    assert_ok(rb_link_accept(p.b, to.listener, rb_now_ns() + 60 * RB_SEC, &peer, &err), &err);
    pthread_join(t, NULL);
    assert_ok(from.st, &from.err);
    rb_listener_close(to.listener);
    return p;
}

/* Takes frames as they come; the clock starts at frame number `skip`. */
typedef struct taking {
    rb_link *from;
    int frames, skip;
    int64_t first_ns, last_ns;
    resbm_status st;
    rb_err err;
} taking;

static void *take_all(void *arg) {
    taking *t = arg;
    for (int i = 0; i < t->frames && t->st == RESBM_OK; i++) {
        t->st = rb_link_pair_take(t->from, 1, (uint32_t)i, &t->err);
        if (i + 1 == t->skip) t->first_ns = rb_now_ns();
    }
    t->last_ns = rb_now_ns();
    return NULL;
}

/* Bits of frames per second from when tbf's bucket is empty to the last arrival; all are handed over at once.
 */
static double measure(const net *n, const rb_shape_options *shape, size_t bytes, int frames) {
    rb_link_pair p = open_across(n, shape);
    rb_err err;
    pthread_t thread;
    double frame = (double)(bytes + RB_FRAME_HEADER_BYTES);
    taking t = {.from = p.b, .frames = frames, .skip = (int)(6000 / frame) + 1};
    assert_int_equal(pthread_create(&thread, NULL, take_all, &t), 0);
    for (int i = 0; i < frames; i++) assert_ok(rb_link_pair_send(p.a, 2, (uint32_t)i, bytes, &err), &err);
    pthread_join(thread, NULL);
    assert_ok(t.st, &t.err);
    rb_link_pair_close(&p);
    return (frames - t.skip) * frame * 8e9 / (double)(t.last_ns - t.first_ns);
}

static double off(double bits, double tbf) {
    return bits > tbf ? bits / tbf - 1 : 1 - bits / tbf;
}

static void compare(const net *n, const char *name, double bits, size_t bytes, int frames) {
    rb_shape_options shape = {.up_bits = bits};
    double tbf = 0, ours = 0, due = bits * RB_SEGMENT_PAYLOAD / (RB_SEGMENT_PAYLOAD + RB_SEGMENT_HEADERS);
    bool steady = false,
         busy = false; /* steady: did tbf itself keep its rate, so that it can be a measure? */
    for (int tries = 0; tries < 6; tries++) {
        rb_watch w;
        rb_watch_begin(&w);
        assert_true(shell("tc -n %s qdisc replace dev veth0 root tbf rate %s burst 3000 limit 4000000",
                          n->name[0], name));
        tbf = measure(n, NULL, bytes, frames);
        assert_true(shell("tc -n %s qdisc del dev veth0 root", n->name[0]));
        ours = measure(n, &shape, bytes, frames);
        busy |= rb_watch_end(&w) > 20 * RB_MS; /* 3% of most of these times */
        print_message("%s, frames of %zu bytes: tc tbf %.4f Mbit/s, shaped %.4f Mbit/s, %+.2f%%\n", name,
                      bytes, tbf / 1e6, ours / 1e6, 100 * (ours / tbf - 1));
        if (off(ours, tbf) < 0.03) return;
        steady |= off(tbf, due) < 0.02;
        busy |= rb_machine_is_busy();
    }
    if (busy || (!steady && off(ours, due) < 0.05)) {
        print_message("%s: the machine is too busy for tbf or us to keep a rate; not judged\n", name);
        return;
    }
    fail_msg("%s: %g bit/s are not within 3%% of tbf's %g", name, ours, tbf);
}

static void rate_is_that_of_tbf(void **state) {
    const net *n = *state;
    skip_without(n);
    compare(n, "1mbit", 1e6, 4608, 16);
    compare(n, "5mbit", 5e6, 4608, 70);
    compare(n, "5mbit", 5e6, 500, 500);
    compare(n, "80mbit", 80e6, 4608, 1000);
    compare(n, "80mbit", 80e6, 1 << 20, 5);
}

typedef struct counts {
    unsigned long long rx_bytes, rx_packets, tx_bytes, tx_packets;
    unsigned long long again;     /* TCP segments this side sent a second time */
    unsigned long long unordered; /* TCP segments that came to this side before an earlier one */
} counts;

typedef struct reading {
    int ns;
    counts c;
    bool ok;
} reading;

/* A counter of the calling thread's network namespace: the file has pairs of lines, names and then values, each after
 * its group. */
static bool read_counter(const char *path, const char *group, const char *name, unsigned long long *n) {
    static _Thread_local char names[8000], values[8000];
    bool found = false;
    FILE *f = fopen(path, "r");
    while (f && !found && fgets(names, sizeof names, f) && fgets(values, sizeof values, f)) {
        if (strncmp(names, group, strlen(group)) != 0) continue;
        char *in_names, *in_values, *v = strtok_r(values, " \n", &in_values);
        for (char *k = strtok_r(names, " \n", &in_names); k && v && !found;
             k = strtok_r(NULL, " \n", &in_names), v = strtok_r(NULL, " \n", &in_values))
            found = strcmp(k, name) == 0 && sscanf(v, "%llu", n) == 1;
    }
    if (f) fclose(f);
    return found;
}

static void *read_there(void *arg) {
    reading *r = arg;
    char line[400];
    FILE *f = setns(r->ns, CLONE_NEWNET) == 0 ? fopen("/proc/thread-self/net/dev", "r") : NULL;
    while (f && fgets(line, sizeof line, f)) {
        const char *p = strstr(line, "veth0:");
        if (p && sscanf(p + 6, "%llu %llu %*u %*u %*u %*u %*u %*u %llu %llu", &r->c.rx_bytes,
                        &r->c.rx_packets, &r->c.tx_bytes, &r->c.tx_packets) == 4)
            r->ok = true;
    }
    if (f) fclose(f);
    r->ok &= read_counter("/proc/thread-self/net/snmp", "Tcp:", "RetransSegs", &r->c.again);
    r->ok &= read_counter("/proc/thread-self/net/netstat", "TcpExt:", "TCPOFOQueue", &r->c.unordered);
    return NULL;
}

static counts counts_of(const net *n, int side) {
    reading r = {.ns = n->fd[side]};
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, read_there, &r), 0);
    pthread_join(t, NULL);
    assert_true(r.ok);
    return r.c;
}

static uint64_t total(const uint64_t x[RB_TRAFFIC_COUNT]) {
    uint64_t s = 0;
    for (int i = 0; i < RB_TRAFFIC_COUNT; i++) s += x[i];
    return s;
}

/* What the wire carried beyond the reported bytes: at most 66 per segment and acknowledgement, the options
 * of the handshake, and segments that TCP sent again (a machine too busy to acknowledge makes it probe).
 * Where segments came to the sender of these packets twice or out of order (two processors take them over),
 * its acknowledgements name what had come (RFC 2018, RFC 2883: with time stamps up to three blocks, 28 bytes). */
static void headers_only(const char *way, unsigned long long wire, unsigned long long packets,
                         unsigned long long again, bool gaps, uint64_t reported) {
    print_message("%s: interface %llu bytes in %llu packets, %llu segments again%s, reported %llu\n", way, wire,
                  packets, again, gaps ? ", answers to gaps" : "", (unsigned long long)reported);
    assert_true(wire >= reported);
    assert_true(wire - reported <= (gaps ? 94 : 66) * packets + RB_SEGMENT_PAYLOAD * again + 8);
}

static counts since(const counts *before, const counts *after) {
    return (counts){after->rx_bytes - before->rx_bytes, after->rx_packets - before->rx_packets,
                    after->tx_bytes - before->tx_bytes, after->tx_packets - before->tx_packets,
                    after->again - before->again,       after->unordered - before->unordered};
}

static void interface_counts_what_is_reported(void **state) {
    const net *n = *state;
    skip_without(n);
    rb_err err;
    rb_link_stats s;
    counts before = counts_of(n, 0), there = counts_of(n, 1);
    rb_link_pair p = open_across(n, NULL);
    for (uint32_t i = 0; i < 50; i++) {
        assert_ok(rb_link_pair_send(p.a, 2, i, 4608, &err), &err);
        assert_ok(rb_link_pair_send(p.b, 1, i, 100 * i, &err), &err);
    }
    for (uint32_t i = 0; i < 50; i++) {
        assert_ok(rb_link_pair_take(p.b, 1, i, &err), &err);
        assert_ok(rb_link_pair_take(p.a, 2, i, &err), &err);
    }
    assert_ok(rb_link_stop(p.a, rb_now_ns() + 30 * RB_SEC, &err), &err);
    assert_ok(rb_link_stop(p.b, rb_now_ns() + 30 * RB_SEC, &err), &err);
    rb_link_get_stats(p.a, 2, &s);
    rb_sleep_ns(60 * RB_MS); /* a late acknowledgement */
    counts after = counts_of(n, 0), there_after = counts_of(n, 1);
    counts here = since(&before, &after), far = since(&there, &there_after);
    rb_link_pair_close(&p);
    headers_only("out", here.tx_bytes, here.tx_packets, here.again, here.unordered || far.again, total(s.sent));
    headers_only("in", here.rx_bytes, here.rx_packets, far.again, far.unordered || here.again, total(s.received));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(interface_counts_what_is_reported),
        cmocka_unit_test(rate_is_that_of_tbf),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
