/* What a snapshot takes of the host's line: on somebody else's server no more than link.snapshot_share of the time, unless the run waits. */
#include "checkpoint/checkpoint.h"
#include "checkpoint/delta.h"
#include "checkpoint/manifest.h"
#include "core/clock.h"
#include "core/hash.h"
#include "core/rng.h"
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
    if (strncmp(key, "packed.", 7)) return RESBM_OK;
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
    rb_rng r = {.key = 1};
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (char)rb_rng_u32(&r); /* that cannot be packed */
    assert_non_null(mkdtemp(folder));
    assert_ok(rb_manifest_print(&m, &text, &err), &err);
    snprintf(path, sizeof path, "%s/manifest.json", folder);
    assert_ok(rb_write_file_atomic(path, text.data, text.len, &err), &err);
    snprintf(path, sizeof path, "%s/segment-0.safetensors", folder);
    assert_ok(rb_write_file_atomic(path, bytes, sizeof bytes, &err), &err);
    rb_buf_free(&text);

    keep(folder, true, 10, 0.25);
    assert_int_equal(pieces, PIECES);
    assert_int_equal(largest, 2 * RB_DELTA_MOST);
    assert_true(idle >= 3 * busy);
    keep(folder, true, 20, 0.001); /* the last one, for which the run waits: else this would take a minute */
    assert_int_equal(pieces, PIECES);
    keep(folder, false, 10, 0.001);
    assert_int_equal(pieces, PIECES / 4);
}

/* --- a store that keeps what it is given, and says how long a value may be --- */

enum { ROOM = 200 };
static struct {
    char key[128];
    rb_buf value;
} kept[ROOM];
static size_t longest;

static int at_key(const char *key) {
    for (int i = 0; i < ROOM; i++)
        if (!strcmp(kept[i].key, key)) return i;
    return -1;
}

static resbm_status kept_get(void *c, const char *key, rb_buf *out, uint64_t *revision, rb_err *e) {
    int i = at_key(key);
    (void)c, (void)e;
    *revision = i >= 0;
    if (i >= 0) rb_buf_add(out, kept[i].value.data, kept[i].value.len);
    return RESBM_OK;
}

static resbm_status kept_delete(void *c, const char *key, rb_err *e) {
    int i = at_key(key);
    (void)c, (void)e;
    if (i < 0) return RESBM_OK;
    rb_buf_free(&kept[i].value);
    *kept[i].key = 0;
    return RESBM_OK;
}

static resbm_status kept_set(void *c, const char *key, const void *p, size_t n, uint64_t *revision,
                             rb_err *e) {
    kept_delete(c, key, e);
    int i = at_key("");
    assert_true(i >= 0 && (n <= longest || !strcmp(key, "snapshot")));
    snprintf(kept[i].key, sizeof kept[i].key, "%s", key);
    rb_buf_add(&kept[i].value, p, n);
    *revision = 1;
    return RESBM_OK;
}

static size_t kept_piece(void *c) {
    (void)c;
    return longest;
}

static size_t bytes_of(const char *prefix) {
    size_t n = 0;
    for (int i = 0; i < ROOM; i++)
        if (!strncmp(kept[i].key, prefix, strlen(prefix))) n += kept[i].value.len;
    return n;
}

static const rb_carrier_module keeping = {.store_get = kept_get,
                                          .store_set = kept_set,
                                          .store_delete = kept_delete,
                                          .store_keys = keys,
                                          .store_piece = kept_piece};
static rb_carrier keeper = {&keeping, NULL};

enum { FLOATS = 200000 };
static float values[FLOATS];

/* A run's folder with a snapshot of these values; the path of its file. */
static void make_snapshot(const char *dir, int64_t step, rb_part_file *f, char path[PATH_MAX]) {
    char tmp[PATH_MAX];
    rb_err err;
    rb_tensor_out t = {.name = "x", .dtype = RB_F32, .rank = 1, .shape = {FLOATS}, .data = values};
    assert_ok(rb_checkpoint_begin(dir, step, tmp, &err), &err);
    assert_ok(rb_checkpoint_write_part(tmp, "a.safetensors", &t, 1, f, &err), &err);
    rb_manifest m = {.step = step, .config = "", .files = f, .file_count = 1};
    assert_ok(rb_checkpoint_commit(dir, &m, 1, &err), &err);
    assert_ok(rb_checkpoint_path(dir, step, path, &err), &err);
}

