/* Proves over a schedule's lists, before anything runs:
 *  1. every action is one that exists, on the stage that hosts its segment, and stands there once; where stages have
 *     replicas, on the one that the microbatch is dealt to: a backward returns to where its forward ran;
 *  2. each microbatch goes forward and backward through each segment, the backward whole or as both halves,
 * and every hand-over between stages has its send and its receive;
 *  3. inputs come before what needs them, outputs are sent after they are made, W follows I;
 *  4. gradients of a segment accumulate in ascending microbatch order (on each replica those that are dealt to it), so
 *     that every schedule gives the same bits;
 *  5. what crosses one boundary in one direction is received in the order it is sent;
 *  6. no deadlock when a channel holds queue_bound messages, receives block, and sends block on a full
 * channel;
 *  7. no segment keeps more microbatches alive than promised;
 *  8. where a trunk has actions of its own it has them for all microbatches of its segment: right before the forward and right
 *     behind the backward, with messages alone between them, because what they share lies in one place;
 *  9. in lists with updates: all segments are updated after the same microbatches, the last one among them; each
 *     update stands behind the gradient of its microbatch and before the next one's; a forward asks for no version
 *     before the first; and no use of weights is older than promised, so that a segment that keeps so many
 *     versions has, for every backward, the one its forward saw. */
#ifndef RB_PIPELINE_VALIDATE_H
#define RB_PIPELINE_VALIDATE_H

#include "pipeline/action.h"

typedef struct rb_validate_options {
    int queue_bound;     /* >= 1 */
    bool forward_only;   /* evaluation: no backward may occur, a forward keeps nothing alive */
    const int *promised; /* (segments) microbatches alive at most; NULL: not checked */
    const int *stash;    /* (segments) age in updates of weights in use at most; NULL: not checked */
    int *stash_needed;   /* (segments) gets the largest age; NULL: not asked */
} rb_validate_options;

/* RESBM_E_STATE with the first failing cell named: "1f1b: stage 1, action 2B3 (7 of 24): ...". grid, when not
 * NULL, gets all lists, one row per stage, that cell in [brackets]. in_flight (segments), when not NULL, gets
 * the most microbatches alive at once: with that many slots, microbatch m may use slot m % slots. */
resbm_status rb_schedule_validate(const rb_schedule *s, const rb_validate_options *o, int *in_flight,
                                  rb_buf *grid, rb_err *err);

#endif
