/* Bytes come back as they were written, in the order of the calls; nothing is left in the folder or in the page cache;
 * a full disk, a missing one and a slow one are named. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/clock.h"
#include "core/spill.h"
#include "rb_cmocka.h"

enum { PAGE = RB_SPILL_ALIGN, PAGES = 64 };
static rb_err err;

static rb_spill *open_in(const char *dir) {
    rb_spill *s;
    rb_spill_options o = {.dir = dir, .bytes = PAGES * PAGE, .deadline_ns = 20 * RB_SEC};
    assert_ok(rb_spill_open(&o, &s, &err), &err);
    return s;
}

static void bytes_come_back(const char *dir) {
    rb_spill *s = open_in(dir);
    uint8_t *a = rb_spill_memory(PAGES * PAGE), *b = rb_spill_memory(PAGES * PAGE);
    uint64_t ticket;
    memset(b, 1, PAGES * PAGE);
    assert_ok(rb_spill_read(s, 0, b, PAGES * PAGE, &ticket, &err), &err);
    assert_ok(rb_spill_wait(s, ticket, &err), &err);
    assert_memory_equal(a, b, PAGES * PAGE); /* zero at first */
    for (int i = 0; i < PAGES * PAGE; i++) a[i] = (uint8_t)(i / PAGE + i * 7);
    for (int round = 0; round < 3;
         round++) { /* more transfers than the queue holds, written backwards, read forwards */
        for (int i = PAGES; i-- > 0;)
            assert_ok(rb_spill_write(s, (uint64_t)(i * PAGE), a + i * PAGE, PAGE, NULL, &err), &err);
        for (int i = 0; i < PAGES; i++)
            assert_ok(rb_spill_read(s, (uint64_t)(i * PAGE), b + i * PAGE, PAGE, &ticket, &err), &err);
        assert_ok(rb_spill_wait(s, ticket, &err), &err);
        assert_memory_equal(a, b, PAGES * PAGE);
        for (int i = 0; i < PAGES * PAGE; i++) a[i]++;
    }
    rb_spill_stats st;
    rb_spill_get_stats(s, &st);
    assert_int_equal(st.written, 3 * PAGES * PAGE);
    assert_int_equal(st.read, 4 * PAGES * PAGE);
    rb_spill_close(s);
    free(a);
    free(b);
}

static void a_file_gives_back_what_it_got(void **state) {
    (void)state;
    bytes_come_back("spill/deep");
    DIR *d = opendir("spill/deep");
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        assert_true(!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."));
    closedir(d);
    rmdir("spill/deep");
    rmdir("spill");
}

static void memory_gives_back_what_it_got(void **state) {
    (void)state;
    bytes_come_back(NULL);
}

static void what_does_not_fit_is_refused(void **state) {
    (void)state;
    rb_spill *s = open_in(NULL);
    char *p = rb_spill_memory(PAGE);
    assert_fails(rb_spill_write(s, PAGES * PAGE, p, PAGE, NULL, &err), RESBM_E_ARG, "not inside", &err);
    assert_fails(rb_spill_read(s, (uint64_t)-PAGE, p, PAGE, NULL, &err), RESBM_E_ARG, "not inside", &err);
    assert_fails(rb_spill_read(s, 8, p, PAGE, NULL, &err), RESBM_E_ARG, "aligned", &err);
    assert_fails(rb_spill_read(s, 0, p + 8, PAGE, NULL, &err), RESBM_E_ARG, "aligned", &err);
    assert_fails(rb_spill_read(s, 0, p, 8, NULL, &err), RESBM_E_ARG, "aligned", &err);
    rb_spill_close(s);
    free(p);
}

static void a_full_disk_is_named(void **state) {
    (void)state;
    rb_spill *s;
    struct rlimit old, little = {.rlim_cur = 1 << 20};
    rb_spill_options o = {.dir = ".", .bytes = (uint64_t)1 << 60, .deadline_ns = RB_SEC};
    signal(SIGXFSZ, SIG_IGN);
    resbm_status st = rb_spill_open(&o, &s, &err);
    assert_int_equal(st, RESBM_E_IO);
    assert_non_null(strstr(err.text, "cannot reserve 1152921504606846976 bytes in ., where "));
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    little.rlim_max = old.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &little), 0);
    o.bytes = 2 << 20;
    st = rb_spill_open(&o, &s, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(st, RESBM_E_IO);
    assert_non_null(strstr(err.text, "cannot reserve 2097152 bytes in ."));
    o.dir = "/proc/none";
    assert_fails(rb_spill_open(&o, &s, &err), RESBM_E_IO, "/proc/none", &err);
    assert_null(s);
}

