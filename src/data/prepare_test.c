/* Text to shards and back: nothing is lost, changed or doubled, and a text that cannot be read leaves what
 * was there before. */
#include "data/prepare.h"

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>
#include <zlib.h>
#include "rb_cmocka.h"
#include "core/buf.h"
#include "core/rng.h"
#include "data/shard.h"
#include "data/tokenizer.h"

#define TOKENIZERS RB_SOURCE_DIR "/tests/golden/tokenizers/"

/* n words, each with its number, so that any word tells its place; the text ends with a line, as some words
 * do. */
static void numbered_text(rb_buf *out, int from, int n) {
    static const char *const odd[] = {"", "é", "日本", "'s", "!?", "\xf0\x9f\x91\x8d"};
    for (int i = from; i < from + n; i++)
        rb_buf_printf(out, "word%d%s%c", i, odd[i % 6], i % 11 && i < from + n - 1 ? ' ' : '\n');
}

static void write_plain(const char *path, const rb_buf *text) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text->data, 1, text->len, f), text->len);
    assert_int_equal(fclose(f), 0);
}

static void write_gzip(const char *path, const rb_buf *text) {
    gzFile f = gzopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(gzwrite(f, text->data, (unsigned)text->len), (int)text->len);
    assert_int_equal(gzclose(f), Z_OK);
}

/* The ids of DIR/part-*.bin; returns how many. The caller frees *ids. */
static int64_t read_part(const char *dir, const char *part, int32_t **ids) {
    char pattern[256];
    rb_err err;
    rb_shards *s;
    snprintf(pattern, sizeof pattern, "%s/%s-*.bin", dir, part);
    assert_ok(rb_shards_open(pattern, 0, &s, &err), &err);
    int64_t n = rb_shards_tokens(s);
    *ids = malloc((size_t)n * sizeof **ids);
    assert_non_null(*ids);
    assert_ok(rb_shards_read(s, 0, n, *ids, &err), &err);
    rb_shards_close(s);
    return n;
}

static void decode_part(const char *dir, const char *part, const char *tokenizer, rb_buf *out) {
    rb_err err;
    rb_tokenizer t;
    int32_t *ids;
    int64_t n = read_part(dir, part, &ids);
    assert_ok(rb_tokenizer_open(tokenizer, &t, &err), &err);
    for (int64_t i = 0; i < n; i++) assert_ok(rb_tokenizer_decode(&t, ids[i], out, &err), &err);
    rb_tokenizer_close(&t);
    free(ids);
}

/* Length of the first word of p[0..n) with what separates it from the next. */
static size_t word_length(const char *p, size_t n) {
    size_t i = 0;
    while (i < n && p[i] != ' ' && p[i] != '\n') i++;
    while (i < n && (p[i] == ' ' || p[i] == '\n')) i++;
    return i;
}

/* Whether a and b, taken word by word from their fronts in some order, give text. Pieces are cut before a
 * blank or behind a line end, so a blank may stand in front of the word it follows in the text. */
static bool interleave(const rb_buf *text, const rb_buf *a, const rb_buf *b) {
    const rb_buf *part[2] = {a, b};
    size_t at[2] = {0, 0};
    for (size_t i = 0; i < text->len;) {
        size_t blank = text->data[i] == ' ',
               n = blank + word_length(text->data + i + blank, text->len - i - blank);
        if (n > blank + 1 && text->data[i + n - 1] == ' ') n--; /* its blank goes with the next word */
        int k = 0;
        while (k < 2 && (part[k]->len - at[k] < n || memcmp(part[k]->data + at[k], text->data + i, n))) k++;
        if (k == 2) return false;
        at[k] += n;
        i += n;
    }
    return at[0] == a->len && at[1] == b->len;
}

static rb_prepare_result prepare(const char *const *inputs, int count, const char *out, const char *tokenizer,
                                 double share, int64_t shard_tokens) {
    rb_err err;
    rb_prepare_result r;
    rb_prepare_options o = {.inputs = inputs,
                            .count = count,
                            .out = out,
                            .tokenizer = tokenizer,
                            .val_share = share,
                            .shard_tokens = shard_tokens};
    assert_ok(rb_data_prepare(&o, &r, &err), &err);
    return r;
}

