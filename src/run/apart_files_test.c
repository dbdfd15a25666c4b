/* Files over a link, packed against one that both ends have: they come out whole whatever the base is, what crosses is what is counted,
 * and what does not hold is refused. */
#include "run/apart.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
#include "checkpoint/checkpoint.h"
#include "checkpoint/delta.h"
#include "core/bytes.h"
#include "core/hash.h"
#include "core/rng.h"
#include "link/testing.h"
#include "run/bases.h"

enum { FLOATS = 50001, BYTES = 4 * FLOATS + 3, HASH_BYTES = 16 };

static rb_err err;
static uint8_t was[BYTES], now[BYTES];

/* As control channels are: without epochs. */
static pair open_control(void) {
    rb_link_options a = options(&unix_plain, 1), b = options(&unix_plain, 2);
    a.epoch = b.epoch = 0;
    return open_pair_with(&unix_plain, a, b);
}

static void write_file(const char *path, const uint8_t *p, size_t n) {
    assert_ok(rb_write_file_atomic(path, p, n, &err), &err);
}

static rb_file_sum sum_of(const uint8_t *p, size_t n) {
    rb_file_sum s = {.bytes = n};
    rb_hash128_hex(p, n, s.hash);
    return s;
}

/* Weights, and the same some steps later. */
static void fill(void) {
    rb_rng r = {.key = 11};
    for (int i = 0; i < FLOATS; i++) {
        float v = (float)(rb_rng_uniform(&r) - 0.5) * 0.04f;
        memcpy(was + 4 * i, &v, 4);
        v += (float)(rb_rng_uniform(&r) - 0.5) * 4e-4f;
        memcpy(now + 4 * i, &v, 4);
    }
    memcpy(was + 4 * FLOATS, "was", 3);
    memcpy(now + 4 * FLOATS, "now", 3);
    write_file("was", was, BYTES);
    write_file("now", now, BYTES);
}

static rb_apart_base base_of(const char *path, const uint8_t *p, size_t n) {
    rb_apart_base b = {.fd = open(path, O_RDONLY | O_CLOEXEC)};
    rb_hash128_hex(p, n, b.hash);
    assert_true(b.fd >= 0);
    return b;
}

static const rb_apart_base none = {.fd = -1};

/* What the receiving end has: a descriptor, and of what. */
static int offer(void *ctx, const char *hash) {
    const rb_apart_base *b = ctx;
    return b->fd >= 0 && !strcmp(b->hash, hash) ? dup(b->fd) : -1;
}

static resbm_status receive(pair p, const rb_file_sum *sum, rb_apart_base *has, uint64_t *crossed) {
    rb_apart_wait w = {.base = offer, .ctx = has};
    return rb_apart_recv_file(p.b, 1, "came", sum, &w, 20 * RB_SEC, crossed, &err);
}

/* Sends "now" against `base`, of which the other end has `has` (closed here). */
static uint64_t send_now(pair p, rb_apart_base base, rb_apart_base has) {
    uint64_t sent, came;
    rb_buf text = {0};
    rb_file_sum sum = sum_of(now, BYTES);
    assert_ok(rb_apart_send_file(p.a, 2, "now", base, NULL, 20 * RB_SEC, &sent, &err), &err);
    assert_ok(receive(p, &sum, &has, &came), &err);
    assert_true(sent == came);
    assert_ok(rb_read_file("came", BYTES + 1, &text, &err), &err);
    assert_true(text.len == BYTES && !memcmp(text.data, now, BYTES));
    rb_buf_free(&text);
    unlink("came");
    if (has.fd >= 0) close(has.fd);
    return came;
}

static void against_any_base(void **state) {
    (void)state;
    pair p = open_control();
    uint64_t without = send_now(p, none, none),
             with = send_now(p, base_of("was", was, BYTES), base_of("was", was, BYTES)),
             same = send_now(p, base_of("now", now, BYTES), base_of("now", now, BYTES));
    assert_true(without < BYTES && with < without - BYTES / 20 && same < BYTES / 50);
    write_file("short", was, BYTES / 2 + 1);
    uint64_t half = send_now(p, base_of("short", was, BYTES / 2 + 1), base_of("short", was, BYTES / 2 + 1));
    assert_true(half > with && half < without);
    write_file("empty", was, 0);
    send_now(p, base_of("empty", was, 0), base_of("empty", was, 0));
    uint8_t *longer = calloc(1, 2 * BYTES);
    memcpy(longer, was, BYTES);
    write_file("longer", longer, 2 * BYTES);
    assert_true(send_now(p, base_of("longer", longer, 2 * BYTES), base_of("longer", longer, 2 * BYTES)) ==
                with);
    free(longer);
    close_pair(p);
}

