#include "data/tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include "data/tokenizer_kinds.h"

const rb_tokenizer_kind *const rb_tokenizers[] = {
    &rb_tokenizer_bytes,
    &rb_tokenizer_sentencepiece,
    &rb_tokenizer_huggingface,
    NULL,
};

resbm_status rb_ids_add(rb_ids *a, int32_t id, rb_err *err) {
    if (a->len == a->cap) {
        int64_t cap = a->cap ? 2 * a->cap : 1024;
        int32_t *p = realloc(a->data, (size_t)cap * sizeof *p);
        if (!p) return rb_fail(err, RESBM_E_MEMORY, "no memory for %lld token ids", (long long)cap);
        a->data = p;
        a->cap = cap;
    }
    a->data[a->len++] = id;
    return RESBM_OK;
}

void rb_ids_free(rb_ids *a) {
    free(a->data);
    *a = (rb_ids){0};
}

bool rb_spec_ends(const char *spec, const char *ending) {
    size_t n = strlen(spec), k = strlen(ending);
    return n >= k && !strcmp(spec + n - k, ending);
}

const rb_tokenizer_kind *rb_tokenizer_find(const char *spec) {
    for (int i = 0; rb_tokenizers[i]; i++)
        if (rb_tokenizers[i]->accepts(spec)) return rb_tokenizers[i];
    return NULL;
}

resbm_status rb_tokenizer_open(const char *spec, rb_tokenizer *out, rb_err *err) {
    *out = (rb_tokenizer){.kind = rb_tokenizer_find(spec), .bos = -1, .eos = -1};
    if (out->kind) return out->kind->open(spec, out, err);
    return rb_fail(
        err, RESBM_E_CONFIG,
        "tokenizer \"%s\": it must be bytes, or end in .model (SentencePiece) or .json (Hugging Face)", spec);
}

void rb_tokenizer_close(rb_tokenizer *t) {
    if (t->kind) t->kind->close(t);
    *t = (rb_tokenizer){.bos = -1, .eos = -1};
}

resbm_status rb_tokenizer_encode(const rb_tokenizer *t, const char *text, size_t n, rb_ids *out,
                                 rb_err *err) {
    return t->kind->encode(t, text, n, out, err);
}

resbm_status rb_tokenizer_decode(const rb_tokenizer *t, int32_t id, rb_buf *out, rb_err *err) {
    if (id < 0 || id >= t->vocab)
        return rb_fail(err, RESBM_E_ARG, "token id %d: the vocabulary has %lld", id, (long long)t->vocab);
    return t->kind->decode(t, id, out, err);
}

int rb_tokenizer_token_bytes(const rb_tokenizer *t) {
    return t->vocab <= UINT16_MAX + 1 ? 2 : 4;
}

size_t rb_utf8_whole(const char *p, size_t n) {
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char c = (unsigned char)p[n - back];
        if ((c & 0xc0) == 0x80) continue;
        size_t whole = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
        return whole > back ? n - back : n;
    }
    return n;
}
