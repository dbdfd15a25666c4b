/* Hugging Face's tokenizer.json, of the kind GPT-2 and Llama 3 use: byte-level BPE whose words come from a
 * known regular expression. What this file's reader does not understand it refuses by name; only "truncation"
 * and "padding", which are about batches, are passed over. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include "data/added_tokens.h"
#include "data/bpe.h"
#include "data/pretokenize.h"
#include "data/tokenizer_kinds.h"
#include "data/utf8.h"

enum { max_file = 64 << 20, max_vocab = 1 << 22 };

typedef struct huggingface {
    rb_bpe *bpe;
    rb_pattern pattern;
    rb_added_tokens added;
} huggingface;

static const char *type_of(const json_t *o) {
    const char *type = json_string_value(json_object_get(o, "type"));
    return type ? type : json_is_object(o) ? "(without a type)" : "null";
}

static bool is_type(const json_t *o, const char *type) {
    return !strcmp(type_of(o), type);
}

/* Byte-level vocabularies print each byte as a character: visible ones of Latin-1 as themselves, the others
 * in order from U+0100. Returns the byte of such a character, -1 for any other. */
static int byte_of(uint32_t c) {
    if ((c >= '!' && c <= '~') || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff)) return (int)c;
    if (c < 0x100 || c >= 0x144) return -1;
    int k = (int)c - 0x100;
    return k < 33 ? k : k < 67 ? k - 33 + 0x7f : 0xad;
}

/* Text of a vocabulary entry to bytes in place of it; false when a character stands for no byte. */
static bool unmap(const char *text, rb_buf *out) {
    const unsigned char *p = (const unsigned char *)text;
    size_t n = strlen(text);
    out->len = 0;
    while (n) {
        uint32_t c;
        size_t k = rb_utf8_decode(p, n, &c);
        int byte = k ? byte_of(c) : -1;
        if (byte < 0) return false;
        char one = (char)byte;
        rb_buf_add(out, &one, 1);
        p += k;
        n -= k;
    }
    return true;
}

static resbm_status count_ids(const json_t *vocab, rb_tokenizer *t, rb_err *err) {
    const huggingface *h = t->state;
    const char *text;
    json_t *id;
    json_object_foreach((json_t *)vocab, text, id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= max_vocab)
            return rb_fail(err, RESBM_E_FORMAT, "vocabulary entry \"%.60s\" has no id from 0 to %d", text,
                           max_vocab - 1);
        if (json_integer_value(id) >= t->vocab) t->vocab = json_integer_value(id) + 1;
    }
    for (int i = 0; i < h->added.count; i++)
        if (h->added.item[i].id >= t->vocab) t->vocab = h->added.item[i].id + 1;
    return RESBM_OK;
}

/* Gives an entry its bytes. An added token stands for its own text: where its characters would read as other
 * bytes, it gets none. */
static resbm_status load_entry(huggingface *h, const char *text, int32_t id, rb_buf *bytes, rb_err *err) {
    const rb_added_token *added = rb_added_by_id(&h->added, id);
    if (added && strcmp(added->text, text))
        return rb_fail(err, RESBM_E_FORMAT,
                       "id %d is \"%.60s\" in the vocabulary and \"%.60s\" among the added tokens", id, text,
                       added->text);
    bool mapped = *text && unmap(text, bytes);
    RB_TRY(rb_buf_status(bytes, err));
    if (added && (!mapped || bytes->len != added->len || memcmp(bytes->data, added->text, added->len)))
        return RESBM_OK;
    if (!mapped)
        return rb_fail(err, RESBM_E_FORMAT,
                       "vocabulary entry \"%.60s\" (id %d) is not written in byte-level characters", text,
                       id);
    return rb_bpe_set(h->bpe, id, bytes->data, bytes->len, err);
}

static resbm_status load_vocab(const json_t *vocab, rb_tokenizer *t, rb_err *err) {
    rb_buf bytes = {0};
    const char *text;
    json_t *value;
    resbm_status st = RESBM_OK;
    json_object_foreach((json_t *)vocab, text, value) {
        st = load_entry(t->state, text, (int32_t)json_integer_value(value), &bytes, err);
        if (st) break;
    }
    rb_buf_free(&bytes);
    return st;
}

/* An added token that the vocabulary also lists must have the same id there. */
static resbm_status check_added(const json_t *vocab, const huggingface *h, rb_err *err) {
    for (int i = 0; i < h->added.count; i++) {
        const rb_added_token *a = &h->added.item[i];
        const json_t *id = json_object_get(vocab, a->text);
        if (id && json_integer_value(id) != a->id)
            return rb_fail(err, RESBM_E_FORMAT,
                           "token \"%.60s\" has id %d among the added tokens and %lld in the vocabulary",
                           a->text, a->id, (long long)json_integer_value(id));
    }
    return RESBM_OK;
}

