#include "device/cuda/sdpa_runtime.h"
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#if CUDART_VERSION >= 13000
#define BY_VERSION(X) X(cudaGetDriverEntryPointByVersion)
#elif CUDART_VERSION >= 12080
#define BY_VERSION(X) X(cudaGetDriverEntryPointByVersion) X(cudaGetDeviceProperties_v2)
#else
#define BY_VERSION(X) X(cudaGetDriverEntryPoint) X(cudaGetDeviceProperties_v2)
#endif

/* What the frontend calls of the runtime, and what only some versions have or it asks for by another name. */
#define RUNTIME_FUNCTIONS(X)                                                                                 \
    X(cudaDeviceGetAttribute)                                                                                \
    X(cudaDeviceSynchronize)                                                                                 \
    X(cudaEventCreate)                                                                                       \
    X(cudaEventDestroy)                                                                                      \
    X(cudaEventElapsedTime)                                                                                  \
    X(cudaEventRecord)                                                                                       \
    X(cudaEventSynchronize)                                                                                  \
    X(cudaFree)                                                                                              \
    X(cudaGetDevice)                                                                                         \
    X(cudaGetDeviceProperties)                                                                               \
    X(cudaGetErrorString)                                                                                    \
    X(cudaGetLastError)                                                                                      \
    X(cudaGraphAddChildGraphNode)                                                                            \
    X(cudaGraphAddMemcpyNode)                                                                                \
    X(cudaGraphAddMemsetNode)                                                                                \
    X(cudaGraphChildGraphNodeGetGraph)                                                                       \
    X(cudaGraphCreate)                                                                                       \
    X(cudaGraphDestroy)                                                                                      \
    X(cudaGraphGetNodes)                                                                                     \
    X(cudaGraphGetRootNodes)                                                                                 \
    X(cudaGraphMemcpyNodeSetParams)                                                                          \
    X(cudaGraphMemsetNodeSetParams)                                                                          \
    X(cudaGraphNodeGetDependencies)                                                                          \
    X(cudaGraphNodeGetDependentNodes)                                                                        \
    X(cudaGraphRetainUserObject)                                                                             \
    X(cudaMalloc)                                                                                            \
    X(cudaMemcpyAsync)                                                                                       \
    X(cudaMemsetAsync)                                                                                       \
    X(cudaPointerGetAttributes)                                                                              \
    X(cudaRuntimeGetVersion)                                                                                 \
    X(cudaStreamBeginCapture)                                                                                \
    X(cudaStreamCreate)                                                                                      \
    X(cudaStreamDestroy)                                                                                     \
    X(cudaStreamEndCapture)                                                                                  \
    X(cudaStreamGetCaptureInfo)                                                                              \
    X(cudaStreamIsCapturing)                                                                                 \
    X(cudaStreamSynchronize)                                                                                 \
    X(cudaThreadExchangeStreamCaptureMode)                                                                   \
    X(cudaUserObjectCreate)                                                                                  \
    X(cudaUserObjectRelease)

static const struct {
    const char *name;
    void *function;
} functions[] = {
#define ENTRY(f) {#f, (void *)f},
    RUNTIME_FUNCTIONS(ENTRY) BY_VERSION(ENTRY)
#undef ENTRY
};

void *rb_sdpa_dlopen(const char *name, int flags) {
    if (strncmp(name, "libcudart.so", 12)) return dlopen(name, flags);
    /* It tries several versions, and closes all it finds but the first. */
    return atoi(name + 13) == CUDART_VERSION / 1000 ? (void *)functions : NULL;
}

void *rb_sdpa_dlsym(void *object, const char *name) {
    if (object != (const void *)functions) return dlsym(object, name);
    for (const auto &f : functions)
        if (!strcmp(f.name, name)) return f.function;
    return NULL;
}
