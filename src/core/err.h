/* Faults as values: a status plus a sentence. See resbm_error in resbm.h. */
#ifndef RB_CORE_ERR_H
#define RB_CORE_ERR_H

#include <stdarg.h>
#include "resbm.h"

typedef resbm_error rb_err;

/* Fills *err (when not NULL) with code and the formatted text, and returns code. Overwrites what was there. */
resbm_status rb_fail(rb_err *err, resbm_status code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Like rb_fail, with ": " and strerror(errnum) appended; the code is RESBM_E_IO (RESBM_E_MEMORY for ENOMEM). */
resbm_status rb_fail_errno(rb_err *err, int errnum, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Puts context in front of an existing text: "stage 2: " + text. Returns err's code (or `code` if err is NULL). */
resbm_status rb_err_context(rb_err *err, resbm_status code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Returns from the calling function when expr fails. */
#define RB_TRY(expr)                                                                                         \
    do {                                                                                                     \
        resbm_status rb_try_ = (expr);                                                                       \
        if (rb_try_ != RESBM_OK) return rb_try_;                                                             \
    } while (0)
/* Goes to `label` with variable `st` set when expr fails. */
#define RB_TRY_GOTO(st, expr, label)                                                                         \
    do {                                                                                                     \
        (st) = (expr);                                                                                       \
        if ((st) != RESBM_OK) goto label;                                                                    \
    } while (0)

#endif
