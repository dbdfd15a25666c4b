/* Tokenizers: what is refused and how, bytes back from ids, texts cut in two. */
#include <jansson.h>
#include <stdlib.h>
#include "rb_cmocka.h"
#include "core/rng.h"
#include "data/bpe.h"
#include "data/pretokenize.h"
#include "data/text_source.h"
#include "data/tokenizer_kinds.h"

#define GOLDEN RB_SOURCE_DIR "/tests/golden/tokenizers/"

static void decode_all(const rb_tokenizer *t, const rb_ids *ids, rb_buf *out) {
    rb_err err;
    for (int64_t i = 0; i < ids->len; i++) assert_ok(rb_tokenizer_decode(t, ids->data[i], out, &err), &err);
}

/* Random bytes of several kinds: any byte, ASCII, UTF-8 characters with some of them damaged. */
static size_t random_text(rb_rng *r, char *out, size_t n) {
    static const char *const pieces[] = {" ",    "  ",       "\n",   "\r\n",    "word",  "don't",
                                         "I'LL", "é",        "東京", "👍",       "12345", "!?",
                                         "\t",   "\xc2\xa0", "\xff", "\xe6\x9d"};
    size_t len = 0, kind = rb_rng_below(r, 3);
    while (len + 8 < n) {
        if (kind == 0) {
            out[len++] = (char)rb_rng_u32(r);
        } else if (kind == 1) {
            out[len++] = (char)(' ' + rb_rng_below(r, 95));
        } else {
            const char *p = pieces[rb_rng_below(r, sizeof pieces / sizeof pieces[0])];
            memcpy(out + len, p, strlen(p));
            len += strlen(p);
        }
    }
    return len;
}

static void check_round_trips(const char *spec) {
    rb_err err;
    rb_tokenizer t;
    rb_rng r = {.key = 11};
    assert_ok(rb_tokenizer_open(spec, &t, &err), &err);
    for (int i = 0; i < 400; i++) {
        char text[300];
        size_t n = random_text(&r, text, 1 + rb_rng_below(&r, sizeof text));
        rb_ids ids = {0};
        rb_buf back = {0};
        assert_ok(rb_tokenizer_encode(&t, text, n, &ids, &err), &err);
        decode_all(&t, &ids, &back);
        assert_int_equal(back.len, n);
        if (n) assert_memory_equal(back.data, text, n);
        rb_ids_free(&ids);
        rb_buf_free(&back);
    }
    rb_tokenizer_close(&t);
}

static void any_bytes_come_back(void **state) {
    (void)state;
    check_round_trips("bytes");
    check_round_trips(GOLDEN "gpt2.json");
    check_round_trips(GOLDEN "llama3.json");
    check_round_trips(GOLDEN "qwen2.json");
}

static void word_lengths(rb_pattern p, const char *text, const char *want) {
    char got[200] = "";
    for (size_t n = strlen(text); n;) {
        size_t k = rb_pattern_word(p, text, n);
        snprintf(got + strlen(got), sizeof got - strlen(got), "%.*s|", (int)k, text);
        text += k;
        n -= k;
    }
    assert_string_equal(got, want);
}

static void words_of_the_patterns(void **state) {
    (void)state;
    word_lengths(RB_PATTERN_GPT2, "It's  a 1234 DON'T!\n\n x", "It|'s| | a| 1234| DON|'|T|!|\n\n| x|");
    word_lengths(RB_PATTERN_LLAMA3, "It's  a 1234 DON'T!\n\n x", "It|'s| | a| |123|4| DON|'T|!\n\n| x|");
    word_lengths(RB_PATTERN_LLAMA3, "it'ſx", "it|'ſ|x|"); /* the long s is an s when case is ignored */
    word_lengths(RB_PATTERN_QWEN2, "a12 \n \n b", "a|1|2| \n \n| b|");
    /* Bytes that are no UTF-8 are no letters: they part a word and hold together with punctuation. */
    word_lengths(RB_PATTERN_GPT2, "ab\xff\xfe!cd \xe6\x9d", "ab|\xff\xfe!|cd| \xe6\x9d|");
    assert_int_equal(rb_pattern_of_regex("\\w+|\\s+"), RB_PATTERN_NONE);
}