static int64_t id_of(const json_t *vocab, const char *text, size_t n) {
    char small[512];
    if (n >= sizeof small) return -1;
    memcpy(small, text, n);
    small[n] = 0;
    const json_t *id = json_object_get(vocab, small);
    return id ? json_integer_value(id) : -1;
}

/* Merge number i: "a b" or ["a", "b"]. */
static resbm_status load_merge(const json_t *vocab, const json_t *m, size_t i, rb_bpe *bpe, rb_err *err) {
    const char *left = json_string_value(json_is_array(m) ? json_array_get(m, 0) : m);
    const char *blank = left && json_is_string(m) ? strchr(left, ' ') : NULL;
    const char *right = json_is_array(m) ? json_string_value(json_array_get(m, 1)) : blank ? blank + 1 : NULL;
    if (!left || !right || (json_is_array(m) && json_array_size(m) != 2) || (blank && strchr(right, ' ')))
        return rb_fail(err, RESBM_E_FORMAT, "merge %zu is no pair of tokens", i);
    size_t nl = blank ? (size_t)(blank - left) : strlen(left), nr = strlen(right);
    char both[512];
    int64_t joined = -1, a = id_of(vocab, left, nl), b = id_of(vocab, right, nr);
    if (nl + nr < sizeof both) {
        memcpy(both, left, nl);
        memcpy(both + nl, right, nr);
        joined = id_of(vocab, both, nl + nr);
    }
    if (a < 0 || b < 0 || joined < 0)
        return rb_fail(err, RESBM_E_FORMAT, "merge %zu (\"%.*s\" and \"%.60s\"): %s is not in the vocabulary",
                       i, nl < 60 ? (int)nl : 60, left, right,
                       a < 0   ? "the first"
                       : b < 0 ? "the second"
                               : "what they join to");
    size_t bytes;
    if (!rb_bpe_bytes(bpe, (int32_t)joined, &bytes))
        return rb_fail(
            err, RESBM_E_FORMAT,
            "merge %zu (\"%.*s\" and \"%.60s\") joins to an added token that stands for other text", i,
            nl < 60 ? (int)nl : 60, left, right);
    rb_bpe_merge(bpe, (int32_t)a, (int32_t)b, (int32_t)joined);
    return RESBM_OK;
}

static resbm_status check_model(const json_t *m, rb_err *err) {
    static const char *const unset[] = {"continuing_subword_prefix", "end_of_word_suffix", "byte_fallback",
                                        "dropout"};
    if (!is_type(m, "BPE"))
        return rb_fail(err, RESBM_E_UNSUPPORTED, "its model is %s; only BPE is read", type_of(m));
    for (int i = 0; i < 4; i++) {
        const json_t *v = json_object_get(m, unset[i]);
        if (!v || json_is_null(v) || json_is_false(v) || (json_is_string(v) && !*json_string_value(v)) ||
            (json_is_number(v) && json_number_value(v) == 0))
            continue;
        return rb_fail(err, RESBM_E_UNSUPPORTED, "its model sets \"%s\", which byte-level BPE does not use",
                       unset[i]);
    }
    if (!json_is_object(json_object_get(m, "vocab")) || !json_is_array(json_object_get(m, "merges")))
        return rb_fail(err, RESBM_E_FORMAT, "its model lacks \"vocab\" or \"merges\"");
    return RESBM_OK;
}

static resbm_status load_model(const json_t *m, rb_tokenizer *t, rb_err *err) {
    huggingface *h = t->state;
    RB_TRY(check_model(m, err));
    const json_t *vocab = json_object_get(m, "vocab"), *merges = json_object_get(m, "merges");
    size_t n = json_array_size(merges);
    RB_TRY(count_ids(vocab, t, err));
    RB_TRY(check_added(vocab, h, err));
    RB_TRY(rb_bpe_new(t->vocab, (int64_t)n, &h->bpe, err));
    RB_TRY(load_vocab(vocab, t, err));
    for (size_t i = 0; i < n; i++) RB_TRY(load_merge(vocab, json_array_get(merges, i), i, h->bpe, err));
    return rb_bpe_ready(h->bpe, json_is_true(json_object_get(m, "ignore_merges")), err);
}

