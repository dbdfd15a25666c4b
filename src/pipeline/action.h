/* Schedules are data: per stage, a list of actions. Generator, validator, simulator, executor and trace all
 * speak this type, and only the generator knows a schedule's name.
 *
 * Text form, as torch.distributed.pipelining prints it: <segment><kind><microbatch>: "2F0" forward, "2B0"
 * full backward, "2I0" input half, "2W0" weight half; communication "2SF0" send the forward output of segment
 * 2's microbatch 0, "2RF0" receive segment 2's forward input, "2SB0" send the gradient of segment 2's input,
 * "2RB0" receive the gradient of segment 2's output. A cell that idles is ".".
 *
 * A receiver's trunk (boundary.tokens) needs nothing from the sender: "2TF0" runs that of the boundary before segment 2
 * forward, ahead of 2F0, and "2TB0" backward, behind 2B0. Where a segment has none of them, F and B (or W) do it.
 *
 * Lists without "U" leave the update to the end of the step, when all stages have agreed on it. In lists with it,
 * "2U3" updates segment 2 with the gradients since its last update, microbatch 3's the newest. A forward sees the
 * weights its stage has then, or with "2F5-1" those one update older; the backward of a microbatch sees the
 * weights its forward saw. */
#ifndef RB_PIPELINE_ACTION_H
#define RB_PIPELINE_ACTION_H

#include <stdbool.h>
#include <stddef.h>
#include "core/buf.h"
#include "core/err.h"

typedef enum rb_action_kind {
    RB_ACT_FORWARD,
    RB_ACT_BACKWARD,
    RB_ACT_BACKWARD_INPUT,
    RB_ACT_BACKWARD_WEIGHT,
    RB_ACT_TRUNK_FORWARD,
    RB_ACT_TRUNK_BACKWARD,
    RB_ACT_UPDATE,
    RB_ACT_SEND_FORWARD,
    RB_ACT_RECV_FORWARD,
    RB_ACT_SEND_BACKWARD,
    RB_ACT_RECV_BACKWARD,
    RB_ACT_COUNT
} rb_action_kind;

typedef struct rb_action {
    rb_action_kind kind;
    int segment, microbatch;
    int behind; /* forward, of the trunk too: updates by which the weights are older than the newest of the moment */
} rb_action;

static inline rb_action rb_action_of(rb_action_kind kind, int segment, int microbatch) {
    return (rb_action){.kind = kind, .segment = segment, .microbatch = microbatch};
}

typedef struct rb_action_list {
    rb_action *items;
    int count, capacity;
} rb_action_list;

/* One list per stage, and which stage hosts each segment. Where stages have replicas (pipeline/deal.h) there is a list per
 * replica: the first lists are those of each stage's first one, so that a stage's number is that list's. */
typedef struct rb_schedule {
    char name[32];
    int stages, segments, microbatches; /* stages: how many lists */
    int *stage_of;                      /* (segments) */
    int *low, *high;       /* (stages) first and last segment of each; NULL: look through stage_of */
    rb_action_list *stage; /* (stages) */
    int *
        dealt; /* (segments, microbatches) list that has the segment's work on the microbatch; NULL: stage_of's */
    int *twin_of; /* with dealt: (stages) the stage whose replica each list is */
} rb_schedule;

/* The list that works on microbatch m in segment g. */
static inline int rb_schedule_host(const rb_schedule *s, int g, int m) {
    return s->dealt ? s->dealt[(size_t)g * (size_t)s->microbatches + (size_t)m] : s->stage_of[g];
}
/* Does list `stage` belong to the stage of segment g? */
static inline bool rb_schedule_hosts(const rb_schedule *s, int stage, int g) {
    return s->stage_of[g] == (s->twin_of ? s->twin_of[stage] : stage);
}

void rb_schedule_free(rb_schedule *s);
/* RESBM_E_MEMORY when the list cannot grow. */
resbm_status rb_action_push(rb_action_list *l, rb_action a, rb_err *err);
int rb_action_print(char *out, size_t size, rb_action a); /* returns snprintf's count */
/* The whole of text must be one action; RESBM_E_FORMAT quotes what is not. */
resbm_status rb_action_parse(const char *text, rb_action *out, rb_err *err);
/* Has the action computation (and not communication) in it? */
static inline bool rb_action_computes(rb_action_kind k) {
    return k <= RB_ACT_UPDATE;
}

enum { RB_ACTION_TEXT = 32 }; /* room for any printed action */

#endif
