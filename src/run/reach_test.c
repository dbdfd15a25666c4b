/* Who can reach an address, by its kind; and what comes of dialing it. */
#include "run/reach.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>
#include "core/clock.h"
#include "link/resolve.h"
#include "rb_cmocka.h"
#include "rb_threads.h"

static rb_err err;

static rb_reach_kind kind(const char *text) {
    struct sockaddr_in a = {.sin_family = AF_INET};
    struct sockaddr_in6 b = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, text, &a.sin_addr) == 1) return rb_reach_kind_of((struct sockaddr *)&a);
    assert_int_equal(inet_pton(AF_INET6, text, &b.sin6_addr), 1);
    return rb_reach_kind_of((struct sockaddr *)&b);
}

static void kinds_are_told_apart(void **state) {
    static const struct {
        const char *address;
        rb_reach_kind kind;
    } all[] = {{"0.0.0.0", RB_REACH_WILDCARD},    {"::", RB_REACH_WILDCARD},
               {"127.3.2.1", RB_REACH_LOOPBACK},  {"::1", RB_REACH_LOOPBACK},
               {"169.254.7.7", RB_REACH_LINK},    {"fe80::1", RB_REACH_LINK},
               {"10.0.0.1", RB_REACH_PRIVATE},    {"172.16.0.1", RB_REACH_PRIVATE},
               {"172.31.9.9", RB_REACH_PRIVATE},  {"192.168.1.4", RB_REACH_PRIVATE},
               {"fd12::7", RB_REACH_PRIVATE},     {"::ffff:10.1.1.1", RB_REACH_PRIVATE},
               {"100.64.0.1", RB_REACH_SHARED},   {"100.127.255.254", RB_REACH_SHARED},
               {"100.128.0.1", RB_REACH_PUBLIC},  {"172.32.0.1", RB_REACH_PUBLIC},
               {"192.169.0.1", RB_REACH_PUBLIC},  {"8.8.8.8", RB_REACH_PUBLIC},
               {"2001:4860::1", RB_REACH_PUBLIC}, {"::ffff:8.8.8.8", RB_REACH_PUBLIC}};
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) assert_int_equal(kind(all[i].address), all[i].kind);
}

static void addresses_are_split(void **state) {
    char host[256], bracket[260];
    int port;
    (void)state;
    assert_ok(rb_reach_split("a.example", "--listen", 4222, host, &port, &err), &err);
    assert_true(!strcmp(host, "a.example") && port == 4222);
    assert_ok(rb_reach_split("127.0.0.1:7", "--listen", 4222, host, &port, &err), &err);
    assert_true(!strcmp(host, "127.0.0.1") && port == 7);
    assert_ok(rb_reach_split("[::1]:8", "--listen", 4222, host, &port, &err), &err);
    assert_true(!strcmp(host, "::1") && port == 8);
    assert_string_equal(rb_reach_bracket(host, bracket), "[::1]");
    assert_ok(rb_reach_split("::1", "--listen", 9, host, &port, &err), &err);
    assert_true(!strcmp(host, "::1") && port == 9);
    assert_string_equal(rb_reach_bracket("x", bracket), "x");
    assert_ok(rb_reach_split("tls://a.example:7", "--announce", 0, host, &port, &err), &err);
    assert_true(!strcmp(host, "a.example") && port == 7);
    static const char *const wrong[] = {
        "a b", "a/b", "tls://", "", ":1", "a:", "a:b", "a:70000", "a:-1", "[::1", "[::1]x", "a:1x"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(rb_reach_split(wrong[i], "--listen", 1, host, &port, &err), RESBM_E_ARG);
}

static void check(const char *host, int port, const char *announce, int announced, bool everywhere,
                  const char *const *says) {
    rb_buf out = {0};
    bool is;
    assert_ok(rb_reach_check(host, port, announce, announced, 0, true, &out, &is, &err), &err);
    assert_int_equal(is, everywhere);
    for (int i = 0; says[i]; i++)
        if (!strstr(out.data, says[i])) fail_msg("\"%s\" is not in:\n%s", says[i], out.data);
    rb_buf_free(&out);
}

static int taken_port(int *fd) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    *fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_false(bind(*fd, (struct sockaddr *)&a, n) || listen(*fd, 1));
    assert_false(getsockname(*fd, (struct sockaddr *)&a, &n));
    return ntohs(a.sin_port);
}

