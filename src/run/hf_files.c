/* Files of a tokenizer. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "core/buf.h"
#include "data/tokenizer_kinds.h"
#include "run/hf.h"

enum { FILE_LIMIT = 256 << 20 };

static const char *const carried[] = {
    "tokenizer.json",          "tokenizer.model",     "tokenizer_config.json",
    "special_tokens_map.json", "vocab.json",          "merges.txt",
    "added_tokens.json",       "chat_template.jinja", "chat_template.json",
    "generation_config.json"};

static resbm_status copy(const char *from, const char *to, rb_err *err) {
    rb_buf b = {0};
    resbm_status st = rb_read_file(from, FILE_LIMIT, &b, err);
    if (!st) st = rb_write_file_atomic(to, b.data ? b.data : "", b.len, err);
    rb_buf_free(&b);
    return st;
}

resbm_status rb_hf_copy_files(const char *from, const char *to, int *count, rb_err *err) {
    char a[PATH_MAX], b[PATH_MAX];
    *count = 0;
    for (size_t i = 0; i < sizeof carried / sizeof *carried; i++) {
        if (snprintf(a, sizeof a, "%s/%s", from, carried[i]) >= PATH_MAX ||
            snprintf(b, sizeof b, "%s/%s", to, carried[i]) >= PATH_MAX)
            return rb_fail(err, RESBM_E_ARG, "path too long: %.200s", from);
        if (access(a, R_OK)) continue;
        RB_TRY(copy(a, b, err));
        ++*count;
    }
    return RESBM_OK;
}

/* End of text in ASCII, which no text has: where a tokenizer without a token for that is of no use, as in evaluation
 * harnesses, this byte is it. It stands for itself in the vocabulary, since ByteLevel's character for it may be part
 * of a text. */
static const char end_of_text[] = "\3";

/* The character that ByteLevel writes for a byte: itself where it is visible, else one from U+0100 on. */
static int letter_of(int byte) {
    int n = 0;
    for (int b = 0; b < 256; b++) {
        bool visible = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        if (b == byte) return visible ? b : 256 + n;
        n += !visible;
    }
    return 0;
}

static json_t *bytes_vocab(void) {
    json_t *v = json_object();
    for (int b = 0; v && b < 256; b++) {
        int c = b == *end_of_text ? b : letter_of(b);
        char utf8[3] = {(char)c, 0, 0};
        if (c >= 128) utf8[0] = (char)(0xc0 | c >> 6), utf8[1] = (char)(0x80 | (c & 63));
        json_object_set_new(v, utf8, json_integer(b));
    }
    return v;
}

static resbm_status write_json(const char *dir, const char *name, json_t *j, rb_err *err) {
    char path[PATH_MAX];
    char *text = j ? json_dumps(j, JSON_INDENT(1)) : NULL;
    json_decref(j);
    if (!text) return rb_fail(err, RESBM_E_MEMORY, "no memory to write %s/%s", dir, name);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    resbm_status st = rb_write_file_atomic(path, text, strlen(text), err);
    free(text);
    return st;
}

resbm_status rb_hf_write_bytes_tokenizer(const char *to, rb_err *err) {
    json_t *level = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                              "trim_offsets", 1, "use_regex", 0);
    json_t *model = json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:[]}", "type", "BPE", "dropout",
                              "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0,
                              "byte_fallback", 0, "ignore_merges", 0, "vocab", bytes_vocab(), "merges");
    json_t *end = json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", *end_of_text, "content", end_of_text,
                            "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1);
    json_t *t = json_pack("{s:s, s:n, s:n, s:[o], s:n, s:O, s:n, s:o, s:o}", "version", "1.0", "truncation",
                          "padding", "added_tokens", end, "normalizer", "pre_tokenizer", level,
                          "post_processor", "decoder", level, "model", model);
    RB_TRY(write_json(to, "tokenizer.json", t, err));
    return write_json(to, "tokenizer_config.json",
                      json_pack("{s:s, s:b, s:s, s:s}", "tokenizer_class", "PreTrainedTokenizerFast",
                                "clean_up_tokenization_spaces", 0, "eos_token", end_of_text, "pad_token",
                                end_of_text),
                      err);
}

/* Marks of a text; padding is the end's. transformers read a SentencePiece model otherwise than it says unless this
 * class is named. */
static json_t *tokenizer_config(const rb_tokenizer *t, bool model) {
    json_t *j =
        json_pack("{s:s, s:b}", "tokenizer_class", model ? "SentencePieceBackend" : "PreTrainedTokenizerFast",
                  "clean_up_tokenization_spaces", 0);
    const char *bos = t->bos >= 0 && t->kind->called ? t->kind->called(t, t->bos) : NULL;
    const char *eos = t->eos >= 0 && t->kind->called ? t->kind->called(t, t->eos) : NULL;
    if (bos) json_object_set_new(j, "bos_token", json_string(bos));
    if (eos) json_object_set_new(j, "eos_token", json_string(eos));
    if (eos) json_object_set_new(j, "pad_token", json_string(eos));
    return j;
}

resbm_status rb_hf_put_tokenizer(const char *spec, const char *to, int *count, rb_err *err) {
    bool model = rb_spec_ends(spec, ".model");
    char file[PATH_MAX], config[PATH_MAX];
    if (snprintf(config, sizeof config, "%s/tokenizer_config.json", to) >= PATH_MAX ||
        snprintf(file, sizeof file, "%s/tokenizer.%s", to, model ? "model" : "json") >= PATH_MAX)
        return rb_fail(err, RESBM_E_ARG, "path too long: %.200s", to);
    if (access(spec, R_OK) || !access(config, F_OK)) return RESBM_OK;
    rb_tokenizer t;
    rb_err unread; /* this program's bytes tokenizer as a file is one that it does not read itself */
    RB_TRY(copy(spec, file, err));
    ++*count;
    if (rb_tokenizer_open(spec, &t, &unread)) return RESBM_OK;
    resbm_status st = write_json(to, "tokenizer_config.json", tokenizer_config(&t, model), err);
    rb_tokenizer_close(&t);
    ++*count;
    return st;
}
