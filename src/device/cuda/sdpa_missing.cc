/* Builds without cuDNN's headers have own attention alone. */
#include <stdio.h>
extern "C" {
#include "core/err.h"
}
#include "device/cuda/sdpa.h"

static const char why[] =
    "this build was made without cuDNN's headers (scripts/venv.sh cudnn, then make cuda)";

resbm_status rb_sdpa_open(int, int, int, rb_sdpa **out, rb_err *err) {
    *out = NULL;
    return rb_fail(err, RESBM_E_UNSUPPORTED, "%s", why);
}
void rb_sdpa_close(rb_sdpa *) {}
void rb_sdpa_describe(char *text, size_t size) {
    snprintf(text, size, "%s", why);
}
resbm_status rb_sdpa_prepare(rb_sdpa *, const rb_sdpa_call *, size_t *, rb_err *err) {
    return rb_fail(err, RESBM_E_UNSUPPORTED, "%s", why);
}
resbm_status rb_sdpa_run(rb_sdpa *, cudaStream_t, const rb_sdpa_call *, void *, rb_err *err) {
    return rb_fail(err, RESBM_E_UNSUPPORTED, "%s", why);
}