static void check_text(const char *dir, const char *tokenizer, const rb_buf *text) {
    rb_buf train = {0}, val = {0};
    decode_part(dir, "train", tokenizer, &train);
    decode_part(dir, "val", tokenizer, &val);
    assert_int_equal(train.len + val.len, text->len);
    assert_true(interleave(text, &train, &val));
    rb_buf_free(&train);
    rb_buf_free(&val);
}

static void text_comes_back_from_shards(void **state) {
    (void)state;
    static const char *const tokenizers[] = {"bytes", TOKENIZERS "gpt2.json", TOKENIZERS "llama3.json",
                                             TOKENIZERS "qwen2.json"};
    rb_buf first = {0}, all = {0};
    numbered_text(&first, 0, 9000);
    write_plain("a.txt", &first);
    rb_buf_add(&all, first.data, first.len);
    first.len = 0;
    numbered_text(&first, 9000, 9000);
    write_gzip("b.txt.gz", &first);
    rb_buf_add(&all, first.data, first.len);
    const char *inputs[] = {"a.txt", "b.txt.gz"};
    for (int i = 0; i < 4; i++) {
        rb_prepare_result r = prepare(inputs, 2, "back", tokenizers[i], 0.1, 0);
        assert_int_equal(r.bytes[0] + r.bytes[1], all.len);
        double share = (double)r.bytes[1] / (double)all.len;
        if (share < 0.08 || share > 0.1)
            fail_msg("%s: validation share %g, asked for 0.1", tokenizers[i], share);
        check_text("back", tokenizers[i], &all);
    }
    rb_buf_free(&first);
    rb_buf_free(&all);
}

#ifdef RB_HAVE_SENTENCEPIECE
/* The words of a text, one a line. */
static rb_buf words_of(const rb_buf *text) {
    rb_buf out = {0};
    for (size_t i = 0; i <= text->len; i++) {
        bool gap = i == text->len || text->data[i] == ' ' || text->data[i] == '\n';
        if (!gap) rb_buf_add(&out, text->data + i, 1);
        if (gap && out.len && out.data[out.len - 1] != '\n') rb_buf_add(&out, "\n", 1);
    }
    return out;
}

/* SentencePiece puts a blank of its own before each piece; the words are the text's. */
static void words_come_back_from_sentencepiece(void **state) {
    (void)state;
    rb_buf text = {0}, part[2] = {0};
    numbered_text(&text, 0, 9000);
    write_plain("s.txt", &text);
    const char *inputs[] = {"s.txt"};
    prepare(inputs, 1, "pieces", TOKENIZERS "bpe.model", 0.1, 0);
    decode_part("pieces", "train", TOKENIZERS "bpe.model", &part[0]);
    decode_part("pieces", "val", TOKENIZERS "bpe.model", &part[1]);
    assert_true(part[0].len + part[1].len < text.len + text.len / 200);
    rb_buf want = words_of(&text), train = words_of(&part[0]), val = words_of(&part[1]);
    assert_int_equal(train.len + val.len, want.len);
    assert_true(interleave(&want, &train, &val));
    rb_buf *all[] = {&text, &part[0], &part[1], &want, &train, &val};
    for (int i = 0; i < 6; i++) rb_buf_free(all[i]);
}
#endif

static void arbitrary_bytes_come_back(void **state) {
    (void)state;
    rb_buf text = {0}, train = {0}, val = {0};
    for (uint64_t i = 0; i < 40000; i++) {
        char c = (char)rb_mix64(7, i);
        rb_buf_add(&text, &c, 1);
    }
    write_plain("noise.bin", &text);
    const char *inputs[] = {"noise.bin"};
    prepare(inputs, 1, "noise", TOKENIZERS "llama3.json", 0.1, 0);
    decode_part("noise", "train", TOKENIZERS "llama3.json", &train);
    decode_part("noise", "val", TOKENIZERS "llama3.json", &val);
    assert_int_equal(train.len + val.len, text.len);
    assert_true(train.len > 30000);
    /* The validation part is one or more stretches of the text; training is the text without them. */
    size_t same = 0;
    while (same < train.len && train.data[same] == text.data[same]) same++;
    assert_non_null(memmem(text.data, text.len, val.data, val.len < 200 ? val.len : 200));
    assert_true(same < train.len && !memcmp(text.data + same, val.data, 16));
    rb_buf_free(&text);
    rb_buf_free(&train);
    rb_buf_free(&val);
}

