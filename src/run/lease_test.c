/* How long silence means nothing: by the median and the deviation of a participant's own beats. */
#include "run/lease.h"
#include "rb_cmocka.h"

static rb_lease learned(const int *ms, int n, int times) {
    rb_lease l = {0};
    for (int i = 0; i < n * times; i++) rb_lease_note(&l, ms[i % n] * RB_MS);
    return l;
}

static double seconds(const rb_lease *l) {
    return (double)rb_lease_ns(l) * 1e-9;
}

static void steady_beats_make_it_short(void **state) {
    (void)state;
    rb_lease none = {0}, few = learned((int[]){410}, 1, 3), steady = learned((int[]){410}, 1, 40);
    assert_true(seconds(&none) == 4 && seconds(&few) == 4); /* nothing is known yet */
    assert_true(seconds(&steady) > 3.2 && seconds(&steady) < 3.4);
    rb_lease slow = learned((int[]){900}, 1, 40); /* behind a link that takes half a second */
    assert_true(seconds(&slow) > 7.1 && seconds(&slow) < 7.3);
}

static void jitter_makes_it_longer(void **state) {
    (void)state;
    rb_lease a = learned((int[]){410, 500, 420, 600}, 4, 10),
             b = learned((int[]){410, 1500, 700, 2400}, 4, 10);
    assert_true(seconds(&a) > 4 && seconds(&a) < 7);
    assert_true(seconds(&b) > 15 && seconds(&b) <= 20);
    rb_lease c = learned((int[]){5000, 40000}, 2, 20);
    assert_true(seconds(&c) == 20);
}

/* A machine that slept for an hour, and beats in a hurry behind a stage's end, change nothing. */
static void outliers_and_hurry_do_not_count(void **state) {
    (void)state;
    rb_lease l = learned((int[]){410}, 1, 40);
    int64_t before = rb_lease_ns(&l);
    rb_lease_note(&l, 3600 * RB_SEC);
    assert_true(rb_lease_ns(&l) == before);
    for (int i = 0; i < 31; i++) rb_lease_note(&l, 100 * RB_MS);
    assert_true(seconds(&l) >= 3.2);
    for (int i = 0; i < 5000; i++) rb_lease_note(&l, 800 * RB_MS); /* it learns anew */
    assert_true(seconds(&l) > 6.3 && seconds(&l) < 6.5);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(steady_beats_make_it_short),
                                       cmocka_unit_test(jitter_makes_it_longer),
                                       cmocka_unit_test(outliers_and_hurry_do_not_count)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
