/* The transport codecs by name: one line of the registry each. Bytes and arithmetic: device/pack_layout.h. */
#ifndef RB_CODEC_CODEC_H
#define RB_CODEC_CODEC_H

#include "device/ops.h"

typedef struct rb_codec {
    const char *name, *summary;
    rb_code code;
    int bits;
    bool integers; /* needs a scale */
} rb_codec;

extern const rb_codec rb_codecs[RB_CODEC_COUNT];
const rb_codec *rb_codec_find(const char *name); /* NULL when there is none */

/* How `c` packs in a direction (0 forward, 1 backward); scale and rounding are those of integers. */
rb_pack_args rb_codec_args(const rb_codec *c, int direction, rb_scale scale, bool stochastic);
/* Names of all, ", " between, for messages. */
const char *rb_codec_names(void);

#endif
