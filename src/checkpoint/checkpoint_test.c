/* Checkpoints: written by some stages and read by name, pruned, and whole after every kind of accident. */
#include "checkpoint/checkpoint.h"
#include "rb_cmocka.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "checkpoint/folder.h"
#include "core/clock.h"

enum { PARTS = 3, VALUES = 4096 };

static rb_err err;

static void remove_all(const char *dir) {
    rb_buf command = {0};
    rb_buf_printf(&command, "chmod -R u+w '%s' 2>/dev/null; rm -rf '%s'", dir, dir);
    assert_int_equal(system(command.data), 0);
    rb_buf_free(&command);
}

/* A step of PARTS segments, VALUES floats each, all equal to 1000 step + part. */
static resbm_status write_part(const char *tmp, int64_t step, int part, rb_part_file *out, rb_err *e) {
    static float x[VALUES];
    char name[RB_PART_NAME], tensor[64];
    for (int i = 0; i < VALUES; i++) x[i] = (float)(1000 * step + part);
    snprintf(tensor, sizeof tensor, "model.layers.%d.weight", part);
    rb_tensor_out t = {.name = tensor, .dtype = RB_F32, .rank = 2, .shape = {4, VALUES / 4}, .data = x};
    rb_checkpoint_part_name(name, "segment", part, "", false);
    return rb_checkpoint_write_part(tmp, name, &t, 1, out, e);
}

static resbm_status save(const char *dir, int64_t step, int64_t keep, rb_err *e) {
    char tmp[PATH_MAX];
    rb_part_file files[PARTS];
    rb_manifest m = {.step = step,
                     .epoch = 2,
                     .cursor = 16 * step,
                     .seed = 7,
                     .config = "model:\n  d: 8\n",
                     .files = files,
                     .file_count = PARTS};
    RB_TRY(rb_manifest_set(&m, "tokens", 4096 * step, e));
    RB_TRY(rb_checkpoint_begin(dir, step, tmp, e));
    for (int i = 0; i < PARTS; i++) RB_TRY(write_part(tmp, step, i, &files[i], e));
    return rb_checkpoint_commit(dir, &m, keep, e);
}

/* The newest checkpoint of dir is step, and its tensors are that step's. */
static void assert_latest(const char *dir, int64_t step) {
    int64_t found;
    char path[PATH_MAX];
    rb_checkpoint *c;
    assert_ok(rb_checkpoint_find_latest(dir, &found, NULL, &err), &err);
    assert_int_equal(found, step);
    assert_ok(rb_checkpoint_path(dir, step, path, &err), &err);
    assert_ok(rb_checkpoint_open(path, &c, &err), &err);
    assert_int_equal(rb_checkpoint_manifest(c)->step, step);
    assert_int_equal(rb_checkpoint_manifest(c)->cursor, 16 * step);
    for (int i = 0; i < PARTS; i++) {
        const char *bytes = NULL;
        float x[VALUES];
        char name[64];
        snprintf(name, sizeof name, "model.layers.%d.weight", i);
        assert_ok(rb_checkpoint_bytes(c, name, RB_F32, 2, (int64_t[]){4, VALUES / 4}, &bytes, &err), &err);
        for (int k = 0; k < 2; k++) { /* what was forgotten is read again */
            memcpy(x, bytes, sizeof x);
            for (int j = 0; j < VALUES; j++) assert_true(x[j] == (float)(1000 * step + i));
            rb_checkpoint_forget(c, name, bytes, sizeof x);
        }
    }
    rb_checkpoint_close(c);
}

static int entries(const char *dir) {
    DIR *d = opendir(dir);
    int n = 0;
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) n += *e->d_name != '.';
    closedir(d);
    return n;
}

