/* How long something usually takes: the median of the last durations, and how far half of them are from it. One that was an hour
 * long, because a machine slept, says nothing about the next. */
#ifndef RB_RUN_USUAL_H
#define RB_RUN_USUAL_H

#include <stdint.h>

enum { RB_USUAL_KEPT = 32 };

typedef struct rb_usual {
    int64_t ns[RB_USUAL_KEPT]; /* the last ones, in a ring */
    int noted;                 /* that there were; counted on to twice the ring */
} rb_usual;

void rb_usual_note(rb_usual *u, int64_t ns);
int rb_usual_known(const rb_usual *u); /* at most RB_USUAL_KEPT */
/* Of those that are known, ns; 0 where none is. */
int64_t rb_usual_median(const rb_usual *u, int64_t *deviation_ns);

#endif
