/* What the plugin holds for the card it finds. */
#include "device/cuda/cuda.h"

__global__ void probe() {}

cudaError_t rb_cuda_code(int *made_for) {
    cudaFuncAttributes a;
    cudaError_t e = cudaFuncGetAttributes(&a, (const void *)probe);
    *made_for = e == cudaSuccess ? a.ptxVersion : 0;
    return e;
}
