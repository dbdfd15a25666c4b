/* Which tokens a sequence of the run is made of: a pure function of its number, so any stage can fetch any
 * sequence and the whole cursor of a run is the number of the next one.
 *
 * The data is cut into windows of T+1 tokens at stride T. Pass e over them takes them in an order of its own:
 * a permutation by a four-round Feistel network over the next power of four, walking until it lands inside
 * (Black & Rogaway, "Ciphers with arbitrary finite domains", 2002), keyed by (seed, e). */
#ifndef RB_DATA_SAMPLER_H
#define RB_DATA_SAMPLER_H

#include "data/shard.h"

typedef struct rb_sampler {
    const rb_shards *shards; /* borrowed */
    int64_t T, windows;
    uint64_t seed;
} rb_sampler;

/* RESBM_E_CONFIG when the data is shorter than one window. */
resbm_status rb_sampler_init(rb_sampler *s, const rb_shards *shards, int64_t T, uint64_t seed, rb_err *err);
/* T+1 tokens of training sequence `number`. */
resbm_status rb_sampler_window(const rb_sampler *s, uint64_t number, int32_t *out, rb_err *err);
/* T+1 tokens of evaluation sequence i of n: windows spread evenly over the data, always the same ones. Of
 * more sequences than there are windows the later ones begin again. */
resbm_status rb_sampler_eval_window(const rb_sampler *s, int64_t i, int64_t n, int32_t *out, rb_err *err);
/* Window of a training sequence: the permutation itself, in [0, windows). */
int64_t rb_sampler_pick(const rb_sampler *s, uint64_t number);

#endif