static void dialing_tells(void **state) {
    int fd, taken = taken_port(&fd);
    (void)state;
    check("127.0.0.1", 0, "127.0.0.1", 0, false,
          (const char *const[]){
              "127.0.0.1 is reached from this machine alone; this machine has it; a server there answers",
              "have the router forward TCP port", "host on a rented machine", NULL});
    check("0.0.0.0", 0, "localhost", 0, false,
          (const char *const[]){"localhost (127.0.0.1) is reached from this", NULL});
    check("127.0.0.1", 0, "127.0.0.1", taken, false,
          (const char *const[]){"something else than this machine answers", NULL});
    check("127.0.0.1", 0, "127.0.0.1", 1, false,
          (const char *const[]){"it refuses: nothing forwards that port", NULL});
    check("127.0.0.1", 0, "no-such-name.invalid", 0, false,
          (const char *const[]){"\"no-such-name.invalid\" stands for no address", "correct the name", NULL});

    rb_buf out = {0};
    bool is;
    assert_int_equal(rb_reach_check("127.0.0.1", taken, "127.0.0.1", 0, 100 * RB_MS, true, &out, &is, &err),
                     RESBM_E_CONFIG);
    assert_non_null(strstr(err.text, "another program listens there already"));
    assert_int_equal(rb_reach_check("127.0.0.1", taken, "127.0.0.1", 0, 0, false, &out, &is, &err),
                     RESBM_E_CONFIG);
    assert_null(strstr(err.text, "--listen")); /* which would be refused */
    assert_int_equal(rb_reach_check("203.0.113.9", 0, "127.0.0.1", 0, 0, true, &out, &is, &err),
                     RESBM_E_CONFIG);
    assert_non_null(strstr(err.text, "this machine has no such address"));
    rb_buf_free(&out);
    close(fd);
}

/* "two.example" stands for two of this machine's addresses; of "slow.example" nobody knows before the test is over (linked with --wrap). */
static atomic_bool answers;

int __real_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                       struct addrinfo **out);
int __wrap_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                       struct addrinfo **out);

int __wrap_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                       struct addrinfo **out) {
    bool number = hints->ai_flags & AI_NUMERICHOST;
    for (int i = 0; i < 3000 && !number && !strcmp(host, "slow.example") && !answers; i++)
        rb_sleep_ns(20 * RB_MS);
    if (number || strcmp(host, "two.example")) return __real_getaddrinfo(host, service, hints, out);
    int bad = __real_getaddrinfo("127.0.0.1", service, hints, out);
    return bad ? bad : __real_getaddrinfo("127.0.0.2", service, hints, &(*out)->ai_next);
}

/* Ten seconds are asked for; "slow.example" gets fewer, so that the test does not take them. */
resbm_status __real_rb_resolve(const char *, const char *, int, int64_t, struct addrinfo **, bool *,
                               rb_err *);
resbm_status __wrap_rb_resolve(const char *, const char *, int, int64_t, struct addrinfo **, bool *,
                               rb_err *);

resbm_status __wrap_rb_resolve(const char *host, const char *port, int flags, int64_t deadline_ns,
                               struct addrinfo **out, bool *later, rb_err *why) {
    int64_t now = rb_now_ns();
    assert_true(deadline_ns > now && deadline_ns <= now + 10 * RB_SEC);
    if (!strcmp(host, "slow.example")) deadline_ns = now + 200 * RB_MS;
    return __real_rb_resolve(host, port, flags, deadline_ns, out, later, why);
}

static void no_name_server_answers(void **state) {
    rb_buf out = {0};
    bool is;
    (void)state;
    check("127.0.0.1", 0, "slow.example", 0, false,
          (const char *const[]){"\"slow.example\" could not be looked up: the name server did "
                                "not answer within 0.",
                                NULL});
    assert_fails(rb_reach_check("slow.example", 0, "127.0.0.1", 0, 0, true, &out, &is, &err), RESBM_E_TIMEOUT,
                 "\"slow.example\" could not be looked up", &err);
    rb_buf_free(&out);
    answers = true;
    wait_for_threads("rb-resolve");
}

typedef struct silent {
    int fd[2];
    bool together;
} silent;

/* Two that take a connection and say nothing. */
static void *take_both(void *arg) {
    silent *s = arg;
    char byte;
    int first = accept(s->fd[0], NULL, NULL), second = accept(s->fd[1], NULL, NULL);
    s->together = recv(first, &byte, 1, MSG_DONTWAIT) < 0; /* else it has been given up already */
    close(first);
    close(second);
    return NULL;
}

/* One that says nothing keeps no other address waiting. */
static void addresses_are_dialed_together(void **state) {
    silent s;
    pthread_t thread;
    int port = taken_port(&s.fd[0]);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    (void)state;
    inet_pton(AF_INET, "127.0.0.2", &a.sin_addr);
    s.fd[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_false(bind(s.fd[1], (struct sockaddr *)&a, sizeof a) || listen(s.fd[1], 1));
    assert_false(pthread_create(&thread, NULL, take_both, &s));
    check("127.0.0.1", 0, "two.example", port, false,
          (const char *const[]){
              "two.example (127.0.0.1) is reached from this machine alone; dialed from here, something else",
              "two.example (127.0.0.2) is reached from this machine alone; dialed from here, something else",
              NULL});
    pthread_join(thread, NULL);
    assert_true(s.together);
    for (int i = 0; i < 2; i++) close(s.fd[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(addresses_are_dialed_together),
                                       cmocka_unit_test(kinds_are_told_apart),
                                       cmocka_unit_test(addresses_are_split), cmocka_unit_test(dialing_tells),
                                       cmocka_unit_test(no_name_server_answers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