static int count_files(const char *dir, const char *start) {
    int n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) n += !strncmp(e->d_name, start, strlen(start));
    closedir(d);
    return n;
}

static void shards_are_filled_in_order(void **state) {
    (void)state;
    rb_buf text = {0};
    numbered_text(&text, 0, 3000);
    write_plain("c.txt", &text);
    const char *inputs[] = {"c.txt"};
    rb_prepare_result many = prepare(inputs, 1, "many", "bytes", 0.1, 1000);
    assert_int_equal(many.shards[0], (many.tokens[0] + 999) / 1000);
    assert_int_equal(count_files("many", "train-"), many.shards[0]);
    assert_int_equal(count_files("many", "val-"), many.shards[1]);
    assert_int_equal(count_files("many", ".partial"), 0);
    check_text("many", "bytes", &text);
    prepare(inputs, 1, "one", "bytes", 0.1, 0);
    int32_t *a, *b;
    int64_t n = read_part("many", "train", &a);
    assert_int_equal(read_part("one", "train", &b), n);
    assert_memory_equal(a, b, (size_t)n * sizeof *a);
    free(a);
    free(b);
    /* A smaller set over a larger one leaves none of the larger one's shards. */
    prepare(inputs, 1, "many", "bytes", 0.1, 0);
    assert_int_equal(count_files("many", "train-"), 1);
    check_text("many", "bytes", &text);
    rb_buf_free(&text);
}

static int64_t number(const json_t *j, const char *part, const char *key) {
    const json_t *o = part ? json_object_get(j, part) : j;
    assert_true(json_is_integer(json_object_get(o, key)));
    return json_integer_value(json_object_get(o, key));
}

static void meta_tells_tokens_and_bytes(void **state) {
    (void)state;
    rb_buf text = {0};
    numbered_text(&text, 0, 3000);
    write_plain("m.txt", &text);
    const char *inputs[] = {"m.txt", "m.txt"};
    rb_prepare_result r = prepare(inputs, 2, "meta", TOKENIZERS "llama3.json", 0.05, 0);
    json_t *j = json_load_file("meta/meta.json", 0, NULL);
    assert_non_null(j);
    assert_string_equal(json_string_value(json_object_get(j, "tokenizer")), TOKENIZERS "llama3.json");
    assert_int_equal(number(j, NULL, "vocab"), 609);
    int32_t *ids, marks = 0;
    static const char *const parts[] = {"train", "val"};
    for (int p = 0; p < 2; p++) {
        int64_t n = read_part("meta", parts[p], &ids);
        for (int64_t i = 0; i < n; i++) marks += ids[i] == 606;
        free(ids);
        assert_int_equal(number(j, parts[p], "tokens"), n);
        assert_int_equal(r.tokens[p], n);
        assert_int_equal(number(j, parts[p], "bytes"), r.bytes[p]);
    }
    assert_int_equal(number(j, "train", "bytes") + number(j, "val", "bytes"), 2 * text.len);
    double per_token = rb_data_bytes_per_token("x.json", "meta/val-*.bin,elsewhere/x.bin");
    assert_true(per_token == (double)r.bytes[1] / (double)r.tokens[1]);
    assert_true(isnan(rb_data_bytes_per_token("x.json", "val-*.bin")));
    assert_true(rb_data_bytes_per_token("bytes", "val-*.bin") == 1);
    assert_int_equal(marks, 2); /* <|begin_of_text|> before each file */
    json_decref(j);
    rb_buf_free(&text);
}

