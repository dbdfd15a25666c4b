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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(even_cuts_give_the_remainder_to_the_first),
        cmocka_unit_test(weighted_cuts_are_the_best_there_are),
        cmocka_unit_test(a_heavy_head_gets_fewer_layers),
        cmocka_unit_test(weights_must_be_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