static void a_checkpoint_reads_back(void **state) {
    (void)state;
    rb_checkpoint *c;
    const char *x;
    remove_all("back");
    assert_ok(save("back/deep/er", 3, 2, &err), &err);
    assert_latest("back/deep/er", 3);
    assert_ok(rb_checkpoint_open("back/deep/er/step-3", &c, &err), &err);
    const rb_manifest *m = rb_checkpoint_manifest(c);
    assert_int_equal(m->epoch, 2);
    assert_int_equal(m->seed, 7);
    assert_string_equal(m->config, "model:\n  d: 8\n");
    assert_int_equal(rb_manifest_get(m, "tokens"), 3 * 4096);
    assert_int_equal(rb_manifest_get(m, "no such"), 0);
    assert_int_equal(m->file_count, PARTS);
    assert_null(rb_checkpoint_find(c, "model.layers.3.weight"));
    assert_fails(rb_checkpoint_bytes(c, "gone", RB_F32, 1, (int64_t[]){1}, &x, &err), RESBM_E_FORMAT,
                 "no tensor gone", &err);
    assert_fails(rb_checkpoint_bytes(c, "model.layers.0.weight", RB_F32, 2, (int64_t[]){4, 8}, &x, &err),
                 RESBM_E_FORMAT, "shape [4, 1024], this model wants type 0 and [4, 8]", &err);
    assert_fails(rb_checkpoint_bytes(c, "model.layers.0.weight", RB_I32, 2, (int64_t[]){4, 1024}, &x, &err),
                 RESBM_E_FORMAT, "type 0", &err);
    rb_checkpoint_close(c);
    remove_all("back");
}

static void part_names(void **state) {
    (void)state;
    char name[RB_PART_NAME];
    rb_checkpoint_part_name(name, "segment", 12, "", true);
    assert_string_equal(name, "segment-12.optim.safetensors");
    rb_checkpoint_part_name(name, "boundary", 0, "decoder", false);
    assert_string_equal(name, "boundary-0.decoder.safetensors");
    assert_true(rb_part_name_ok(name));
    assert_false(rb_part_name_ok("../x") || rb_part_name_ok(".x") || rb_part_name_ok("") ||
                 rb_part_name_ok("a/b"));
    rb_part_file out;
    assert_fails(rb_checkpoint_write_part(".", "../x", NULL, 0, &out, &err), RESBM_E_ARG, "'../x'", &err);
}

static void the_newest_are_kept(void **state) {
    (void)state;
    remove_all("keep");
    for (int step = 8; step <= 12; step++) assert_ok(save("keep", step, 2, &err), &err);
    assert_int_equal(entries("keep"), 2);
    assert_latest("keep", 12);
    assert_ok(rb_checkpoint_verify("keep/step-11", &err), &err);
    assert_ok(save("keep", 13, 1, &err), &err);
    assert_int_equal(entries("keep"), 1);
    remove_all("keep");
}

/* A run goes back to step 1 because 2 and 3 are damaged: what it writes replaces them one by one, and the
 * only whole one never goes, not even with keep 1 beside a damaged later one. */
static void an_abandoned_continuation_is_replaced(void **state) {
    (void)state;
    remove_all("again");
    for (int step = 1; step <= 3; step++) assert_ok(save("again", step, 3, &err), &err);
    assert_int_equal(truncate("again/step-2/segment-0.safetensors", 10), 0);
    assert_int_equal(truncate("again/step-3/manifest.json", 10), 0);
    assert_latest("again", 1);
    assert_ok(save("again", 2, 1, &err), &err);
    assert_latest("again", 2);
    assert_int_equal(entries("again"), 2);
    assert_ok(save("again", 3, 1, &err), &err);
    assert_latest("again", 3);
    assert_int_equal(entries("again"), 1);
    remove_all("again");
}

static void no_checkpoint_is_no_fault(void **state) {
    (void)state;
    int64_t step = 5;
    remove_all("none");
    assert_ok(rb_checkpoint_find_latest("none", &step, NULL, &err), &err);
    assert_int_equal(step, -1);
    assert_ok(rb_make_dirs("none/step-x", &err), &err);
    assert_ok(rb_make_dirs("none/step-007", &err), &err);
    assert_ok(rb_make_dirs("none/step-9.tmp", &err), &err);
    assert_ok(rb_checkpoint_find_latest("none", &step, NULL, &err), &err);
    assert_int_equal(step, -1);
    assert_int_equal(entries("none"), 3); /* looking changes nothing */
    assert_ok(rb_checkpoint_clean("none", &err), &err);
    assert_int_equal(entries("none"), 2);
    remove_all("none");
}

