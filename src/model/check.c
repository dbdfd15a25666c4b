/* Configurations that cannot be, refused with the key's name and the nearest value that works. */
#include <stdio.h>
#include <string.h>
#include "boundary/aux.h"
#include "codec/codec.h"
#include "model/stage.h"

static resbm_status in_range(const char *key, int64_t v, int64_t lo, int64_t hi, rb_err *err) {
    if (v >= lo && v <= hi) return RESBM_OK;
    return rb_fail(err, RESBM_E_CONFIG, "%s %lld: %lld to %lld", key, (long long)v, (long long)lo,
                   (long long)hi);
}

/* "below or above": the numbers next to v that divide d (with step: such that the quotient is a multiple of
 * it). */
static void nearest_divisors(int64_t d, int64_t v, int64_t step, char *text, size_t size) {
    int64_t below = 0, above = 0;
    for (int64_t i = 1; i <= d; i++) {
        if (d % i || d / i % step) continue;
        if (i <= v) below = i;
        if (i >= v && !above) above = i;
    }
    if (below && above)
        snprintf(text, size, "nearest: %lld or %lld", (long long)below, (long long)above);
    else
        snprintf(text, size, "nearest: %lld", (long long)(below ? below : above));
}

static resbm_status check_sizes(const rb_model_config *m, rb_err *err) {
    RB_TRY(in_range("model.d", m->d, 2, 1 << 17, err));
    RB_TRY(in_range("model.layers", m->layers, 1, 1 << 14, err));
    RB_TRY(in_range("model.heads", m->heads, 1, m->d, err));
    RB_TRY(in_range("model.kv_heads", m->kv_heads, 1, m->heads, err));
    RB_TRY(in_range("model.ffn", m->ffn, 1, 1 << 20, err));
    RB_TRY(in_range("model.vocab", m->vocab, 2, 1 << 24, err));
    RB_TRY(in_range("model.context", m->context, 1, 1 << 24, err));
    int64_t most = m->layers < RB_MAX_SEGMENTS ? m->layers : RB_MAX_SEGMENTS;
    if (m->segments >= 1 && m->segments <= most) return RESBM_OK;
    return rb_fail(err, RESBM_E_CONFIG,
                   "model.segments %lld: 1 to %lld (each segment has at least one of model.layers %lld)",
                   (long long)m->segments, (long long)most, (long long)m->layers);
}

static resbm_status check_heads(const rb_model_config *m, rb_err *err) {
    char near[80];
    nearest_divisors(m->d, m->heads, 2, near, sizeof near);
    if (m->head % 2)
        return rb_fail(err, RESBM_E_CONFIG, "model.head %lld: rotary pairs need an even width",
                       (long long)m->head);
    if (!m->head && m->d % m->heads)
        return rb_fail(err, RESBM_E_CONFIG, "model.d %lld is not a multiple of model.heads %lld; %s",
                       (long long)m->d, (long long)m->heads, near);
    if (!m->head && m->d / m->heads % 2)
        return rb_fail(
            err, RESBM_E_CONFIG,
            "model.d %lld / model.heads %lld is a head width of %lld, but rotary pairs need an even one; %s",
            (long long)m->d, (long long)m->heads, (long long)(m->d / m->heads), near);
    if (m->heads % m->kv_heads == 0) return RESBM_OK;
    nearest_divisors(m->heads, m->kv_heads, 1, near, sizeof near);
    return rb_fail(err, RESBM_E_CONFIG, "model.heads %lld is not a multiple of model.kv_heads %lld; %s",
                   (long long)m->heads, (long long)m->kv_heads, near);
}

static resbm_status spread_layers(rb_model_config *m, rb_err *err) {
    int64_t sum = 0;
    for (int i = 0; i < RB_MAX_SEGMENTS; i++) {
        int64_t n = m->segment_layers[i];
        if (n < 0 || n > m->layers || (i >= m->segments && n))
            return rb_fail(err, RESBM_E_CONFIG, "model.segment_layers: entry %d is %lld, with %lld segments",
                           i, (long long)n, (long long)m->segments);
        sum += n;
    }
    for (int i = 0; sum == 0 && i < m->segments; i++)
        m->segment_layers[i] = m->layers / m->segments + (i < m->layers % m->segments);
    if (sum != 0 && sum != m->layers)
        return rb_fail(err, RESBM_E_CONFIG,
                       "model.segment_layers: the numbers add up to %lld, model.layers is %lld",
                       (long long)sum, (long long)m->layers);
    for (int i = 0; i < m->segments; i++)
        if (!m->segment_layers[i])
            return rb_fail(err, RESBM_E_CONFIG, "model.segment_layers: segment %d has no layer", i);
    return RESBM_OK;
}

