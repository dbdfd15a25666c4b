/* Weights on their way to a stage: what it says of them keeps the others waiting only while they come. */
#include "run/downloads.h"

#include <stdlib.h>
#include <sys/stat.h>
#include "checkpoint/checkpoint.h"
#include "core/clock.h"
#include "core/hash.h"
#include "link/pair.h"
#include "rb_cmocka.h"
#include "run/apart.h"

enum { STAGES = 2, BYTES = 2 * RB_APART_LEAST + 20000 };
static const char name[] = "segment-0.safetensors";

static rb_err err;
static rb_config cfg;
static rb_crew crew = {.stages = STAGES};
static rb_link *stage;
static json_t *listening[STAGES];
static rb_downloads *d;
static rb_file_sum sum = {.bytes = BYTES};

static void set_up(void) {
    static const char text[] = "pipeline: {stages: 2}\n";
    rb_link_options o = {
        .self = RB_PEER_COORDINATOR, .stages = STAGES, .token = 7, .limits = {1 << 20, 1 << 20, 1 << 20}};
    assert_ok(rb_config_defaults(&cfg, &err), &err);
    assert_ok(rb_config_load_text(&cfg, "test", text, sizeof text - 1, &err), &err);
    assert_ok(rb_config_validate(&cfg, &err), &err);
    assert_ok(rb_link_open(&o, &crew.control, &err), &err);
    o.self = 0;
    assert_ok(rb_link_open(&o, &stage, &err), &err);
    assert_ok(rb_link_pair_join("unix:downloads.sock", stage, crew.control, RB_PEER_COORDINATOR, &err), &err);
    crew.o.cfg = &cfg;
    crew.o.load = "weights";
    crew.blame = &crew.unasked;
    crew.places = rb_worker_places(&cfg);
    assert_non_null(crew.places);
    uint8_t *p = malloc(BYTES);
    assert_non_null(p);
    for (int i = 0; i < BYTES; i++) p[i] = (uint8_t)(i * 7 + i / 256);
    rb_hash128_hex(p, BYTES, sum.hash);
    assert_ok(rb_make_dirs("weights", &err), &err);
    assert_ok(rb_write_file_atomic("weights/segment-0.safetensors", p, BYTES, &err), &err);
    free(p);
    listening[0] = json_pack("{s:[s]}", "need", name);
    listening[1] = json_pack("{s:[]}", "need");
    assert_ok(rb_downloads_begin(&crew, listening, &d, &err), &err);
}

static void tear_down(void) {
    rb_downloads_end(d);
    for (int i = 0; i < STAGES; i++) json_decref(listening[i]);
    free(crew.places);
    rb_link_fini(stage);
    rb_link_fini(crew.control);
}

/* Does this count as some progress? */
static bool moves(int have, int of) {
    int64_t before = rb_downloads_moved_ns(d);
    json_t *said = json_pack("{s:i, s:i}", "have", have, "of", of);
    rb_downloads_note(d, 0, said);
    json_decref(said);
    return rb_downloads_moved_ns(d) > before;
}

static void a_drip_is_no_progress(void **state) {
    rb_apart_wait w = {0};
    (void)state;
    set_up();
    assert_false(moves(1000, BYTES)); /* nothing was sent yet */
    assert_true(moves(0, BYTES));     /* it begins */
    assert_ok(rb_apart_recv_file(stage, RB_PEER_COORDINATOR, "came", &sum, &w, 20 * RB_SEC, NULL, &err),
              &err);
    bool moved = false; /* as soon as the other thread has noted that all is sent */
    for (int64_t until = rb_now_ns() + 20 * RB_SEC; !moved && rb_now_ns() < until; rb_sleep_ns(RB_MS))
        moved = moves(RB_APART_LEAST, BYTES);
    assert_true(moved);
    for (int i = 1; i < 200; i++) assert_false(moves(RB_APART_LEAST + i, BYTES));
    assert_false(moves(RB_APART_LEAST, BYTES)); /* less than before */
    assert_true(moves(2 * RB_APART_LEAST, BYTES));
    assert_false(moves(2 * RB_APART_LEAST + 1000, BYTES));
    assert_true(moves(BYTES, BYTES));
    assert_false(moves(BYTES, BYTES));
    assert_false(moves(BYTES + RB_APART_LEAST, BYTES + RB_APART_LEAST)); /* nobody has sent that */
    assert_ok(rb_downloads_fault(d, &err), &err);
    tear_down();
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_drip_is_no_progress)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
