/* Two connected endpoints in one process, for `resbm bench links` and for tests: stage 1 (a) and stage 2 (b).
 */
#ifndef RB_LINK_PAIR_H
#define RB_LINK_PAIR_H

#include "link/link.h"

typedef struct rb_link_pair {
    rb_link *a, *b;
} rb_link_pair;

/* An endpoint of stage `self` that takes everything a measurement sends; shape NULL: unshaped. */
resbm_status rb_link_pair_end(int self, const rb_shape_options *shape, rb_link **out, rb_err *err);
/* Connects `a` to `b`, whose number is number_b and which listens at `address` for it; blocks 60 s at most. A refusal
 * closes a. */
resbm_status rb_link_pair_join(const char *address, rb_link *a, rb_link *b, int number_b, rb_err *err);
/* Connects them over the two ends of a stream (rb_link_attach), which are theirs from then on. */
resbm_status rb_link_pair_attach(rb_link *a, rb_link *b, int number_b, const int fd[2], rb_err *err);
/* Both ends, connected over `address` (b listens). */
resbm_status rb_link_pair_open(const char *address, const rb_shape_options *a, const rb_shape_options *b,
                               rb_link_pair *out, rb_err *err);
void rb_link_pair_close(rb_link_pair *p);

/* Sends forward frame number `index` with `bytes` of payload from l to peer `to`. */
resbm_status rb_link_pair_send(rb_link *l, int to, uint32_t index, size_t bytes, rb_err *err);
/* Waits for that frame (60 s at most) and throws it away. */
resbm_status rb_link_pair_take(rb_link *l, int from, uint32_t index, rb_err *err);

#endif
