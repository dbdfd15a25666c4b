/* Who is given up for silence: by the coordinator's own clock, and never for a time in which it did not run or was cut off itself. */
#include <stdlib.h>
#include "core/clock.h"
#include "run/host.h"
#include "rb_cmocka.h"

static rb_host h;
static bool online;

static bool connected(void *state) {
    (void)state;
    return online;
}

static const rb_carrier_module module = {.connected = connected};
static rb_carrier carrier = {.module = &module};

static int begin(void **state) {
    (void)state;
    h = (rb_host){.out = fopen("/dev/null", "w"), .carrier = &carrier, .connected = true, .members = 1};
    h.member = calloc(RB_MOST_MEMBERS, sizeof *h.member);
    pthread_mutex_init(&h.lock, NULL);
    online = true;
    h.member[0].seen = true;
    for (int i = 0; h.member && i < 40; i++) rb_lease_note(&h.member[0].lease, 410 * RB_MS); /* 3.3 s */
    return !h.member;
}

static int end(void **state) {
    (void)state;
    fclose(h.out);
    pthread_mutex_destroy(&h.lock);
    free(h.member);
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
    online = false;
    assert_false(lapses(30, 0.1));
    online = true; /* back again: everybody has a whole lease */
    assert_false(lapses(30, 0.1));
    assert_true(lapses(30, 0.1));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(silence_is_measured_by_the_lease, begin, end),
        cmocka_unit_test_setup_teardown(own_absence_is_nobodys_silence, begin, end)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