static void cut_texts_give_the_same_ids(void **state) {
    (void)state;
    static const char *const specs[] = {"gpt2.json", "llama3.json", "qwen2.json"};
    for (int k = 0; k < 3; k++) {
        char spec[4096];
        rb_err err;
        rb_tokenizer t;
        rb_rng r = {.key = 5};
        snprintf(spec, sizeof spec, GOLDEN "%s", specs[k]);
        assert_ok(rb_tokenizer_open(spec, &t, &err), &err);
        for (int i = 0; i < 300; i++) {
            char text[400];
            size_t n = random_text(&r, text, sizeof text), cut;
            memcpy(text + n / 2 + 3, i % 2 ? "it. so" : "it.\nso", 6); /* somewhere to cut at */
            rb_ids whole = {0}, parts = {0};
            cut = rb_text_cut(text, n);
            assert_in_range(cut, n / 2, n - 1);
            assert_ok(rb_tokenizer_encode(&t, text, n, &whole, &err), &err);
            assert_ok(rb_tokenizer_encode(&t, text, cut, &parts, &err), &err);
            assert_ok(rb_tokenizer_encode(&t, text + cut, n - cut, &parts, &err), &err);
            assert_int_equal(parts.len, whole.len);
            assert_memory_equal(parts.data, whole.data, (size_t)whole.len * sizeof *whole.data);
            rb_ids_free(&whole);
            rb_ids_free(&parts);
        }
        rb_tokenizer_close(&t);
    }
}

static void cuts_keep_characters_whole(void **state) {
    (void)state;
    assert_int_equal(rb_text_cut("aaaaaaaaaaaa", 12), 12);
    assert_int_equal(rb_text_cut("ééééééé\xc3", 15), 14);
    assert_int_equal(rb_text_cut("東東東東東東東東\xe6\x9d", 26), 24);
    assert_int_equal(rb_text_cut("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80", 10), 10);
    assert_int_equal(rb_utf8_whole("ab\xe6\x9d", 4), 2);
    assert_int_equal(rb_utf8_whole("ab\xe6\x9d\xb1", 5), 5);
    assert_int_equal(rb_utf8_whole("\xf0\x9f\x91", 3), 0);
    assert_int_equal(rb_utf8_whole("\x80\x80\x80\x80", 4), 4);
    assert_int_equal(rb_utf8_whole("", 0), 0);
}

/* A word of a megabyte must neither take quadratic time nor overflow anything. */
static void long_words(void **state) {
    (void)state;
    rb_err err;
    rb_tokenizer t;
    size_t n = 1 << 20;
    char *text = malloc(n);
    assert_ok(rb_tokenizer_open(GOLDEN "gpt2.json", &t, &err), &err);
    for (int kind = 0; kind < 2; kind++) {
        rb_rng r = {.key = 2};
        rb_ids ids = {0};
        rb_buf back = {0};
        for (size_t i = 0; i < n; i++) text[i] = kind ? (char)('a' + rb_rng_below(&r, 26)) : ' ';
        assert_ok(rb_tokenizer_encode(&t, text, n, &ids, &err), &err);
        assert_in_range(ids.len, 1, n);
        decode_all(&t, &ids, &back);
        assert_int_equal(back.len, n);
        assert_memory_equal(back.data, text, n);
        rb_ids_free(&ids);
        rb_buf_free(&back);
    }
    free(text);
    rb_tokenizer_close(&t);
}

