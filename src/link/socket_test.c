/* Dialing a name that has several addresses, or none for the moment, or that no name server tells. (Linked with
 * --wrap=getaddrinfo.) */
#include "link/socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>
#include "core/clock.h"
#include "rb_cmocka.h"
#include "rb_threads.h"

int __real_getaddrinfo(const char *, const char *, const struct addrinfo *, struct addrinfo **);
int __wrap_getaddrinfo(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static atomic_bool answers;  /* does the name server of "slow"? */
static atomic_int not_yet;   /* so many more questions */
static atomic_int elsewhere; /* questions by another thread than the tests' */
static atomic_int kept;      /* questions for "slow" that were the same afterwards */
static pthread_t here;

/* "two" is first where nobody listens, then here, and takes as long as a file does; "slow" is here, a while after a test lets its name
 * server answer. */
int __wrap_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                       struct addrinfo **out) {
    if (!pthread_equal(here, pthread_self())) elsewhere++;
    if (hints->ai_flags & AI_NUMERICHOST) return __real_getaddrinfo(host, port, hints, out);
    if (not_yet > 0) {
        not_yet--;
        return EAI_AGAIN;
    }
    if (!strcmp(host, "slow")) {
        char before[RB_ADDRESS_MAX];
        snprintf(before, sizeof before, "%s", port);
        for (int64_t until = rb_now_ns() + 60 * RB_SEC; !answers && rb_now_ns() < until;)
            rb_sleep_ns(10 * RB_MS);
        rb_sleep_ns(300 * RB_MS);
        kept += !strcmp(host, "slow") && !strcmp(port, before);
        return __real_getaddrinfo("127.0.0.1", port, hints, out);
    }
    if (strcmp(host, "two")) return __real_getaddrinfo(host, port, hints, out);
    struct addrinfo *other;
    rb_sleep_ns(5 * RB_MS);
    int rc = __real_getaddrinfo("127.0.0.1", port, hints, &other);
    if (!rc) rc = __real_getaddrinfo("127.0.0.2", port, hints, out);
    if (!rc) (*out)->ai_next = other;
    return rc;
}

static void several_addresses(void **state) {
    char real[RB_ADDRESS_MAX], address[RB_ADDRESS_MAX];
    int listener, fd;
    bool retry;
    rb_err err;
    (void)state;
    assert_ok(rb_socket_listen("tcp:127.0.0.1:0", &listener, real, &err), &err);
    snprintf(address, sizeof address, "tcp:two%s", strrchr(real, ':'));
    assert_ok(rb_socket_dial(address, rb_now_ns() + 20 * RB_SEC, &fd, &retry, &err), &err);
    close(fd);
    close(listener);
    resbm_status st = rb_socket_dial(address, rb_now_ns() + 20 * RB_SEC, &fd, &retry, &err);
    assert_fails(st, RESBM_E_IO, "Connection refused", &err);
    assert_true(retry);
}

static void no_answer_for_the_moment(void **state) {
    int fd;
    bool retry = false;
    rb_err err;
    (void)state;
    not_yet = 1;
    assert_fails(rb_socket_dial("tcp:localhost:1", rb_now_ns() + 20 * RB_SEC, &fd, &retry, &err), RESBM_E_IO,
                 "address \"tcp:localhost:1\": Temporary failure", &err);
    assert_true(retry);
    assert_fails(rb_socket_dial("tcp:no port", rb_now_ns() + RB_SEC, &fd, &retry, &err), RESBM_E_ARG,
                 "not of the form", &err);
    assert_false(retry);
}

/* Whatever is left of an attempt's time, what a file tells is heard: it ends with what the address itself says. */
static void the_time_is_over(void **state) {
    int fd;
    bool retry = false, refused = false;
    rb_err err;
    (void)state;
    for (int i = 0; i < 50 && !refused; i++) { /* the machine may be busy for longer */
        assert_int_equal(rb_socket_dial("tcp:two:1", rb_now_ns() - RB_SEC, &fd, &retry, &err), RESBM_E_IO);
        refused = strstr(err.text, "Connection refused") != NULL;
    }
    assert_true(refused);
}

static void numbers_ask_nobody(void **state) {
    char real[RB_ADDRESS_MAX];
    int listener, fd;
    bool retry;
    rb_err err;
    (void)state;
    wait_for_threads("rb-resolve"); /* of names before */
    elsewhere = 0;
    assert_ok(rb_socket_listen("tcp:127.0.0.1:0", &listener, real, &err), &err);
    assert_ok(rb_socket_dial(real, rb_now_ns() + 20 * RB_SEC, &fd, &retry, &err), &err);
    close(fd);
    close(listener);
    assert_int_equal(rb_socket_dial("tcp:[::1]:1", rb_now_ns() + 20 * RB_SEC, &fd, &retry, &err), RESBM_E_IO);
    assert_int_equal(elsewhere, 0);
}

/* Whoever dials goes on; the thread that still asks has what it needs for itself. */
static void no_name_server(void **state) {
    char real[RB_ADDRESS_MAX], again[RB_ADDRESS_MAX], *address = malloc(RB_ADDRESS_MAX);
    int listener, fd;
    bool retry = false;
    rb_err err;
    (void)state;
    wait_for_threads("rb-resolve");
    kept = 0;
    answers = false;
    assert_non_null(address);
    assert_ok(rb_socket_listen("tcp:127.0.0.1:0", &listener, real, &err), &err);
    snprintf(again, sizeof again, "tcp:slow%s", strrchr(real, ':'));
    memcpy(address, again, sizeof again);
    assert_fails(rb_socket_dial(address, rb_now_ns() + 200 * RB_MS, &fd, &retry, &err), RESBM_E_IO,
                 "the name server did not answer within 0.", &err);
    assert_true(retry);
    assert_non_null(strstr(err.text, again));
    assert_int_equal(threads_named("rb-resolve"), 1);
    memset(address, 'x', RB_ADDRESS_MAX);
    free(address);
    answers = true;
    assert_ok(rb_socket_dial(again, rb_now_ns() + 60 * RB_SEC, &fd, &retry, &err), &err);
    close(fd);
    close(listener);
    wait_for_threads("rb-resolve");
    assert_int_equal(kept, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(several_addresses), cmocka_unit_test(no_answer_for_the_moment),
        cmocka_unit_test(the_time_is_over), cmocka_unit_test(numbers_ask_nobody),
        cmocka_unit_test(no_name_server)};
    here = pthread_self();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
