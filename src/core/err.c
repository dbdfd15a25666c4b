#include "core/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *const texts[] = {
    [RESBM_OK] = "ok",
    [RESBM_E_ARG] = "argument out of range",
    [RESBM_E_CONFIG] = "wrong configuration",
    [RESBM_E_IO] = "input/output error",
    [RESBM_E_MEMORY] = "out of memory",
    [RESBM_E_FORMAT] = "unknown format or version",
    [RESBM_E_CORRUPT] = "damaged data",
    [RESBM_E_PEER] = "another stage failed",
    [RESBM_E_TIMEOUT] = "deadline passed",
    [RESBM_E_CANCELLED] = "cancelled",
    [RESBM_E_NUMERIC] = "not a finite number",
    [RESBM_E_UNSUPPORTED] = "not supported here",
    [RESBM_E_STATE] = "call does not fit the state",
    [RESBM_E_INTERNAL] = "internal error",
};

const char *resbm_status_text(resbm_status s) {
    size_t n = sizeof texts / sizeof *texts;
    return (size_t)s < n && texts[s] ? texts[s] : "unknown status";
}

resbm_status rb_fail(rb_err *err, resbm_status code, const char *fmt, ...) {
    if (!err) return code;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    err->code = code;
    return code;
}

resbm_status rb_fail_errno(rb_err *err, int errnum, const char *fmt, ...) {
    resbm_status code = errnum == ENOMEM ? RESBM_E_MEMORY : RESBM_E_IO;
    if (!err) return code;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof err->text)
        snprintf(err->text + n, sizeof err->text - (size_t)n, ": %s", strerror(errnum));
    err->code = code;
    return code;
}

resbm_status rb_err_context(rb_err *err, resbm_status code, const char *fmt, ...) {
    if (!err) return code;
    char old[sizeof err->text];
    memcpy(old, err->text, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof err->text)
        snprintf(err->text + n, sizeof err->text - (size_t)n, "%s", old);
    return err->code;
}
