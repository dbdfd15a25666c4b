#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "rb_cmocka.h"
#include "core/bytes.h"
#include "data/sampler.h"

static void make_shard(const char *path, int width, int32_t from, int64_t n) {
    rb_err err;
    rb_shard_writer *w;
    assert_ok(rb_shard_create(path, width, &w, &err), &err);
    for (int64_t i = 0; i < n; i++) {
        int32_t id = from + (int32_t)i;
        assert_ok(rb_shard_write(w, &id, 1, &err), &err);
    }
    assert_ok(rb_shard_finish(w, &err), &err);
}

static void shards_read_across_borders(void **state) {
    (void)state;
    rb_err err;
    rb_shards *s;
    make_shard("s-000.bin", 2, 0, 100);
    make_shard("s-001.bin", 4, 100, 70);
    assert_ok(rb_shards_open("s-*.bin", 170, &s, &err), &err);
    assert_int_equal(rb_shards_tokens(s), 170);
    int32_t out[50];
    assert_ok(rb_shards_read(s, 80, 50, out, &err), &err);
    for (int i = 0; i < 50; i++) assert_int_equal(out[i], 80 + i);
    assert_fails(rb_shards_read(s, 150, 21, out, &err), RESBM_E_ARG, "170", &err);
    rb_shards_close(s);
    assert_ok(rb_shards_open("s-000.bin, s-001.bin", 120, &s, &err), &err);
    assert_fails(rb_shards_read(s, 90, 40, out, &err), RESBM_E_CONFIG, "vocabulary has 120", &err);
    rb_shards_close(s);
}

static void bad_shards_are_named(void **state) {
    (void)state;
    rb_err err;
    rb_shards *s;
    assert_fails(rb_shards_open("nothing-*.bin", 0, &s, &err), RESBM_E_IO, "resbm data", &err);
    make_shard("cut.bin", 2, 0, 100);
    assert_int_equal(truncate("cut.bin", 1024 + 150), 0);
    assert_fails(rb_shards_open("cut.bin", 0, &s, &err), RESBM_E_CORRUPT,
                 "cut.bin: it is truncated: 100 tokens", &err);
    assert_int_equal(truncate("cut.bin", 10), 0);
    assert_fails(rb_shards_open("cut.bin", 0, &s, &err), RESBM_E_CORRUPT, "10 bytes", &err);
    FILE *f = fopen("foreign.bin", "wb");
    for (int i = 0; i < 2000; i++) fputc('x', f);
    fclose(f);
    assert_fails(rb_shards_open("foreign.bin", 0, &s, &err), RESBM_E_FORMAT, "no token shard", &err);
}

static void put_header(const char *path, uint32_t magic, uint32_t version, uint32_t tokens, size_t bytes) {
    uint8_t head[RB_SHARD_HEADER_BYTES] = {0};
    rb_put32(head, magic);
    rb_put32(head + 4, version);
    rb_put32(head + 8, tokens);
    FILE *f = fopen(path, "wb");
    fwrite(head, 1, sizeof head, f);
    fclose(f);
    assert_int_equal(truncate(path, (off_t)bytes), 0);
}

