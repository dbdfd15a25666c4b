/* Packed values read on the host, without a device: what can be said of a message before anything is done with it. */
#ifndef RB_DEVICE_PACK_LOOK_H
#define RB_DEVICE_PACK_LOOK_H

#include "device/pack_layout.h"

typedef struct rb_pack_sight {
    double sum;    /* of the values' squares, as they unpack; not finite where one of them is not */
    int64_t count; /* of values */
    bool outside;  /* a place (index8, index16) is none of d */
} rb_pack_sight;

/* Adds what lies in p->bytes to out. p: of rb_pack_sizes, with bytes in host memory, and steps (k) there for scale STEP. */
void rb_pack_look(const rb_pack_plan *p, int64_t d, rb_pack_sight *out);

#endif
