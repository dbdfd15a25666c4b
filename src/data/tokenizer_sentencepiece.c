/* SentencePiece models, through libsentencepiece. A model's own normalisation applies (many turn line ends
 * into blanks), and most put a blank before a text: decoding from a text's first id gives that blank too. Ids
 * that stand for no text (control, unknown) decode to nothing. */
#include <string.h>
#include "data/tokenizer_kinds.h"

static bool accepts(const char *spec) {
    return rb_spec_ends(spec, ".model");
}

#ifdef RB_HAVE_SENTENCEPIECE
#define SUMMARY "a SentencePiece .model"

#include <stdlib.h>
#include "data/sentencepiece_shim.h"

enum { max_file = 64 << 20 };

static resbm_status load(const char *spec, const rb_buf *file, rb_tokenizer *t, rb_err *err) {
    char reason[300] = "";
    rb_spm *m = rb_spm_open(file->data, file->len, reason, sizeof reason);
    if (!m)
        return rb_fail(err, RESBM_E_FORMAT, "tokenizer %s (%zu bytes) is no SentencePiece model: %s", spec,
                       file->len, reason);
    t->state = m;
    t->vocab = rb_spm_vocab(m);
    t->bos = rb_spm_bos(m);
    t->eos = rb_spm_eos(m);
    return RESBM_OK;
}

static resbm_status open_model(const char *spec, rb_tokenizer *t, rb_err *err) {
    rb_buf file = {0};
    resbm_status st = rb_read_file(spec, max_file, &file, err);
    if (!st) st = load(spec, &file, t, err);
    rb_buf_free(&file);
    return st;
}

static void close_model(rb_tokenizer *t) {
    if (t->state) rb_spm_close(t->state);
    t->state = NULL;
}

typedef struct taker {
    rb_ids *out;
    rb_err *err;
} taker;

static int take(void *ctx, int id) {
    taker *k = ctx;
    return (int)rb_ids_add(k->out, id, k->err);
}

static resbm_status encode(const rb_tokenizer *t, const char *text, size_t n, rb_ids *out, rb_err *err) {
    taker k = {out, err};
    int bad = rb_spm_encode(t->state, text, n, take, &k);
    if (bad < 0)
        return rb_fail(err, RESBM_E_INTERNAL, "SentencePiece could not encode a text of %zu bytes", n);
    return (resbm_status)bad;
}

static resbm_status decode(const rb_tokenizer *t, int32_t id, rb_buf *out, rb_err *err) {
    static const char blank[] = "\xe2\x96\x81"; /* U+2581 */
    const char *p;
    size_t n;
    rb_spm_piece what = rb_spm_piece_of(t->state, id, &p, &n);
    if (what == RB_SPM_BYTE && n == 6) {
        char hex[3] = {p[3], p[4], 0}, one = (char)strtol(hex, NULL, 16);
        rb_buf_add(out, &one, 1);
    }
    while (what == RB_SPM_TEXT && n) {
        bool gap = n >= 3 && !memcmp(p, blank, 3);
        rb_buf_add(out, gap ? " " : p, 1);
        p += gap ? 3 : 1;
        n -= gap ? 3 : 1;
    }
    return rb_buf_status(out, err);
}

static const char *called(const rb_tokenizer *t, int32_t id) {
    const char *p;
    size_t n;
    rb_spm_piece_of(t->state, id, &p, &n);
    return p; /* of a std::string, which ends in a zero */
}

#else
#define SUMMARY "(this build lacks libsentencepiece)"

static resbm_status open_model(const char *spec, rb_tokenizer *t, rb_err *err) {
    (void)t;
    return rb_fail(
        err, RESBM_E_UNSUPPORTED,
        "tokenizer %s: this build lacks SentencePiece; install libsentencepiece-dev and build again", spec);
}

static void close_model(rb_tokenizer *t) {
    (void)t;
}

static resbm_status encode(const rb_tokenizer *t, const char *text, size_t n, rb_ids *out, rb_err *err) {
    (void)t, (void)text, (void)n, (void)out;
    return rb_fail(err, RESBM_E_UNSUPPORTED, "this build lacks SentencePiece");
}

static resbm_status decode(const rb_tokenizer *t, int32_t id, rb_buf *out, rb_err *err) {
    (void)t, (void)id, (void)out;
    return rb_fail(err, RESBM_E_UNSUPPORTED, "this build lacks SentencePiece");
}

static const char *called(const rb_tokenizer *t, int32_t id) {
    (void)t, (void)id;
    return NULL;
}

#endif

const rb_tokenizer_kind rb_tokenizer_sentencepiece = {
    .name = "sentencepiece",
    .summary = SUMMARY,
    .accepts = accepts,
    .open = open_model,
    .close = close_model,
    .encode = encode,
    .decode = decode,
    .called = called,
};
