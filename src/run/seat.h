/* A seat: what one hosted segment keeps besides the model's own slots, per microbatch in flight: the unpacked
 * inputs that crossed its boundaries and the views of what it has to give. */
#ifndef RB_RUN_SEAT_H
#define RB_RUN_SEAT_H

#include "model/model.h"

typedef struct rb_berth {          /* one slot */
    int microbatch;                /* -1: free */
    int64_t version;               /* of the weights that its forward saw: updates of the segment before it */
    bool added, given; /* its gradients are added; that of its input went on. With both it goes free, whichever is last */
    rb_view in[RB_MAX_WIRE_PARTS]; /* forward input, from the boundary before; owned */
    rb_view grad_in[RB_MAX_WIRE_PARTS]; /* gradient from the boundary behind; owned */
    rb_view out[RB_MAX_WIRE_PARTS];     /* forward output, in the model's slot */
    rb_view sent; /* latents as the receiver unpacks them, with boundary.aux latent; owned */
    rb_view grad_out[RB_MAX_WIRE_PARTS]; /* gradient of the input, in the model's slot */
} rb_berth;

typedef struct rb_seat {
    int segment, slots;
    rb_berth *berth; /* (slots) */
    rb_device *dev;
} rb_seat;

/* before, behind: the wire formats of the boundaries on either side (NULL at the model's ends); behind is the
 * backward direction's. Gradients (and, with keep_sent, what was sent) are allocated only for training. */
resbm_status rb_seat_open(rb_device *dev, int segment, int slots, int64_t B, int64_t T, const rb_wire *before,
                          const rb_wire *behind, bool training, bool keep_sent, rb_seat *out, rb_err *err);
void rb_seat_close(rb_seat *s);
void rb_seat_clear(rb_seat *s); /* all berths free: a step that failed or was evaluation leaves none behind */
/* The microbatch's slot, taking a free one if it has none. RESBM_E_INTERNAL when the schedule's bound was wrong. */
resbm_status rb_seat_take(rb_seat *s, int microbatch, int *slot, rb_err *err);
/* The slot of a microbatch that has one. RESBM_E_INTERNAL where it has none: a list that goes back before it went forward, or whose
 * slot went free too early; another microbatch's numbers must not take their place. */
resbm_status rb_seat_find(const rb_seat *s, int microbatch, int *slot, rb_err *err);
void rb_seat_leave(rb_seat *s, int microbatch);

#endif