static resbm_status check_model(rb_model_config *m, rb_err *err) {
    RB_TRY(check_sizes(m, err));
    RB_TRY(check_heads(m, err));
    if (!m->head) m->head = m->d / m->heads;
    RB_TRY(spread_layers(m, err));
    if (m->rope_theta == 0) m->rope_theta = 500000;
    if (m->norm_eps == 0) m->norm_eps = 1e-5;
    if (m->init_std == 0) m->init_std = 0.02;
    if (!(m->rope_theta > 1 && m->norm_eps > 0 && m->norm_eps < 1 && m->init_std > 0 && m->init_std < 10))
        return rb_fail(
            err, RESBM_E_CONFIG,
            "model.rope_theta %g, model.norm_eps %g, model.init_std %g: theta above 1, eps and std positive",
            m->rope_theta, m->norm_eps, m->init_std);
    if (m->tied && m->segments > 1)
        return rb_fail(
            err, RESBM_E_CONFIG,
            "model.tied with model.segments %lld: the embedding and the head would lie on different stages; "
            "use model.tied false or one segment",
            (long long)m->segments);
    return RESBM_OK;
}

/* Identity coordinates sent in bf16 come out of what the ratio allows the latents: k shrinks by 16 bits'
 * worth each. */
static resbm_status pay_for_split(const rb_model_config *m, rb_boundary_config *b, rb_err *err) {
    if (strcmp(b->kind, "residual") || b->identity != RB_IDENTITY_SPLIT || b->identity_width < 1)
        return RESBM_OK;
    int64_t bits = rb_codec_find(b->codec_fwd)->bits, budget = m->d / b->ratio;
    int64_t price = (16 * b->identity_width + bits - 1) / bits, most = (budget - 1) * bits / 16;
    if (price >= budget)
        return rb_fail(err, RESBM_E_CONFIG,
                       "boundary.identity_width %lld in bf16 takes the place of %lld %s latents, and "
                       "boundary.ratio %lld "
                       "leaves %lld; at most %lld%s",
                       (long long)b->identity_width, (long long)price, b->codec_fwd, (long long)b->ratio,
                       (long long)budget, (long long)most, most ? "" : ", so take a smaller ratio");
    b->k = budget - price;
    return RESBM_OK;
}

static resbm_status check_anneal(const rb_model_config *m, const rb_boundary_config *b, rb_err *err) {
    if (!rb_boundary_find(b->kind)->masks ||
        (!strcmp(b->kind, "residual") && b->identity == RB_IDENTITY_SPLIT))
        return rb_fail(
            err, RESBM_E_CONFIG,
            "boundary.anneal_from: latents can be left out of kinds linear and residual, and not with "
            "identity split");
    if (b->anneal_from < b->ratio && m->d % b->anneal_from == 0) return RESBM_OK;
    return rb_fail(err, RESBM_E_CONFIG,
                   "boundary.anneal_from %lld: a divisor of model.d %lld below boundary.ratio %lld",
                   (long long)b->anneal_from, (long long)m->d, (long long)b->ratio);
}

static resbm_status check_width(const rb_model_config *m, rb_boundary_config *b, rb_err *err) {
    char near[80];
    if (b->k < 0 || b->k > m->d)
        return rb_fail(err, RESBM_E_CONFIG, "boundary.k %lld: 1 to model.d %lld", (long long)b->k,
                       (long long)m->d);
    if (b->k && !b->ratio) b->ratio = m->d / b->k;
    if (b->ratio < 1)
        return rb_fail(err, RESBM_E_CONFIG, "boundary.ratio %lld: 1 to model.d %lld", (long long)b->ratio,
                       (long long)m->d);
    nearest_divisors(m->d, b->ratio, 1, near, sizeof near);
    if (!b->k && m->d % b->ratio)
        return rb_fail(err, RESBM_E_CONFIG, "boundary.ratio %lld: %lld is not divisible; %s",
                       (long long)b->ratio, (long long)m->d, near);
    if (b->anneal_from) RB_TRY(check_anneal(m, b, err));
    if (!b->k) b->k = m->d / (b->anneal_from ? b->anneal_from : b->ratio);
    return pay_for_split(m, b, err);
}

