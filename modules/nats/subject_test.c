/* An answer goes nowhere but to the inbox of who asked. */
#include <stdlib.h>
#include <string.h>
#include "rb_cmocka.h"
#include "subject.h"

static void own_inbox(void **state) {
    (void)state;
    assert_true(rb_nats_may_answer("run", "p1-00ab", "run.inbox.p1-00ab.x"));
    assert_true(rb_nats_may_answer("run", "p1-00ab", "run.inbox.p1-00ab.Kj3.1"));
}

static void nothing_else(void **state) {
    static const char *const bad[] = {"",
                                      "x",
                                      "run.inbox.p1-00ab",
                                      "run.inbox.p1-00ab.",
                                      "run.inbox.p1-00ab..x",
                                      "run.inbox.p1-00ab.x.",
                                      "run.inbox.p1-00ab.*",
                                      "run.inbox.p1-00ab.>",
                                      "run.inbox.p1-00ab.x y",
                                      "run.inbox.p1-00ab.x\r\nPUB y 0",
                                      "run.inbox.p1-00abc.x",
                                      "run.inbox.p2-00ab.x",
                                      "run.inbox.*.x",
                                      "run2.inbox.p1-00ab.x",
                                      "run.to.p2-00ab.x.coordinator",
                                      "run.ask.revoke.coordinator",
                                      "$JS.API.STREAM.DELETE.KV_resbm-run",
                                      "$JS.API.STREAM.PURGE.KV_resbm-run",
                                      "$KV.resbm-run.epoch",
                                      "$JS.ACK.KV_resbm-run.c.1.1.1.1.1",
                                      "_INBOX.x"};
    char longest[RB_NATS_SUBJECT + 1] = "run.inbox.p1-00ab.";
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(rb_nats_may_answer("run", "p1-00ab", bad[i]));
    memset(longest + strlen(longest), 'x', RB_NATS_SUBJECT - strlen(longest));
    assert_false(rb_nats_may_answer("run", "p1-00ab", longest));
    longest[RB_NATS_SUBJECT - 1] = 0;
    assert_true(rb_nats_may_answer("run", "p1-00ab", longest));
    assert_false(rb_nats_may_answer("run", "", "run.inbox..x"));
    assert_false(rb_nats_may_answer("run", "a.b", "run.inbox.a.b.x"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(own_inbox), cmocka_unit_test(nothing_else)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
