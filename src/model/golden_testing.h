/* What tests against whole models by PyTorch share: the records of tests/golden/make_model.py's files, its
 * weights, its small models. */
#ifndef RB_MODEL_GOLDEN_TESTING_H
#define RB_MODEL_GOLDEN_TESTING_H

#include "core/buf.h"
#include "core/bytes.h"
#include "model/testing.h"

typedef struct record {
    char name[96];
    uint32_t count;
    const char *data;
} record;

static inline float number(const record *r, uint32_t i) {
    uint32_t u = rb_get32((const uint8_t *)r->data + 4 * i);
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline int read_records(const rb_buf *file, record *out, int most) {
    size_t at = 0;
    int n = 0;
    for (; at < file->len; n++) {
        uint32_t length = rb_get32((const uint8_t *)file->data + at);
        assert_true(n < most && length < sizeof out->name);
        memcpy(out[n].name, file->data + at + 4, length);
        out[n].name[length] = 0;
        out[n].count = rb_get32((const uint8_t *)file->data + at + 4 + length);
        out[n].data = file->data + at + 8 + length;
        at += 8 + length + 4 * (size_t)out[n].count;
    }
    assert_int_equal(at, file->len);
    return n;
}

/* The same numbers as make_model.py's weight(). */
static inline void make_weight(const char *name, float *w, int64_t n) {
    uint64_t state = 0xCBF29CE484222325u;
    for (const char *c = name; *c; c++) state = (state ^ (uint8_t)*c) * 0x100000001B3u;
    for (int64_t i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        w[i] = (float)(((double)(state >> 40) / 16777216.0 - 0.5) / 2 + (strstr(name, "norm") ? 1 : 0));
    }
}

static inline void configure(world *w, const record *c) {
    int64_t v[13];
    assert_string_equal(c->name, "config");
    assert_int_equal(c->count, 15);
    for (uint32_t i = 0; i < 13; i++) v[i] = (int64_t)number(c, i);
    *w = (world){.B = v[0], .T = v[1]};
    w->model = (rb_model_config){.d = v[2],
                                 .layers = v[3],
                                 .heads = v[4],
                                 .kv_heads = v[5],
                                 .ffn = v[6],
                                 .vocab = v[7],
                                 .segments = v[8],
                                 .context = v[1],
                                 .qk_norm = v[11],
                                 .tied = v[12],
                                 .rope_theta = number(c, 13),
                                 .norm_eps = number(c, 14)};
    w->boundary = (rb_boundary_config){.kind = "residual",
                                       .k = v[9],
                                       .hidden = v[10],
                                       .offset = RB_OFFSET_NONE,
                                       .codec_fwd = "f32",
                                       .codec_bwd = "f32"};
}

/* One microbatch: B rows of T+1 ids, beginning at number `at` of the record. */
static inline void load_tokens(world *w, const record *tokens, int64_t at) {
    int32_t ids[256], next[256];
    assert_true(w->B * w->T <= 256 && at + w->B * (w->T + 1) <= tokens->count);
    for (int64_t b = 0; b < w->B; b++)
        for (int64_t t = 0; t < w->T; t++) {
            ids[b * w->T + t] = (int32_t)number(tokens, (uint32_t)(at + b * (w->T + 1) + t));
            next[b * w->T + t] = (int32_t)number(tokens, (uint32_t)(at + b * (w->T + 1) + t + 1));
        }
    put(w, w->tokens, ids, (size_t)(w->B * w->T) * 4);
    put(w, w->targets, next, (size_t)(w->B * w->T) * 4);
}

/* Every weight from its name. */
static inline void load_weights(world *w) {
    for (int r = 0; r < w->table.count; r++) {
        int64_t n = rb_tensor_count(&w->table.rows[r]);
        float *x = malloc((size_t)n * 4);
        make_weight(w->table.rows[r].name, x, n);
        put(w, rb_stage_weight(w->stage, r).data, x, (size_t)n * 4);
        free(x);
    }
}

#endif
