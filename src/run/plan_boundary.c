#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "codec/codec.h"
#include "run/plan.h"

/* The nearest latent width, where the ratio does not divide d: no run has it, but links and memory do not mind. */
static resbm_status set_ratio(rb_config *c, const char *name, int64_t ratio, rb_err *err) {
    int64_t d = c->model.d;
    if (ratio < 1 || ratio > d)
        return rb_fail(err, RESBM_E_CONFIG,
                       "boundary \"%s\": a ratio of %lld is not possible at model.d = %lld", name,
                       (long long)ratio, (long long)d);
    c->boundary.ratio = d % ratio ? 1 : ratio;
    RB_TRY(rb_config_validate(c, err));
    if (d % ratio == 0) return RESBM_OK;
    c->boundary.ratio = 0;
    c->boundary.k = (d + ratio / 2) / ratio;
    c->boundary.hidden = -1;
    return rb_model_check(&c->model, &c->boundary, err);
}

resbm_status rb_plan_boundary(rb_config *c, const char *name, rb_err *err) {
    char text[RB_PLAN_NAME], *rest = text, *word;
    int64_t ratio = 0;
    if (!strcmp(name, "own")) return rb_config_validate(c, err);
    snprintf(text, sizeof text, "%s", name);
    word = strsep(&rest, "-");
    if (!rb_boundary_find(word))
        return rb_fail(err, RESBM_E_CONFIG,
                       "boundary \"%s\": there is no kind \"%s\"; write KIND[-RATIO][-CODEC], e.g. "
                       "residual-128-int4",
                       name, word);
    bool same = !strcmp(word, c->boundary.kind);
    snprintf(c->boundary.kind, sizeof c->boundary.kind, "%s", word);
    snprintf(c->boundary.codec_fwd, sizeof c->boundary.codec_fwd, "auto");
    snprintf(c->boundary.codec_bwd, sizeof c->boundary.codec_bwd, "auto");
    snprintf(c->boundary.scale_fwd, sizeof c->boundary.scale_fwd, "auto");
    if (!same) c->boundary.hidden = -1;
    if (!rb_boundary_find(word)->narrows || rb_boundary_find(word)->constrains ||
        c->boundary.tokens == RB_TOKENS_FIXED) {
        c->boundary.tokens = RB_TOKENS_NONE;
        c->boundary.aux = RB_AUX_NONE;
    }
    while ((word = strsep(&rest, "-"))) {
        char *end;
        int64_t number = strtoll(word, &end, 10);
        if (!*end && end > word) {
            ratio = number;
            continue;
        }
        if (!rb_codec_find(word))
            return rb_fail(err, RESBM_E_CONFIG, "boundary \"%s\": \"%s\" is neither a ratio nor a codec",
                           name, word);
        snprintf(c->boundary.codec_fwd, sizeof c->boundary.codec_fwd, "%s", word);
        snprintf(c->boundary.codec_bwd, sizeof c->boundary.codec_bwd, "%s", word);
    }
    return ratio ? set_ratio(c, name, ratio, err) : rb_config_validate(c, err);
}