static void a_base_that_is_gone_or_damaged(void **state) {
    (void)state;
    rb_file_sum sum = sum_of(now, BYTES);
    pair p = open_control();
    write_file("going", was, BYTES);
    rb_apart_base here = base_of("going", was, BYTES), there = base_of("going", was, BYTES);
    unlink("going"); /* both have it open */
    send_now(p, here, there);

    write_file("rotten", was, BYTES);
    rb_apart_base rotten = base_of("rotten", was, BYTES);
    int fd = open("rotten", O_WRONLY | O_CLOEXEC);
    assert_true(pwrite(fd, "x", 1, 1000) == 1);
    close(fd);
    assert_ok(rb_apart_send_file(p.a, 2, "now", base_of("was", was, BYTES), NULL, 20 * RB_SEC, NULL, &err),
              &err);
    assert_fails(receive(p, &sum, &rotten, NULL), RESBM_E_IO, "damaged on this disk", &err);
    close(rotten.fd);
    assert_true(access("came", F_OK) && access("came.part", F_OK));

    rb_apart_base good = base_of("was", was, BYTES); /* what came is not what was announced */
    sum.hash[0] = sum.hash[0] == '0' ? '1' : '0';
    assert_ok(rb_apart_send_file(p.a, 2, "now", base_of("was", was, BYTES), NULL, 20 * RB_SEC, NULL, &err),
              &err);
    assert_fails(receive(p, &sum, &good, NULL), RESBM_E_CORRUPT, "was announced", &err);
    close(good.fd);
    close_pair(p);
}

static void a_base_that_was_not_offered(void **state) {
    (void)state;
    rb_file_sum sum = sum_of(now, BYTES);
    rb_apart_base not = none;
    pair p = open_control();
    assert_ok(rb_apart_send_file(p.a, 2, "now", base_of("was", was, BYTES), NULL, 20 * RB_SEC, NULL, &err),
              &err);
    assert_fails(receive(p, &sum, &not, NULL), RESBM_E_CORRUPT, "which is not here", &err);
    close_pair(p);
}

static void say(pair p, const void *bytes, size_t n) {
    rb_message *m = rb_apart_blob(n, RB_TRAFFIC_SNAPSHOT);
    assert_non_null(m);
    if (n) memcpy(m->payload, bytes, n);
    assert_ok(rb_link_send(p.a, 2, m, in_ms(20000), &err), &err);
}

static void refused(const void *head, size_t n, const void *piece, size_t len, const char *why) {
    rb_file_sum sum = sum_of(now, 1000);
    rb_apart_base not = none;
    pair p = open_control();
    say(p, head, n);
    if (piece) say(p, piece, len);
    assert_fails(receive(p, &sum, &not, NULL), RESBM_E_CORRUPT, why, &err);
    close_pair(p);
}

static void what_others_may_send(void **state) {
    (void)state;
    static uint8_t piece[RB_DELTA_MOST + 1], much[300 << 10];
    static const uint8_t zeros[16];
    rb_delta *d = rb_delta_new();
    size_t n = rb_delta_pack(d, now, 1000, was, piece);
    assert_int_equal(piece[1], 1);
    refused(zeros, 0, NULL, 0, "0 bytes, not 1 to");
    refused(zeros, 16, much, sizeof much, "bytes, not 1 to 262144");
    refused(zeros, 16, now, 1000, "no packed piece");
    refused(zeros, 16, piece, n, "a file that is not here"); /* against a base, and none was named */
    n = rb_delta_pack(d, now, 999, NULL, piece);
    refused(zeros, 16, piece, n, "999 bytes came where 1000 were due");
    n = rb_delta_pack(d, now, 1000, NULL, piece);
    refused(zeros, 16, piece, n + 1, "more came");
    rb_delta_free(d);
}

/* The pace goes by what crosses, not by what the files have. */
static void the_pace(void **state) {
    (void)state;
    enum { MUCH = 4 << 20 };
    uint8_t *zeros = calloc(1, MUCH);
    rb_apart_pace pace = {.bits = 400e3};
    rb_apart_base not = none;
    rb_file_sum sum = sum_of(zeros, MUCH);
    uint64_t crossed;
    write_file("zeros", zeros, MUCH);
    pair p = open_control();
    int64_t begin = rb_now_ns();
    assert_ok(rb_apart_send_file(p.a, 2, "zeros", none, &pace, 20 * RB_SEC, &crossed, &err), &err);
    assert_ok(receive(p, &sum, &not, NULL), &err);
    assert_true(crossed > 64 * RB_DELTA_HEADER && crossed < MUCH / 100);
    assert_true(pace.next_ns - begin >= (int64_t)(8e9 * (double)crossed / pace.bits));
    assert_true(pace.next_ns - begin <
                (int64_t)(8e9 * MUCH / pace.bits)); /* 84 s, of which it takes some 0.3 */
    atomic_bool stop = true;
    pace.stop = &stop;
    assert_fails(rb_apart_send_file(p.a, 2, "zeros", none, &pace, 20 * RB_SEC, NULL, &err), RESBM_E_CANCELLED,
                 "stopped", &err);
    close_pair(p);
    free(zeros);
}

