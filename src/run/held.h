/* Who holds up the others. A stage that waits long for another one's message says so to the coordinator ("waits"), and when it
 * goes on; whoever owes an answer and does not wait is what the others wait for, however many of them wait for one another.
 *
 * How long is long is learned within an epoch from the steps that came to nothing unusual: no replica was lost in them. Other
 * work (evaluations, snapshots, meetings of replicas) and the first steps have pipeline.deadline alone. */
#ifndef RB_RUN_HELD_H
#define RB_RUN_HELD_H

#include <jansson.h>
#include <stdbool.h>
#include "link/link.h"
#include "run/config.h"
#include "run/usual.h"

/* A step's deadline, ns from its begin. 0: none is known yet, or a single wait's own, most_ns, is shorter. slack: times that it is
 * longer than usual, because steps of earlier epochs have passed theirs. */
int64_t rb_step_deadline_ns(const rb_usual *steps, int slack, int64_t most_ns);

typedef struct rb_wait {
    bool waits;
    int on; /* the worker whose message it waits for */
    rb_frame_header what;
    int told; /* how often it said something; none of ours says much */
} rb_wait;

typedef struct rb_held {
    rb_wait by[RB_MAX_STAGES];
    int64_t deadline_ns;          /* of the step that is under way, from its begin; 0: none is learned */
    int64_t usual_ns;             /* how long a step takes, */
    int steps;                    /* by so many */
    int64_t looked_ns, passed_ns; /* since the answers are waited for, as far as it counts */
    int64_t most_ns;     /* learned or not: what one may take longer than all others; 0: anything */
    int answers;         /* so many have answered, */
    int64_t answered_ns; /* the last of them then */
    int found;           /* the last one that was found; -1 */
} rb_held;

/* Answers are waited for from now on. */
void rb_held_begin(rb_held *h, int64_t now_ns);
void rb_held_answers(rb_held *h, int answers); /* so many are there */
/* Worker `from` says {"t": "waits", "on": WORKER or -1, and what}. False: no stage of ours says that, or so often. */
bool rb_held_note(rb_held *h, int from, const json_t *said, int workers);
/* To be called several times a second. Has the step's deadline passed, and a little more, in which those who wait say so? Time
 * in which this process was cut off (connected), or did not run itself, does not count. */
bool rb_held_due(rb_held *h, int64_t now_ns, bool connected);
/* Is one so much later than all others that it counts as hung, though nobody could take its place? */
bool rb_held_hangs(const rb_held *h);
/* Of the workers that owe an answer: the one that holds up the others, which does not wait itself; -1: nobody is held up, all of
 * them work. Where all wait, a message is under way and does not come: the one that it is for, *other (else -1) has sent it. */
int rb_held_find(const rb_held *h, const bool *owes, const bool *answered, int workers, int *other);
/* Whom does `from` wait for in the end, who does not wait itself? -1: it has not said that it waits, or they wait in a ring. */
int rb_held_behind(const rb_held *h, int from);

#endif
