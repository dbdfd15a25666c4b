/* config.json, both ways. */
#include <stdio.h>
#include <string.h>
#include "run/hf.h"

/* What a checkpoint of each type has that its configuration does not say. */
typedef struct family {
    const char *type;
    bool qk_norm, qkv_bias;
} family;
static const family families[] = {
    {"llama", false, false}, {"mistral", false, false}, {"qwen2", false, true}, {"qwen3", true, false}};

typedef struct reader {
    const json_t *j;
    const char *name;
    rb_config *c;
    rb_err *err;
} reader;

static resbm_status refuse(const reader *r, const char *what, const char *remedy) {
    return rb_fail(r->err, RESBM_E_CONFIG, "%s: %s; %s", r->name, what, remedy);
}

static const json_t *there(const json_t *j, const char *key) {
    const json_t *v = json_object_get(j, key);
    return json_is_null(v) ? NULL : v;
}

static const char *word(const json_t *j, const char *key, const char *fallback) {
    const char *s = json_string_value(there(j, key));
    return s ? s : fallback;
}

/* section.key = value of the run's configuration. */
static resbm_status set(const reader *r, const char *key, const char *value) {
    char text[160];
    snprintf(text, sizeof text, "%s=%s", key, value);
    resbm_status st = rb_config_override(r->c, text, r->err);
    return st ? rb_err_context(r->err, st, "%s: ", r->name) : st;
}

static resbm_status set_number(const reader *r, const char *key, double value) {
    char text[40];
    snprintf(text, sizeof text, "%.17g", value);
    return set(r, key, text);
}

/* A whole number of config.json; missing: the fallback, or a fault where that is < 0. */
static resbm_status count(const reader *r, const char *from, int64_t fallback, int64_t *out) {
    const json_t *v = there(r->j, from);
    if (!v && fallback >= 0) {
        *out = fallback;
        return RESBM_OK;
    }
    *out = (int64_t)json_integer_value(v);
    if (json_is_integer(v) && *out > 0) return RESBM_OK;
    return rb_fail(r->err, RESBM_E_FORMAT, "%s: %s is missing or no positive number", r->name, from);
}

static resbm_status sizes(const reader *r) {
    static const struct {
        const char *from, *to;
    } plain[] = {{"hidden_size", "model.d"},
                 {"num_hidden_layers", "model.layers"},
                 {"num_attention_heads", "model.heads"},
                 {"intermediate_size", "model.ffn"},
                 {"vocab_size", "model.vocab"}};
    int64_t n, heads, d;
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        RB_TRY(count(r, plain[i].from, -1, &n));
        RB_TRY(set_number(r, plain[i].to, (double)n));
    }
    RB_TRY(count(r, "hidden_size", -1, &d));
    RB_TRY(count(r, "num_attention_heads", -1, &heads));
    RB_TRY(count(r, "num_key_value_heads", heads, &n));
    RB_TRY(set_number(r, "model.kv_heads", (double)n));
    RB_TRY(count(r, "head_dim", d / heads, &n));
    RB_TRY(set_number(r, "model.head", (double)n));
    RB_TRY(count(r, "max_position_embeddings", 2048, &n));
    return set_number(r, "model.context", n < 1024 ? (double)n : 1024);
}

static double number(const json_t *j, const char *key, double fallback) {
    const json_t *v = there(j, key);
    return json_is_number(v) ? json_number_value(v) : fallback;
}

/* rope_parameters of transformers 5, or rope_theta and rope_scaling of those before. */
static resbm_status rope(const reader *r) {
    const json_t *now = there(r->j, "rope_parameters"), *old = there(r->j, "rope_scaling"),
                 *p = now ? now : old;
    const char *type = word(p, "rope_type", word(p, "type", "default"));
    RB_TRY(set_number(r, "model.rope_theta", number(now, "rope_theta", number(r->j, "rope_theta", 10000))));
    if (number(p, "partial_rotary_factor", number(r->j, "partial_rotary_factor", 1)) != 1)
        return refuse(r, "partial_rotary_factor: a part of each head is rotated",
                      "take a model that rotates whole heads");
    if (!strcmp(type, "default")) return RESBM_OK;
    if (strcmp(type, "llama3") && strcmp(type, "linear")) {
        char text[200];
        snprintf(text, sizeof text, "rope_type \"%.60s\" is not among default, linear and llama3", type);
        return refuse(
            r, text,
            "short contexts of a model trained before it was stretched may do: remove rope_scaling and keep "
            "model.context within the original one");
    }
    RB_TRY(set(r, "model.rope_scaling", type));
    RB_TRY(set_number(r, "model.rope_factor", number(p, "factor", 1)));
    if (!strcmp(type, "linear")) return RESBM_OK;
    RB_TRY(set_number(r, "model.rope_low", number(p, "low_freq_factor", 1)));
    RB_TRY(set_number(r, "model.rope_high", number(p, "high_freq_factor", 4)));
    return set_number(r, "model.rope_original", number(p, "original_max_position_embeddings", 8192));
}

/* Attention over a window is whole attention while the context is no longer. */
static resbm_status window(const reader *r) {
    const json_t *types = there(r->j, "layer_types"), *v;
    size_t i;
    int64_t n = (int64_t)json_integer_value(there(r->j, "sliding_window"));
    bool uses =
        n > 0 && (!there(r->j, "use_sliding_window") || json_is_true(there(r->j, "use_sliding_window")));
    json_array_foreach(types, i, v) {
        const char *type = json_string_value(v);
        if (type && strcmp(type, "full_attention") && strcmp(type, "sliding_attention"))
            return rb_fail(r->err, RESBM_E_CONFIG,
                           "%s: layer %zu is of type %.60s; only attention over all tokens is here", r->name,
                           i, type);
    }
    if (!uses || n >= r->c->model.context) return RESBM_OK;
    return set_number(r, "model.context", (double)n);
}

