/* Who is given up for silence: by the coordinator's own clock, and never for a time in which it did not run or was cut off itself. */
#include "core/clock.h"
#include "run/host_testing.h"
#include "rb_cmocka.h"

static rb_host h;

static int begin(void **state) {
    (void)state;
    bool ok = testing_begin(&h, 1, fopen("/dev/null", "w"));
    for (int i = 0; ok && i < 40; i++) rb_lease_note(&h.member[0].lease, 410 * RB_MS); /* 3.3 s */
    return !ok;
}

static int end(void **state) {
    (void)state;
    testing_end(&h);
    return 0;
}

static bool lapses(double silent_s, double since_look_s) {
    int64_t now = rb_now_ns();
    h.member[0].lapsed = false;
    h.member[0].heard_ns = now - (int64_t)(silent_s * 1e9);
    h.looked_ns = now - (int64_t)(since_look_s * 1e9);
    rb_host_check_leases(&h);
    return h.member[0].lapsed;
}

static void silence_is_measured_by_the_lease(void **state) {
    (void)state;
    assert_false(lapses(1, 0.1));
    assert_true(lapses(6, 0.1));
    for (int i = 0; i < 40; i++) rb_lease_note(&h.member[0].lease, 1200 * RB_MS);
    assert_false(lapses(6, 0.1)); /* its beats are slow: 9.6 s */
    assert_true(lapses(12, 0.1));
}

static void own_absence_is_nobodys_silence(void **state) {
    (void)state;
    assert_false(lapses(3600, 3600)); /* this machine slept */
    assert_true(lapses(3600, 0.1));
    testing_online = false;
    assert_false(lapses(30, 0.1));
    testing_online = true; /* back again: everybody has a whole lease */
    assert_false(lapses(30, 0.1));
    assert_true(lapses(30, 0.1));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(silence_is_measured_by_the_lease, begin, end),
        cmocka_unit_test_setup_teardown(own_absence_is_nobodys_silence, begin, end)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
