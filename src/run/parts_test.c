/* Files of a checkpoint by name. */
#include "run/parts.h"

#include "run/workers.h"
#include "rb_cmocka.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void open_config(rb_config *c) {
    rb_err err;
    const char text[] = "model: {d: 64, layers: 4, heads: 2, ffn: 64, vocab: 256, context: 16, segments: 4}\n"
                        "boundary: {kind: residual, ratio: 8, tokens: trunk}\npipeline: {stages: 2}\n";
    assert_ok(rb_config_defaults(c, &err), &err);
    assert_ok(rb_config_load_text(c, "test", text, sizeof text - 1, &err), &err);
    assert_ok(rb_config_validate(c, &err), &err);
}

static void test_every_name_leads_back_to_its_stage(void **state) {
    (void)state;
    rb_err err;
    rb_config *c = calloc(1, sizeof *c);
    rb_tensor_table t;
    char name[RB_PART_NAME];
    open_config(c);
    assert_ok(rb_tensor_table_build(&c->model, &c->boundary, &t, &err), &err);
    for (int i = 0; i < t.count; i++) {
        rb_parts_name(&t.rows[i], ".optim", name);
        assert_int_equal(rb_parts_stage_of(c, name), rb_stage_of(c, t.rows[i].segment));
        assert_int_equal(rb_parts_replica_of(name), 0);
    }
    rb_tensor_table_free(&t);
    free(c);
}

static void test_other_names_are_nobodys(void **state) {
    (void)state;
    static const char *const names[] = {"segment-4.safetensors",
                                        "segment--1.safetensors",
                                        "boundary-3.encoder.safetensors",
                                        "boundary-0.middle.safetensors",
                                        "../segment-0.safetensors",
                                        "manifest.json",
                                        ""};
    rb_config *c = calloc(1, sizeof *c);
    open_config(c);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_int_equal(rb_parts_stage_of(c, names[i]), -1);
    assert_int_equal(rb_parts_replica_of("segment-0.replica-3.optim.safetensors"), 3);
    assert_int_equal(rb_parts_replica_of("segment-0.replica--3.optim.safetensors"), 0);
    assert_int_equal(rb_parts_replica_of(NULL), 0);
    free(c);
}

/* Without any one of its files a snapshot is not whole, and that one is named. */
static void test_a_missing_file_is_named(void **state) {
    (void)state;
    rb_err err;
    rb_config *c = calloc(1, sizeof *c);
    rb_tensor_table t;
    char name[RB_PART_NAME], lacks[RB_PART_NAME];
    open_config(c);
    assert_ok(rb_tensor_table_build(&c->model, &c->boundary, &t, &err), &err);
    rb_part_file *files = calloc((size_t)t.count, sizeof *files);
    rb_manifest m = {.files = files};
    for (int i = 0; i < t.count; i++) {
        rb_parts_name(&t.rows[i], "", name);
        if (!m.file_count || strcmp(files[m.file_count - 1].name, name))
            strcpy(files[m.file_count++].name, name);
    }
    assert_int_equal(m.file_count, 10); /* four segments, two halves of three boundaries */
    assert_false(rb_parts_missing(&t, &m, lacks));
    for (int i = 0; i < m.file_count; i++) {
        strcpy(name, files[i].name);
        strcpy(files[i].name, "other.safetensors");
        assert_true(rb_parts_missing(&t, &m, lacks));
        assert_string_equal(lacks, name);
        strcpy(files[i].name, name);
    }
    rb_tensor_table_free(&t);
    free(files);
    free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_name_leads_back_to_its_stage),
        cmocka_unit_test(test_other_names_are_nobodys),
        cmocka_unit_test(test_a_missing_file_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
