/* Between the program and the CUDA plugin, a shared object of its own (resbm-cuda.so): nothing else needs CUDA, to build
 * or to run. The program finds the object (load.c), compares versions, and opens devices through one function. Both
 * sides are built from the same sources; what they hand each other are the structs of device.h. */
#ifndef RB_DEVICE_CUDA_PLUGIN_H
#define RB_DEVICE_CUDA_PLUGIN_H

#include "device/device.h"

typedef struct rb_cuda_plugin {
    /* What both sides must agree on; filled in by the plugin from its own headers. */
    const char *version;
    size_t op_bytes, options_bytes, table_bytes;
    int kinds;
    /* opt->index: the card. RESBM_E_UNSUPPORTED says what is missing (driver, card, library). */
    resbm_status (*open)(const rb_device_options *opt, rb_device **out, rb_err *err);
    /* A line on what there is or what is missing, for people. */
    void (*describe)(char *text, size_t size);
    /* "cuDNN 9.28.1", or why attention has only own kernels. */
    void (*describe_attention)(char *text, size_t size);
} rb_cuda_plugin;

/* What cards there are, as "cuda:0 NAME, 24 GB, compute capability 8.9; ..."; or why none can be used. */
void rb_cuda_describe(char *text, size_t size);
/* Whether cuDNN was found, for people; empty where there is no plugin. */
void rb_cuda_describe_attention(char *text, size_t size);

/* The plugin's one visible name. */
#define RB_CUDA_ENTRY "resbm_cuda_plugin"
typedef const rb_cuda_plugin *(*rb_cuda_entry)(void);

#endif
