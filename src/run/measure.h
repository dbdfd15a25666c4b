/* What a segment costs and what a stage takes, learned from the very code that runs in a stage process: a part of a
 * stage is opened and its actions are called. On device "timed" that takes no memory and no time, and the unit is
 * floating-point operations; on a device that computes the unit is seconds. */
#ifndef RB_RUN_MEASURE_H
#define RB_RUN_MEASURE_H

#include "pipeline/simulator.h"
#include "run/config.h"

typedef struct rb_segment_measure {
    double forward, backward, input, weight; /* one microbatch; backward whole, and its halves */
    double pack, unpack; /* of a message of its boundaries, the dearer direction; 0 at a model of one */
    double trunk_forward, trunk_backward; /* of the boundary before it, part of forward and backward */
    double optimizer;                     /* zeroing gradients, their norms, the update: once a step */
    double crowd; /* how many times as long all that takes while at_once stages work at the same time; >= 1 */
    int at_once;
} rb_segment_measure;

/* Costs are those of a stage that works alone. device: a name of rb_device_open. beside: how many others like it are to
 * work at the same time for crowd, each on pipeline.threads threads of this process; fewer where memory has no room for
 * them, none beside a device with memory of its own. seconds: until when all actions are repeated, by turns alone and
 * with the others (medians count; at least once each, behind one that does not). Both mean nothing to "timed", which
 * counts and waits for nothing. cfg is validated. */
resbm_status rb_measure_segment(const rb_config *cfg, const char *device, int segment, int beside,
                                double seconds, rb_segment_measure *out, rb_err *err);

/* What the simulator plays: seconds at `speed` operations a second, where those were counted; 1 where seconds were measured. */
rb_segment_cost rb_measured_cost(const rb_segment_measure *m, double speed);
rb_trunk_cost rb_measured_trunk(const rb_segment_measure *m, double speed);

/* Bytes of the stage that hosts the segments host[0..hosted), ascending. The process itself is not in it. */
typedef struct rb_stage_need {
    size_t weights, gradients,
        optimizer;     /* optimizer: states, windows and scratch where the device keeps them */
    size_t version;    /* one older version of all its weights */
    size_t working;    /* scratch, ports, token ids: what does not grow with microbatches alive */
    uint64_t snapshot; /* bytes of its files in a checkpoint: weights and states */
} rb_stage_need;

/* halves: the schedule calls the backward pass in halves. slot (hosted): bytes of one microbatch alive in each. */
resbm_status rb_measure_stage(const rb_config *cfg, const int *host, int hosted, bool halves,
                              rb_stage_need *out, size_t *slot, rb_err *err);

/* Bytes of one message of a direction as it leaves the process: header, parts, token ids. */
double rb_measure_message(const rb_config *cfg, int direction);

#endif
