#include <stdlib.h>
#include <string.h>
#include "core/clock.h"
#include "device/cuda/sdpa_room.h"
#include "device/timed/timed.h"
#include "rb_cmocka.h"
#include "run/fit.h"
#include "run/measure.h"
#include "run/measure_link.h"
#include "run/stage.h"

/* more: overrides, apart by blanks. */
static rb_config *config(const char *more) {
    rb_err err;
    rb_config *c = calloc(1, sizeof *c);
    char text[512], more_text[256], *rest = more_text;
    snprintf(text, sizeof text,
             "model: {d: 64, layers: 4, heads: 4, ffn: 96, vocab: 128, context: 16, segments: 4}\n"
             "boundary: {ratio: 8}\ntrain: {batch: 8, microbatches: 4}\npipeline: {stages: 2}\n");
    snprintf(more_text, sizeof more_text, "%s", more);
    assert_ok(rb_config_defaults(c, &err), &err);
    assert_ok(rb_config_load_text(c, "test", text, strlen(text), &err), &err);
    for (char *one; *more && (one = strsep(&rest, " "));) assert_ok(rb_config_override(c, one, &err), &err);
    assert_ok(rb_config_validate(c, &err), &err);
    return c;
}

static void open_stage(rb_stage *s, const rb_config *c, const char *device, const int *host, int hosted,
                       const int *slots) {
    rb_err err;
    *s = (rb_stage){
        .cfg = *c, .workers = 2, .segments = (int)c->model.segments, .hosted = hosted, .training = true};
    snprintf(s->cfg.pipeline.device, sizeof s->cfg.pipeline.device, "%s", device);
    s->cfg.pipeline.threads = 1;
    s->host = calloc((size_t)hosted, sizeof *s->host);
    memcpy(s->host, host, (size_t)hosted * sizeof *host);
    assert_ok(rb_stage_open_memory(s, slots, &err), &err);
}

/* The plan's sum for a stage of two segments with different depths is what opening that stage takes, and the model in it
 * is as large on a device that computes. */
static void memory_is_what_a_stage_takes(void **state) {
    (void)state;
    const char *const variants[] = {"", "train.recompute=true", "boundary.tokens=trunk boundary.aux=stream",
                                    "boundary.kind=none"};
    const int hosts[][2] = {{0, 1}, {2, 3}, {1, 2}, {0, 3}}, slots[] = {5, 3};
    rb_stage *s = malloc(sizeof *s);
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
        for (int h = 0; h < 4; h++) {
            rb_config *c = config(variants[v]);
            rb_stage_need need;
            size_t slot[2], model;
            rb_err err;
            assert_ok(rb_measure_stage(c, hosts[h], 2, false, &need, slot, &err), &err);
            open_stage(s, c, "timed", hosts[h], 2, slots);
            model = rb_stage_model_bytes(s->model);
            assert_int_equal(rb_timed_bytes(s->dev),
                             need.weights + need.gradients + need.working + 5 * slot[0] + 3 * slot[1]);
            rb_stage_close(s);
            open_stage(s, c, "ref", hosts[h], 2, slots);
            assert_int_equal(rb_stage_model_bytes(s->model), model);
            assert_ok(rb_stage_open_versions(s->model, (const int[]){1, 1}, &err), &err);
            assert_int_equal(rb_stage_model_bytes(s->model), model + need.version);
            rb_stage_close(s);
            free(c);
        }
    }
    free(s);
}

static size_t rounded_of(const char *more) {
    rb_config *c = config(more);
    rb_fit_need need;
    rb_err err;
    assert_ok(rb_fit_stage(c, 0, 0, &need, &err), &err);
    free(c);
    return need.rounded;
}

/* What cuDNN's attention works in is planned, and what its operands are rounded into where activations are f32 (here they are
 * more than the factors of a product). Calls are cut where they would keep much; whole sequences as long as one is not too much. */
static void attention_by_a_library_is_planned(void **state) {
    (void)state;
    size_t room = rb_sdpa_room(2, 16, 4, 4, 16) * 9 / 8, operands = rb_sdpa_operands(2, 16, 4, 4, 16) * 9 / 8;
    size_t own = rounded_of("pipeline.device=cuda"),
           f32 = rounded_of("pipeline.device=cuda pipeline.activations=f32");
    assert_int_equal(rounded_of("pipeline.device=cuda pipeline.attention=cudnn"), own + room);
    assert_int_equal(rounded_of("pipeline.device=cuda pipeline.attention=auto pipeline.activations=f32"),
                     (f32 > operands ? f32 : operands) + room);
    rb_sdpa_cut whole = rb_sdpa_cut_for(6, 1024, 16, 4, RB_SDPA_MOST_DP),
                sequences = rb_sdpa_cut_for(6, 2048, 16, 4, RB_SDPA_MOST_DP),
                groups = rb_sdpa_cut_for(6, 4096, 32, 8, RB_SDPA_MOST_DP);
    assert_int_equal(whole.sequences * 100 + whole.groups, 604);
    assert_int_equal(sequences.sequences * 100 + sequences.groups, 204);
    assert_int_equal(groups.sequences * 100 + groups.groups, 102);
}

/* Per block and token: forward 2 per weight and 2 T d of attention (half a square, twice two), backward twice and 2.5
 * times as much. */
static void operations_are_counted(void **state) {
    (void)state;
    rb_config *c = config("boundary.kind=none");
    double d = 64, n = 2 * 16, T = 16, block = 4 * d * d + 3 * d * 96, heads = 2 * n * d * (T + 1);
    for (int g = 0; g < 4; g++) {
        rb_segment_measure m;
        rb_err err;
        double head = g == 3 ? d * 128 : 0;
        assert_ok(rb_measure_segment(c, "timed", g, 0, 0, &m, &err), &err);
        assert_true(m.forward ==
                    2 * n * block + heads + 4 * n * head); /* the head's input gradient is made at once */
        assert_true(m.forward + m.backward == 6 * n * (block + head) + 3.5 * heads);
        assert_true(m.input + m.weight == m.backward);
    }
    free(c);
}

