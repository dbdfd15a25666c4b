/* Names of a checkpoint's files: which part of the model each holds. */
#ifndef RB_RUN_PARTS_H
#define RB_RUN_PARTS_H

#include "checkpoint/manifest.h"
#include "run/config.h"

/* Of the part that a tensor belongs to; tail: "" for its weights, ".optim", ... (rb_checkpoint_file_name). */
void rb_parts_name(const rb_tensor *t, const char *tail, char out[RB_PART_NAME]);
/* Which stage hosts the part of the model in a checkpoint's file of this name; -1: it is none of this model's. */
int rb_parts_stage_of(const rb_config *c, const char *file);
/* Which replica a file of states belongs to (docs/replicas.md); 0: the first one, as all other files. */
int rb_parts_replica_of(const char *file);
/* The weights of the whole model must lie in a snapshot. The first file that its manifest lacks; false: none. */
bool rb_parts_missing(const rb_tensor_table *t, const rb_manifest *m, char name[RB_PART_NAME]);

#endif
