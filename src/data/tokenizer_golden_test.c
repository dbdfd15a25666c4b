/* Every kind of tokenizer file against the ids that the packages it comes from give
 * (tests/golden/make_tokenizers.py), and back to the same bytes. */
#include <jansson.h>
#include <stdlib.h>
#include "rb_cmocka.h"
#include "data/pretokenize.h"
#include "data/tokenizer_kinds.h"

#define GOLDEN RB_SOURCE_DIR "/tests/golden/tokenizers/"

static void show(const char *text, const rb_ids *got, const json_t *want) {
    char *json = json_dumps(want, JSON_COMPACT);
    print_error("text \"%s\"\nwanted %s\ngot    [", text, json);
    for (int64_t i = 0; i < got->len; i++) print_error("%d,", got->data[i]);
    print_error("]\n");
    free(json);
}

static bool same(const rb_ids *got, const json_t *want) {
    if ((size_t)got->len != json_array_size(want)) return false;
    for (size_t i = 0; i < json_array_size(want); i++)
        if (got->data[i] != json_integer_value(json_array_get(want, i))) return false;
    return true;
}

/* Whether the ids decode to the text (SentencePiece puts a blank before it), or some stand for no text. */
static bool comes_back(const rb_tokenizer *t, const rb_ids *ids, const json_t *text) {
    rb_buf back = {0};
    rb_err err;
    bool silent = false;
    for (int64_t i = 0; i < ids->len; i++) {
        size_t before = back.len;
        assert_ok(rb_tokenizer_decode(t, ids->data[i], &back, &err), &err);
        silent = silent || back.len == before;
    }
    size_t n = json_string_length(text), extra = back.len == n + 1 && t->kind == &rb_tokenizer_sentencepiece;
    bool same_text = back.len == n + extra && (!extra || back.data[0] == ' ') &&
                     !memcmp(n ? back.data + extra : "", json_string_value(text), n);
    rb_buf_free(&back);
    return silent ? !same_text : same_text;
}

/* Number of texts whose ids differ from the golden ones. */
static int compare(const rb_tokenizer *t, const json_t *cases) {
    int wrong = 0;
    size_t i;
    json_t *one;
    json_array_foreach(cases, i, one) {
        rb_ids ids = {0};
        rb_err err;
        const json_t *text = json_array_get(one, 0);
        assert_ok(rb_tokenizer_encode(t, json_string_value(text), json_string_length(text), &ids, &err),
                  &err);
        if (!same(&ids, json_array_get(one, 1))) {
            if (wrong++ < 3) show(json_string_value(text), &ids, json_array_get(one, 1));
        } else if (!comes_back(t, &ids, text)) {
            fail_msg("\"%s\" does not come back from its ids", json_string_value(text));
        }
        rb_ids_free(&ids);
    }
    return wrong;
}

static void check_file(const char *name, const char *ending, int64_t vocab) {
    char spec[4096], cases[4096];
    rb_err err;
    rb_tokenizer t;
    snprintf(spec, sizeof spec, GOLDEN "%s%s", name, ending);
    snprintf(cases, sizeof cases, GOLDEN "%s.cases.json", name);
    json_t *j = json_load_file(cases, JSON_ALLOW_NUL, NULL);
    assert_true(json_array_size(j) >= 100);
    assert_ok(rb_tokenizer_open(spec, &t, &err), &err);
    assert_int_equal(t.vocab, vocab);
    assert_int_equal(compare(&t, j), 0);
    rb_tokenizer_close(&t);
    json_decref(j);
}

static void gpt2(void **state) {
    (void)state;
    check_file("gpt2", ".json", 600);
}

static void llama3(void **state) {
    (void)state;
    check_file("llama3", ".json", 609);
}

static void qwen2(void **state) {
    (void)state;
    check_file("qwen2", ".json", 504);
}

/* Every class of characters, at the borders of each of its ranges. */
static void words_at_class_borders(void **state) {
    (void)state;
    size_t i;
    json_t *j = json_load_file(GOLDEN "words.json", JSON_ALLOW_NUL, NULL), *one;
    assert_int_equal(json_array_size(j), 3);
    json_array_foreach(j, i, one) {
        const json_t *text = json_array_get(one, 1), *want = json_array_get(one, 2);
        rb_pattern p = rb_pattern_of_regex(json_string_value(json_array_get(one, 0)));
        const char *at = json_string_value(text);
        size_t left = json_string_length(text);
        assert_int_not_equal(p, RB_PATTERN_NONE);
        for (size_t k = 0; left; k++) {
            size_t n = rb_pattern_word(p, at, left);
            if ((json_int_t)n != json_integer_value(json_array_get(want, k)))
                fail_msg("pattern %zu, word %zu at \"%.20s\": %zu bytes, not %lld", i, k, at, n,
                         (long long)json_integer_value(json_array_get(want, k)));
            at += n;
            left -= n;
        }
    }
    json_decref(j);
}

static void ends_of_a_text(void **state) {
    (void)state;
    rb_err err;
    rb_tokenizer t;
    assert_ok(rb_tokenizer_open(GOLDEN "gpt2.json", &t, &err), &err);
    assert_int_equal(t.bos, -1);
    assert_int_equal(t.eos, 0);
    rb_tokenizer_close(&t);
    assert_ok(rb_tokenizer_open(GOLDEN "llama3.json", &t, &err), &err);
    assert_int_equal(t.bos, 606);
    assert_int_equal(t.eos, 608);
    rb_tokenizer_close(&t);
}

#ifdef RB_HAVE_SENTENCEPIECE
static void sentencepiece_models(void **state) {
    (void)state;
    check_file("bpe", ".model", 600);
    check_file("unigram", ".model", 250);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpt2),
        cmocka_unit_test(llama3),
        cmocka_unit_test(qwen2),
        cmocka_unit_test(ends_of_a_text),
        cmocka_unit_test(words_at_class_borders),
#ifdef RB_HAVE_SENTENCEPIECE
        cmocka_unit_test(sentencepiece_models),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
