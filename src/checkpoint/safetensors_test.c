/* safetensors: what is written reads back, and every way a header can lie is refused by name. */
#include "checkpoint/safetensors.h"
#include "rb_cmocka.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/buf.h"
#include "core/bytes.h"
#include "core/hash.h"

static rb_err err;

/* A tensor that exists only as a rule: byte i is i mod 251. */
static resbm_status counting(void *ctx, int64_t offset, void *dst, size_t n, rb_err *e) {
    (void)e;
    *(int *)ctx += 1;
    for (size_t i = 0; i < n; i++) ((uint8_t *)dst)[i] = (uint8_t)((offset + (int64_t)i) % 251);
    return RESBM_OK;
}

static resbm_status refusing(void *ctx, int64_t offset, void *dst, size_t n, rb_err *e) {
    (void)ctx, (void)dst, (void)n;
    return offset ? rb_fail(e, RESBM_E_NUMERIC, "the device said no") : RESBM_OK;
}

static void written_tensors_read_back(void **state) {
    (void)state;
    uint8_t bytes[3] = {1, 2, 3};
    float x[2][3] = {{1, -2, 3.5f}, {4, 5, 6}};
    double y = 0.1;
    int64_t z[2] = {-1, INT64_MAX};
    int calls = 0;
    enum { BIG = 5 << 20 };
    const rb_tensor_out t[] = {
        {.name = "u8", .dtype = RB_U8, .rank = 1, .shape = {3}, .data = bytes},
        {.name = "model.x \"quoted\" \xc3\xa9", .dtype = RB_F32, .rank = 2, .shape = {2, 3}, .data = x},
        {.name = "scalar", .dtype = RB_F64, .rank = 0, .data = &y},
        {.name = "i64", .dtype = RB_I64, .rank = 1, .shape = {2}, .data = z},
        {.name = "empty", .dtype = RB_F32, .rank = 2, .shape = {0, 4}},
        {.name = "streamed",
         .dtype = RB_U8,
         .rank = 3,
         .shape = {5, 1024, 1024},
         .read = counting,
         .ctx = &calls},
        {.name = "half", .dtype = RB_BF16, .rank = 4, .shape = {1, 1, 1, 1}, .data = bytes},
    };
    rb_file_sum sum;
    char hash[33];
    uint64_t length;
    rb_safetensors *s;
    assert_ok(rb_safetensors_write("a.safetensors", t, 7, &sum, &err), &err);
    assert_int_equal(calls, 2);
    assert_ok(rb_hash_file("a.safetensors", hash, &length, &err), &err);
    assert_string_equal(hash, sum.hash);
    assert_int_equal(length, sum.bytes);

    assert_ok(rb_safetensors_open("a.safetensors", &s, &err), &err);
    assert_int_equal(rb_safetensors_count(s), 7);
    for (int i = 0; i < 7; i++) {
        const rb_tensor_in *in = rb_safetensors_find(s, t[i].name);
        assert_non_null(in);
        assert_int_equal(in->dtype, t[i].dtype);
        assert_int_equal(in->rank, t[i].rank);
        assert_int_equal((uintptr_t)in->data % rb_dtype_size(in->dtype), 0);
        for (int j = 0; j < in->rank; j++) assert_int_equal(in->shape[j], t[i].shape[j]);
        if (t[i].data) assert_memory_equal(in->data, t[i].data, in->bytes);
    }
    const uint8_t *big = rb_safetensors_find(s, "streamed")->data;
    for (int i = 0; i < BIG; i += 1021) assert_int_equal(big[i], i % 251);
    assert_null(rb_safetensors_find(s, "streame"));
    assert_null(rb_safetensors_find(s, "__metadata__"));
    rb_safetensors_close(s);
    assert_int_equal(unlink("a.safetensors"), 0);
}

