/* Whom a fault concerns, and what follows: by what came from whom, never by the words of a sentence. */
#include <stdlib.h>
#include <string.h>
#include "core/clock.h"
#include "link/pair.h"
#include "rb_cmocka.h"
#include "run/control.h"

enum { STAGES = 4 };

static void sentence_is(rb_blame b, int revoke, int aside, int other, bool at_once) {
    rb_sentence s = rb_blame_judge(&b);
    assert_int_equal(s.revoke, revoke);
    assert_int_equal(s.aside[0], aside);
    assert_int_equal(s.aside[1], other);
    assert_int_equal(s.at_once, at_once);
}

static void sentences(void **state) {
    (void)state;
    sentence_is(rb_blame_nobody(), -1, -1, -1, false);
    sentence_is(rb_blame_seen(-1, RESBM_E_CORRUPT), -1, -1, -1, false);
    sentence_is(rb_blame_seen(2, RESBM_E_PEER), -1, 2, -1, false);
    sentence_is(rb_blame_seen(2, RESBM_E_TIMEOUT), -1, 2, -1, false);
    sentence_is(rb_blame_seen(2, RESBM_E_CORRUPT), 2, -1, -1, false);
    sentence_is(rb_blame_seen(0, RESBM_E_FORMAT), 0, -1, -1, false);
    sentence_is((rb_blame){.worker = 3, .by = 3}, -1, 3, -1, false);
    sentence_is((rb_blame){.worker = 3, .by = 1}, -1, 3, 1, true);
    sentence_is((rb_blame){.worker = 3, .by = 0, .broke_rules = true}, -1, 3, 0, true); /* only its word */
    sentence_is((rb_blame){.worker = 3, .by = -1, .holds_up = true}, -1, 3, -1, true);
    sentence_is((rb_blame){.worker = 3, .by = 2, .holds_up = true}, -1, 3, 2,
                true); /* each waits for the other */
}

static void told_is(const char *text, int worker) {
    json_t *j = json_loads(text, JSON_DECODE_ANY, NULL);
    rb_blame b = rb_blame_told(j, 1, STAGES);
    json_decref(j);
    assert_int_equal(b.worker, worker);
    assert_int_equal(b.by, 1);
    assert_false(b.broke_rules);
}

static void accusations(void **state) {
    (void)state;
    told_is("{\"accused\": 3}", 3);
    told_is("{\"accused\": 0, \"broke_rules\": true}", 0);
    told_is("{\"accused\": 1}", 1);
    static const char *const nobody[] = {"{}",
                                         "[]",
                                         "{\"accused\": -1}",
                                         "{\"accused\": 4}",
                                         "{\"accused\": 99999999999999}",
                                         "{\"accused\": \"3\"}",
                                         "{\"accused\": true}",
                                         "{\"accused\": 2.5}"};
    for (size_t i = 0; i < sizeof nobody / sizeof *nobody; i++) told_is(nobody[i], 1);
}

typedef struct line {
    rb_link *coordinator, *stage;
} line;

static line open_line(const rb_place *places) {
    rb_err err;
    line l;
    rb_link_options o = {.self = RB_PEER_COORDINATOR,
                         .stages = STAGES,
                         .token = 7,
                         .places = places,
                         .limits = {1 << 20, 1 << 20, 1 << 20}};
    assert_ok(rb_link_open(&o, &l.coordinator, &err), &err);
    o.self = 1;
    assert_ok(rb_link_open(&o, &l.stage, &err), &err);
    assert_ok(rb_link_pair_join("unix:blame.sock", l.stage, l.coordinator, RB_PEER_COORDINATOR, &err), &err);
    return l;
}

static void close_line(line l) {
    rb_link_fini(l.stage);
    rb_link_fini(l.coordinator);
}

static void say(line l, const char *bytes) {
    rb_err err;
    rb_message *m = rb_message_new(strlen(bytes));
    assert_non_null(m);
    m->head.kind = RB_FRAME_CONTROL;
    memcpy(m->payload, bytes, strlen(bytes));
    assert_ok(rb_link_send(l.stage, RB_PEER_COORDINATOR, m, rb_now_ns() + 30 * RB_SEC, &err), &err);
}

static void heard_is(line l, resbm_status st, const char *text, int worker, int by, bool broke_rules) {
    rb_err err;
    rb_blame b;
    json_t *j = NULL;
    int from;
    assert_int_equal(
        rb_control_hear(l.coordinator, RB_PEER_ANY, rb_now_ns() + 30 * RB_SEC, &from, &j, &b, &err), st);
    assert_null(j);
    if (text[strlen(text) - 1] == '*')
        assert_int_equal(strncmp(err.text, text, strlen(text) - 1), 0);
    else
        assert_string_equal(err.text, text);
    assert_int_equal(b.worker, worker);
    assert_int_equal(b.by, by);
    assert_int_equal(b.broke_rules, broke_rules);
}

/* A fault's words are its speaker's, whoever they name. */
static void words_of_others(void **state) {
    line l = open_line(NULL);
    (void)state;
    say(l, "{\"t\": \"fault\", \"code\": 5, \"text\": \"stage 12 sent a bad frame\"}");
    heard_is(l, (resbm_status)5, "stage 1: stage 12 sent a bad frame", 1, 1, false);
    say(l,
        "{\"t\": \"fault\", \"code\": 5, \"text\": \"stage 1 replica 1 sent a bad frame\", \"accused\": 2}");
    heard_is(l, (resbm_status)5, "stage 1: stage 1 replica 1 sent a bad frame", 2, 1, false);
    say(l, "{\"t\": \"fault\", \"code\": 8, \"text\": \"stage 1 waited 3 s\"}");
    heard_is(l, (resbm_status)8, "stage 1 waited 3 s", 1, 1, false);
    say(l, "{\"t\": \"fault\", \"code\": 99999999999}");
    heard_is(l, RESBM_E_PEER, "stage 1: fault without a text", 1, 1, false);
    say(l, "[1, 2]");
    heard_is(l, RESBM_E_FORMAT, "a control message from stage 1 is no object with a type: no \"t\"", 1, -1,
             true);
    say(l, "{\"t\": ");
    heard_is(l, RESBM_E_FORMAT, "a control message from stage 1 is no object with a type: *", 1, -1, true);
    rb_link_close(l.stage);
    heard_is(l, RESBM_E_PEER, "stage 1 closed the connection*", 1, -1, false);
    close_line(l);
}

/* Numbers of processes are not those of stages. */
static void replicas_by_their_names(void **state) {
    static const rb_place places[STAGES] = {{0, 0}, {0, 1}, {1, 0}, {1, 1}};
    line l = open_line(places);
    (void)state;
    say(l, "7");
    heard_is(l, RESBM_E_FORMAT, "a control message from stage 0 replica 1 is no object with a type: *", 1, -1,
             true);
    say(l, "{\"t\": \"saved\"}");
    rb_err err;
    json_t *j;
    int from;
    assert_int_equal(
        rb_control_expect(l.coordinator, RB_PEER_ANY, "done", rb_now_ns() + 30 * RB_SEC, &from, &j, &err),
        RESBM_E_FORMAT);
    assert_string_equal(err.text, "stage 0 replica 1 sent \"saved\" where \"done\" was due");
    close_line(l);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(sentences), cmocka_unit_test(accusations),
                                       cmocka_unit_test(words_of_others),
                                       cmocka_unit_test(replicas_by_their_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
