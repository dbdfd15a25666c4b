/* Device "cuda": finds the plugin, loads it once and opens its device. Says what was tried when it cannot. */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "device/cuda/plugin.h"
#include "device/tables.h"

/* The object's name beside this program or library, and in lib/resbm beside the folder it lies in. */
static const char *const places[] = {"%s/%s", "%s/../lib/resbm/%s", "%s/resbm/%s"};

/* The folder of the file this code is in: the program, or libresbm.so. */
static bool own_folder(char *out, size_t size) {
    Dl_info info;
    char path[PATH_MAX];
    if (!dladdr((void *)(uintptr_t)own_folder, &info) || !info.dli_fname) return false;
    if (!strchr(info.dli_fname, '/') || !realpath(info.dli_fname, path)) {
        ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
        if (n < 0) return false;
        path[n] = 0;
    }
    char *slash = strrchr(path, '/');
    if (!slash) return false;
    *slash = 0;
    return snprintf(out, size, "%s", path) < (int)size;
}

/* RESBM_CUDA_PLUGIN names the file or its folder; it goes first and alone. */
static bool candidate(int i, const char *file, char *path, size_t size) {
    const char *given = getenv("RESBM_CUDA_PLUGIN");
    char folder[PATH_MAX];
    if (given && *given) {
        size_t n = strlen(given);
        bool named = n > 3 && !strcmp(given + n - 3, ".so");
        return i == 0 && snprintf(path, size, named ? "%s" : "%s/%s", given, file) < (int)size;
    }
    if (i >= (int)(sizeof places / sizeof *places) || !own_folder(folder, sizeof folder)) return false;
    return snprintf(path, size, places[i], folder, file) < (int)size;
}

static resbm_status check_plugin(const rb_cuda_plugin *p, const char *path, rb_err *err) {
    if (!strcmp(p->version, RESBM_VERSION) && p->op_bytes == sizeof(rb_op) && p->kinds == RB_OP_COUNT &&
        p->options_bytes == sizeof(rb_device_options) && p->table_bytes == sizeof(rb_device_table))
        return RESBM_OK;
    return rb_fail(
        err, RESBM_E_UNSUPPORTED,
        "device cuda: %s belongs to another build (version %s, this is %s): build both from the same sources",
        path, p->version, RESBM_VERSION);
}

static resbm_status load_file(const char *path, const rb_cuda_plugin **out, rb_err *err) {
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!object)
        return rb_fail(err, RESBM_E_UNSUPPORTED, "device cuda: the plugin does not load: %s", dlerror());
    rb_cuda_entry entry = (rb_cuda_entry)(uintptr_t)dlsym(object, RB_CUDA_ENTRY);
    if (!entry) {
        dlclose(object);
        return rb_fail(err, RESBM_E_UNSUPPORTED, "device cuda: %s is no plugin of resbm", path);
    }
    RB_TRY(check_plugin(entry(), path, err));
    *out = entry();
    return RESBM_OK;
}

static resbm_status find_plugin(const char *file, const rb_cuda_plugin **out, rb_err *err) {
    char path[PATH_MAX];
    for (int i = 0; candidate(i, file, path, sizeof path); i++)
        if (!access(path, R_OK)) return load_file(path, out, err);
    return rb_fail(
        err, RESBM_E_UNSUPPORTED,
        "device cuda: this build has no %s (`make cuda` makes it where nvcc is; RESBM_CUDA_PLUGIN names one "
        "elsewhere)",
        file);
}

/* Loaded objects stay: CUDA cannot be unloaded from a process. */
static resbm_status plugin(bool emulated, const rb_cuda_plugin **out, rb_err *err) {
    static const rb_cuda_plugin *loaded[2];
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    resbm_status st = RESBM_OK;
    pthread_mutex_lock(&lock);
    if (!loaded[emulated])
        st = find_plugin(emulated ? "resbm-cuda-emulated.so" : "resbm-cuda.so", &loaded[emulated], err);
    *out = loaded[emulated];
    pthread_mutex_unlock(&lock);
    return st;
}

/* "", "1", "emulated", "emulated:1" */
static resbm_status parse_variant(const char *v, bool *emulated, int *index, rb_err *err) {
    const char *rest = v ? v : "";
    size_t word = strlen("emulated");
    *emulated = !strncmp(rest, "emulated", word) && (!rest[word] || rest[word] == ':');
    if (*emulated) rest += rest[word] ? word + 1 : word;
    if (!*rest) return RESBM_OK;
    char *end;
    long n = strtol(rest, &end, 10);
    if (*rest >= '0' && *rest <= '9' && !*end && n < 1024) {
        *index = (int)n;
        return RESBM_OK;
    }
    return rb_fail(err, RESBM_E_ARG,
                   "device cuda:%s: behind the colon goes the number of a card, as in cuda:1", v);
}

static resbm_status cuda_open(const rb_device_options *opt, rb_device **out, rb_err *err) {
    const rb_cuda_plugin *p = NULL;
    rb_device_options o = *opt;
    bool emulated;
    RB_TRY(parse_variant(opt->variant, &emulated, &o.index, err));
    o.variant = NULL;
    RB_TRY(plugin(emulated, &p, err));
    return p->open(&o, out, err);
}

void rb_cuda_describe(char *text, size_t size) {
    const rb_cuda_plugin *p = NULL;
    rb_err err;
    if (plugin(false, &p, &err))
        snprintf(text, size, "%s", err.text);
    else
        p->describe(text, size);
}

void rb_cuda_describe_attention(char *text, size_t size) {
    const rb_cuda_plugin *p = NULL;
    rb_err err;
    *text = 0;
    if (!plugin(false, &p, &err)) p->describe_attention(text, size);
}

const rb_device_table rb_cuda_table = {
    .name = "cuda",
    .summary = "an NVIDIA GPU: cuBLASLt and own kernels (cuda:1 is the second one)",
    .open = cuda_open,
};
