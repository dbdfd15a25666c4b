/* What each process of a run plans to take of its device's memory: told when it is ready, shown before the
 * first step. */
#ifndef RB_RUN_PLANNED_H
#define RB_RUN_PLANNED_H

#include <jansson.h>
#include "core/buf.h"
#include "link/link.h"
#include "run/fit.h"

typedef struct rb_planned {
    uint64_t total; /* bytes; 0: not known. Its parts: */
    uint64_t weights, gradients, optimizer, activations, older, working;
    uint64_t room; /* the device had free before; 0: not known, or the machine's own memory */
} rb_planned;

rb_planned rb_planned_from(const rb_fit_need *need, uint64_t room);
json_t *rb_planned_json(const rb_planned *p);
rb_planned rb_planned_read(const json_t *j); /* from a process that may send anything */

/* A line for each stage, or one for several in a row that are alike; of many that are not, one alone. p, place
 * (workers): of replicas the one with least room counts. Nothing where nothing is known. */
void rb_planned_print(const rb_planned *p, const rb_place *place, int workers, rb_buf *out);

#endif