static resbm_status load_byte_level(const json_t *o, bool *use_regex, rb_err *err) {
    if (!is_type(o, "ByteLevel"))
        return rb_fail(err, RESBM_E_UNSUPPORTED,
                       "its pre-tokenizer is %s; read are ByteLevel, and Split followed by ByteLevel",
                       type_of(o));
    const json_t *prefix = json_object_get(o, "add_prefix_space"), *regex = json_object_get(o, "use_regex");
    if (!json_is_false(prefix))
        return rb_fail(err, RESBM_E_UNSUPPORTED,
                       "its pre-tokenizer sets \"add_prefix_space\", which is not supported");
    *use_regex = !json_is_false(regex);
    return RESBM_OK;
}

static resbm_status load_split(const json_t *o, huggingface *h, rb_err *err) {
    const char *behaviour = json_string_value(json_object_get(o, "behavior"));
    const char *regex = json_string_value(json_object_get(json_object_get(o, "pattern"), "Regex"));
    if (!is_type(o, "Split") || !regex || !behaviour || strcmp(behaviour, "Isolated") ||
        json_is_true(json_object_get(o, "invert")))
        return rb_fail(err, RESBM_E_UNSUPPORTED,
                       "its pre-tokenizer starts with %s; read is a Split by a regular expression with "
                       "behavior Isolated",
                       type_of(o));
    h->pattern = rb_pattern_of_regex(regex);
    if (h->pattern == RB_PATTERN_NONE)
        return rb_fail(
            err, RESBM_E_UNSUPPORTED,
            "its pre-tokenizer splits by %.300s; known are the expressions of GPT-2, Llama 3 and Qwen 2",
            regex);
    return RESBM_OK;
}

static resbm_status load_pre_tokenizer(const json_t *o, huggingface *h, rb_err *err) {
    bool use_regex;
    if (!is_type(o, "Sequence")) {
        RB_TRY(load_byte_level(o, &use_regex, err));
        if (!use_regex)
            return rb_fail(err, RESBM_E_UNSUPPORTED,
                           "its pre-tokenizer is ByteLevel without a regular expression");
        h->pattern = RB_PATTERN_GPT2;
        return RESBM_OK;
    }
    const json_t *list = json_object_get(o, "pretokenizers");
    if (json_array_size(list) != 2)
        return rb_fail(err, RESBM_E_UNSUPPORTED,
                       "its pre-tokenizer is a sequence of %zu; read are Split and ByteLevel",
                       json_array_size(list));
    RB_TRY(load_split(json_array_get(list, 0), h, err));
    RB_TRY(load_byte_level(json_array_get(list, 1), &use_regex, err));
    return use_regex ? rb_fail(err, RESBM_E_UNSUPPORTED,
                               "its pre-tokenizer splits twice: by a Split and by ByteLevel's own "
                               "regular expression")
                     : RESBM_OK;
}

/* What the template puts before and behind one text becomes bos and eos. */
static resbm_status load_template(const json_t *o, rb_tokenizer *t, rb_err *err) {
    const json_t *piece;
    bool behind = false;
    size_t i;
    json_array_foreach(json_object_get(o, "single"), i, piece) {
        const char *name = json_string_value(json_object_get(json_object_get(piece, "SpecialToken"), "id"));
        if (!name) {
            behind = true;
            continue;
        }
        int32_t id = rb_added_special(&((huggingface *)t->state)->added, name);
        if (id < 0)
            return rb_fail(err, RESBM_E_FORMAT,
                           "its post-processor adds \"%.60s\", which is no special token", name);
        *(behind ? &t->eos : &t->bos) = id;
    }
    return RESBM_OK;
}

static resbm_status load_post_processor(const json_t *o, rb_tokenizer *t, int depth, rb_err *err) {
    if (!o || json_is_null(o) || is_type(o, "ByteLevel")) return RESBM_OK;
    if (is_type(o, "TemplateProcessing")) return load_template(o, t, err);
    if (!is_type(o, "Sequence") || depth > 4)
        return rb_fail(err, RESBM_E_UNSUPPORTED,
                       "its post-processor is %s; read are ByteLevel and TemplateProcessing", type_of(o));
    const json_t *one;
    size_t i;
    json_array_foreach(json_object_get(o, "processors"), i, one)
        RB_TRY(load_post_processor(one, t, depth + 1, err));
    return RESBM_OK;
}

/* The file does not say which token ends a text: these names do. */
static int32_t usual_eos(const rb_added_tokens *a) {
    static const char *const names[] = {"<|endoftext|>", "<|end_of_text|>", "</s>"};
    int32_t id = -1;
    for (int i = 0; i < 3 && id < 0; i++) id = rb_added_special(a, names[i]);
    return id;
}