static void strange_specs_are_named(void **state) {
    (void)state;
    rb_err err;
    rb_tokenizer t;
    assert_fails(rb_tokenizer_open("gpt2", &t, &err), RESBM_E_CONFIG, "\"gpt2\": it must be bytes", &err);
    rb_tokenizer_close(&t); /* a failed one can be closed */
    assert_fails(rb_tokenizer_open("none.json", &t, &err), RESBM_E_IO, "none.json", &err);
    assert_ok(rb_tokenizer_open("bytes", &t, &err), &err);
    rb_buf b = {0};
    assert_fails(rb_tokenizer_decode(&t, 256, &b, &err), RESBM_E_ARG, "256", &err);
    assert_fails(rb_tokenizer_decode(&t, -1, &b, &err), RESBM_E_ARG, "-1", &err);
    rb_tokenizer_close(&t);
}

#ifdef RB_HAVE_SENTENCEPIECE
static void sentencepiece_faults_and_text(void **state) {
    (void)state;
    rb_err err;
    rb_tokenizer t;
    rb_ids ids = {0};
    rb_buf back = {0};
    FILE *f = fopen("bad.model", "wb");
    fputs("no model at all", f);
    fclose(f);
    assert_fails(rb_tokenizer_open("bad.model", &t, &err), RESBM_E_FORMAT, "bad.model", &err);
    assert_ok(rb_tokenizer_open(GOLDEN "bpe.model", &t, &err), &err);
    const char text[] = "the people\nknow\x01 \xf0\x9f\x91\x8d";
    assert_ok(rb_tokenizer_encode(&t, text, strlen(text), &ids, &err), &err);
    decode_all(&t, &ids, &back);
    assert_string_equal(back.data,
                        " the people\nknow\x01 \xf0\x9f\x91\x8d"); /* the blank it puts in front stays */
    rb_ids_free(&ids);
    rb_buf_free(&back);
    rb_tokenizer_close(&t);
}
#else
static void sentencepiece_faults_and_text(void **state) {
    (void)state;
    rb_err err;
    rb_tokenizer t;
    assert_fails(rb_tokenizer_open("x.model", &t, &err), RESBM_E_UNSUPPORTED, "libsentencepiece-dev", &err);
}
#endif

/* The golden Llama 3 file with `value` (JSON) at the object path, or that member removed when value is NULL.
 */
static resbm_status parse_changed(const char *path, const char *value, rb_err *err) {
    json_t *root = json_load_file(GOLDEN "llama3.json", 0, NULL), *o = root;
    char copy[100], *rest = copy;
    snprintf(copy, sizeof copy, "%s", path);
    char *name = strsep(&rest, "/");
    for (; rest; name = strsep(&rest, "/"))
        o = json_is_array(o) ? json_array_get(o, (size_t)atoi(name)) : json_object_get(o, name);
    json_t *v = value ? json_loads(value, JSON_DECODE_ANY, NULL) : NULL;
    if (json_is_array(o))
        json_array_set_new(o, (size_t)atoi(name), v);
    else if (v)
        json_object_set_new(o, name, v);
    else
        json_object_del(o, name);
    char *text = json_dumps(root, 0);
    rb_tokenizer t;
    resbm_status st = rb_huggingface_parse(text, strlen(text), &t, err);
    rb_tokenizer_close(&t);
    free(text);
    json_decref(root);
    return st;
}

