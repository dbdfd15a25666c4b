#include <jansson.h>
#include <stdlib.h>

#include "core/bytes.h"
#include <unistd.h>
#include "rb_cmocka.h"
#include "run/trace.h"

static rb_trace_event event(int stage, int64_t step, int64_t begin, int64_t end) {
    return (rb_trace_event){.track = RB_TRACK_COMPUTE,
                            .category = RB_TRACE_COMPUTE,
                            .stage = stage,
                            .segment = stage,
                            .microbatch = 3,
                            .step = step,
                            .begin_ns = begin,
                            .end_ns = end,
                            .bytes = 77,
                            .name = "2F0"};
}

static rb_trace *fill(int keep, int64_t steps) {
    rb_err err = {0};
    rb_trace *t = NULL;
    assert_ok(rb_trace_new(keep, &t, &err), &err);
    for (int64_t s = 1; s <= steps; s++)
        for (int stage = 1; stage >= 0; stage--) {
            rb_trace_event e = event(stage, s, s * 1000000 + stage * 1500, s * 1000000 + stage * 1500 + 2345);
            assert_ok(rb_trace_add(t, &e, 1, 5, &err), &err);
        }
    return t;
}

static void a_wait_is_split_where_the_sender_queued(void **state) {
    (void)state;
    rb_trace_event wait = event(1, 1, 100, 200), out[2];
    assert_int_equal(rb_trace_split_wait(&wait, 130, out), 2);
    assert_int_equal(out[0].category, RB_TRACE_WAIT_PEER);
    assert_int_equal(out[0].begin_ns, 100);
    assert_int_equal(out[0].end_ns, 130);
    assert_int_equal(out[1].category, RB_TRACE_WAIT_BANDWIDTH);
    assert_int_equal(out[1].begin_ns, 130);
    assert_int_equal(out[1].end_ns, 200);
    assert_int_equal(out[1].track, RB_TRACK_WAIT);
    assert_int_equal(rb_trace_split_wait(&wait, 50, out), 1); /* queued before: all of it bandwidth */
    assert_int_equal(out[0].category, RB_TRACE_WAIT_BANDWIDTH);
    assert_int_equal(out[0].end_ns - out[0].begin_ns, 100);
    assert_int_equal(rb_trace_split_wait(&wait, 900, out),
                     1); /* a clock that runs ahead: all of it the peer */
    assert_int_equal(out[0].category, RB_TRACE_WAIT_PEER);
    assert_int_equal(out[0].end_ns - out[0].begin_ns, 100);
    wait.end_ns = wait.begin_ns;
    assert_int_equal(rb_trace_split_wait(&wait, 100, out), 0);
}

static void file_is_what_perfetto_reads(void **state) {
    (void)state;
    rb_err err = {0};
    rb_trace *t = fill(2, 2);
    assert_ok(rb_trace_write(t, "trace.json", &err), &err);
    rb_trace_free(t);
    json_t *root = json_load_file("trace.json", JSON_REJECT_DUPLICATES, NULL);
    unlink("trace.json");
    assert_non_null(root);
    json_t *list = json_object_get(root, "traceEvents"), *o;
    size_t i, complete = 0, threads = 0;
    json_array_foreach(list, i, o) {
        const char *ph = json_string_value(json_object_get(o, "ph"));
        const char *name = json_string_value(json_object_get(o, "name"));
        assert_true(json_is_integer(json_object_get(o, "pid")));
        if (!strcmp(ph, "X")) {
            complete++;
            assert_true(json_is_number(json_object_get(o, "ts")) &&
                        json_number_value(json_object_get(o, "ts")) >= 0);
            assert_true(json_number_value(json_object_get(o, "dur")) == 2.345);
            assert_string_equal(name, "2F0");
            assert_string_equal(json_string_value(json_object_get(o, "cat")), "compute");
            json_t *args = json_object_get(o, "args");
            assert_int_equal(json_integer_value(json_object_get(args, "microbatch")), 3);
            assert_int_equal(json_integer_value(json_object_get(args, "bytes")), 77);
        } else if (!strcmp(name, "thread_name"))
            threads++;
    }
    assert_int_equal(complete, 4);
    assert_int_equal(threads, 2 * RB_TRACK_COUNT);
    json_decref(root);
}

static void first_and_last_steps_stay(void **state) {
    (void)state;
    rb_err err = {0};
    rb_trace *t = fill(3, 100);
    rb_trace_event late = event(0, 20, 1, 2); /* long gone: must not push a newer step out */
    assert_ok(rb_trace_add(t, &late, 1, 0, &err), &err);
    assert_ok(rb_trace_write(t, "kept.json", &err), &err);
    rb_trace_free(t);
    rb_trace_event *e;
    size_t n, seen[101] = {0};
    assert_ok(rb_trace_read("kept.json", &e, &n, &err), &err);
    assert_int_equal(n, 12);
    for (size_t i = 0; i < n; i++) seen[e[i].step]++;
    for (int64_t s = 1; s <= 100; s++) assert_int_equal(seen[s], s <= 3 || s > 97 ? 2 : 0);
    /* Times are relative to the first event. */
    int64_t least = e[0].begin_ns;
    for (size_t i = 0; i < n; i++) least = e[i].begin_ns < least ? e[i].begin_ns : least;
    assert_int_equal(least, 0);
    free(e);
    json_t *root = json_load_file("kept.json", 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(root, "otherData"), "dropped")), 1);
    json_decref(root);
}

