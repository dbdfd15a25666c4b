/* What `resbm compare` is asked to compare: a base configuration, named variants of it, seeds, a target, links.
 *
 *     base: run.yaml                        # or a map of sections; a path is relative to this file
 *     set: {train.steps: 350}               # over the base, for every variant
 *     deploy: {pipeline.stages: 4}          # over that where time is measured or modelled, not where loss is
 *     seeds: 3                              # 1, 2, 3; or a list
 *     target: best uncompressed             # its final loss; "best uncompressed + 1%"; or a loss
 *     links: [80mbit/20ms, 8mbit, 1mbit]    # the first is measured, and alone's wall time is counted on it
 *     compute: measured                     # or a stage's rate for the timing model: 50gflops
 *     sweep_share: 1                        # of train.steps, for the runs of a sweep
 *     extend_sweeps: 0                      # points added where the best lies at a sweep's edge
 *     longest: 4                            # times train.steps: where `alone` at equal wall time ends
 *     variants:
 *       plain: {control: uncompressed, sweep: {optim.lr: [0.01, 0.02, 0.04]}}
 *       narrow: {set: {boundary.ratio: 32, boundary: {tokens: trunk}}}
 *       narrower: {like: narrow, set: [boundary.ratio=64]}
 *       alone: {control: alone of narrow}
 *
 * A set is a map of "section.key" or of sections, a list of "section.key=value", or such words in one text; a
 * variant that has nothing else may be a set itself. Everything is checked where it stands: faults begin with
 * file:line:column. */
#ifndef RB_RUN_COMPARE_SPEC_H
#define RB_RUN_COMPARE_SPEC_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include "core/err.h"
#include "link/shape.h"

enum {
    RB_COMPARE_VARIANTS = 128,
    RB_COMPARE_SEEDS = 64,
    RB_COMPARE_LINKS = 8,
    RB_COMPARE_POINTS = 32,
    RB_COMPARE_NAME = 64
};

/* Texts "section.key=value", in order: a later one goes before an earlier one. */
typedef struct rb_overrides {
    char **text;
    int count;
} rb_overrides;

typedef enum rb_control {
    RB_CONTROL_NONE,
    RB_CONTROL_UNCOMPRESSED, /* boundary none */
    RB_CONTROL_SAME_SIZE,    /* boundary none, and the blocks that `of`'s trunks add */
    RB_CONTROL_ALONE,        /* one segment of the blocks that `of`'s last stage holds, trunk included */
    RB_CONTROL_ALONE_AS_LONG /* the same for as long as `of` takes on the first link; made beside every `alone` */
} rb_control;

typedef struct rb_sweep {
    char key[96]; /* "optim.lr"; empty: none */
    char value[RB_COMPARE_POINTS][64];
    int values;
} rb_sweep;

typedef struct rb_compare_variant {
    char name[RB_COMPARE_NAME], like[RB_COMPARE_NAME], of[RB_COMPARE_NAME];
    char place[320]; /* for messages */
    rb_control control;
    rb_overrides set;
    rb_sweep sweep;
} rb_compare_variant;

typedef struct rb_compare_link {
    char name[64]; /* as it was written: "80mbit/20ms" */
    rb_shape_options shape;
} rb_compare_link;

typedef struct rb_compare_spec {
    char file[PATH_MAX];
    char base[PATH_MAX]; /* empty: base_set over the defaults */
    rb_overrides base_set, set, deploy;
    uint64_t seed[RB_COMPARE_SEEDS];
    int seeds;
    double target; /* NAN: (1 + slack) times the best uncompressed variant's final loss */
    double target_slack;
    rb_compare_link link[RB_COMPARE_LINKS];
    int links;
    double flops; /* of a stage, per second; 0 = measured */
    double sweep_share, longest;
    int extend_sweeps;
    rb_compare_variant *variant; /* (variants) */
    int variants;
} rb_compare_spec;

/* path is a specification, or a run configuration (then the base alone). Free out in either case. */
resbm_status rb_compare_spec_load(rb_compare_spec *s, const char *path, rb_err *err);
resbm_status rb_compare_spec_parse(rb_compare_spec *s, const char *name, const char *text, size_t len,
                                   rb_err *err);
void rb_compare_spec_free(rb_compare_spec *s);

/* "NAME:key=value,key=[1,2],control=alone of X,like=Y,sweep.optim.lr=[1,2]" */
resbm_status rb_compare_spec_add_variant(rb_compare_spec *s, const char *text, rb_err *err);
/* "80mbit/20ms": rate of both directions, one-way latency. */
resbm_status rb_compare_spec_add_link(rb_compare_spec *s, const char *text, const char *place, rb_err *err);
resbm_status rb_compare_spec_target(rb_compare_spec *s, const char *text, const char *place, rb_err *err);
void rb_compare_spec_seeds(rb_compare_spec *s, int n); /* 1, 2, ..., n */
/* What no single entry can know: names that `like` and `of` mean, something to compare. Adds the equal-time twins.
 * Call it once, last. */
resbm_status rb_compare_spec_finish(rb_compare_spec *s, rb_err *err);

int rb_compare_find(const rb_compare_spec *s, const char *name); /* -1: there is none */

#endif