static void unknown_parts_are_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *path, *value;
        resbm_status code;
        const char *part;
    } cases[] = {
        {"normalizer", "{\"type\":\"NFC\"}", RESBM_E_UNSUPPORTED, "normalizer (NFC)"},
        {"model/type", "\"WordPiece\"", RESBM_E_UNSUPPORTED, "WordPiece"},
        {"model/byte_fallback", "true", RESBM_E_UNSUPPORTED, "byte_fallback"},
        {"model/dropout", "0.1", RESBM_E_UNSUPPORTED, "dropout"},
        {"model/vocab", NULL, RESBM_E_FORMAT, "\"vocab\""},
        {"model/vocab/in", NULL, RESBM_E_FORMAT, "not in the vocabulary"},
        {"model/vocab/~", NULL, RESBM_E_FORMAT, "byte 0x7e has no token"},
        {"model/vocab/A", "-1", RESBM_E_FORMAT, "\"A\""},
        {"model/vocab/A", "1", RESBM_E_FORMAT, "two tokens"},
        {"model/vocab/A", "5000000", RESBM_E_FORMAT, "\"A\""},
        {"model/vocab/\u2603", "700", RESBM_E_FORMAT, "byte-level"},
        {"model/merges/3", "\"ab\"", RESBM_E_FORMAT, "merge 3 is no pair"},
        {"model/merges/3", "[\"a\",\"b\",\"c\"]", RESBM_E_FORMAT, "merge 3 is no pair"},
        {"model/merges/3", "17", RESBM_E_FORMAT, "merge 3 is no pair"},
        {"model/merges/3", "[\"zq\",\"b\"]", RESBM_E_FORMAT, "merge 3 (\"zq\" and \"b\"): the first is not"},
        {"pre_tokenizer", "null", RESBM_E_UNSUPPORTED, "null"},
        {"pre_tokenizer", "{\"type\":\"Metaspace\"}", RESBM_E_UNSUPPORTED, "Metaspace"},
        {"pre_tokenizer/pretokenizers/0/pattern/Regex", "\"\\\\w+\"", RESBM_E_UNSUPPORTED, "\\w+"},
        {"pre_tokenizer/pretokenizers/0/behavior", "\"Removed\"", RESBM_E_UNSUPPORTED, "Isolated"},
        {"pre_tokenizer/pretokenizers/1/use_regex", "true", RESBM_E_UNSUPPORTED, "twice"},
        {"pre_tokenizer/pretokenizers/1/add_prefix_space", "true", RESBM_E_UNSUPPORTED, "add_prefix_space"},
        {"post_processor", "{\"type\":\"BertProcessing\"}", RESBM_E_UNSUPPORTED, "BertProcessing"},
        {"post_processor/processors/1/single/0/SpecialToken/id", "\"<s>\"", RESBM_E_FORMAT, "<s>"},
        {"added_tokens/0/lstrip", "true", RESBM_E_UNSUPPORTED, "lstrip"},
        {"added_tokens/0/id", "4194304", RESBM_E_FORMAT, "4194304"},
        {"added_tokens/1/id", "606", RESBM_E_FORMAT, "share id 606"},
        {"added_tokens/0/id", "70", RESBM_E_FORMAT, "id 70 is"},
        {"added_tokens/0/content", "\"\"", RESBM_E_FORMAT, "added token 0"},
        {"added_tokens/2/content", "\"A\"", RESBM_E_FORMAT, "among the added tokens"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rb_err err = {0};
        resbm_status st = parse_changed(cases[i].path, cases[i].value, &err);
        if (st != cases[i].code || !strstr(err.text, cases[i].part))
            fail_msg("%s = %s gave %d \"%s\"", cases[i].path, cases[i].value ? cases[i].value : "(gone)", st,
                     err.text);
    }
    rb_err err;
    assert_ok(parse_changed("truncation", "null", &err), &err);
    rb_tokenizer t;
    assert_fails(rb_huggingface_parse("{\"a\":", 5, &t, &err), RESBM_E_FORMAT, "line 1", &err);
    assert_fails(rb_huggingface_parse("[]", 2, &t, &err), RESBM_E_FORMAT, "no JSON object", &err);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_bytes_come_back),
        cmocka_unit_test(words_of_the_patterns),
        cmocka_unit_test(cut_texts_give_the_same_ids),
        cmocka_unit_test(cuts_keep_characters_whole),
        cmocka_unit_test(long_words),
        cmocka_unit_test(strange_specs_are_named),
        cmocka_unit_test(sentencepiece_faults_and_text),
        cmocka_unit_test(unknown_parts_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