/* A trunk's backward is dearer than its forward, both are part of their segment's; at a rate each comes to its own seconds. */
static void a_trunk_is_counted_in_its_segment(void **state) {
    (void)state;
    rb_config *c = config("boundary.tokens=trunk");
    rb_segment_measure m;
    rb_err err;
    assert_ok(rb_measure_segment(c, "timed", 0, 0, 0, &m, &err), &err);
    assert_true(m.trunk_forward == 0 && m.trunk_backward == 0);
    assert_ok(rb_measure_segment(c, "timed", 1, 0, 0, &m, &err), &err);
    assert_true(m.trunk_forward > 0 && m.trunk_backward > 1.5 * m.trunk_forward);
    assert_true(m.trunk_forward < m.forward && m.trunk_backward < m.backward);
    rb_trunk_cost t = rb_measured_trunk(&m, 4);
    rb_segment_cost s = rb_measured_cost(&m, 4);
    assert_true(t.forward == m.trunk_forward / 4 && t.backward == m.trunk_backward / 4);
    assert_true(s.forward == m.forward / 4 && s.backward == m.backward / 4 && s.input == m.input / 4 &&
                s.weight == m.weight / 4);
    free(c);
}

static void seconds_are_measured_on_a_device_that_computes(void **state) {
    (void)state;
    rb_config *c = config("");
    rb_segment_measure m;
    rb_err err;
    assert_ok(rb_measure_segment(c, "ref", 1, 0, 0, &m, &err), &err);
    assert_true(m.forward > 0 && m.backward > 0 && m.input > 0 && m.weight > 0 && m.pack > 0 && m.unpack > 0);
    assert_true(m.optimizer > 0 && m.forward < 10);
    free(c);
}

/* A stage at work beside the one that is measured makes nothing faster, and nothing is left of it. */
static void others_work_beside(void **state) {
    (void)state;
    rb_config *c = config("");
    rb_segment_measure m;
    rb_err err;
    double least = 100;
    for (int i = 0; i < 8 && least >= 100; i++) { /* one round of a millisecond: a busy machine makes it any length */
        assert_ok(rb_measure_segment(c, "ref", 1, 1, 0, &m, &err), &err);
        assert_int_equal(m.at_once, 2);
        assert_true(m.crowd >= 1 && m.forward > 0);
        if (m.crowd < least) least = m.crowd;
    }
    assert_true(least < 100);
    assert_ok(rb_measure_segment(c, "ref", 1, 0, 0, &m, &err), &err);
    assert_int_equal(m.at_once, 1);
    assert_true(m.crowd == 1);
    assert_ok(rb_measure_segment(c, "timed", 1, 3, 0, &m, &err),
              &err); /* counts: there is nobody to wait for */
    assert_int_equal(m.at_once, 1);
    assert_true(m.crowd == 1);
    free(c);
}

/* At 1 Mbit/s a message of 2 MB takes seventeen seconds; its first twentieth of one tells what it takes of a core. */
static void links_take_processor_time(void **state) {
    (void)state;
    const char *const links[] = {
        "boundary.kind=none model.context=8192",
        "boundary.kind=none model.context=8192 pipeline.transport=tcp link.latency=1ms",
        "boundary.kind=none model.context=8192 pipeline.deadline=300s link.up=1mbit link.down=1mbit"};
    double cpu[3];
    for (int i = 0; i < 3; i++) {
        rb_config *own = config(links[i]);
        rb_err err;
        int64_t begin = rb_now_ns();
        assert_ok(rb_measure_link(own, 0.05, &cpu[i], &err), &err);
        assert_true(cpu[i] > 0 && cpu[i] < 10);
        assert_true(rb_now_ns() - begin < 30 * RB_SEC);
        free(own);
    }
}

/* A stage on another device than the processors asks that device how fast products are. */
static void speed_is_the_devices(void **state) {
    (void)state;
    rb_stage *s = calloc(1, sizeof *s);
    rb_config *c = config("");
    double processors = 0, own;
    rb_err err;
    for (int i = 0; i < 4; i++) { /* the best: a glance is of 25 ms, which may be another process's */
        s->cfg = *c;
        s->cfg.pipeline.threads = 1;
        snprintf(s->cfg.pipeline.device, sizeof s->cfg.pipeline.device, "cpu");
        assert_ok(rb_stage_speed(s, &own, &err), &err);
        if (own > processors) processors = own;
        rb_stage_close(s);
        memset(s, 0, sizeof *s);
    }
    s->cfg = *c;
    s->cfg.pipeline.threads = 1;
    snprintf(s->cfg.pipeline.device, sizeof s->cfg.pipeline.device, "late");
    assert_ok(rb_stage_speed(s, &own, &err), &err);
    assert_non_null(s->dev);
    assert_true(own > 0 && own < processors / 2); /* plain loops, in truth some twenty times slower */
    rb_stage_close(s);
    free(s);
    free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(speed_is_the_devices),
        cmocka_unit_test(memory_is_what_a_stage_takes),
        cmocka_unit_test(attention_by_a_library_is_planned),
        cmocka_unit_test(operations_are_counted),
        cmocka_unit_test(a_trunk_is_counted_in_its_segment),
        cmocka_unit_test(seconds_are_measured_on_a_device_that_computes),
        cmocka_unit_test(others_work_beside),
        cmocka_unit_test(links_take_processor_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
