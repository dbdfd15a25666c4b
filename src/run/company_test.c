#include "run/company.h"

#include <stdatomic.h>
#include "core/clock.h"
#include "rb_cmocka.h"

typedef struct member {
    atomic_long pieces;
    long most;
} member;

static resbm_status work(void *ctx, rb_err *err) {
    member *m = ctx;
    if (++m->pieces == m->most) return rb_fail(err, RESBM_E_MEMORY, "no more after %ld", m->most);
    rb_sleep_ns(RB_MS / 10);
    return RESBM_OK;
}

/* Waits until the member has done n pieces; false after a minute. */
static bool reaches(member *m, long n) {
    for (int64_t end = rb_now_ns() + 60 * RB_SEC; rb_now_ns() < end; rb_sleep_ns(RB_MS))
        if (m->pieces >= n) return true;
    return false;
}

static void all_work_while_they_are_let(void **state) {
    (void)state;
    member m[3] = {{0}};
    void *all[] = {&m[0], &m[1], &m[2]};
    rb_company *c;
    rb_err err;
    assert_ok(rb_company_open(work, all, 3, &c, &err), &err);
    rb_sleep_ns(5 * RB_MS);
    assert_int_equal(m[0].pieces + m[1].pieces + m[2].pieces, 0);
    for (int turn = 1; turn <= 2; turn++) {
        long before = m[0].pieces;
        rb_company_let(c, true);
        for (int i = 0; i < 3; i++) assert_true(reaches(&m[i], before + 3));
        rb_company_let(c, false);
        long rest = m[0].pieces + m[1].pieces + m[2].pieces;
        rb_sleep_ns(5 * RB_MS);
        assert_int_equal(m[0].pieces + m[1].pieces + m[2].pieces, rest);
    }
    assert_ok(rb_company_close(c, &err), &err);
}

/* One that fails rests, the others go on, and closing tells. Whoever is still at work then is waited for. */
static void a_fault_is_told_at_the_end(void **state) {
    (void)state;
    member m[2] = {{.most = 2}, {.most = 0}};
    void *all[] = {&m[0], &m[1]};
    rb_company *c;
    rb_err err;
    assert_ok(rb_company_open(work, all, 2, &c, &err), &err);
    rb_company_let(c, true);
    assert_true(reaches(&m[0], 2) && reaches(&m[1], 5));
    assert_int_equal(rb_company_close(c, &err), RESBM_E_MEMORY);
    assert_string_equal(err.text, "no more after 2");
    assert_int_equal(m[0].pieces, 2);
    assert_ok(rb_company_close(NULL, &err), &err);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_work_while_they_are_let),
        cmocka_unit_test(a_fault_is_told_at_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