/* Every transfer takes its time: as long as each stays within the deadline, a queue of them may take longer. */
static void a_slow_disk_is_named(void **state) {
    (void)state;
    rb_spill *s;
    char *p = rb_spill_memory(PAGE);
    uint64_t ticket = 0;
    rb_spill_options o = {.bytes = PAGES * PAGE, .deadline_ns = 20 * RB_SEC, .delay_ns = 2 * RB_MS};
    assert_ok(rb_spill_open(&o, &s, &err), &err);
    for (int i = 0; i < 20; i++) assert_ok(rb_spill_write(s, 0, p, PAGE, &ticket, &err), &err);
    assert_ok(rb_spill_wait(s, ticket, &err), &err);
    rb_spill_stats stats;
    rb_spill_get_stats(s, &stats);
    assert_true(stats.busy_ns >= 40 * RB_MS);
    rb_spill_close(s);
    o.deadline_ns = 20 * RB_MS;
    o.delay_ns = RB_SEC;
    o.dir = ".";
    resbm_status st = RESBM_OK;
    for (int i = 0; i < 5 && !st; i++) { /* a machine that stood still for the second saw no slow disk */
        assert_ok(rb_spill_open(&o, &s, &err), &err);
        assert_ok(rb_spill_write(s, 0, p, PAGE, &ticket, &err), &err);
        st = rb_spill_wait(s, ticket, &err);
        rb_spill_close(s);
    }
    assert_fails(st, RESBM_E_TIMEOUT, "writing 4096 bytes", &err);
    assert_non_null(strstr(err.text, "optim.offload_dir"));
    free(p);
}

/* Pages of this process's nameless files that are in the page cache. */
static size_t cached_pages(void) {
    size_t found = 0;
    for (int fd = 3; fd < 64; fd++) {
        struct stat sb;
        if (fstat(fd, &sb) || !S_ISREG(sb.st_mode) || sb.st_nlink || !sb.st_size) continue;
        unsigned char in[PAGES * 16];
        void *map = mmap(NULL, (size_t)sb.st_size, PROT_READ, MAP_SHARED, fd, 0);
        assert_ptr_not_equal(map, MAP_FAILED);
        assert_true((size_t)sb.st_size / PAGE <= sizeof in);
        assert_int_equal(mincore(map, (size_t)sb.st_size, in), 0);
        for (off_t i = 0; i < sb.st_size / PAGE; i++) found += in[i] & 1;
        munmap(map, (size_t)sb.st_size);
    }
    return found;
}

static void nothing_stays_in_the_page_cache(void **state) {
    (void)state;
    rb_spill *s = open_in(".");
    char *p = rb_spill_memory(PAGES * PAGE);
    uint64_t ticket;
    for (int i = 0; i < 4; i++) {
        assert_ok(rb_spill_write(s, 0, p, PAGES * PAGE, NULL, &err), &err);
        assert_ok(rb_spill_read(s, 0, p, PAGES * PAGE, &ticket, &err), &err);
    }
    assert_ok(rb_spill_wait(s, ticket, &err), &err);
    assert_int_equal(cached_pages(), 0);
    rb_spill_close(s);
    free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_gives_back_what_it_got), cmocka_unit_test(memory_gives_back_what_it_got),
        cmocka_unit_test(what_does_not_fit_is_refused),  cmocka_unit_test(a_full_disk_is_named),
        cmocka_unit_test(a_slow_disk_is_named),          cmocka_unit_test(nothing_stays_in_the_page_cache),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
