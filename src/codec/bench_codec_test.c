#include "rb_cmocka.h"
#include <stdlib.h>
#include "codec/bench_codec.h"

/* No figure is judged here; the table must be whole. RESBM_BENCH_SECONDS prints one worth reading. */
static void table_is_whole(void **state) {
    (void)state;
    rb_buf b = {0};
    rb_err err;
    const char *seconds = getenv("RESBM_BENCH_SECONDS");
    assert_ok(rb_bench_codec(&b, "cpu", seconds ? atof(seconds) : 0, &err), &err);
    int lines = 0, rates = 0;
    for (const char *p = b.data; *p; p++) lines += *p == '\n';
    const char *p = strstr(b.data, "int4  step");
    assert_non_null(p);
    for (char *end; *p; p = end) {
        p += strcspn(p, ".\n");
        if (*p == '.' && strtod(p - 1, &end) >= 0)
            rates++;
        else
            end = (char *)p + (*p != 0);
    }
    assert_int_equal(lines, 2 + 10);
    assert_int_equal(rates, 10 * 4 * 2);
    if (seconds) fputs(b.data, stdout);
    rb_buf_free(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(table_is_whole)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
