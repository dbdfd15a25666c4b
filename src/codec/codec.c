#include "codec/codec.h"

#include <string.h>

const rb_codec rb_codecs[RB_CODEC_COUNT] = {
    {"f32", "as it is, 4 bytes a number", RB_CODE_F32, 32, false},
    {"bf16", "rounded to bfloat16, 2 bytes a number", RB_CODE_BF16, 16, false},
    {"int8", "255 levels, 1 byte a number", RB_CODE_INT8, 8, true},
    {"int4", "15 levels, half a byte a number", RB_CODE_INT4, 4, true},
    {"int2", "4 levels, a quarter of a byte a number", RB_CODE_INT2, 2, true},
    {"int1", "the sign, an eighth of a byte a number", RB_CODE_INT1, 1, true},
};

const rb_codec *rb_codec_find(const char *name) {
    for (int i = 0; i < RB_CODEC_COUNT; i++)
        if (!strcmp(rb_codecs[i].name, name)) return &rb_codecs[i];
    return NULL;
}

const char *rb_codec_names(void) {
    return "f32, bf16, int8, int4, int2, int1";
}

rb_pack_args rb_codec_args(const rb_codec *c, int direction, rb_scale scale, bool stochastic) {
    rb_pack_args a = {.code = c->code, .scale = RB_SCALE_NONE, .direction = (uint32_t)direction};
    if (!c->integers) return a;
    a.stochastic = stochastic;
    a.scale = scale;
    return a;
}