static void flip_byte(const char *path, off_t at) {
    int fd = open(path, O_RDWR);
    uint8_t b;
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &b, 1, at), 1);
    b ^= 1;
    assert_int_equal(pwrite(fd, &b, 1, at), 1);
    close(fd);
}

static void cut(const char *path) {
    struct stat sb;
    assert_int_equal(stat(path, &sb), 0);
    assert_int_equal(truncate(path, sb.st_size - 1), 0);
}

static void remove_file(const char *path) {
    assert_int_equal(unlink(path), 0);
}
static void flip_last(const char *path) {
    flip_byte(path, 500);
}
static void edit_manifest(const char *path) {
    rb_buf text = {0};
    assert_ok(rb_read_file(path, 1 << 20, &text, &err), &err);
    char *digit = strstr(text.data, "\"cursor\": ");
    assert_non_null(digit);
    digit[10] = '9';
    assert_ok(rb_write_file_atomic(path, text.data, text.len, &err), &err);
    rb_buf_free(&text);
}
static void empty_file(const char *path) {
    assert_int_equal(truncate(path, 0), 0);
}

static void damage_is_named_and_the_one_before_is_used(void **state) {
    (void)state;
    static const struct {
        const char *file;
        void (*hurt)(const char *path);
        const char *reason;
    } cases[] = {
        {"segment-1.safetensors", remove_file, "segment-1.safetensors is missing"},
        {"segment-1.safetensors", cut, "segment-1.safetensors has 16"},
        {"segment-1.safetensors", flip_last, "segment-1.safetensors has the hash"},
        {"manifest.json", remove_file, "cannot open"},
        {"manifest.json", cut, "manifest.json:"},
        {"manifest.json", empty_file, "manifest.json:1:0"},
        {"manifest.json", edit_manifest, "damaged or edited"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[PATH_MAX];
        int64_t step;
        rb_buf reasons = {0};
        remove_all("hurt");
        assert_ok(save("hurt", 1, 9, &err), &err);
        assert_ok(save("hurt", 20, 9, &err), &err);
        assert_ok(rb_path_join("hurt/step-20", cases[i].file, path, &err), &err);
        if (cases[i].hurt == cut && !strcmp(cases[i].file, "manifest.json"))
            cut(path); /* the last byte is a newline */
        cases[i].hurt(path);
        assert_ok(rb_checkpoint_find_latest("hurt", &step, &reasons, &err), &err);
        assert_int_equal(step, 1);
        assert_non_null(reasons.data);
        if (strncmp(reasons.data, "step-20: ", 9) || !strstr(reasons.data, cases[i].reason))
            fail_msg("\"%s\" lacks \"%s\"", reasons.data, cases[i].reason);
        rb_buf_free(&reasons);
        flip_byte("hurt/step-1/segment-0.safetensors", 300);
        assert_fails(rb_checkpoint_find_latest("hurt", &step, NULL, &err), RESBM_E_CORRUPT, "none of the 2",
                     &err);
    }
    remove_all("hurt");
}

static void a_folder_under_a_wrong_name_is_refused(void **state) {
    (void)state;
    int64_t step;
    remove_all("moved");
    assert_ok(save("moved", 1, 9, &err), &err);
    assert_int_equal(rename("moved/step-1", "moved/step-2"), 0);
    assert_fails(rb_checkpoint_find_latest("moved", &step, NULL, &err), RESBM_E_CORRUPT,
                 "manifest is that of step 1", &err);
    remove_all("moved");
}

static void commit_sees_what_is_missing(void **state) {
    (void)state;
    char tmp[PATH_MAX];
    rb_part_file f[2] = {0};
    rb_manifest m = {.step = 5, .config = "", .files = f, .file_count = 1};
    remove_all("miss");
    assert_ok(rb_checkpoint_begin("miss", 5, tmp, &err), &err);
    assert_ok(write_part(tmp, 5, 0, &f[0], &err), &err);
    f[1] = f[0];
    f[0].sum.bytes++;
    assert_fails(rb_checkpoint_commit("miss", &m, 1, &err), RESBM_E_CORRUPT, "segment-0.safetensors has",
                 &err);
    f[0].sum.bytes--;
    m.file_count = 2;
    assert_fails(rb_checkpoint_commit("miss", &m, 1, &err), RESBM_E_ARG, "written twice", &err);
    strcpy(f[1].name, "segment-1.safetensors");
    assert_fails(rb_checkpoint_commit("miss", &m, 1, &err), RESBM_E_IO, "segment-1.safetensors", &err);
    assert_fails(rb_checkpoint_commit("miss", &m, 0, &err), RESBM_E_ARG, "keep 0", &err);
    m.file_count = 1;
    assert_ok(rb_checkpoint_commit("miss", &m, 1, &err), &err);
    assert_ok(rb_checkpoint_verify("miss/step-5", &err), &err);
    remove_all("miss");
}

static void a_tensor_in_two_files_is_refused(void **state) {
    (void)state;
    char tmp[PATH_MAX];
    float x = 1;
    rb_checkpoint *c;
    rb_part_file f[2];
    rb_tensor_out t = {.name = "twice", .dtype = RB_F32, .rank = 0, .data = &x};
    rb_manifest m = {.step = 1, .config = "", .files = f, .file_count = 2};
    remove_all("twice");
    assert_ok(rb_checkpoint_begin("twice", 1, tmp, &err), &err);
    assert_ok(rb_checkpoint_write_part(tmp, "a.safetensors", &t, 1, &f[0], &err), &err);
    assert_ok(rb_checkpoint_write_part(tmp, "b.safetensors", &t, 1, &f[1], &err), &err);
    assert_ok(rb_checkpoint_commit("twice", &m, 1, &err), &err);
    assert_fails(rb_checkpoint_open("twice/step-1", &c, &err), RESBM_E_FORMAT,
                 "tensor twice stands in a.safetensors and in b.safetensors", &err);
    assert_null(c);
    remove_all("twice");
}

/* ---- accidents */

/* In a child: saves steps from `from` on until killed; ends with 1 on a fault. */
static void save_until_killed(const char *dir, int64_t from) {
    for (int64_t step = from;; step++)
        if (save(dir, step, 2, &err) != RESBM_OK) {
            fprintf(stderr, "%s\n", err.text);
            _exit(1);
        }
}

static void killed_at_any_moment_the_newest_is_whole(void **state) {
    (void)state;
    int64_t before = -1, step;
    unsigned delay_us = 12345;
    rb_buf reasons = {0};
    remove_all("kill");
    int64_t patience = rb_now_ns() + 60 * RB_SEC; /* a slow disk gets more rounds, and longer ones */
    for (int round = 0; round < 40 || (before <= 3 && rb_now_ns() < patience); round++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (!child) save_until_killed("kill", before + 1);
        delay_us = delay_us * 1103515245u + 12345u;
        rb_sleep_ns((int64_t)(delay_us >> 8) % (30000 + 1000 * round) * 1000);
        kill(child, SIGKILL);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        assert_ok(rb_checkpoint_find_latest("kill", &step, &reasons, &err), &err);
        if (reasons.len) fail_msg("round %d: %s", round, reasons.data);
        assert_true(step >= before);
        if (step >= 0) assert_latest("kill", step);
        before = step;
    }
    assert_true(before > 3);
    /* Kills may all have come before older ones were removed. */
    assert_ok(save("kill", before + 1, 2, &err), &err);
    assert_ok(rb_checkpoint_clean("kill", &err), &err);
    assert_true(entries("kill") <= 3);
    rb_buf_free(&reasons);
    remove_all("kill");
}

/* save() in a child whose files may have `limit` bytes: where there is no root, what a full disk looks like.
 */
static int save_with_limit(const char *dir, int64_t step, rlim_t limit) {
    pid_t child = fork();
    if (!child) {
        struct rlimit r = {limit, limit};
        signal(SIGXFSZ, SIG_IGN);
        if (setrlimit(RLIMIT_FSIZE, &r)) _exit(9);
        resbm_status st = save(dir, step, 2, &err);
        bool said = strstr(err.text, "step-") && strstr(err.text, "earlier checkpoints are untouched");
        _exit(st == RESBM_E_IO && said ? 3 : st == RESBM_OK ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void a_write_that_fails_leaves_the_previous_one(void **state) {
    (void)state;
    remove_all("limit");
    assert_ok(save("limit", 1, 2, &err), &err);
    assert_int_equal(save_with_limit("limit", 2, 8192), 3); /* in the middle of a tensor */
    assert_latest("limit", 1);
    assert_int_equal(save_with_limit("limit", 2, 50), 3); /* in the header */
    assert_latest("limit", 1);
    assert_int_equal(save_with_limit("limit", 2, 1 << 20), 0);
    assert_latest("limit", 2);
    assert_int_equal(entries("limit"), 2);
    remove_all("limit");
}

static void a_full_disk_is_said_and_survived(void **state) {
    (void)state;
    remove_all("full");
    assert_int_equal(mkdir("full", 0777), 0);
    if (mount("tmpfs", "full", "tmpfs", 0, "size=128k")) {
        rmdir("full");
        skip(); /* no root */
    }
    resbm_status st[3];
    char text[3][1020];
    for (int i = 0; i < 3; i++) {
        st[i] = save("full", i + 1, 9, &err);
        memcpy(text[i], err.text, sizeof err.text);
    }
    int64_t step;
    resbm_status found = rb_checkpoint_find_latest("full", &step, NULL, &err);
    resbm_status cleaned = rb_checkpoint_clean("full", &err);
    int left = entries("full");
    umount("full");
    rmdir("full");
    assert_int_equal(st[0], RESBM_OK);
    assert_int_equal(st[1], RESBM_OK);
    assert_int_equal(st[2], RESBM_E_IO);
    assert_non_null(strstr(text[2], "No space left"));
    assert_non_null(strstr(text[2], "full/step-3.tmp/segment-"));
    assert_int_equal(found, RESBM_OK);
    assert_int_equal(step, 2);
    assert_int_equal(cleaned, RESBM_OK);
    assert_int_equal(left, 2);
}

static void a_folder_that_cannot_be_written_is_named(void **state) {
    (void)state;
    remove_all("ro");
    assert_fails(save("/proc/resbm", 1, 1, &err), RESBM_E_IO, "/proc/resbm", &err);
    assert_ok(save("ro", 1, 2, &err), &err);
    if (geteuid()) {
        assert_int_equal(chmod("ro", 0500), 0);
    } else if (mount("ro", "ro", NULL, MS_BIND, NULL) ||
               mount(NULL, "ro", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL)) {
        umount("ro");
        remove_all("ro");
        skip(); /* no such right in this container */
    }
    resbm_status st = save("ro", 2, 2, &err);
    if (!geteuid()) umount("ro");
    assert_int_equal(st, RESBM_E_IO);
    assert_non_null(strstr(err.text, "cannot make folder ro/step-2.tmp"));
    assert_non_null(strstr(err.text, "untouched"));
    assert_latest("ro", 1);
    remove_all("ro");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_checkpoint_reads_back),
        cmocka_unit_test(part_names),
        cmocka_unit_test(the_newest_are_kept),
        cmocka_unit_test(an_abandoned_continuation_is_replaced),
        cmocka_unit_test(no_checkpoint_is_no_fault),
        cmocka_unit_test(damage_is_named_and_the_one_before_is_used),
        cmocka_unit_test(a_folder_under_a_wrong_name_is_refused),
        cmocka_unit_test(commit_sees_what_is_missing),
        cmocka_unit_test(a_tensor_in_two_files_is_refused),
        cmocka_unit_test(killed_at_any_moment_the_newest_is_whole),
        cmocka_unit_test(a_write_that_fails_leaves_the_previous_one),
        cmocka_unit_test(a_full_disk_is_said_and_survived),
        cmocka_unit_test(a_folder_that_cannot_be_written_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
