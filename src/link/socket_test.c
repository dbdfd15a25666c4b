/* Dialing a name that has several addresses, or none for the moment. (Linked with --wrap=getaddrinfo.) */
#include "link/socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <unistd.h>
#include "core/clock.h"
#include "rb_cmocka.h"

int __real_getaddrinfo(const char *, const char *, const struct addrinfo *, struct addrinfo **);
int __wrap_getaddrinfo(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static int not_yet; /* so many more questions */

/* "two" is first where nobody listens, then here. */
int __wrap_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                       struct addrinfo **out) {
    if (not_yet > 0) return not_yet--, EAI_AGAIN;
    if (strcmp(host, "two")) return __real_getaddrinfo(host, port, hints, out);
    struct addrinfo *other;
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
    assert_fails(rb_socket_dial("tcp:127.0.0.1:1", rb_now_ns() + RB_SEC, &fd, &retry, &err), RESBM_E_IO,
                 "address \"tcp:127.0.0.1:1\"", &err);
    assert_true(retry);
    assert_fails(rb_socket_dial("tcp:no port", rb_now_ns() + RB_SEC, &fd, &retry, &err), RESBM_E_ARG,
                 "not of the form", &err);
    assert_false(retry);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(several_addresses),
                                       cmocka_unit_test(no_answer_for_the_moment)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
