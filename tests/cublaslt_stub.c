/* Stands in for cuBLASLt where it is opened and nothing more: RB_STUB_CUBLASLT is its version (120804: 12.8.4). */
#include <stddef.h>
#include <stdlib.h>

size_t cublasLtGetVersion(void);
size_t cublasLtGetVersion(void) {
    const char *given = getenv("RB_STUB_CUBLASLT");
    return given ? (size_t)atol(given) : 0;
}

#define DOES_NOTHING(name)                                                                                   \
    int name(void);                                                                                          \
    int name(void) {                                                                                         \
        return 0;                                                                                            \
    }
DOES_NOTHING(cublasLtCreate)
DOES_NOTHING(cublasLtDestroy)
DOES_NOTHING(cublasLtMatmul)
DOES_NOTHING(cublasLtMatmulDescCreate)
DOES_NOTHING(cublasLtMatmulDescDestroy)
DOES_NOTHING(cublasLtMatmulDescSetAttribute)
DOES_NOTHING(cublasLtMatrixLayoutCreate)
DOES_NOTHING(cublasLtMatrixLayoutDestroy)
DOES_NOTHING(cublasLtMatmulPreferenceCreate)
DOES_NOTHING(cublasLtMatmulPreferenceDestroy)
DOES_NOTHING(cublasLtMatmulPreferenceSetAttribute)
DOES_NOTHING(cublasLtMatmulAlgoGetHeuristic)
DOES_NOTHING(cublasLtGetStatusString)
