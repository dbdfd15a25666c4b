/* What a snapshot takes of the host's line: on somebody else's server no more than link.snapshot_share of the time, unless the run waits. */
#include "checkpoint/manifest.h"
#include "core/clock.h"
#include "run/host.h"
#include "rb_cmocka.h"

#include <stdlib.h>
#include <sys/stat.h>

enum { PIECES = 8 };
static int64_t busy, idle, ended;
static int pieces;
static size_t largest;

static resbm_status get(void *c, const char *key, rb_buf *out, uint64_t *revision, rb_err *e) {
    (void)c, (void)key, (void)out, (void)e;
    *revision = 0;
    return RESBM_OK;
}

/* A line that takes its time. */
static resbm_status set(void *c, const char *key, const void *p, size_t n, uint64_t *revision, rb_err *e) {
    int64_t begin = rb_now_ns();
    (void)c, (void)p, (void)e;
    *revision = 1;
    if (strncmp(key, "file.", 5)) return RESBM_OK;
    rb_sleep_ns(5 * RB_MS);
    if (pieces++) idle += begin - ended;
    if (n > largest) largest = n;
    ended = rb_now_ns();
    if (pieces < PIECES) busy += ended - begin; /* there is no pause to count behind the last one */
    return RESBM_OK;
}

static resbm_status keys(void *c, rb_buf *out, rb_err *e) {
    (void)c, (void)out, (void)e;
    return RESBM_OK;
}

static resbm_status delete (void *c, const char *key, rb_err *e) {
    (void)c, (void)key, (void)e;
    return RESBM_OK;
}

static size_t piece(void *c) {
    (void)c;
    return 1 << 20;
}

static const rb_carrier_module module = {
    .store_get = get, .store_set = set, .store_delete = delete, .store_keys = keys, .store_piece = piece};
static rb_carrier carrier = {&module, NULL};

static void keep(const char *folder, bool foreign, int64_t step, double share) {
    static rb_config cfg;
    static rb_host h;
    rb_err err;
    h = (rb_host){.carrier = &carrier, .cfg = &cfg, .at.foreign = foreign, .out = stderr};
    cfg.train.steps = 20;
    cfg.snapshot_share = share;
    pthread_mutex_init(&h.lock, NULL);
    pthread_mutex_init(&h.changing, NULL);
    busy = idle = 0;
    pieces = 0;
    largest = 0;
    assert_ok(rb_host_keep_snapshot(&h, step, folder, &err), &err);
}

static void a_share_of_the_line(void **state) {
    char folder[] = "snapshot.XXXXXX", path[64];
    rb_err err;
    rb_buf text = {0};
    static char bytes[PIECES * 128 * 1024];
    rb_part_file file = {.name = "segment-0.safetensors",
                         .sum = {.bytes = sizeof bytes, .hash = "0123456789abcdef0123456789abcdef"}};
    rb_manifest m = {.step = 10, .config = "", .files = &file, .file_count = 1};
    (void)state;
    assert_non_null(mkdtemp(folder));
    assert_ok(rb_manifest_print(&m, &text, &err), &err);
    snprintf(path, sizeof path, "%s/manifest.json", folder);
    assert_ok(rb_write_file_atomic(path, text.data, text.len, &err), &err);
    snprintf(path, sizeof path, "%s/segment-0.safetensors", folder);
    assert_ok(rb_write_file_atomic(path, bytes, sizeof bytes, &err), &err);
    rb_buf_free(&text);

    keep(folder, true, 10, 0.25);
    assert_int_equal(pieces, PIECES);
    assert_int_equal(largest, 128 * 1024);
    assert_true(idle >= 3 * busy);
    keep(folder, true, 20, 0.001); /* the last one, for which the run waits: else this would take a minute */
    assert_int_equal(pieces, PIECES);
    keep(folder, false, 10, 0.001);
    assert_int_equal(pieces, PIECES / 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_share_of_the_line)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
