#include "run/seat.h"

#include <stdlib.h>

static resbm_status alloc_parts(rb_device *dev, const rb_wire *w, int64_t B, int64_t T, rb_view *parts,
                                rb_err *err) {
    for (int i = 0; w && i < w->parts; i++) {
        void *p;
        RB_TRY(rb_alloc(dev, (size_t)(B * T * w->part[i].width) * sizeof(float), &p, err));
        parts[i] = rb_view3(p, RB_F32, B, T, w->part[i].width);
    }
    return RESBM_OK;
}

resbm_status rb_seat_open(rb_device *dev, int segment, int slots, int64_t B, int64_t T, const rb_wire *before,
                          const rb_wire *behind, bool training, bool keep_sent, rb_seat *out, rb_err *err) {
    rb_wire latents = {.parts = 1, .part = {behind ? behind->part[0] : (rb_wire_part){0}}};
    *out = (rb_seat){.segment = segment, .slots = slots, .dev = dev};
    out->berth = calloc((size_t)slots, sizeof *out->berth);
    if (!out->berth)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for %d slots of segment %d", slots, segment);
    rb_seat_clear(out);
    for (int i = 0; i < slots; i++) {
        RB_TRY(alloc_parts(dev, before, B, T, out->berth[i].in, err));
        if (training) RB_TRY(alloc_parts(dev, behind, B, T, out->berth[i].grad_in, err));
        if (training && keep_sent && behind)
            RB_TRY(alloc_parts(dev, &latents, B, T, &out->berth[i].sent, err));
    }
    return RESBM_OK;
}

void rb_seat_close(rb_seat *s) {
    for (int i = 0; s->berth && i < s->slots; i++) {
        rb_free(s->dev, s->berth[i].sent.data);
        for (int p = 0; p < RB_MAX_WIRE_PARTS; p++) {
            rb_free(s->dev, s->berth[i].in[p].data);
            rb_free(s->dev, s->berth[i].grad_in[p].data);
        }
    }
    free(s->berth);
    *s = (rb_seat){0};
}

void rb_seat_clear(rb_seat *s) {
    for (int i = 0; i < s->slots; i++) s->berth[i].microbatch = -1;
}

resbm_status rb_seat_take(rb_seat *s, int microbatch, int *slot, rb_err *err) {
    int spare = -1;
    for (int i = 0; i < s->slots; i++) {
        if (s->berth[i].microbatch == microbatch) {
            *slot = i;
            return RESBM_OK;
        }
        if (s->berth[i].microbatch < 0 && spare < 0) spare = i;
    }
    if (spare < 0)
        return rb_fail(err, RESBM_E_INTERNAL,
                       "segment %d holds %d microbatches and has no slot for microbatch %d", s->segment,
                       s->slots, microbatch);
    s->berth[spare].microbatch = microbatch;
    s->berth[spare].added = s->berth[spare].given = false;
    *slot = spare;
    return RESBM_OK;
}

resbm_status rb_seat_find(const rb_seat *s, int microbatch, int *slot, rb_err *err) {
    for (*slot = 0; *slot < s->slots; ++*slot)
        if (s->berth[*slot].microbatch == microbatch) return RESBM_OK;
    return rb_fail(err, RESBM_E_INTERNAL, "segment %d holds nothing of microbatch %d", s->segment, microbatch);
}

void rb_seat_leave(rb_seat *s, int microbatch) {
    for (int i = 0; i < s->slots; i++)
        if (s->berth[i].microbatch == microbatch) s->berth[i].microbatch = -1;
}