static void choose(char *value, size_t size, const char *by_default) {
    if (!value[0] || !strcmp(value, "auto")) snprintf(value, size, "%s", by_default);
}

static resbm_status check_codec(const char *key, const char *name, rb_err *err) {
    if (rb_codec_find(name)) return RESBM_OK;
    return rb_fail(err, RESBM_E_CONFIG, "%s \"%s\": there are %s", key, name, rb_codec_names());
}

static resbm_status check_codecs(rb_boundary_config *b, const rb_boundary_kind *kind, rb_err *err) {
    choose(b->codec_fwd, sizeof b->codec_fwd, kind->codec);
    choose(b->codec_bwd, sizeof b->codec_bwd, kind->codec);
    bool few = rb_codec_find(b->codec_fwd) && rb_codec_find(b->codec_fwd)->bits < 4;
    choose(b->scale_fwd, sizeof b->scale_fwd, kind->narrows || few ? "step" : "token");
    if (!b->group_bwd) b->group_bwd = 64;
    RB_TRY(check_codec("boundary.codec_fwd", b->codec_fwd, err));
    RB_TRY(check_codec("boundary.codec_bwd", b->codec_bwd, err));
    if (b->group_bwd < 2 || b->group_bwd > 64 || (b->group_bwd & (b->group_bwd - 1)))
        return rb_fail(err, RESBM_E_CONFIG,
                       "boundary.group_bwd %lld: 2, 4, 8, 16, 32 or 64 values share a scale",
                       (long long)b->group_bwd);
    if (!strcmp(b->scale_fwd, "step") || !strcmp(b->scale_fwd, "token")) return RESBM_OK;
    return rb_fail(err, RESBM_E_CONFIG, "boundary.scale_fwd \"%s\": step or token", b->scale_fwd);
}

static resbm_status unknown_kind(const rb_boundary_config *b, rb_err *err) {
    char names[200] = "";
    size_t at = 0;
    for (int i = 0; rb_boundary_kinds[i] && at < sizeof names; i++)
        at += (size_t)snprintf(names + at, sizeof names - at, "%s%s", i ? ", " : "",
                               rb_boundary_kinds[i]->name);
    return rb_fail(err, RESBM_E_CONFIG, "boundary.kind \"%s\": there are %s", b->kind, names);
}

static resbm_status check_boundary(const rb_model_config *m, rb_boundary_config *b, rb_err *err) {
    const rb_boundary_kind *kind = rb_boundary_find(b->kind);
    rb_boundary_dims s = rb_model_boundary_dims(m);
    if (!kind) return unknown_kind(b, err);
    if (b->identity == RB_IDENTITY_AUTO)
        b->identity = b->tokens == RB_TOKENS_TRUNK ? RB_IDENTITY_NONE : RB_IDENTITY_TRUNCATE;
    if (m->segments == 1) return RESBM_OK;
    RB_TRY(check_codecs(b, kind, err));
    if (!kind->narrows && b->tokens != RB_TOKENS_NONE)
        return rb_fail(err, RESBM_E_CONFIG, "boundary.tokens: kind %s sends x whole and has no token path",
                       b->kind);
    if (kind->narrows) RB_TRY(check_width(m, b, err));
    if (b->tokens == RB_TOKENS_FIXED && !kind->constrains)
        return rb_fail(err, RESBM_E_CONFIG, "boundary.tokens fixed: it belongs to kind subspace");
    if (b->feedback == RB_FEEDBACK_GRADIENT && !kind->straight_through)
        return rb_fail(err, RESBM_E_CONFIG,
                       "boundary.feedback gradient: kind %s drops no coordinates to feed back", b->kind);
    RB_TRY(kind->check(b, &s, err));
    RB_TRY(in_range("boundary.hidden", b->hidden, -1, 1 << 20, err));
    RB_TRY(rb_tokens_check(b, &s, err));
    return rb_aux_check(b, &s, kind->narrows && !kind->straight_through, err);
}

resbm_status rb_model_check(rb_model_config *m, rb_boundary_config *b, rb_err *err) {
    RB_TRY(check_model(m, err));
    return check_boundary(m, b, err);
}