static resbm_status try_one(const char *input, const char *out, const char *tokenizer, rb_err *err) {
    rb_prepare_result r;
    rb_prepare_options o = {.inputs = &input, .count = 1, .out = out, .tokenizer = tokenizer};
    return rb_data_prepare(&o, &r, err);
}

/* What cannot be read is named, and the shards that were there before stay as they were. */
static void faults_leave_the_old_set(void **state) {
    (void)state;
    rb_err err;
    rb_buf text = {0}, tiny = {0};
    numbered_text(&text, 0, 9000);
    write_plain("good.txt", &text);
    assert_ok(try_one("good.txt", "kept", "bytes", &err), &err);
    assert_fails(try_one("missing.txt", "kept", "bytes", &err), RESBM_E_IO, "missing.txt", &err);
    assert_fails(try_one("kept", "kept", "bytes", &err), RESBM_E_IO, "kept", &err);
    write_gzip("cut.gz", &text);
    assert_int_equal(truncate("cut.gz", 5000), 0);
    assert_fails(try_one("cut.gz", "kept", "bytes", &err), RESBM_E_CORRUPT, "cut.gz", &err);
    rb_buf_puts(&tiny, "hello");
    write_plain("tiny.txt", &tiny);
    assert_fails(try_one("tiny.txt", "kept", "bytes", &err), RESBM_E_CONFIG, "5 bytes", &err);
    assert_fails(try_one("good.txt", "kept", "no.json", &err), RESBM_E_IO, "no.json", &err);
    assert_fails(try_one("good.txt", "kept", "words", &err), RESBM_E_CONFIG, "\"words\"", &err);
    assert_fails(try_one("good.txt", "tiny.txt/sub", "bytes", &err), RESBM_E_IO, "tiny.txt", &err);
    check_text("kept", "bytes", &text);
    assert_int_equal(count_files("kept", ".partial"), 0);
    rb_buf_free(&text);
    rb_buf_free(&tiny);
}

static void options_out_of_range_are_refused(void **state) {
    (void)state;
    static const double shares[] = {-0.1, 0.6, 1e300, (double)NAN};
    const char *input = "good.txt";
    rb_err err;
    rb_prepare_result r;
    for (int i = 0; i < 4; i++) {
        rb_prepare_options o = {&input, 1, "never", "bytes", .val_share = shares[i]};
        assert_fails(rb_data_prepare(&o, &r, &err), RESBM_E_ARG, "share", &err);
    }
    rb_prepare_options o = {&input, 1, "never", "bytes", .shard_tokens = -1};
    assert_fails(rb_data_prepare(&o, &r, &err), RESBM_E_ARG, "tokens per shard", &err);
    o = (rb_prepare_options){&input, 1, "never", "bytes", .max_bytes = -1};
    assert_fails(rb_data_prepare(&o, &r, &err), RESBM_E_ARG, "-1 bytes", &err);
    assert_int_not_equal(access("never", F_OK), 0);
}

static void only_so_many_bytes_are_taken(void **state) {
    (void)state;
    rb_err err;
    rb_buf text = {0};
    numbered_text(&text, 0, 9000);
    write_plain("long.txt", &text);
    const char *input = "long.txt";
    for (int64_t most = 5000; most <= 80000; most += 15000) {
        rb_prepare_result r;
        rb_prepare_options o = {&input, 1, "some", "bytes", .val_share = 0.2, .max_bytes = most};
        assert_ok(rb_data_prepare(&o, &r, &err), &err);
        assert_int_equal(r.bytes[0] + r.bytes[1], most);
    }
    rb_buf_free(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_comes_back_from_shards),
        cmocka_unit_test(arbitrary_bytes_come_back),
        cmocka_unit_test(shards_are_filled_in_order),
        cmocka_unit_test(meta_tells_tokens_and_bytes),
        cmocka_unit_test(faults_leave_the_old_set),
        cmocka_unit_test(options_out_of_range_are_refused),
        cmocka_unit_test(only_so_many_bytes_are_taken),
#ifdef RB_HAVE_SENTENCEPIECE
        cmocka_unit_test(words_come_back_from_sentencepiece),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