/* Into an empty folder, where it must be whole. */
static resbm_status restore(rb_host *h, int64_t step, rb_err *err) {
    char path[PATH_MAX];
    rb_err ignored;
    snprintf(h->dir, sizeof h->dir, "restored");
    rb_checkpoint_remove_all(h->dir, &ignored);
    RB_TRY(rb_host_restore_snapshot(h, err));
    RB_TRY(rb_checkpoint_path(h->dir, step, path, err));
    return rb_checkpoint_verify(path, err);
}

static void as_before_packing(const char *folder, const rb_part_file *f) {
    char path[PATH_MAX], key[128];
    rb_buf text = {0};
    rb_err err;
    uint64_t revision;
    for (int i = 0; i < ROOM; i++)
        if (!strncmp(kept[i].key, "packed.", 7)) kept_delete(NULL, kept[i].key, &err);
    snprintf(path, sizeof path, "%s/a.safetensors", folder);
    assert_ok(rb_read_file(path, 8 << 20, &text, &err), &err);
    for (size_t at = 0, i = 0; at < text.len; at += longest, i++) {
        size_t n = text.len - at < longest ? text.len - at : longest;
        snprintf(key, sizeof key, "file.%s.%zu", f->sum.hash, i);
        assert_ok(kept_set(NULL, key, text.data + at, n, &revision, &err), &err);
    }
    rb_buf_free(&text);
}

static void packed_and_taken_again(void **state) {
    static const size_t lengths[] = {1 << 20, 100000,
                                     9000}; /* pieces of a value: 8, 1, one that is shorter */
    static rb_config cfg;
    static rb_host h;
    char path[PATH_MAX];
    rb_err err;
    rb_part_file f;
    (void)state;
    h = (rb_host){.carrier = &keeper, .cfg = &cfg, .out = stderr};
    cfg.train.steps = 100;
    cfg.train.keep = 1;
    pthread_mutex_init(&h.lock, NULL);
    pthread_mutex_init(&h.changing, NULL);
    for (int l = 0; l < 3; l++) {
        longest = lengths[l];
        rb_normal_fill((uint64_t)l, values, FLOATS, 0, 0.02f);
        make_snapshot("run", 10 + l, &f, path);
        assert_ok(rb_host_keep_snapshot(&h, 10 + l, path, &err), &err);
        size_t all = bytes_of("packed.");
        assert_true(all > f.sum.bytes / 2 &&
                    all < f.sum.bytes - f.sum.bytes / 10); /* nothing of the one before */
        assert_ok(restore(&h, 10 + l, &err), &err);
    }
    char key[128];
    snprintf(key, sizeof key, "packed.%s.3", f.sum.hash);
    kept[at_key(key)].value.data[40] ^= 1;
    assert_fails(restore(&h, 12, &err), RESBM_E_CORRUPT, "", &err);
    kept[at_key(key)].value.len = 20;
    assert_fails(restore(&h, 12, &err), RESBM_E_CORRUPT, "no packed piece", &err);
    kept_delete(NULL, key, &err);
    assert_fails(restore(&h, 12, &err), RESBM_E_CORRUPT, "is not whole", &err);
    longest = 100000;
    as_before_packing(path, &f);
    assert_ok(restore(&h, 12, &err), &err);
    snprintf(key, sizeof key, "file.%s.2", f.sum.hash);
    kept_delete(NULL, key, &err);
    assert_fails(restore(&h, 12, &err), RESBM_E_CORRUPT, "is not whole", &err);
    for (int i = 0; i < ROOM; i++) kept_delete(NULL, kept[i].key, &err);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_share_of_the_line),
                                       cmocka_unit_test(packed_and_taken_again)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