static void strange_headers_are_named(void **state) {
    (void)state;
    static const struct {
        uint32_t magic, version, tokens;
        size_t bytes;
        resbm_status code;
        const char *part;
    } cases[] = {
        {RB_SHARD_MAGIC16, 7, 10, 1044, RESBM_E_FORMAT, "version 7"},
        {RB_SHARD_MAGIC32, 1, 10, 1064, RESBM_E_FORMAT, "version 1"},
        {RB_SHARD_MAGIC16, 1, 10, 1045, RESBM_E_CORRUPT, "too long: 10 tokens take 1044 bytes, it has 1045"},
        {RB_SHARD_MAGIC32, 7, 10, 1063, RESBM_E_CORRUPT, "truncated"},
        {RB_SHARD_MAGIC32, 7, UINT32_MAX, 2000, RESBM_E_CORRUPT, "4294967295 tokens take 17179870204 bytes"},
        {20240522, 1, 10, 1044, RESBM_E_FORMAT, "multiple-choice"},
        {__builtin_bswap32(RB_SHARD_MAGIC16), 1, 10, 1044, RESBM_E_FORMAT, "big-endian"},
        {0x00088b1f, 1, 10, 1044, RESBM_E_FORMAT, "gzip"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rb_err err;
        rb_shards *s;
        put_header("strange.bin", cases[i].magic, cases[i].version, cases[i].tokens, cases[i].bytes);
        assert_fails(rb_shards_open("strange.bin", 0, &s, &err), cases[i].code, cases[i].part, &err);
        assert_non_null(strstr(err.text, "strange.bin"));
        assert_null(s);
    }
}

static void only_files_are_shards(void **state) {
    (void)state;
    rb_err err;
    rb_shards *s;
    mkdir("folder.bin", 0777);
    mkfifo("fifo.bin", 0666);
    assert_fails(rb_shards_open("folder.bin", 0, &s, &err), RESBM_E_FORMAT,
                 "folder.bin: it is a folder: name its shards, folder.bin/train-*.bin", &err);
    assert_fails(rb_shards_open("fifo.bin", 0, &s, &err), RESBM_E_FORMAT, "fifo.bin: it is no regular file",
                 &err);
    assert_fails(rb_shards_open("", 0, &s, &err), RESBM_E_CONFIG, "no shards", &err);
    unlink("fifo.bin");
    rmdir("folder.bin");
}

/* 40 shards of 0 to 4 tokens: every stretch of them reads right, whatever borders it crosses. */
static void many_small_and_empty_shards(void **state) {
    (void)state;
    rb_err err;
    rb_shards *s;
    int total = 0;
    for (int i = 0; i < 40; i++) {
        char path[32];
        snprintf(path, sizeof path, "many-%02d.bin", i);
        make_shard(path, i % 3 ? 2 : 4, total, i % 5);
        total += i % 5;
    }
    assert_ok(rb_shards_open("many-*.bin", total, &s, &err), &err);
    assert_int_equal(rb_shards_tokens(s), total);
    for (int pos = 0; pos <= total; pos++)
        for (int n = 0; pos + n <= total; n++) {
            int32_t out[100] = {0};
            assert_ok(rb_shards_read(s, pos, n, out, &err), &err);
            for (int i = 0; i < n; i++) assert_int_equal(out[i], pos + i);
            assert_int_equal(out[n], 0);
        }
    assert_fails(rb_shards_read(s, -1, 1, NULL, &err), RESBM_E_ARG, "many-*.bin", &err);
    rb_shards_close(s);
}

static void tokens_outside_the_vocabulary(void **state) {
    (void)state;
    rb_err err;
    rb_shards *s;
    rb_shard_writer *w;
    int32_t ids[4] = {70000, 3, 100000, 128255}, out[4];
    assert_ok(rb_shard_create("wide.bin", 4, &w, &err), &err);
    assert_ok(rb_shard_write(w, ids, 4, &err), &err);
    assert_ok(rb_shard_finish(w, &err), &err);
    assert_ok(rb_shards_open("wide.bin", 128256, &s, &err), &err);
    assert_ok(rb_shards_read(s, 0, 4, out, &err), &err);
    assert_memory_equal(out, ids, sizeof ids);
    rb_shards_close(s);
    assert_ok(rb_shards_open("wide.bin", 100000, &s, &err), &err);
    assert_ok(rb_shards_read(s, 0, 2, out, &err), &err);
    assert_fails(rb_shards_read(s, 2, 1, out, &err), RESBM_E_CONFIG, "token 2 has id 100000", &err);
    assert_fails(rb_shards_read(s, 1, 3, out, &err), RESBM_E_CONFIG, "wide.bin: token 2 has id 100000", &err);
    rb_shards_close(s);
    assert_ok(rb_shard_create("narrow.bin", 2, &w, &err), &err);
    assert_fails(rb_shard_write(w, ids, 1, &err), RESBM_E_ARG, "token id 70000", &err);
    ids[0] = -1;
    assert_fails(rb_shard_write(w, ids, 1, &err), RESBM_E_ARG, "token id -1", &err);
    rb_shard_abandon(w);
    assert_int_equal(access("narrow.bin.tmp", F_OK), -1);
    assert_int_equal(access("narrow.bin", F_OK), -1);
}

static void sampling_is_a_permutation_per_pass(void **state) {
    (void)state;
    rb_err err;
    rb_shards *s;
    make_shard("p.bin", 2, 0, 10 * 37 + 1);
    assert_ok(rb_shards_open("p.bin", 0, &s, &err), &err);
    rb_sampler m;
    assert_ok(rb_sampler_init(&m, s, 10, 3, &err), &err);
    assert_int_equal(m.windows, 37);
    int moved = 0;
    for (int pass = 0; pass < 3; pass++) {
        int seen[37] = {0};
        for (int i = 0; i < 37; i++) {
            int64_t w = rb_sampler_pick(&m, (uint64_t)(pass * 37 + i));
            assert_in_range(w, 0, 36);
            seen[w]++;
            moved += w != rb_sampler_pick(&m, (uint64_t)i);
        }
        for (int i = 0; i < 37; i++) assert_int_equal(seen[i], 1);
    }
    assert_true(moved > 37);
    int32_t out[11];
    assert_ok(rb_sampler_window(&m, 5, out, &err), &err);
    assert_int_equal(out[10], out[0] + 10);
    assert_ok(rb_sampler_eval_window(&m, 3, 4, out, &err), &err);
    assert_int_equal(out[0], 270);
    assert_fails(rb_sampler_init(&m, s, 1000, 3, &err), RESBM_E_CONFIG, "takes 1001", &err);
    rb_shards_close(s);
}

/* Orders are kept in checkpoints as nothing but a number, so they may never change. */
static void the_order_is_frozen(void **state) {
    (void)state;
    static const int64_t want[8] = {448494, 717177, 869898, 998308, 68886, 450541, 827493, 643223};
    rb_sampler m = {.T = 1, .windows = 1000003, .seed = 1};
    for (int i = 0; i < 8; i++) assert_int_equal(rb_sampler_pick(&m, 1000000 + (uint64_t)i), want[i]);
}

static void every_count_of_windows_is_permuted(void **state) {
    (void)state;
    for (int n = 1; n <= 130; n++) {
        rb_sampler m = {.T = 1, .windows = n, .seed = 5};
        int seen[130] = {0};
        for (int i = 0; i < n; i++) seen[rb_sampler_pick(&m, (uint64_t)(3 * n + i))]++;
        for (int i = 0; i < n; i++) assert_int_equal(seen[i], 1);
    }
    rb_sampler big = {.T = 1, .windows = INT64_C(3000000000000), .seed = 5};
    int64_t low = 0;
    for (uint64_t i = 0; i < 2000; i++) {
        int64_t w = rb_sampler_pick(&big, UINT64_MAX - i);
        assert_in_range(w, 0, big.windows - 1);
        low += w < big.windows / 2;
    }
    assert_in_range(low, 850, 1150);
}

/* Neighbours in the order are no neighbours in the data, and another seed is another order. */
static void the_order_is_shuffled(void **state) {
    (void)state;
    enum { n = 10000 };
    rb_sampler a = {.T = 1, .windows = n, .seed = 1}, b = {.T = 1, .windows = n, .seed = 2};
    int near = 0, same = 0, later = 0;
    for (uint64_t i = 0; i < n; i++) {
        int64_t x = rb_sampler_pick(&a, i), next = rb_sampler_pick(&a, (i + 1) % n);
        near += llabs(x - next) <= 10;
        same += x == rb_sampler_pick(&b, i);
        later += x < next;
    }
    assert_in_range(near, 5, 60); /* 20 expected */
    assert_in_range(same, 0, 10); /* 1 expected */
    assert_in_range(later, 4700, 5300);
}

static void evaluation_windows_are_spread(void **state) {
    (void)state;
    rb_err err;
    rb_shards *s;
    rb_sampler m;
    int32_t out[5], first[7];
    make_shard("e.bin", 2, 0, 4 * 20 + 1);
    assert_ok(rb_shards_open("e.bin", 0, &s, &err), &err);
    assert_ok(rb_sampler_init(&m, s, 4, 9, &err), &err);
    for (int i = 0; i < 7; i++) {
        assert_ok(rb_sampler_eval_window(&m, i, 7, out, &err), &err);
        assert_int_equal(out[0], i * 20 / 7 * 4);
        first[i] = out[0];
    }
    m.seed = 10;
    assert_ok(rb_sampler_eval_window(&m, 3, 7, out, &err), &err);
    assert_int_equal(out[0], first[3]);
    assert_ok(rb_sampler_eval_window(&m, 19, 1000, out, &err), &err);
    assert_int_equal(out[4], 80);
    assert_fails(rb_sampler_eval_window(&m, -1, 7, out, &err), RESBM_E_ARG, "-1 of 7", &err);
    assert_fails(rb_sampler_init(&m, s, 0, 9, &err), RESBM_E_CONFIG, "at least 1", &err);
    assert_fails(rb_sampler_init(&m, s, 81, 9, &err), RESBM_E_CONFIG, "e.bin has 81 tokens", &err);
    rb_shards_close(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shards_read_across_borders),         cmocka_unit_test(bad_shards_are_named),
        cmocka_unit_test(strange_headers_are_named),          cmocka_unit_test(only_files_are_shards),
        cmocka_unit_test(many_small_and_empty_shards),        cmocka_unit_test(tokens_outside_the_vocabulary),
        cmocka_unit_test(sampling_is_a_permutation_per_pass), cmocka_unit_test(the_order_is_frozen),
        cmocka_unit_test(every_count_of_windows_is_permuted), cmocka_unit_test(the_order_is_shuffled),
        cmocka_unit_test(evaluation_windows_are_spread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
