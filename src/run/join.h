/* A participant's side: `resbm join`. Enrols once, then says again and again that it is there, and starts and ends a stage
 * process as it is told. */
#ifndef RB_RUN_JOIN_H
#define RB_RUN_JOIN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include "core/err.h"

typedef struct rb_join_options {
    const char *invitation; /* the line, or a file that holds it; NULL: dir holds an access already */
    const char *dir;        /* of this participant: its key, its weights */
    const char *program, *label;
    const char *build;          /* which one of resbm this is; NULL or "": that is not known */
    bool named;                 /* the label was given, and is to be what the host shows from now on */
    int from_minute, to_minute; /* of the day, local time, when it works; equal: always */
    double up_bits;             /* its stage sends at most so many per second; 0: no limit */
    double memory;              /* bytes its stage may take, if so much is free; 0: what is free */
    const atomic_int *stop;     /* 1: leave */
    const atomic_int *paused;
    FILE *out;
} rb_join_options;

/* Is it to work in that minute of the day (0 to 1439)? */
bool rb_join_within(const rb_join_options *o, int minute);
/* Returns when the run is over, on a stop, or when this participant was cut off (RESBM_E_STATE with the reason). */
resbm_status rb_join(const rb_join_options *o, rb_err *err);

#endif
