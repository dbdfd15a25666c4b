#include <signal.h>
#include "rb_cmocka.h"
#include "core/buf.h"
#include "core/clock.h"
#include "core/hash.h"
#include "core/rng.h"
#include "core/thread.h"

/* Known answers of Philox4x32-10 from Random123's kat_vectors. */
static void philox_known_answers(void **state) {
    (void)state;
    rb_philox zero = rb_philox4x32((rb_philox){{0, 0, 0, 0}}, 0);
    assert_int_equal(zero.v[0], 0x6627e8d5);
    assert_int_equal(zero.v[3], 0x9b00dbd8);
    rb_philox ones = rb_philox4x32((rb_philox){{~0u, ~0u, ~0u, ~0u}}, ~0ull);
    assert_int_equal(ones.v[0], 0x408f276d);
    assert_int_equal(ones.v[3], 0x6d5451fd);
}

static void normal_moments(void **state) {
    (void)state;
    enum { n = 100001 };
    static float x[n];
    rb_normal_fill(7, x, n, 1.0f, 2.0f);
    double s = 0, q = 0;
    for (int i = 0; i < n; i++) s += x[i], q += (x[i] - 1.0) * (x[i] - 1.0);
    assert_true(s / n > 0.97 && s / n < 1.03);
    assert_true(q / n > 3.9 && q / n < 4.1);
}

/* In pieces, as several threads fill it. */
static void normal_pieces(void **state) {
    (void)state;
    enum { n = 1003, piece = 200 };
    float whole[n], pieces[n];
    rb_normal_fill(7, whole, n, 1.0f, 2.0f);
    for (int i = 0; i < n; i += piece)
        rb_normal_fill_from(7, i, pieces + i, n - i < piece ? n - i : piece, 1.0f, 2.0f);
    assert_memory_equal(whole, pieces, sizeof whole);
}

static void atomic_write_and_read(void **state) {
    (void)state;
    rb_err err;
    assert_ok(rb_make_dirs("a/b/c", &err), &err);
    assert_ok(rb_write_file_atomic("a/b/c/f", "hello", 5, &err), &err);
    rb_buf b = {0};
    assert_ok(rb_read_file("a/b/c/f", 100, &b, &err), &err);
    assert_int_equal(b.len, 5);
    assert_string_equal(b.data, "hello");
    rb_buf_free(&b);
    assert_fails(rb_read_file("a/b/c/f", 4, &b, &err), RESBM_E_FORMAT, "longer than the 4 bytes", &err);
    rb_buf_free(&b);
    assert_fails(rb_read_file("a/none", 4, &b, &err), RESBM_E_IO, "a/none", &err);
    char hex[33];
    uint64_t n = 0;
    assert_ok(rb_hash_file("a/b/c/f", hex, &n, &err), &err);
    char mem[33];
    rb_hash128_hex("hello", 5, mem);
    assert_string_equal(hex, mem);
    assert_int_equal(n, 5);
}

static void error_context(void **state) {
    (void)state;
    rb_err err;
    rb_fail(&err, RESBM_E_IO, "disk %d", 3);
    assert_int_equal(rb_err_context(&err, RESBM_E_IO, "stage %d: ", 2), RESBM_E_IO);
    assert_string_equal(err.text, "stage 2: disk 3");
}

static void process_start(void **state) {
    (void)state;
    int64_t age = rb_now_ns() - rb_process_start_ns();
    assert_true(age >= 0 && age < 60 * RB_SEC);
    rb_sleep_ns(50 * RB_MS);
    assert_true(rb_now_ns() - rb_process_start_ns() >= age + 50 * RB_MS - 20 * RB_MS);
}

static void *look_at_signals(void *blocked) {
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    *(bool *)blocked = sigismember(&now, SIGINT) == 1 && sigismember(&now, SIGUSR1) == 1;
    return NULL;
}

static void threads_take_no_signals_and_waits_end(void **state) {
    (void)state;
    bool blocked = false;
    pthread_t t;
    sigset_t now;
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t never;
    assert_int_equal(rb_thread_start(&t, "rb-test", look_at_signals, &blocked), 0);
    pthread_join(t, NULL);
    assert_true(blocked);
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    assert_int_equal(sigismember(&now, SIGUSR1), 0); /* the caller takes them as before */
    rb_cond_init(&never);
    pthread_mutex_lock(&lock);
    int64_t begin = rb_now_ns();
    while (rb_cond_wait_until(&never, &lock, begin + 20 * RB_MS)) {
    }
    assert_true(rb_now_ns() >= begin + 20 * RB_MS);
    assert_false(rb_cond_wait_until(&never, &lock, begin)); /* long past */
    pthread_mutex_unlock(&lock);
    pthread_cond_destroy(&never);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_known_answers),
        cmocka_unit_test(normal_moments),
        cmocka_unit_test(normal_pieces),
        cmocka_unit_test(atomic_write_and_read),
        cmocka_unit_test(error_context),
        cmocka_unit_test(process_start),
        cmocka_unit_test(threads_take_no_signals_and_waits_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
