/* What cuDNN needs of NVIDIA's driver (libcuda.so.1) to make a plan for a card that is only described, for machines without one.
 * Kernels are compiled, but what would load them does nothing; whatever needs a card fails as the driver's own stub does.
 * RB_STUB_DRIVER is the CUDA version that it says it is for (12040: 12.4). */
#include <stdlib.h>

enum { DONE, STUB = 34 /* CUDA_ERROR_STUB_LIBRARY */ };

static int something; /* handles point here */

#define DOES_NOTHING(name)                                                                                   \
    int name(void);                                                                                          \
    int name(void) {                                                                                         \
        return DONE;                                                                                         \
    }
#define FAILS(name)                                                                                          \
    int name(void);                                                                                          \
    int name(void) {                                                                                         \
        return STUB;                                                                                         \
    }
#define GIVES_HANDLE(name)                                                                                   \
    int name(void **out);                                                                                    \
    int name(void **out) {                                                                                   \
        *out = &something;                                                                                   \
        return DONE;                                                                                         \
    }
#define GIVES_TEXT(name)                                                                                     \
    int name(int code, const char **out);                                                                    \
    int name(int code, const char **out) {                                                                   \
        (void)code;                                                                                          \
        *out = "no driver";                                                                                  \
        return DONE;                                                                                         \
    }
#define GIVES_NUMBER(name, value)                                                                            \
    int name(int *out);                                                                                      \
    int name(int *out) {                                                                                     \
        *out = value;                                                                                        \
        return DONE;                                                                                         \
    }

GIVES_TEXT(cuGetErrorName)
GIVES_TEXT(cuGetErrorString)
int cuDriverGetVersion(int *out);
int cuDriverGetVersion(int *out) {
    const char *given = getenv("RB_STUB_DRIVER");
    *out = given ? atoi(given) : 13000;
    return DONE;
}
GIVES_NUMBER(cuKernelGetAttribute, 0)
GIVES_HANDLE(cuCtxGetCurrent)
GIVES_HANDLE(cuCtxPopCurrent)
GIVES_HANDLE(cuKernelGetFunction)
GIVES_HANDLE(cuLibraryGetKernel)
GIVES_HANDLE(cuLibraryLoadData)
GIVES_HANDLE(cuLibraryLoadFromFile)
GIVES_HANDLE(cuModuleGetFunction)
GIVES_HANDLE(cuModuleLoadData)
DOES_NOTHING(cuCtxPushCurrent)
DOES_NOTHING(cuKernelSetAttribute)
DOES_NOTHING(cuLibraryUnload)
DOES_NOTHING(cuModuleUnload)
DOES_NOTHING(cuTensorMapEncodeIm2col)
DOES_NOTHING(cuTensorMapEncodeTiled)
FAILS(cuCtxGetLimit)
FAILS(cuDeviceGet)
FAILS(cuDeviceGetCount)
FAILS(cuLaunchCooperativeKernel)
FAILS(cuLaunchKernel)
FAILS(cuLaunchKernelEx)
FAILS(cuLinkAddData)
FAILS(cuLinkComplete)
FAILS(cuLinkCreate)
FAILS(cuLinkDestroy)
FAILS(cuOccupancyMaxPotentialClusterSize)
FAILS(cuStreamGetCtx)
