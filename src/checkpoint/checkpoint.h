/* Checkpoints of a run: DIR/step-N/ holds the parts of the model as safetensors files and a manifest.
 *
 *     segment-i.safetensors            boundary-i.encoder.safetensors        boundary-i.decoder.safetensors
 *     segment-i.optim.safetensors      boundary-i.encoder.optim.safetensors
 * boundary-i.decoder.optim.safetensors
 *
 * A part belongs to the model, not to a stage, so any number of stages reads what any other number wrote.
 *
 * Writing: the coordinator calls rb_checkpoint_begin (makes DIR/step-N.tmp), every stage
 * rb_checkpoint_write_part for what it hosts, the coordinator gathers the rows and calls
 * rb_checkpoint_commit: the manifest is written and synced, then the folder takes its name. Killed anywhere
 * before that, the folder is a step-N.tmp that nobody reads and the next begin removes; killed after it,
 * step-N is whole. One coordinator writes to a DIR at a time; reading needs no lock.
 *
 * Faults carry the path. A fault while writing leaves every earlier checkpoint as it was. */
#ifndef RB_CHECKPOINT_CHECKPOINT_H
#define RB_CHECKPOINT_CHECKPOINT_H

#include <limits.h>
#include "checkpoint/manifest.h"

/* ---- writing */

/* File name of a part: "segment", 3, "" -> segment-3.safetensors; "boundary", 0, "encoder", optim ->
 * boundary-0.encoder.optim.safetensors. */
void rb_checkpoint_part_name(char out[RB_PART_NAME], const char *what, int index, const char *side,
                             bool optim);
/* The same with whatever tail: ".optim", ".outer" (the outer update's momentum), ".replica-1.optim" (docs/replicas.md). */
void rb_checkpoint_file_name(char out[RB_PART_NAME], const char *what, int index, const char *side,
                             const char *tail);

/* Makes DIR if need be, removes what an earlier run left unfinished in it, makes DIR/step-N.tmp and puts its
 * path into tmp, which the stages are told. */
resbm_status rb_checkpoint_begin(const char *dir, int64_t step, char tmp[PATH_MAX], rb_err *err);
/* Writes and syncs one part; *out is the manifest's row. Called in any process that sees the folder. */
resbm_status rb_checkpoint_write_part(const char *tmp, const char *name, const rb_tensor_out *tensors,
                                      int count, rb_part_file *out, rb_err *err);
/* Checks that every row's file is there in its length, writes the manifest, renames the folder and then
 * removes all but the newest `keep` (>= 1) checkpoints up to this step; the one just written always stays. A
 * step-N of an abandoned continuation is replaced in one step. */
resbm_status rb_checkpoint_commit(const char *dir, const rb_manifest *m, int64_t keep, rb_err *err);
/* Removes unfinished folders (step-N.tmp) of dir. Only for the one who writes there. */
resbm_status rb_checkpoint_clean(const char *dir, rb_err *err);
/* Removes every checkpoint of dir, unfinished ones too. Only for the one who writes there. */
resbm_status rb_checkpoint_remove_all(const char *dir, rb_err *err);

/* ---- reading */

/* Newest whole checkpoint of dir: reads manifests, lengths and hashes from the newest on. Those that are
 * damaged are named with the reason, a line each, in `reasons` (may be NULL). *step = -1 when dir holds none
 * at all or does not exist; RESBM_E_CORRUPT when there are some and none is whole. Changes nothing. */
resbm_status rb_checkpoint_find_latest(const char *dir, int64_t *step, rb_buf *reasons, rb_err *err);
/* Path of DIR/step-N. */
resbm_status rb_checkpoint_path(const char *dir, int64_t step, char out[PATH_MAX], rb_err *err);
/* Manifest, lengths and hashes of one folder (DIR/step-N): RESBM_E_CORRUPT names the first file that is
 * missing, too short or too long, or has another hash. */
resbm_status rb_checkpoint_verify(const char *path, rb_err *err);

typedef struct rb_checkpoint rb_checkpoint;
/* Opens DIR/step-N: manifest, lengths, and the headers of all files (hashes are rb_checkpoint_verify's). A
 * tensor name that stands in two files is RESBM_E_FORMAT. */
resbm_status rb_checkpoint_open(const char *path, rb_checkpoint **out, rb_err *err);
void rb_checkpoint_close(rb_checkpoint *c); /* NULL is fine */
const rb_manifest *rb_checkpoint_manifest(const rb_checkpoint *c);
/* By name, whichever file holds it; NULL: not there. Valid until close. */
const rb_tensor_in *rb_checkpoint_find(const rb_checkpoint *c, const char *name);
/* Where a tensor's bytes are mapped, until close; RESBM_E_FORMAT when it is missing or its type or shape is another (both
 * are in the text). */
resbm_status rb_checkpoint_bytes(const rb_checkpoint *c, const char *name, rb_dtype dtype, int rank,
                                 const int64_t *shape, const char **out, rb_err *err);
/* n bytes from `data` on (inside what rb_checkpoint_bytes gave for that name) have been used: they need not stay in
 * memory. */
void rb_checkpoint_forget(const rb_checkpoint *c, const char *name, const void *data, size_t n);

#endif
