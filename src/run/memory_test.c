/* Memory that a stage may take: what the kernel calls available, caches included, and no more than cgroups of either version leave. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/buf.h"
#include "run/memory.h"
#include "rb_cmocka.h"

static char root[64];

static void put(const char *path, const char *text) {
    char whole[300], dir[300];
    rb_err err;
    snprintf(whole, sizeof whole, "%s%s", root, path);
    snprintf(dir, sizeof dir, "%s", whole);
    *strrchr(dir, '/') = 0;
    assert_ok(rb_make_dirs(dir, &err), &err);
    assert_ok(rb_write_file_atomic(whole, text, strlen(text), &err), &err);
}

static int begin(void **state) {
    (void)state;
    snprintf(root, sizeof root, "/tmp/resbm-memory-XXXXXX");
    if (!mkdtemp(root)) return 1;
    put("/proc/meminfo",
        "MemTotal:       16000000 kB\nMemFree:          100000 kB\nMemAvailable:    8000000 kB\n");
    return 0;
}

static int end(void **state) {
    char command[100];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command); /* NOLINT: a folder of this test */
}

static double available(void) {
    return rb_memory_available_of(root);
}

static void caches_are_free(void **state) {
    (void)state;
    assert_true(available() == 8000000.0 * 1024); /* a desktop with a full page cache */
    put("/proc/meminfo", "MemTotal: 16000000 kB\nMemFree: 100000 kB\n");
    assert_true(available() == 100000.0 * 1024);
    put("/proc/self/cgroup", "nonsense\n0::\n:\n");
    assert_true(available() == 100000.0 * 1024);
    assert_true(rb_memory_available_of("/nowhere") == 0);
    assert_true(rb_memory_available() > 1e6);
}

static void limits_of_cgroups_count(void **state) {
    (void)state;
    put("/proc/self/cgroup", "0::/user.slice/own\n");
    put("/sys/fs/cgroup/user.slice/own/memory.max", "max\n");
    put("/sys/fs/cgroup/user.slice/own/memory.current", "5000\n");
    assert_true(available() == 8000000.0 * 1024);
    put("/sys/fs/cgroup/user.slice/memory.max", "1000000000\n"); /* the group above */
    put("/sys/fs/cgroup/user.slice/memory.current", "600000000\n");
    put("/sys/fs/cgroup/user.slice/memory.stat", "anon 1\ninactive_file 100000000\n");
    assert_true(available() == 500e6);
    put("/sys/fs/cgroup/user.slice/own/memory.max", "200000000\n");
    assert_true(available() == 200e6 - 5000);
    put("/sys/fs/cgroup/user.slice/own/memory.current", "300000000\n");
    assert_true(available() == 0);
}

static void version_one_too(void **state) {
    (void)state;
    put("/proc/self/cgroup", "9:name=systemd:/\n4:memory:/docker/abc\n0::/\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "300000000\n"); /* as mounted in a container */
    put("/sys/fs/cgroup/memory/memory.usage_in_bytes", "100000000\n");
    assert_true(available() == 200e6);
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    assert_true(available() == 8000000.0 * 1024);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(caches_are_free, begin, end),
                                       cmocka_unit_test_setup_teardown(limits_of_cgroups_count, begin, end),
                                       cmocka_unit_test_setup_teardown(version_one_too, begin, end)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
