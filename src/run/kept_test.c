/* What is planned for a stage, where memory has run out too, is what it opens: its slots, the older versions it
 * keeps, and its bytes to the last one. */
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "core/buf.h"
#include "device/timed/timed.h"
#include "pipeline/schedules.h"
#include "rb_cmocka.h"
#include "run/fit.h"
#include "run/predict.h"
#include "run/stage.h"

static rb_err err;

/* NULL: it cannot be. more: overrides, apart by blanks. */
static rb_config *config(const char *schedule, int stages, int segments, int microbatches, const char *more) {
    rb_config *c = calloc(1, sizeof *c);
    char text[512], words[256], *rest = words;
    snprintf(text, sizeof text,
             "model: {d: 16, layers: %d, heads: 2, ffn: 24, vocab: 32, context: 8, segments: %d}\n"
             "boundary: {ratio: 4}\noptim: {clip_scope: segment}\ntrain: {batch: %d, microbatches: %d}\n"
             "pipeline: {stages: %d}\n",
             segments, segments, microbatches, microbatches, stages);
    snprintf(words, sizeof words, "pipeline.schedule=%s%s%s", schedule, *more ? " " : "", more);
    assert_ok(rb_config_defaults(c, &err), &err);
    assert_ok(rb_config_load_text(c, "test", text, strlen(text), &err), &err);
    for (char *one; (one = strsep(&rest, " "));) assert_ok(rb_config_override(c, one, &err), &err);
    if (!rb_config_validate(c, &err)) return c;
    free(c);
    return NULL;
}

/* As its process does it, on a device that counts bytes; token ids come from elsewhere. */
static rb_stage *open_stage(const rb_config *c, int stage) {
    static const rb_stage_way way = {0};
    rb_stage *s = calloc(1, sizeof *s);
    s->cfg = *c;
    s->way = &way;
    s->self = stage;
    s->training = s->apart = true;
    s->places = rb_worker_places(c);
    s->cfg.pipeline.threads = 1;
    snprintf(s->cfg.pipeline.device, sizeof s->cfg.pipeline.device, "timed");
    assert_ok(rb_config_schedule_text(c, &s->schedule_text, &err), &err);
    assert_ok(rb_stage_open(s, &err), &err);
    return s;
}

static int most(const rb_stage *s, bool versions) {
    int n = 0;
    for (int i = 0; i < s->hosted; i++) {
        int own = versions ? s->stash[i] : s->seat[i].slots;
        n = own > n ? own : n;
    }
    return n;
}

static void compare(const rb_config *c) {
    for (int i = 0; i < c->pipeline.stages; i++) {
        rb_fit_need need;
        assert_ok(rb_fit_stage(c, i, (int)c->pipeline.inflight, &need, &err), &err);
        rb_stage *s = open_stage(c, i);
        int stash = most(s, true);
        assert_int_equal(need.slots, most(s, false));
        assert_int_equal(need.stashes, (size_t)stash * need.part.version);
        assert_int_equal(need.total, rb_timed_bytes(s->dev));
        rb_stage_close(s);
        free(s->places);
        free(s);
    }
}

static int compare_all(const char *schedule, const char *more) {
    static const int microbatches[] = {1, 2, 5};
    int compared = 0;
    for (int stages = 1; stages <= 4; stages++) {
        for (int n = 0; n < 2 * 3; n++) {
            rb_config *c = config(schedule, stages, stages * (1 + n % 2), microbatches[n / 2], more);
            if (!c) continue;
            compare(c);
            compared++;
            free(c);
        }
    }
    return compared;
}

static void named_schedules(void **state) {
    (void)state;
    for (int k = 0; rb_schedules[k]; k++) {
        const char *name = rb_schedules[k]->name;
        if (rb_schedules[k]->forward_only) continue;
        assert_true(compare_all(name, "") >= 6);
        assert_true(compare_all(name, "pipeline.inflight=2") >= 6);
        compare_all(name, "boundary.tokens=trunk data.distribute=shared");
        compare_all(name, "boundary.tokens=trunk train.recompute=true");
        if (rb_schedules[k]->flows) compare_all(name, "pipeline.vertical_sync=true");
    }
}

/* As they were found: less was planned than stages open for. */
static void steps_flow_into_one_another(void **state) {
    (void)state;
    rb_fit_need need;
    rb_config *c = config("pipedream", 4, 4, 2, "");
    assert_ok(rb_fit_stage(c, 0, 0, &need, &err), &err);
    assert_int_equal(need.slots, 4);
    assert_int_equal(need.stashes, 3 * need.part.version);
    free(c);
    c = config("pipedream-2bw", 4, 4, 4, "");
    for (int i = 0; i < 4; i++) {
        assert_ok(rb_fit_stage(c, i, 0, &need, &err), &err);
        assert_int_equal(need.stashes, need.part.version);
    }
    free(c);
}