static void read_gives_back_what_was_written(void **state) {
    (void)state;
    rb_err err = {0};
    rb_trace *t = NULL;
    rb_trace_event in[2] = {event(0, 1, 1000, 5001), event(2, 1, 4000, 4000)}, *out;
    in[1].category = RB_TRACE_WAIT_PEER;
    in[1].track = RB_TRACK_WAIT;
    in[1].segment = in[1].microbatch = -1;
    in[1].bytes = 0;
    size_t n;
    assert_ok(rb_trace_new(1, &t, &err), &err);
    assert_ok(rb_trace_add(t, in, 2, 0, &err), &err);
    assert_ok(rb_trace_write(t, "round.json", &err), &err);
    rb_trace_free(t);
    assert_ok(rb_trace_read("round.json", &out, &n, &err), &err);
    assert_int_equal(n, 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(out[i].begin_ns, in[i].begin_ns - 1000);
        assert_int_equal(out[i].end_ns, in[i].end_ns - 1000);
        assert_int_equal(out[i].stage, in[i].stage);
        assert_int_equal(out[i].track, in[i].track);
        assert_int_equal(out[i].category, in[i].category);
        assert_int_equal(out[i].segment, in[i].segment);
        assert_int_equal(out[i].microbatch, in[i].microbatch);
        assert_int_equal(out[i].bytes, in[i].bytes);
        assert_string_equal(out[i].name, in[i].name);
    }
    free(out);
}

static void packed_events_survive_and_damaged_ones_do_not(void **state) {
    (void)state;
    rb_err err = {0};
    rb_trace_event in[2] = {event(7, 123456, -5, 900), event(1, 2, 3, 4)}, out[2];
    in[0].segment = -1;
    rb_buf b = {0};
    size_t n;
    rb_trace_pack(in, 2, &b);
    assert_int_equal(b.len, 2 * RB_TRACE_PACKED);
    assert_ok(rb_trace_unpack(b.data, b.len, out, &n, &err), &err);
    assert_int_equal(n, 2);
    assert_int_equal(out[0].stage, 7);
    assert_int_equal(out[0].segment, -1);
    assert_int_equal(out[0].begin_ns, -5);
    assert_int_equal(out[1].bytes, 77);
    assert_string_equal(out[1].name, "2F0");
    assert_fails(rb_trace_unpack(b.data, b.len - 1, out, &n, &err), RESBM_E_FORMAT, "143 bytes", &err);
    uint8_t *p = (uint8_t *)b.data;
    p[48] = '"'; /* must not break the JSON it is going into */
    p[49] = 200;
    assert_ok(rb_trace_unpack(p, b.len, out, &n, &err), &err);
    assert_string_equal(out[0].name, "??0");
    p[0] = RB_TRACK_COUNT;
    assert_fails(rb_trace_unpack(p, b.len, out, &n, &err), RESBM_E_FORMAT, "track 5", &err);
    p[0] = 0;
    rb_put64(p + 32, 0xfffffffffffffff0u); /* ends before it begins */
    assert_fails(rb_trace_unpack(p, b.len, out, &n, &err), RESBM_E_FORMAT, "from -5 to -16", &err);
    rb_buf_free(&b);
}

static void a_step_of_too_many_events_is_bounded(void **state) {
    (void)state;
    rb_err err = {0};
    rb_trace *t = NULL;
    rb_trace_event e = event(0, 1, 1, 2);
    assert_ok(rb_trace_new(1, &t, &err), &err);
    for (int i = 0; i < RB_TRACE_STEP_EVENTS + 10; i++) assert_ok(rb_trace_add(t, &e, 1, 0, &err), &err);
    assert_ok(rb_trace_write(t, "many.json", &err), &err);
    rb_trace_free(t);
    rb_trace_event *out;
    size_t n;
    assert_ok(rb_trace_read("many.json", &out, &n, &err), &err);
    assert_int_equal(n, RB_TRACE_STEP_EVENTS);
    free(out);
}

static void bad_files(void **state) {
    (void)state;
    rb_err err = {0};
    rb_trace_event *out;
    size_t n;
    rb_trace *t;
    FILE *f = fopen("bad.json", "w");
    fputs("{\"traceEvents\":[{\"ph\":\"X\",\"pid\":99999,\"tid\":0,\"cat\":\"compute\",\"ts\":1,\"dur\":1,"
          "\"name\":\"a\"}]}",
          f);
    fclose(f);
    assert_fails(rb_trace_read("bad.json", &out, &n, &err), RESBM_E_FORMAT, "bad.json: event 0", &err);
    f = fopen("bad.json", "w");
    fputs("{}", f);
    fclose(f);
    assert_fails(rb_trace_read("bad.json", &out, &n, &err), RESBM_E_FORMAT, "traceEvents", &err);
    assert_fails(rb_trace_new(0, &t, &err), RESBM_E_ARG, "at least 1", &err);
    unlink("bad.json");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wait_is_split_where_the_sender_queued),
        cmocka_unit_test(file_is_what_perfetto_reads),
        cmocka_unit_test(first_and_last_steps_stay),
        cmocka_unit_test(read_gives_back_what_was_written),
        cmocka_unit_test(packed_events_survive_and_damaged_ones_do_not),
        cmocka_unit_test(a_step_of_too_many_events_is_bounded),
        cmocka_unit_test(bad_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
