/* Where a comparison's seconds per step come from.
 *
 * Two short runs of each variant, with nothing beside them on the machine: one on a single stage, whose trace says how
 * long each segment computes for a microbatch; and one as deployed, over the first link, which is the measured step. From
 * the first one the simulator (predict.h) says what a step takes over every link when each stage has its
 * processor to itself. With a stated rate (spec.compute) the first run is left out: the operations of each action, counted as
 * `resbm plan` counts them (measure.h), over that rate, so the figures do not depend on this machine. A step over a link is
 * `plan`'s, too (predict.h).
 *
 * DIR/timing/VARIANT.json keeps what was measured, with the configuration it belongs to; one of another
 * configuration is measured again. */
#ifndef RB_RUN_COMPARE_TIMING_H
#define RB_RUN_COMPARE_TIMING_H

#include "pipeline/simulator.h"
#include "run/compare_cost.h"
#include "run/compare_spec.h"

/* Seconds unless said otherwise; NAN: not known. */
typedef struct rb_timing {
    bool known;
    int segments;
    rb_segment_cost *segment; /* (segments) of one microbatch */
    rb_trunk_cost *trunk;     /* (segments) part of those, where they are counted; NULL: where they were measured */
    double *update;           /* (segments) of the optimizer, where it is counted; NULL: by operations from the whole */
    double optimizer;         /* of the whole model on one stage */
    double pack, unpack;      /* of a message, where they are counted */
    double rest;              /* of a step: data, agreement on norms */
    double step;              /* the deployed run over the first link; of one segment: its only run */
    double least, most;       /* of that run's steps but the first: far apart where the machine had other work */
    double bytes_forward, bytes_backward,
        bytes_ids; /* that run's, per token and boundary; ids beside bytes_forward */
    double rss;    /* bytes of its largest stage */
    int stages;
} rb_timing;

void rb_timing_free(rb_timing *t);

/* From the trace of a run on one stage: the shortest of each, the first step left out, so that what else the machine did
 * counts least. */
resbm_status rb_timing_take_trace(const char *path, int segments, rb_timing *out, rb_err *err);
/* By operations at a rate per second, auxiliary losses for the share of the steps in which they work. In place of what out has of
 * these; its step, bytes and memory stay. */
resbm_status rb_timing_by_rate(const rb_config *c, double flops, rb_timing *out, rb_err *err);
/* Seconds of a step of the deployed configuration over a link (NULL: unshaped). */
resbm_status rb_timing_step(const rb_timing *t, const rb_cost *cost, const rb_config *deployed,
                            const rb_shape_options *link, double *seconds, rb_err *err);

/* The file: RESBM_OK with out->known false where there is none of this configuration. */
resbm_status rb_timing_read(const char *path, const char *config, rb_timing *out, rb_err *err);
resbm_status rb_timing_write(const char *path, const char *config, const rb_timing *t, rb_err *err);

#endif
