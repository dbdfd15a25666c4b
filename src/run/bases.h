/* The files of the coordinator's newest snapshot, held open while the next one comes: what stages that have them too pack against.
 * Open files stay readable when their folder goes. */
#ifndef RB_RUN_BASES_H
#define RB_RUN_BASES_H

#include <jansson.h>
#include "checkpoint/manifest.h"

enum { RB_MOST_BASES = 256 }; /* descriptors that are spent on it; further files go without */

typedef struct rb_bases rb_bases;
/* folder: DIR/step-N. NULL: it cannot be read, or holds none; that is no fault, files then go without. */
rb_bases *rb_bases_open(const char *folder);
void rb_bases_close(rb_bases *b); /* NULL is fine, here and below */
/* {name: hash}, for stages to choose from. */
json_t *rb_bases_offer(const rb_bases *b);
/* A descriptor of its own for the caller, of the file of that name and hash; -1: it was not offered. Any thread. */
int rb_bases_take(const rb_bases *b, const char *name, const char *hash);

#endif
