/* Opens cuBLASLt as a device does, which takes no card, and says the major version that was compiled for, or what is wrong. */
#include <cublasLt.h>
#include <stdio.h>
extern "C" {
#include "core/err.h"
}
#include "device/cuda/lt.h"

/* What only products need. */
resbm_status rb_cuda_status(cudaError_t, const char *, rb_err *err) {
    return rb_fail(err, RESBM_E_INTERNAL, "no device here");
}
resbm_status rb_cuda_scratch(rb_queue *, int, size_t, void **, rb_err *err) {
    return rb_fail(err, RESBM_E_INTERNAL, "no device here");
}

int main() {
    rb_err err;
    rb_lt *lt;
    resbm_status st = rb_lt_open(NULL, &lt, &err);
    printf("%d: %s\n", CUBLAS_VER_MAJOR, st ? err.text : "opened");
    if (!st) rb_lt_close(lt);
    return st != RESBM_OK;
}
