/* A tokenizer.json and a text: any bytes are refused with a message or give a tokenizer whose ids lie in its
 * vocabulary and decode to the text they came from. The input is the file, a zero byte, and the text; without
 * a zero byte the file is its own text. */
#include "data/tokenizer_kinds.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The bytes of the ids must be the text, but for special tokens, which decode to nothing: those are skipped
 * by their absence, so what comes back is never longer and equals the text when nothing was skipped. */
static void check_text(const rb_tokenizer *t, const char *text, size_t n) {
    rb_err err;
    rb_ids ids = {0};
    rb_buf back = {0};
    bool silent = false;
    if (rb_tokenizer_encode(t, text, n, &ids, &err) != RESBM_OK) __builtin_trap();
    for (int64_t i = 0; i < ids.len; i++) {
        size_t before = back.len;
        if (rb_tokenizer_decode(t, ids.data[i], &back, &err) != RESBM_OK) __builtin_trap();
        silent = silent || back.len == before;
    }
    if (silent ? back.len >= n : back.len != n || (n && memcmp(back.data, text, n))) __builtin_trap();
    rb_buf_free(&back);
    rb_ids_free(&ids);
}

static void check_edges(const rb_tokenizer *t) {
    rb_err err;
    rb_buf out = {0};
    for (int64_t id = t->vocab - 1; id >= 0 && id > t->vocab - 2000; id--)
        if (rb_tokenizer_decode(t, (int32_t)id, &out, &err) != RESBM_OK) __builtin_trap();
    if (rb_tokenizer_decode(t, -1, &out, &err) == RESBM_OK) __builtin_trap();
    if (rb_tokenizer_decode(t, (int32_t)t->vocab, &out, &err) == RESBM_OK) __builtin_trap();
    if (t->bos >= t->vocab || t->eos >= t->vocab || t->bos < -1 || t->eos < -1) __builtin_trap();
    rb_buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    rb_err err;
    rb_tokenizer t;
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t n = zero ? (size_t)(zero - data) : size;
    const uint8_t *text = zero ? zero + 1 : data;
    if (rb_huggingface_parse((const char *)data, n, &t, &err) != RESBM_OK) return 0;
    check_text(&t, (const char *)text, zero ? size - n - 1 : size);
    check_edges(&t);
    rb_tokenizer_close(&t);
    return 0;
}
