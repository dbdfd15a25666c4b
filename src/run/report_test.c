#include <jansson.h>
#include <math.h>
#include <stdlib.h>

#include "core/buf.h"
#include "rb_cmocka.h"
#include "run/report.h"

enum { STEPS = 300, STAGES = 4, MICRO = 8 };

/* A made-up run: a loss that falls, a 1F1B-like trace of one step, links between neighbours. */
typedef struct made {
    rb_step_metrics step[STEPS];
    rb_trace_event event[4096];
    size_t events;
    uint64_t rss[STAGES];
    rb_link_bytes link[2 * (STAGES - 1)];
    rb_metrics metrics;
    rb_summary summary;
    rb_report_run run;
} made;

static void put(made *m, rb_trace_track track, rb_trace_category c, int stage, int mb, double from, double to,
                const char *name) {
    rb_trace_event *e = &m->event[m->events++];
    *e = (rb_trace_event){.track = track,
                          .category = c,
                          .stage = stage,
                          .segment = stage,
                          .microbatch = mb,
                          .step = 7,
                          .begin_ns = (int64_t)(from * 1e6),
                          .end_ns = (int64_t)(to * 1e6),
                          .bytes = track == RB_TRACK_SEND ? 4321 : 0};
    strncpy(e->name, name, sizeof e->name - 1);
}

static void make_trace(made *m, double wire_ms) {
    for (int s = 0; s < STAGES; s++) {
        double t = s * (10 + wire_ms);
        if (s) put(m, RB_TRACK_WAIT, RB_TRACE_WAIT_PEER, s, 0, 0, t - wire_ms, "wait");
        if (s) put(m, RB_TRACK_WAIT, RB_TRACE_WAIT_BANDWIDTH, s, 0, t - wire_ms, t, "wait");
        for (int i = 0; i < 2 * MICRO; i++) {
            char name[16];
            snprintf(name, sizeof name, "%d%c%d", s, i < MICRO ? 'F' : 'B', i % MICRO);
            put(m, RB_TRACK_COMPUTE, RB_TRACE_COMPUTE, s, i % MICRO, t, t + (i < MICRO ? 10 : 20), name);
            t += i < MICRO ? 10 : 20;
            if ((i < MICRO && s < STAGES - 1) || (i >= MICRO && s))
                put(m, RB_TRACK_SEND, RB_TRACE_SEND, s, i % MICRO, t, t + wire_ms, name);
            if (wire_ms > 10)
                put(m, RB_TRACK_WAIT, RB_TRACE_WAIT_BANDWIDTH, s, i % MICRO, t, t + wire_ms - 10, "wait");
            if (wire_ms > 10) t += wire_ms - 10;
        }
        put(m, RB_TRACK_COMPUTE, RB_TRACE_OPTIMIZER, s, -1, t, t + 15, "muon");
    }
}

static made *make(const char *name, double step_s, double wire_ms, double bytes) {
    made *m = calloc(1, sizeof *m);
    assert_non_null(m);
    for (int i = 0; i < STEPS; i++)
        m->step[i] =
            (rb_step_metrics){.step = i + 1,
                              .tokens = 4096LL * (i + 1),
                              .loss = 1.6 + 4.2 * exp(-i / 40.0) + 0.15 * sin(i * 1.7) / (1 + i * 0.01),
                              .val_loss = (i + 1) % 25 ? NAN : 1.62 + 4.2 * exp(-i / 40.0),
                              .lr = 0.02,
                              .step_s = step_s,
                              .tokens_per_s = 4096 / step_s,
                              .time_s = step_s * (i + 1)};
    make_trace(m, wire_ms);
    for (int s = 0; s < STAGES; s++) m->rss[s] = (uint64_t)(150 + 20 * s) << 20;
    for (int l = 0; l < STAGES - 1; l++) {
        m->link[2 * l] =
            (rb_link_bytes){l, l + 1, 4e6, (uint64_t)(bytes * 4096 * STEPS), 0, 0, 120000, 0, 33000};
        m->link[2 * l + 1] =
            (rb_link_bytes){l + 1, l, 4e6, 0, (uint64_t)(bytes * 4300 * STEPS), 0, 110000, 0, 30000};
    }
    m->metrics = (rb_metrics){.steps = m->step, .count = STEPS};
    m->summary = (rb_summary){.val_loss = 1.62,
                              .val_bpb = 2.337,
                              .steps = STEPS,
                              .tokens = 4096 * STEPS,
                              .tokens_per_s = 4096 / step_s,
                              .step_s = step_s,
                              .bytes_per_token_fwd = bytes,
                              .bytes_per_token_bwd = bytes * 1.05,
                              .ratio = bytes > 100 ? 1 : 128,
                              .wire_ratio = 512 / bytes,
                              .bubble = 0.3,
                              .params = 6553600,
                              .time_s = step_s * STEPS,
                              .stages = STAGES,
                              .peak_rss_bytes = m->rss,
                              .links = 2 * (STAGES - 1),
                              .link = m->link};
    strcpy(m->summary.boundary, bytes > 100 ? "none" : "residual");
    strcpy(m->summary.codec_fwd, bytes > 100 ? "bf16" : "int4");
    strcpy(m->summary.codec_bwd, m->summary.codec_fwd);
    m->run = (rb_report_run){.name = name,
                             .metrics = &m->metrics,
                             .summary = &m->summary,
                             .events = m->event,
                             .event_count = m->events,
                             .config = bytes > 100
                                           ? "model: {d: 256}\nboundary:\n  kind: none\nengine: local\n"
                                           : "model: {d: 256}\nboundary:\n  kind: residual\nengine: local\n"};
    return m;
}

