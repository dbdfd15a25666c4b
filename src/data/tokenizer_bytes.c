#include <string.h>
#include "data/tokenizer_kinds.h"

static bool accepts(const char *spec) {
    return !strcmp(spec, "bytes");
}

static resbm_status open_bytes(const char *spec, rb_tokenizer *t, rb_err *err) {
    (void)spec, (void)err;
    t->vocab = 256;
    return RESBM_OK;
}

static void close_bytes(rb_tokenizer *t) {
    (void)t;
}

static resbm_status encode(const rb_tokenizer *t, const char *text, size_t n, rb_ids *out, rb_err *err) {
    (void)t;
    for (size_t i = 0; i < n; i++) RB_TRY(rb_ids_add(out, (uint8_t)text[i], err));
    return RESBM_OK;
}

static resbm_status decode(const rb_tokenizer *t, int32_t id, rb_buf *out, rb_err *err) {
    (void)t;
    uint8_t c = (uint8_t)id;
    rb_buf_add(out, &c, 1);
    return rb_buf_status(out, err);
}

const rb_tokenizer_kind rb_tokenizer_bytes = {
    .name = "bytes",
    .summary = "every byte is a token; vocabulary 256",
    .accepts = accepts,
    .open = open_bytes,
    .close = close_bytes,
    .encode = encode,
    .decode = decode,
};
