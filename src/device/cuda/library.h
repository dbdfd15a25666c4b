/* NVIDIA's libraries are not linked but looked for and loaded when a device opens. */
#ifndef RB_DEVICE_CUDA_LIBRARY_H
#define RB_DEVICE_CUDA_LIBRARY_H

#include <dlfcn.h>
#include <stdlib.h>
#include <string>

static inline void *rb_try_library(const std::string &path, std::string *tried) {
    if (path.empty()) return NULL;
    void *object = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!object) *tried += (tried->empty() ? "" : "; ") + std::string(dlerror());
    return object;
}

/* A file of that name beside the object that this code is in. */
static inline std::string rb_beside_plugin(const char *name) {
    Dl_info info;
    if (!dladdr((void *)rb_beside_plugin, &info) || !info.dli_fname) return "";
    std::string path = info.dli_fname;
    size_t slash = path.rfind('/');
    return slash == std::string::npos ? "" : path.substr(0, slash + 1) + name;
}

/* The file that the environment's `variable` names, or `name`. */
static inline const char *rb_library_named(const char *variable, const char *name) {
    const char *given = getenv(variable);
    return given && *given ? given : name;
}

/* The file that the environment's `variable` names, and that alone; else `name` from where the system finds libraries, from
 * beside the plugin, or `built`, where it lay when the plugin was built. NULL: *tried says what was tried. */
static inline void *rb_find_library(const char *variable, const char *name, const char *built,
                                    std::string *tried) {
    void *object = rb_try_library(rb_library_named(variable, name), tried);
    if (object || rb_library_named(variable, name) != name) return object;
    if ((object = rb_try_library(rb_beside_plugin(name), tried))) return object;
    return rb_try_library(built, tried);
}

#endif