static json_t *read_page(const char *path, rb_buf *page) {
    rb_err err = {0};
    assert_ok(rb_read_file(path, 1 << 24, page, &err), &err);
    const char *from = strstr(page->data, "type=\"application/json\">");
    assert_non_null(from);
    from += strlen("type=\"application/json\">");
    const char *to = strstr(from, "</script>");
    json_error_t fault;
    json_t *root = json_loadb(from, (size_t)(to - from), JSON_REJECT_DUPLICATES, &fault);
    if (!root) fail_msg("the page's data: %s", fault.text);
    return root;
}

static void two_runs_side_by_side(void **state) {
    (void)state;
    rb_err err = {0};
    made *a = make("uncompressed", 3.0, 60, 530), *b = make("residual 128x int4", 0.35, 3, 4.3);
    rb_report_run runs[2] = {a->run, b->run};
    assert_ok(rb_report_write("report.html", runs, 2, &err), &err);
    rb_buf page = {0};
    json_t *root = read_page("report.html", &page), *list = json_object_get(root, "runs"),
           *r = json_array_get(list, 1);
    assert_int_equal(json_array_size(list), 2);
    assert_string_equal(json_string_value(json_object_get(r, "name")), "residual 128x int4");
    assert_int_equal(json_array_size(json_object_get(r, "steps")), STEPS);
    assert_int_equal(json_array_size(json_object_get(r, "events")), b->events);
    json_t *sum = json_object_get(r, "summary");
    assert_int_equal(json_array_size(json_object_get(sum, "links")), 6);
    assert_true(json_number_value(json_object_get(sum, "ratio")) == 128);
    json_decref(root);
    rb_buf_free(&page);
    free(a);
    free(b);
}

/* Nothing in the page may make a browser ask anybody for anything. */
static void page_is_self_contained(void **state) {
    (void)state;
    rb_err err = {0};
    made *a = make("only", 1, 3, 4);
    assert_ok(rb_report_write("one.html", &a->run, 1, &err), &err);
    rb_buf page = {0};
    assert_ok(rb_read_file("one.html", 1 << 24, &page, &err), &err);
    const char *never[] = {
        "http:",  "https:",         "//cdn",     "src=",  "href=", "@import", "url(",
        "fetch(", "XMLHttpRequest", "WebSocket", "<link", "<img",  "<iframe", "<!--RB_DATA-->"};
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        if (strstr(page.data, never[i])) fail_msg("the page contains \"%s\"", never[i]);
    assert_non_null(strstr(page.data, "</html>"));
    rb_buf_free(&page);
    free(a);
}

static void hostile_names_stay_text(void **state) {
    (void)state;
    rb_err err = {0};
    made *a = make("</script><b>\"\\", 1, 3, 4);
    a->run.config = "x: </script>\n\ty\x01";
    assert_ok(rb_report_write("hostile.html", &a->run, 1, &err), &err);
    rb_buf page = {0};
    json_t *root = read_page("hostile.html", &page), *run = json_array_get(json_object_get(root, "runs"), 0);
    assert_string_equal(json_string_value(json_object_get(run, "name")), "</script><b>\"\\");
    assert_string_equal(json_string_value(json_object_get(run, "config")), "x: </script>\n\ty\x01");
    json_decref(root);
    rb_buf_free(&page);
    free(a);
}

static void long_runs_are_thinned(void **state) {
    (void)state;
    rb_err err = {0};
    made *a = make("long", 1, 3, 4);
    size_t n = 50000, evaluated = 0;
    rb_step_metrics *steps = calloc(n, sizeof *steps);
    rb_trace_event *events = calloc(n, sizeof *events);
    for (size_t i = 0; i < n; i++) {
        steps[i] = a->step[i % STEPS];
        steps[i].step = (int64_t)i + 1;
        evaluated += !isnan(steps[i].val_loss);
        events[i] = a->event[0];
        events[i].step = (int64_t)(i / 1000);
    }
    a->metrics = (rb_metrics){.steps = steps, .count = n};
    a->run.events = events;
    a->run.event_count = n;
    assert_ok(rb_report_write("long.html", &a->run, 1, &err), &err);
    rb_buf page = {0};
    json_t *root = read_page("long.html", &page), *run = json_array_get(json_object_get(root, "runs"), 0);
    json_t *list = json_object_get(run, "steps"), *o;
    assert_in_range(json_array_size(list), RB_REPORT_STEPS / 2, RB_REPORT_STEPS + evaluated);
    size_t i, vals = 0;
    json_array_foreach(list, i, o) vals += json_is_number(json_object_get(o, "val"));
    assert_int_equal(vals, evaluated);
    o = json_array_get(list, json_array_size(list) - 1);
    assert_int_equal(json_integer_value(json_object_get(o, "step")), n);
    assert_int_equal(json_array_size(json_object_get(run, "events")), 2000);
    json_decref(root);
    rb_buf_free(&page);
    free(steps);
    free(events);
    free(a);
}

static void bad_arguments(void **state) {
    (void)state;
    rb_err err = {0};
    made *a = make("a", 1, 3, 4);
    assert_fails(rb_report_write("x.html", &a->run, 0, &err), RESBM_E_ARG, "0 runs", &err);
    assert_fails(rb_report_write("no/such/x.html", &a->run, 1, &err), RESBM_E_IO, "no/such", &err);
    free(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_runs_side_by_side),   cmocka_unit_test(page_is_self_contained),
        cmocka_unit_test(hostile_names_stay_text), cmocka_unit_test(long_runs_are_thinned),
        cmocka_unit_test(bad_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
