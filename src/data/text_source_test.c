/* Dictionaries become prose, by name; a file system that fills up is named and leaves nothing. */
#include "data/text_source.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
#include <zlib.h>
#include "rb_cmocka.h"
#include "data/dict_prose.h"
#include "data/prepare.h"

static void dictionary_lines_become_prose(void **state) {
    (void)state;
    static const char *const lines[] = {
        "Coak \\Coak\\ (k[=o]k), n.",
        "   See {Coke}, n.",
        "   [1913 Webster]",
        "",
        "Coak \\Coak\\, v. t. (Carp.)",
        "   1. To unite, as   timbers, by",
        "      means of tenons. --Totten. [Obs.]",
        "      [1913 Webster +PJC]",
        "",
        "   {Coak on} to join [on].\r",
        "",
    };
    rb_dict_prose d = {0};
    rb_buf out = {0};
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        rb_dict_line(&d, lines[i], strlen(lines[i]), &out);
    assert_string_equal(out.data,
                        "Coak (k[=o]k), n. See Coke, n.\n\n"
                        "Coak, v. t. (Carp.) 1. To unite, as timbers, by means of tenons. --Totten. [Obs.]\n"
                        "Coak on to join [on].\n");
    rb_buf_free(&out);
}

/* All of a file, read in pieces of `step` bytes. */
static void read_whole(const char *path, bool raw, size_t step, rb_buf *out) {
    rb_err err;
    rb_text_source *s;
    char piece[5000];
    size_t got;
    assert_ok(rb_text_open(path, raw, &s, &err), &err);
    do {
        assert_ok(rb_text_read(s, piece, step, &got, &err), &err);
        rb_buf_add(out, piece, got);
    } while (got == step);
    rb_text_close(s);
}

static void a_dictionary_is_known_by_its_name(void **state) {
    (void)state;
    rb_buf want = {0}, raw = {0}, got = {0};
    gzFile f = gzopen("small.dict.dz", "wb");
    for (int i = 0; i < 3000; i++) {
        rb_buf_printf(
            &raw, "Head%d \\Head\\, n.\n   A {word} of the\n   small dictionary.\n   [1913 Webster]\n\n", i);
        rb_buf_printf(&want, "%sHead%d, n. A word of the small dictionary.\n", i ? "\n" : "", i);
    }
    assert_int_equal(gzwrite(f, raw.data, (unsigned)raw.len), (int)raw.len);
    assert_int_equal(gzclose(f), Z_OK);
    static const size_t steps[] = {1, 7, 4096, 5000};
    for (int i = 0; i < 4; i++) {
        got.len = 0;
        read_whole("small.dict.dz", false, steps[i], &got);
        assert_int_equal(got.len, want.len);
        assert_memory_equal(got.data, want.data, want.len);
    }
    got.len = 0;
    read_whole("small.dict.dz", true, 5000, &got);
    assert_int_equal(got.len, raw.len);
    assert_memory_equal(got.data, raw.data, raw.len);
    rb_buf_free(&want);
    rb_buf_free(&raw);
    rb_buf_free(&got);
}

/* A full disk, played by a limit on the size of files. */
static void a_full_disk_is_named(void **state) {
    (void)state;
    rb_err err;
    rb_prepare_result r;
    const char *text = "disk.txt";
    FILE *f = fopen(text, "wb");
    for (int i = 0; i < 40000; i++) fprintf(f, "word%d%c", i, i % 9 ? ' ' : '\n');
    fclose(f);
    struct rlimit old, small;
    getrlimit(RLIMIT_FSIZE, &old);
    small = (struct rlimit){100000, old.rlim_max};
    void (*before)(int) = signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    rb_prepare_options o = {.inputs = &text, .count = 1, .out = "disk", .tokenizer = "bytes"};
    resbm_status st = rb_data_prepare(&o, &r, &err);
    setrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, before);
    assert_fails(st, RESBM_E_IO, "cannot write disk/.partial/train-000.bin", &err);
    assert_int_equal(access("disk/.partial", F_OK), -1);
    assert_int_equal(access("disk/train-000.bin", F_OK), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dictionary_lines_become_prose),
        cmocka_unit_test(a_dictionary_is_known_by_its_name),
        cmocka_unit_test(a_full_disk_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
