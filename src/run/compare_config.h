/* From a comparison's variants to configurations of runs. */
#ifndef RB_RUN_COMPARE_CONFIG_H
#define RB_RUN_COMPARE_CONFIG_H

#include "run/compare_spec.h"
#include "run/config.h"

/* base file or map, then spec.set; not validated. */
resbm_status rb_compare_base(const rb_compare_spec *s, rb_config *out, rb_err *err);

typedef struct rb_compare_which {
    int variant;
    const char *point;             /* value of the variant's sweep; NULL: none */
    const char *of_key, *of_point; /* of ALONE_AS_LONG: what `alone` sweeps, and its best; else NULL */
    int64_t steps;                 /* of ALONE_AS_LONG; 0: the configuration's */
    double share;                  /* of train.steps, for sweeps; 1: all */
    uint64_t seed;
} rb_compare_which;

/* What the loss is measured with, validated: one stage, one thread, unshaped, one checkpoint kept, no time limit.
 * Deployment changes no bit, so that is the loss of any. Not so under asynchronous schedules: there it is deployed as for
 * the time, spec.deploy and all. */
resbm_status rb_compare_config(const rb_compare_spec *s, const rb_config *base, const rb_compare_which *w,
                               rb_config *out, rb_err *err);
/* What the time is measured or modelled with, validated: spec.deploy over the variant; a stage per segment with a
 * thread each unless deploy says otherwise; `link` NULL: all on one stage. Few steps, nothing evaluated. */
resbm_status rb_compare_deployed(const rb_compare_spec *s, const rb_config *base, const rb_compare_which *w,
                                 const rb_compare_link *link, rb_config *out, rb_err *err);

/* The whole activation crosses every boundary, and there is one. */
bool rb_compare_uncompressed(const rb_config *c);

#endif
