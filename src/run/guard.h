/* How large the values of a kind of message have been so far, and whether the next one is like them. The measure is the root of
 * the mean square of a message's values. Nothing is refused before RB_GUARD_LEAST messages have been seen, and values of zero
 * teach nothing (maps that start at zero give gradients of zero).
 *
 * A message may be RB_GUARD_SENDER times the median of the last ones before its sender itself takes it for a divergence, and
 * RB_GUARD_RECEIVER times before its receiver takes it for a broken rule: an honest sender finds it first. Gradients of honest
 * runs were seen at hundreds of times their median (docs/security.md); what is meant are values that overflow at the receiver. */
#ifndef RB_RUN_GUARD_H
#define RB_RUN_GUARD_H

#include <stdbool.h>
#include <stdint.h>

enum { RB_GUARD_KEEP = 63, RB_GUARD_LEAST = 32, RB_GUARD_SENDER = 1000000, RB_GUARD_RECEIVER = 4000000 };

typedef struct rb_guard {
    double kept[RB_GUARD_KEEP], median; /* median 0: it is not known yet */
    int64_t seen;
} rb_guard;

void rb_guard_learn(rb_guard *g, double size);
/* How many times the median that is; 0 while there is none. */
double rb_guard_ratio(const rb_guard *g, double size);

#endif
