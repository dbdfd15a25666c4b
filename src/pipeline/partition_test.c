#include <math.h>
#include "core/rng.h"
#include "pipeline/partition.h"
#include "rb_cmocka.h"

static void even_cuts_give_the_remainder_to_the_first(void **state) {
    (void)state;
    rb_err err;
    int sizes[4];
    assert_ok(rb_partition_even(10, 4, sizes, &err), &err);
    const int want[] = {3, 3, 2, 2};
    assert_memory_equal(sizes, want, sizeof want);
    assert_fails(rb_partition_even(3, 4, sizes, &err), RESBM_E_ARG, "3 things cannot be cut into 4 parts",
                 &err);
    assert_fails(rb_partition_even(3, 0, sizes, &err), RESBM_E_ARG, "use 1 to 3 parts", &err);
}

static double heaviest(const double *w, const int *sizes, int parts) {
    double most = 0;
    for (int p = 0; p < parts; p++) {
        double sum = 0;
        for (int i = 0; i < sizes[p]; i++) sum += *w++;
        most = fmax(most, sum);
    }
    return most;
}

/* The lightest heaviest part over all cuts, by trying them all. */
static double brute_force(const double *w, int count, int parts) {
    double best = INFINITY, sum = 0;
    if (parts == 1) {
        for (int i = 0; i < count; i++) sum += w[i];
        return sum;
    }
    for (int first = 1; first <= count - parts + 1; first++) {
        sum += w[first - 1];
        best = fmin(best, fmax(sum, brute_force(w + first, count - first, parts - 1)));
    }
    return best;
}

static void weighted_cuts_are_the_best_there_are(void **state) {
    (void)state;
    rb_rng rng = {.key = 3};
    for (int count = 1; count <= 9; count++) {
        for (int parts = 1; parts <= count; parts++) {
            for (int round = 0; round < 10; round++) {
                double w[9];
                int sizes[9], sum = 0;
                rb_err err;
                for (int i = 0; i < count; i++) w[i] = (double)rb_rng_below(&rng, 7);
                assert_ok(rb_partition_weighted(w, count, parts, sizes, &err), &err);
                for (int p = 0; p < parts; p++) {
                    assert_true(sizes[p] >= 1);
                    sum += sizes[p];
                }
                assert_int_equal(sum, count);
                assert_true(heaviest(w, sizes, parts) == brute_force(w, count, parts));
            }
        }
    }
}

static void a_heavy_head_gets_fewer_layers(void **state) {
    (void)state;
    const double w[] = {1, 1, 1, 1, 1, 1, 1, 4};
    const int want[] = {4, 3, 1};
    int sizes[3], owner[8];
    rb_err err;
    assert_ok(rb_partition_weighted(w, 8, 3, sizes, &err), &err);
    assert_memory_equal(sizes, want, sizeof want);
    rb_partition_owners(sizes, 3, owner);
    const int owners[] = {0, 0, 0, 0, 1, 1, 1, 2};
    assert_memory_equal(owner, owners, sizeof owners);
}

static void weights_must_be_numbers(void **state) {
    (void)state;
    double w[] = {1, NAN, 1};
    int sizes[2];
    rb_err err;
    assert_fails(rb_partition_weighted(w, 3, 2, sizes, &err), RESBM_E_ARG, "weight 1", &err);
    w[1] = -1;
    assert_fails(rb_partition_weighted(w, 3, 2, sizes, &err), RESBM_E_ARG, "is -1", &err);
}

/* The fastest slowest stage over all cuts, by trying them all; INFINITY where none fits. */
static double try_all(const rb_partition_load *l, int count, const rb_partition_stage *s, int parts) {
    double best = INFINITY, work = 0, bytes = 0;
    for (int n = 1; n <= count - parts + 1; n++) {
        work += l[n - 1].work;
        bytes += l[n - 1].bytes + s->alive * l[n - 1].slot;
        if (parts == 1 && n < count) continue;
        double mine = s->room > 0 && bytes > s->room ? INFINITY : work / s->speed;
        best = fmin(best, parts == 1 ? mine : fmax(mine, try_all(l + n, count - n, s + 1, parts - 1)));
    }
    return best;
}

static double slowest(const rb_partition_load *l, const rb_partition_stage *s, const int *sizes, int parts) {
    double most = 0;
    for (int p = 0; p < parts; p++) {
        double work = 0, bytes = 0;
        for (int i = 0; i < sizes[p]; i++, l++) {
            work += l->work;
            bytes += l->bytes + s[p].alive * l->slot;
        }
        assert_true(!(s[p].room > 0) || bytes <= s[p].room);
        most = fmax(most, work / s[p].speed);
    }
    return most;
}

static void unequal_stages_get_what_they_can_do(void **state) {
    (void)state;
    rb_rng rng = {.key = 5};
    int fitted = 0, refused = 0;
    for (int round = 0; round < 3000; round++) {
        rb_partition_load l[9];
        rb_partition_stage s[5];
        int count = 1 + (int)rb_rng_below(&rng, 9),
            parts = 1 + (int)rb_rng_below(&rng, (uint32_t)(count < 5 ? count : 5));
        int sizes[5];
        rb_err err;
        for (int i = 0; i < count; i++)
            l[i] = (rb_partition_load){(double)rb_rng_below(&rng, 7), (double)rb_rng_below(&rng, 5),
                                       (double)rb_rng_below(&rng, 3)};
        for (int i = 0; i < parts; i++)
            s[i] = (rb_partition_stage){1 + (double)rb_rng_below(&rng, 4), (double)rb_rng_below(&rng, 30),
                                        (int)rb_rng_below(&rng, 3)};
        double want = try_all(l, count, s, parts);
        resbm_status st = rb_partition_unequal(l, count, s, parts, sizes, &err);
        if (st == RESBM_OK) {
            assert_true(slowest(l, s, sizes, parts) == want);
            fitted++;
        } else {
            assert_int_equal(st, RESBM_E_CONFIG);
            assert_true(isinf(want));
            refused++;
        }
    }
    assert_true(fitted > 500 && refused > 100);
}

static void what_cannot_fit_is_named_in_bytes(void **state) {
    (void)state;
    const rb_partition_load l[] = {{1, 10, 1}, {1, 10, 1}, {1, 10, 1}, {1, 30, 1}};
    rb_partition_stage s[] = {{1, 24, 2}, {1, 24, 2}};
    int sizes[2];
    rb_err err;
    assert_fails(rb_partition_unequal(l, 4, s, 2, sizes, &err), RESBM_E_CONFIG,
                 "from number 3 on, 32 bytes have no place", &err);
    s[0].room = 5;
    assert_fails(rb_partition_unequal(l, 4, s, 2, sizes, &err), RESBM_E_CONFIG, "7 more than it has room for",
                 &err);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(even_cuts_give_the_remainder_to_the_first),
        cmocka_unit_test(weighted_cuts_are_the_best_there_are),
        cmocka_unit_test(a_heavy_head_gets_fewer_layers),
        cmocka_unit_test(weights_must_be_numbers),
        cmocka_unit_test(unequal_stages_get_what_they_can_do),
        cmocka_unit_test(what_cannot_fit_is_named_in_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
