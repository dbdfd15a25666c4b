/* cmocka with the headers it wants, and the two checks every test here needs. */
#ifndef RB_TESTS_CMOCKA_H
#define RB_TESTS_CMOCKA_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

/* The call must succeed; prints the library's sentence when it does not. */
#define assert_ok(call, err)                                                                                 \
    do {                                                                                                     \
        if ((call) != RESBM_OK) fail_msg("%s: %s", #call, (err)->text);                                      \
    } while (0)
/* The call must fail with `code` and its sentence must contain `part`. */
#define assert_fails(call, want, part, err)                                                                  \
    do {                                                                                                     \
        resbm_status got_ = (call);                                                                          \
        if (got_ != (want)) fail_msg("%s gave %d (%s), not %d", #call, got_, (err)->text, (want));           \
        if (!strstr((err)->text, (part))) fail_msg("\"%s\" lacks \"%s\"", (err)->text, (part));              \
    } while (0)

#endif
