/* What crosses a boundary, and by which rule each part is packed. */
#include <string.h>
#include "codec/codec.h"
#include "model/model.h"

static rb_scale scale_of(const rb_boundary_config *b, int direction) {
    rb_scale group = RB_SCALE_GROUP;
    if (!direction) return strcmp(b->scale_fwd, "token") ? RB_SCALE_STEP : RB_SCALE_TOKEN;
    while (group + 1 < RB_SCALE_COUNT && rb_group_of(group) > b->group_bwd) group++;
    return group;
}

/* Latents (or x): a step per coordinate or a scale per token going forward, so that no token touches an earlier
 * one; groups going back. */
static resbm_status latents(const rb_boundary_config *b, int direction, rb_wire_part *out, rb_err *err) {
    const char *name = direction ? b->codec_bwd : b->codec_fwd;
    const rb_codec *codec = rb_codec_find(name);
    if (!codec)
        return rb_fail(err, RESBM_E_CONFIG, "boundary.codec_%s \"%s\" does not exist",
                       direction ? "bwd" : "fwd", name);
    bool stochastic = direction && b->rounding_bwd == RB_ROUNDING_STOCHASTIC;
    out->pack = rb_codec_args(codec, direction, scale_of(b, direction), stochastic);
    out->learned_steps = out->pack.scale == RB_SCALE_STEP;
    return RESBM_OK;
}

resbm_status rb_model_wire(const rb_model_config *m, const rb_boundary_config *b, int direction, rb_wire *out,
                           rb_err *err) {
    const rb_boundary_kind *kind = rb_boundary_find(b->kind);
    rb_boundary_dims s = {.d = m->d, .vocab = m->vocab};
    rb_boundary_parts parts;
    if (!kind) return rb_fail(err, RESBM_E_CONFIG, "boundary.kind \"%s\" does not exist", b->kind);
    kind->parts(b, &s, &parts);
    *out = (rb_wire){.parts = parts.count};
    for (int i = 0; i < parts.count; i++) {
        out->part[i].width = parts.width[i];
        out->part[i].pack =
            (rb_pack_args){.code = parts.code, .scale = RB_SCALE_NONE, .direction = (uint32_t)direction};
    }
    return latents(b, direction, &out->part[0], err);
}
