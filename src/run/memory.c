#include "run/memory.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A number that is the whole file; `max` and what is no number: -1. */
static double number_in(const char *dir, const char *file) {
    char path[PATH_MAX], text[64] = "", *end;
    snprintf(path, sizeof path, "%s/%s", dir, file);
    FILE *f = fopen(path, "re");
    if (!f) return -1;
    bool any = fgets(text, sizeof text, f) != NULL;
    fclose(f);
    double v = strtod(text, &end);
    return any && end != text && v >= 0 ? v : -1;
}

/* The number behind a key, as in "MemAvailable:   23297408 kB" and "inactive_file 4096". */
static double value_of(const char *path, const char *key) {
    char line[200];
    double v = -1;
    size_t n = strlen(key);
    FILE *f = fopen(path, "re");
    while (f && v < 0 && fgets(line, sizeof line, f))
        if (!strncmp(line, key, n) && (line[n] == ' ' || line[n] == ':'))
            v = strtod(line + n + 1, NULL) * (strstr(line, " kB") ? 1024 : 1);
    if (f) fclose(f);
    return v;
}

static double lesser(double a, double b) {
    return a < 0 ? b : b < 0 || a < b ? a : b;
}

typedef struct version {
    const char *mount, *limit, *usage, *idle;
} version;

static const version v1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                           "total_inactive_file"},
                     v2 = {"/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"};

/* What one cgroup leaves; -1: it has no limit. */
static double left_in(const char *dir, const version *v) {
    char stat[PATH_MAX + 16];
    double limit = number_in(dir, v->limit), used = number_in(dir, v->usage);
    if (limit < 0 || limit > 1e18 || used < 0) return -1;
    snprintf(stat, sizeof stat, "%s/memory.stat", dir);
    double idle = value_of(stat, v->idle), left = limit - used + (idle > 0 ? idle : 0);
    return left < 0 ? 0 : left < limit ? left : limit;
}

/* A limit of a group above counts as well; where the path is another namespace's, what is mounted here does. */
static double left_below(const char *root, const version *v, const char *group) {
    char dir[PATH_MAX];
    double left = -1;
    int least = snprintf(dir, sizeof dir, "%s%s", root, v->mount);
    if (least < 0 || (size_t)least + strlen(group) >= sizeof dir) return -1;
    strcat(dir, group);
    for (;;) {
        left = lesser(left, left_in(dir, v));
        char *slash = strrchr(dir + least, '/');
        if (!slash) return left;
        *slash = 0;
    }
}

double rb_memory_available_of(const char *root) {
    char path[PATH_MAX], line[2048];
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    double left = value_of(path, "MemAvailable");
    if (left < 0) left = value_of(path, "MemFree"); /* a kernel before 3.14 */
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) { /* "0::/user.slice/x", "4:memory:/x" */
        line[strcspn(line, "\n")] = 0;
        char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;
        if (!group) continue;
        *group++ = 0;
        if (!names[1])
            left = lesser(left, left_below(root, &v2, group));
        else if (strstr(names, "memory"))
            left = lesser(left, left_below(root, &v1, group));
    }
    if (f) fclose(f);
    return left > 0 ? left : 0;
}

double rb_memory_available(void) {
    return rb_memory_available_of("");
}
