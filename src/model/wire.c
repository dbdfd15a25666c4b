/* What crosses a boundary, and by which rule each part is packed. */
#include <string.h>
#include "model/model.h"
#include "model/wire.h"

static const struct {
    const char *name;
    rb_code code;
    int bits;
} codes[] = {{"f32", RB_CODE_F32, 32}, {"bf16", RB_CODE_BF16, 16}, {"int8", RB_CODE_INT8, 8}, {"int4", RB_CODE_INT4, 4}};

resbm_status rb_wire_code(const char *key, const char *name, rb_code *code, int *bits, rb_err *err) {
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (!strcmp(codes[i].name, name)) {
            *code = codes[i].code;
            *bits = codes[i].bits;
            return RESBM_OK;
        }
    return rb_fail(err, RESBM_E_CONFIG, "%s \"%s\": there are f32, bf16, int8 and int4", key, name);
}

/* Latents (or x): to the nearest going forward, one step per coordinate or one scale per token; stochastically, in
 * groups, going back (DESIGN section 2). */
static resbm_status latents(const rb_boundary_config *b, int direction, rb_wire_part *out, rb_err *err) {
    int bits = 0;
    rb_pack_args *p = &out->pack;
    if (direction)
        RB_TRY(rb_wire_code("boundary.codec_bwd", b->codec_bwd, &p->code, &bits, err));
    else
        RB_TRY(rb_wire_code("boundary.codec_fwd", b->codec_fwd, &p->code, &bits, err));
    p->direction = (uint32_t)direction;
    p->scale = RB_SCALE_NONE;
    if (bits >= 16) return RESBM_OK;
    p->stochastic = direction != 0;
    p->scale = direction ? RB_SCALE_GROUP : !strcmp(b->scale_fwd, "step") ? RB_SCALE_STEP : RB_SCALE_TOKEN;
    out->learned_steps = p->scale == RB_SCALE_STEP;
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
        out->part[i].pack = (rb_pack_args){.code = RB_CODE_BF16, .direction = (uint32_t)direction};
    }
    return latents(b, direction, &out->part[0], err);
}