typedef struct drip {
    pair p;
    atomic_bool over;
} drip;

/* The file's first piece, byte by byte. */
static void *drip_on(void *arg) {
    static const uint8_t zeros[HASH_BYTES];
    static uint8_t piece[RB_DELTA_MOST];
    drip *d = arg;
    rb_delta *delta = rb_delta_new();
    size_t n = rb_delta_pack(delta, now, RB_DELTA_PIECE, NULL, piece);
    say(d->p, zeros, HASH_BYTES);
    for (size_t i = 0; i < n && i < 4000 && !atomic_load(&d->over); i++) {
        say(d->p, piece + i, 1);
        rb_sleep_ns(5 * RB_MS);
    }
    rb_delta_free(delta);
    if (!atomic_load(&d->over)) rb_link_close(d->p.a); /* nothing else ends it */
    return NULL;
}

/* Each message comes in time, and the file never does. Where the machine stood still one came late: then with more time. */
static void one_that_drips(void **state) {
    (void)state;
    rb_file_sum sum = sum_of(now, BYTES);
    rb_apart_wait w = {0};
    resbm_status st;
    unlink("came");
    for (int s = 1;; s++) {
        pthread_t t;
        drip d = {.p = open_control()};
        assert_int_equal(pthread_create(&t, NULL, drip_on, &d), 0);
        st = rb_apart_recv_file(d.p.b, 1, "came", &sum, &w, s * RB_SEC, NULL, &err);
        atomic_store(&d.over, true);
        pthread_join(t, NULL);
        assert_true(access("came", F_OK) && access("came.part", F_OK));
        close_pair(d.p);
        if (st != RESBM_E_TIMEOUT || !strstr(err.text, "waited ") || s == 4) break;
    }
    assert_fails(st, RESBM_E_TIMEOUT, "have come in", &err);
}

static void bases_of_a_snapshot(void **state) {
    (void)state;
    char tmp[PATH_MAX], text[8] = "";
    float v[2] = {1, 2};
    rb_tensor_out t = {.name = "x", .dtype = RB_F32, .rank = 1, .shape = {2}, .data = v};
    rb_part_file f;
    assert_null(rb_bases_open("run/step-3"));
    assert_true(rb_bases_take(NULL, "a", "b") == -1);
    rb_bases_close(NULL);
    assert_ok(rb_checkpoint_begin("run", 3, tmp, &err), &err);
    assert_ok(rb_checkpoint_write_part(tmp, "a.safetensors", &t, 1, &f, &err), &err);
    rb_manifest m = {.step = 3, .config = "", .files = &f, .file_count = 1};
    assert_ok(rb_checkpoint_commit("run", &m, 1, &err), &err);
    rb_bases *b = rb_bases_open("run/step-3");
    assert_non_null(b);
    assert_ok(rb_checkpoint_remove_all("run", &err), &err);
    json_t *offered = rb_bases_offer(b);
    assert_string_equal(json_string_value(json_object_get(offered, "a.safetensors")), f.sum.hash);
    json_decref(offered);
    assert_true(rb_bases_take(b, "b.safetensors", f.sum.hash) == -1);
    assert_true(rb_bases_take(b, "a.safetensors", "00000000000000000000000000000000") == -1);
    int fd = rb_bases_take(b, "a.safetensors", f.sum.hash);
    rb_bases_close(b);
    assert_true(fd >= 0 && pread(fd, text, 4, (off_t)f.sum.bytes - 4) == 4);
    assert_int_equal(rb_get32((uint8_t *)text), 0x40000000);
    close(fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(against_any_base),
        cmocka_unit_test(a_base_that_is_gone_or_damaged),
        cmocka_unit_test(what_others_may_send),
        cmocka_unit_test(a_base_that_was_not_offered),
        cmocka_unit_test(the_pace),
        cmocka_unit_test(one_that_drips),
        cmocka_unit_test(bases_of_a_snapshot),
    };
    fill();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
