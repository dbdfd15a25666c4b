/* resbm: training transformer language models as a pipeline of stages over slow networks.
 *
 * The public C interface. Handles are opaque, there are no globals, and the library neither prints nor
 * exits: every call that can fail returns a resbm_status and, where the caller passes a resbm_error, a
 * sentence that says what went wrong, where, and what to do about it.
 */
#ifndef RESBM_H
#define RESBM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32) || !defined(__GNUC__)
#define RESBM_API
#else
#define RESBM_API __attribute__((visibility("default")))
#endif

/* Status codes. 0 is success; resbm_status_text() gives each one's short text. */
typedef enum resbm_status {
    RESBM_OK = 0,
    RESBM_E_ARG = 1,         /* an argument or a shape is out of range */
    RESBM_E_CONFIG = 2,      /* the run configuration is wrong */
    RESBM_E_IO = 3,          /* a file or a socket failed (errno in the text) */
    RESBM_E_MEMORY = 4,      /* memory could not be had */
    RESBM_E_FORMAT = 5,      /* bytes that are not of the expected format or version */
    RESBM_E_CORRUPT = 6,     /* right format, wrong checksum or length */
    RESBM_E_PEER = 7,        /* another stage died, closed or reported a fault */
    RESBM_E_TIMEOUT = 8,     /* a deadline passed; the text says who waited for what from whom */
    RESBM_E_CANCELLED = 9,   /* stopped on request (Ctrl-C) */
    RESBM_E_NUMERIC = 10,    /* a loss or tensor is NaN or infinite */
    RESBM_E_UNSUPPORTED = 11, /* this build or machine cannot do it */
    RESBM_E_STATE = 12,      /* the call does not fit the object's state */
    RESBM_E_INTERNAL = 13    /* a broken invariant of the library itself */
} resbm_status;

/* One fault. The library fills it on the first failure; text is NUL-terminated UTF-8, possibly cut. */
typedef struct resbm_error {
    resbm_status code;
    char text[1020];
} resbm_error;

/* Short constant text of a status, never NULL. */
RESBM_API const char *resbm_status_text(resbm_status s);

/* Version of the library, "major.minor.patch". */
RESBM_API const char *resbm_version(void);

#ifdef __cplusplus
}
#endif
#endif
