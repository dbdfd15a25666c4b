/* Whose fault ended an epoch, beside the sentence that says so: a sentence may hold what others have sent, and decides nothing. */
#ifndef RB_RUN_BLAME_H
#define RB_RUN_BLAME_H

#include <jansson.h>
#include <stdbool.h>
#include "core/err.h"

typedef struct rb_blame {
    int worker;       /* whom it concerns; -1: nobody in particular */
    int by;           /* the worker who says so; -1: the coordinator saw it itself */
    bool broke_rules; /* what came from it was not what may come; of what the coordinator saw alone */
    bool holds_up;    /* the others waited for it, each for the next: it is set aside at once */
} rb_blame;

/* What follows for participants. -1: for nobody. */
typedef struct rb_sentence {
    int revoke;
    int aside[2]; /* others are preferred for a while */
    bool at_once; /* and not from the second time on */
} rb_sentence;

rb_blame rb_blame_nobody(void);
/* The coordinator's own finding. It breaks the rules where st says that what came was damaged or of no known form. */
rb_blame rb_blame_seen(int worker, resbm_status st);
/* Worker `from` has sent the fault {"accused": worker}; without it, or with one that is none of `workers`, it speaks of itself. */
rb_blame rb_blame_told(const json_t *fault, int from, int workers);

/* One worker's word against another's is no proof: both are set aside. */
rb_sentence rb_blame_judge(const rb_blame *b);

#endif
