#include "link/carrier.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef RESBM_MODULE_DIR
#define RESBM_MODULE_DIR "/usr/local/lib/resbm"
#endif

static void *open_beside(const char *name) {
    char path[PATH_MAX], self[PATH_MAX - 64];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    char *slash;
    if (n <= 0) return NULL;
    self[n] = 0;
    if (!(slash = strrchr(self, '/'))) return NULL;
    *slash = 0;
    snprintf(path, sizeof path, "%s/resbm-%s.so", self, name);
    return access(path, F_OK) ? NULL : dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

resbm_status rb_carrier_module_load(const char *name, const rb_carrier_module **out, rb_err *err) {
    char path[PATH_MAX];
    dlerror();
    void *so = open_beside(name);
    snprintf(path, sizeof path, "%s/resbm-%s.so", RESBM_MODULE_DIR, name);
    if (!so) so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!so)
        return rb_fail(err, RESBM_E_CONFIG,
                       "engine %s is not in this build (%s): it needs libnats (Debian: apt-get install "
                       "libnats-dev libssl-dev "
                       "nats-server), and resbm to be built again with it",
                       name, dlerror());
    const rb_carrier_module *m = dlsym(so, "rb_carrier_module_table");
    if (!m || m->version != RB_CARRIER_VERSION)
        return rb_fail(err, RESBM_E_CONFIG,
                       "the module %s is of another version of resbm: build and install both together", name);
    *out = m;
    return RESBM_OK;
}

resbm_status rb_carrier_open(const rb_carrier_module *m, const rb_carrier_options *o, rb_carrier **out,
                             rb_err *err) {
    rb_carrier *c = calloc(1, sizeof *c);
    *out = NULL;
    if (!c) return rb_fail(err, RESBM_E_MEMORY, "no memory for a connection to %s", o->url);
    c->module = m;
    resbm_status st = m->open(o, &c->state, err);
    if (st)
        free(c);
    else
        *out = c;
    return st;
}

void rb_carrier_close(rb_carrier *c, int64_t linger_until_ns) {
    if (!c) return;
    c->module->close(c->state, linger_until_ns);
    free(c);
}

static bool copy_name(char out[RB_CARRIER_NAME], const char *from, size_t n) {
    if (n == 0 || n >= RB_CARRIER_NAME) return false;
    memcpy(out, from, n);
    out[n] = 0;
    return strspn(out, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == n;
}

bool rb_carrier_address(const char *address, char to[RB_CARRIER_NAME], char service[RB_CARRIER_NAME]) {
    const char *slash = address ? strchr(address, '/') : NULL;
    if (!slash || strncmp(address, "nats:", 5)) return false;
    return copy_name(to, address + 5, (size_t)(slash - address - 5)) &&
           copy_name(service, slash + 1, strlen(slash + 1));
}
