#include <stdlib.h>
#include <unistd.h>
#include "rb_cmocka.h"
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shards_read_across_borders),
        cmocka_unit_test(bad_shards_are_named),
        cmocka_unit_test(sampling_is_a_permutation_per_pass),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