static void lists_in_a_file(void **state) {
    (void)state;
    static const char *const texts[] = {
        /* every second update is by two microbatches, which the first stage sees one version old */
        "0F0 0F1 0F2 0B0 0B1 0U1 0F3 0B2 0B3 0U3\n1F0 1B0 1F1 1B1 1U1 1F2 1B2 1F3 1B3 1U3\n",
        "0F0 0F1 0F2 0F3 0B0 0B1 0B2 0B3\n1F0 1I0 1F1 1I1 1W0 1W1 1F2 1B2 1F3 1B3\n"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char file[] = "/tmp/resbm-kept-XXXXXX", schedule[64];
        int fd = mkstemp(file);
        assert_true(fd >= 0 && write(fd, texts[i], strlen(texts[i])) == (ssize_t)strlen(texts[i]));
        close(fd);
        snprintf(schedule, sizeof schedule, "file:%s", file);
        rb_config *c = config(schedule, 2, 2, 4, "");
        assert_non_null(c);
        rb_stage *s = open_stage(c, 0);
        assert_int_equal(most(s, true), i == 0);
        rb_stage_close(s);
        free(s->places);
        free(s);
        compare(c);
        unlink(file);
        free(c);
    }
}

/* The plan's table, too. */
static void replicas_may_be_dealt_more(void **state) {
    (void)state;
    static const char *const more[] = {"pipeline.replicas=2", "pipeline.replicas=[1,3]",
                                       "pipeline.replicas=2 pipeline.deal=even",
                                       "pipeline.replicas=2 engine=mpi"};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        rb_config *c = config("1f1b", 2, 4, 6, more[i]);
        if (!c) fail_msg("%s: %s", more[i], err.text);
        rb_segment_cost cost[4] = {{1, 2, 1, 1}, {1, 2, 1, 1}, {1, 2, 1, 1}, {1, 2, 1, 1}};
        rb_prediction_input in = {.cfg = c, .cost = cost};
        rb_prediction p;
        if (strcmp(c->engine, "mpi")) compare(c); /* a stage of it has streams of its own */
        assert_ok(rb_predict(&in, &p, &err), &err);
        rb_kept kept;
        assert_ok(rb_kept_of(c, p.extra, &kept, &err), &err);
        assert_memory_equal(p.slots, kept.slots, sizeof(int[4]));
        rb_prediction_free(&p);
        free(c);
    }
}

/* A depth that was measured is given up where that makes it fit; two slots less are two slots. */
static void depth_is_advised(void **state) {
    (void)state;
    rb_fit_need deep, less;
    rb_buf text = {0};
    rb_config *c = config("1f1b", 4, 4, 8, "");
    assert_ok(rb_fit_stage(c, 0, 3, &deep, &err), &err);
    assert_ok(rb_fit_stage(c, 0, 1, &less, &err), &err);
    assert_int_equal(deep.slots, 7);
    assert_int_equal(less.slots, 5);
    rb_fit_advise(c, 0, 3, less.total + less.total / 16, 0, &text);
    assert_non_null(strstr(text.data, "It fits with any of: "));
    assert_non_null(strstr(text.data, "pipeline.inflight=1 ("));
    rb_buf_free(&text);
    free(c);
}

/* Windows for gradients of 400 MB each are planned, and none of them is filled: advice is for a machine that has
 * no more. */
static void planning_takes_no_memory(void **state) {
    (void)state;
    rb_fit_need need;
    struct rusage before, after;
    rb_config *c = config("1f1b", 2, 2, 2,
                          "model.d=1024 model.vocab=100000 pipeline.device=cuda optim.offload=host "
                          "optim.offload_parts=states+gradients");
    assert_non_null(c);
    getrusage(RUSAGE_SELF, &before);
    assert_ok(rb_fit_stage(c, 0, 0, &need, &err), &err);
    getrusage(RUSAGE_SELF, &after);
    assert_true(need.total > 1000000000);
    assert_true(after.ru_maxrss - before.ru_maxrss < 200000); /* kB */
    free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(named_schedules), cmocka_unit_test(steps_flow_into_one_another),
        cmocka_unit_test(lists_in_a_file), cmocka_unit_test(replicas_may_be_dealt_more),
        cmocka_unit_test(depth_is_advised), cmocka_unit_test(planning_takes_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