static void faults_leave_no_file(void **state) {
    (void)state;
    float x = 1;
    int calls = 0;
    rb_tensor_out two[] = {{.name = "x", .dtype = RB_F32, .rank = 0, .data = &x},
                           {.name = "x", .dtype = RB_F32, .rank = 0, .data = &x}};
    rb_tensor_out sick = {
        .name = "s", .dtype = RB_U8, .rank = 1, .shape = {5 << 20}, .read = refusing, .ctx = &calls};
    rb_tensor_out nameless = {.name = "", .dtype = RB_F32, .rank = 0, .data = &x};
    rb_tensor_out deep = {.name = "deep", .dtype = RB_F32, .rank = 5, .data = &x};
    rb_tensor_out nowhere = {.name = "nowhere", .dtype = RB_F32, .rank = 0};
    rb_tensor_out latin = {.name = "\xe9", .dtype = RB_F32, .rank = 0, .data = &x};
    assert_fails(rb_safetensors_write("b", two, 2, NULL, &err), RESBM_E_ARG, "tensor x is given twice", &err);
    assert_fails(rb_safetensors_write("b", &sick, 1, NULL, &err), RESBM_E_NUMERIC, "the device said no",
                 &err);
    assert_fails(rb_safetensors_write("b", &nameless, 1, NULL, &err), RESBM_E_ARG, "empty", &err);
    assert_fails(rb_safetensors_write("b", &deep, 1, NULL, &err), RESBM_E_ARG, "rank 5", &err);
    assert_fails(rb_safetensors_write("b", &nowhere, 1, NULL, &err), RESBM_E_ARG, "missing source", &err);
    assert_fails(rb_safetensors_write("b", &latin, 1, NULL, &err), RESBM_E_ARG, "UTF-8", &err);
    assert_int_not_equal(access("b", F_OK), 0);
    assert_fails(rb_safetensors_write("no/such/folder", NULL, 0, NULL, &err), RESBM_E_IO, "no/such/folder",
                 &err);
}

/* A file of this JSON and n bytes of data. */
static resbm_status parse(const char *json, size_t n, rb_safetensors **out) {
    size_t len = strlen(json);
    uint8_t *file = calloc(1, 8 + len + n);
    rb_put64(file, len);
    memcpy(file + 8, json, len);
    resbm_status st = rb_safetensors_parse(file, 8 + len + n, "mem", out, &err);
    if (st == RESBM_OK) rb_safetensors_close(*out);
    free(file);
    return st;
}

#define T(dtype, shape, offsets) "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void lying_headers_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *json;
        size_t data;
        const char *say;
    } cases[] = {
        {"{", 0, "mem: header, byte"},
        {"[]", 0, "no JSON object"},
        {"{\"a\":5}", 0, "tensor a: entry is not"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[]}}", 4, "tensor a: entry is not"},
        {"{\"a\":" T("F8_E4M3", "[4]", "[0,4]") "}", 4, "tensor a: dtype"},
        {"{\"a\":{\"dtype\":7,\"shape\":[],\"data_offsets\":[0,4]}}", 4, "tensor a: dtype"},
        {"{\"a\":" T("F32", "2", "[0,8]") "}", 8, "shape is no list"},
        {"{\"a\":" T("F32", "[1,1,1,1,1]", "[0,4]") "}", 4, "more than 4 dimensions"},
        {"{\"a\":" T("F32", "[-1]", "[0,4]") "}", 4, "no count"},
        {"{\"a\":" T("F32", "[1.0]", "[0,4]") "}", 4, "no count"},
        {"{\"a\":" T("F32", "[4294967296,4294967296]", "[0,0]") "}", 0, "too large"},
        {"{\"a\":" T("F32", "[9223372036854775807]", "[0,4]") "}", 4, "too large"},
        {"{\"a\":" T("F32", "[1]", "[0]") "}", 4, "not two counts"},
        {"{\"a\":" T("F32", "[1]", "[-4,0]") "}", 4, "not two counts"},
        {"{\"a\":" T("F32", "[1]", "[4,0]") "}", 4, "outside the file"},
        {"{\"a\":" T("F32", "[2]", "[0,8]") "}", 4, "outside the file (is it cut short?)"},
        {"{\"a\":" T("F32", "[2]", "[0,4]") "}", 4, "do not fit"},
        {"{\"a\":" T("F32", "[1]", "[0,4]") ",\"a\":" T("F32", "[1]", "[4,8]") "}", 8, "duplicate"},
        {"{\"a\":" T("F32", "[1]", "[0,4]") ",\"b\":" T("F32", "[1]", "[0,4]") "}", 4, "tensor b: overlaps"},
        {"{\"a\":" T("F32", "[2]", "[0,8]") ",\"b\":" T("F32", "[2]", "[4,12]") "}", 12,
         "tensor b: overlaps"},
        {"{\"a\":" T("F32", "[1]", "[0,4]") ",\"b\":" T("F32", "[1]", "[8,12]") "}", 12, "tensor b: a gap"},
        {"{\"a\":" T("F32", "[1]", "[0,4]") "}", 5, "bytes behind the last"},
        {"{\"\":" T("F32", "[1]", "[0,4]") "}", 4, "name is empty"},
    };
    rb_safetensors *s;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_fails(parse(cases[i].json, cases[i].data, &s), RESBM_E_FORMAT, cases[i].say, &err);
        assert_null(s);
    }
    assert_ok(parse("{}", 0, &s), &err);
    assert_ok(parse("{\"__metadata__\":{\"k\":\"v\"},\"a\":" T("F32", "[0]", "[0,0]") "}  ", 0, &s), &err);
    assert_fails(rb_safetensors_parse("short", 5, "mem", &s, &err), RESBM_E_FORMAT, "8 bytes", &err);
    uint8_t huge[16];
    rb_put64(huge, 9);
    assert_fails(rb_safetensors_parse(huge, 16, "mem", &s, &err), RESBM_E_FORMAT, "longer than the file",
                 &err);
    rb_put64(huge, UINT64_MAX);
    assert_fails(rb_safetensors_parse(huge, 16, "mem", &s, &err), RESBM_E_FORMAT, "longer than the file",
                 &err);
    assert_fails(rb_safetensors_open("/dev/null", &s, &err), RESBM_E_FORMAT, "/dev/null", &err);
    assert_fails(rb_safetensors_open("gone", &s, &err), RESBM_E_IO, "gone", &err);
}