static resbm_status rest(const reader *r, const family *f) {
    if (strcmp(word(r->j, "hidden_act", "silu"), "silu"))
        return refuse(r, "hidden_act is not silu", "the blocks here are SwiGLU's");
    if (json_is_true(there(r->j, "mlp_bias")))
        return refuse(r, "mlp_bias", "the feed-forward has no biases here; take a model without");
    if (there(r->j, "quantization_config"))
        return refuse(r, "quantization_config: the weights are quantised",
                      "take the checkpoint in bf16, f16 or f32");
    if (json_is_true(there(r->j, "attention_bias")) && !f->qkv_bias)
        return refuse(r, "attention_bias: biases of the output too",
                      "only those of queries, keys and values (Qwen2) are here");
    RB_TRY(set_number(r, "model.norm_eps", number(r->j, "rms_norm_eps", 1e-6)));
    RB_TRY(set_number(r, "model.init_std", number(r->j, "initializer_range", 0.02)));
    RB_TRY(set(r, "model.qk_norm", f->qk_norm ? "true" : "false"));
    RB_TRY(set(r, "model.qkv_bias", f->qkv_bias ? "true" : "false"));
    return set(r, "model.tied", json_is_true(there(r->j, "tie_word_embeddings")) ? "true" : "false");
}

resbm_status rb_hf_read_config(const json_t *j, const char *name, rb_config *c, rb_err *err) {
    reader r = {j, name, c, err};
    const family *f = NULL;
    const char *type = word(j, "model_type", "");
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (!strcmp(type, families[i].type)) f = &families[i];
    if (!f)
        return rb_fail(err, RESBM_E_CONFIG,
                       "%s: model_type \"%.60s\"; llama, mistral, qwen2 and qwen3 have this program's "
                       "blocks%s",
                       name, type,
                       strcmp(type, "resbm") ? "" : ". This is an exported run: go on with the run itself");
    RB_TRY(sizes(&r));
    RB_TRY(rope(&r));
    RB_TRY(window(&r));
    return rest(&r, f);
}

/* ---- writing */

bool rb_hf_is_plain(const rb_config *c) {
    const rb_boundary_config *b = &c->boundary;
    bool whole = c->model.segments == 1 || (!strcmp(b->kind, "none") && !strcmp(b->codec_fwd, "f32"));
    return whole && !(c->model.qk_norm && c->model.qkv_bias);
}

static const char *type_of(const rb_config *c) {
    if (!rb_hf_is_plain(c)) return "resbm";
    return c->model.qk_norm ? "qwen3" : c->model.qkv_bias ? "qwen2" : "llama";
}

static const char *class_of(const char *type) {
    return !strcmp(type, "resbm")   ? "ResbmForCausalLM"
           : !strcmp(type, "qwen3") ? "Qwen3ForCausalLM"
           : !strcmp(type, "qwen2") ? "Qwen2ForCausalLM"
                                    : "LlamaForCausalLM";
}

static json_t *rope_json(const rb_model_config *m) {
    const rb_rope_scaling *p = &m->rope;
    if (p->kind == RB_ROPE_NONE)
        return json_pack("{s:s, s:f}", "rope_type", "default", "rope_theta", m->rope_theta);
    if (p->kind == RB_ROPE_LINEAR)
        return json_pack("{s:s, s:f, s:f}", "rope_type", "linear", "rope_theta", m->rope_theta, "factor",
                         p->factor);
    return json_pack("{s:s, s:f, s:f, s:f, s:f, s:I}", "rope_type", "llama3", "rope_theta", m->rope_theta,
                     "factor", p->factor, "low_freq_factor", p->low, "high_freq_factor", p->high,
                     "original_max_position_embeddings", (json_int_t)p->original);
}

/* What loads the class by itself with trust_remote_code: a file of one line beside config.json. */
static json_t *auto_map(void) {
    return json_pack("{s:s, s:s}", "AutoConfig", "modeling_resbm.ResbmConfig", "AutoModelForCausalLM",
                     "modeling_resbm.ResbmForCausalLM");
}

json_t *rb_hf_write_config(const rb_config *c, int64_t step, const char *yaml) {
    const rb_model_config *m = &c->model;
    const char *type = type_of(c);
    json_t *j =
        json_pack("{s:s, s:[s], s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "model_type", type, "architectures",
                  class_of(type), "hidden_size", (json_int_t)m->d, "num_hidden_layers", (json_int_t)m->layers,
                  "num_attention_heads", (json_int_t)m->heads, "num_key_value_heads", (json_int_t)m->kv_heads,
                  "head_dim", (json_int_t)m->head, "intermediate_size", (json_int_t)m->ffn, "vocab_size",
                  (json_int_t)m->vocab, "max_position_embeddings", (json_int_t)m->context);
    if (!j) return NULL;
    json_t *more = json_pack("{s:s, s:f, s:f, s:b, s:b, s:o, s:f, s:I}", "hidden_act", "silu", "rms_norm_eps",
                             m->norm_eps, "initializer_range", m->init_std, "tie_word_embeddings", m->tied,
                             "attention_bias", 0, "rope_parameters", rope_json(m), "rope_theta",
                             m->rope_theta, "resbm_step", (json_int_t)step);
    json_object_update(j, more);
    json_decref(more);
    if (!strcmp(type, "resbm")) {
        json_object_set_new(j, "run", json_string(yaml));
        json_object_set_new(j, "auto_map", auto_map());
    }
    return j;
}