static resbm_status load(const json_t *root, rb_tokenizer *t, rb_err *err) {
    huggingface *h = t->state;
    const json_t *normalizer = json_object_get(root, "normalizer");
    if (!json_is_object(root)) return rb_fail(err, RESBM_E_FORMAT, "it is no JSON object");
    if (normalizer && !json_is_null(normalizer))
        return rb_fail(err, RESBM_E_UNSUPPORTED, "it has a normalizer (%s); none is supported",
                       type_of(normalizer));
    RB_TRY(rb_added_load(&h->added, json_object_get(root, "added_tokens"), max_vocab, err));
    RB_TRY(load_pre_tokenizer(json_object_get(root, "pre_tokenizer"), h, err));
    t->eos = usual_eos(&h->added);
    RB_TRY(load_post_processor(json_object_get(root, "post_processor"), t, 0, err));
    return load_model(json_object_get(root, "model"), t, err);
}

static void close_huggingface(rb_tokenizer *t) {
    huggingface *h = t->state;
    if (!h) return;
    rb_bpe_free(h->bpe);
    rb_added_free(&h->added);
    free(h);
    t->state = NULL;
}

resbm_status rb_huggingface_parse(const char *json, size_t n, rb_tokenizer *t, rb_err *err) {
    json_error_t fault;
    *t = (rb_tokenizer){
        .kind = &rb_tokenizer_huggingface, .eos = -1, .bos = -1, .state = calloc(1, sizeof(huggingface))};
    if (!t->state) return rb_fail(err, RESBM_E_MEMORY, "no memory for a tokenizer");
    json_t *root = json_loadb(json, n, JSON_REJECT_DUPLICATES, &fault);
    resbm_status st =
        root ? load(root, t, err) : rb_fail(err, RESBM_E_FORMAT, "line %d: %s", fault.line, fault.text);
    json_decref(root);
    if (st) close_huggingface(t);
    return st;
}

static bool accepts(const char *spec) {
    return rb_spec_ends(spec, ".json");
}

static resbm_status open_huggingface(const char *spec, rb_tokenizer *t, rb_err *err) {
    rb_buf file = {0};
    resbm_status st = rb_read_file(spec, max_file, &file, err);
    if (!st) {
        st = rb_huggingface_parse(file.data, file.len, t, err);
        if (st) rb_err_context(err, st, "tokenizer %s: ", spec);
    }
    rb_buf_free(&file);
    return st;
}

static resbm_status encode_words(huggingface *h, const char *text, size_t n, rb_ids *out, rb_err *err) {
    while (n) {
        size_t k = rb_pattern_word(h->pattern, text, n);
        RB_TRY(rb_bpe_word(h->bpe, text, k, out, err));
        text += k;
        n -= k;
    }
    return RESBM_OK;
}

/* Cuts the added tokens of one group out and hands what lies between to the next: exact ones, normalized
 * ones, words. */
static resbm_status encode_group(huggingface *h, int group, const char *text, size_t n, rb_ids *out,
                                 rb_err *err) {
    if (group == 2) return encode_words(h, text, n, out, err);
    while (n) {
        size_t at;
        const rb_added_token *a = rb_added_find(&h->added, group, text, n, &at);
        RB_TRY(encode_group(h, group + 1, text, at, out, err));
        if (a) RB_TRY(rb_ids_add(out, a->id, err));
        at += a ? a->len : 0;
        text += at;
        n -= at;
    }
    return RESBM_OK;
}

static resbm_status encode(const rb_tokenizer *t, const char *text, size_t n, rb_ids *out, rb_err *err) {
    return encode_group(t->state, 0, text, n, out, err);
}

static resbm_status decode(const rb_tokenizer *t, int32_t id, rb_buf *out, rb_err *err) {
    const huggingface *h = t->state;
    const rb_added_token *a = rb_added_by_id(&h->added, id);
    size_t n;
    const char *bytes = a ? a->text : rb_bpe_bytes(h->bpe, id, &n);
    if (a) n = a->special ? 0 : a->len;
    if (bytes) rb_buf_add(out, bytes, n);
    return rb_buf_status(out, err);
}

static const char *called(const rb_tokenizer *t, int32_t id) {
    const rb_added_token *a = rb_added_by_id(&((const huggingface *)t->state)->added, id);
    return a ? a->text : NULL;
}

const rb_tokenizer_kind rb_tokenizer_huggingface = {
    .name = "huggingface",
    .summary = "byte-level BPE from a Hugging Face tokenizer.json",
    .accepts = accepts,
    .open = open_huggingface,
    .close = close_huggingface,
    .encode = encode,
    .decode = decode,
    .called = called,
};