/* The Python package of that name reads our file and we read its own: the interpreter of the project's .venv,
 * or the one named in RESBM_PYTHON. */
static void the_python_package_agrees(void **state) {
    (void)state;
    const char *python = getenv("RESBM_PYTHON");
    if (!python || !*python) python = RB_SOURCE_DIR "/.venv/bin/python";
    if (access(python, X_OK)) skip();
    float x[6] = {0, 0.25f, 0.5f, 0.75f, 1, 1.25f};
    uint8_t u[5] = {0, 1, 2, 3, 4};
    int64_t i[2] = {-3, 1LL << 40};
    double d = 0.1;
    const rb_tensor_out t[] = {
        {.name = "u8", .dtype = RB_U8, .rank = 1, .shape = {5}, .data = u},
        {.name = "f32", .dtype = RB_F32, .rank = 2, .shape = {2, 3}, .data = x},
        {.name = "i64", .dtype = RB_I64, .rank = 1, .shape = {2}, .data = i},
        {.name = "f64", .dtype = RB_F64, .rank = 0, .data = &d},
    };
    assert_ok(rb_safetensors_write("python.safetensors", t, 4, NULL, &err), &err);
    rb_buf command = {0};
    rb_buf_printf(&command, "'%s' '%s/tests/golden/check_safetensors.py' python.safetensors", python,
                  RB_SOURCE_DIR);
    int rc = system(command.data);
    rb_buf_free(&command);
    assert_int_equal(rc, 0);
    rb_safetensors *s; /* and the other way round */
    assert_ok(rb_safetensors_open("python.safetensors.python", &s, &err), &err);
    assert_int_equal(rb_safetensors_count(s), 4);
    for (int k = 0; k < 4; k++) {
        const rb_tensor_in *in = rb_safetensors_find(s, t[k].name);
        assert_non_null(in);
        assert_int_equal(in->dtype, t[k].dtype);
        assert_memory_equal(in->data, t[k].data, in->bytes);
    }
    rb_safetensors_close(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(written_tensors_read_back),
        cmocka_unit_test(faults_leave_no_file),
        cmocka_unit_test(lying_headers_are_refused),
        cmocka_unit_test(the_python_package_agrees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
