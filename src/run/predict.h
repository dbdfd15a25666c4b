/* Predicts a training step: the run's schedule, played by the simulator against seconds per action and links. */
#ifndef RB_RUN_PREDICT_H
#define RB_RUN_PREDICT_H

#include "pipeline/inflight.h"
#include "pipeline/simulator.h"
#include "run/machines.h"

typedef struct rb_prediction_input {
    const rb_config *cfg; /* validated: model, boundary, microbatches, stages, schedule, inflight, duplex */
    const rb_segment_cost
        *cost; /* (segments) seconds of one microbatch on the stage that hosts the segment */
    const rb_trunk_cost
        *trunk; /* (segments) seconds of the trunk before it, in its forward and backward; NULL: none */
    double pack, unpack; /* seconds of one message */
    const double
        *optimizer; /* (segments) seconds of one update: inside lists that have updates, else before them */
    const double *sync; /* (workers) seconds of adding up replicas; NULL: 0 */
    const double
        *pace; /* (workers) how much slower than cost says each computes, which is also what microbatches are
                                     dealt by with pipeline.deal: measured; NULL: 1 */
    const rb_machine *machine; /* (workers) whose link each stage has; NULL: cfg->link */
    const rb_relay *relay;     /* that all messages pass; NULL: none */
    double cores;              /* stages that compute at once on cores of their own; 0 = all */
    double crowd;              /* how many times as long computing takes while at_once stages do; 0 = 1 */
    int at_once;
    double
        moving; /* where cores > 0: seconds of those cores that moving a message takes beside the stages; 0: none */
    bool latency_occupies; /* the wire is busy for the latency too */
    const rb_inflight_limits
        *limits; /* memory of what is in flight; NULL: none. Used where cfg says inflight: auto */
    bool spans;  /* fill in sim.span */
} rb_prediction_input;

typedef struct rb_prediction {
    rb_schedule schedule; /* as it would run; of lists that flow several steps, */
    int first, steps;     /* of which `first` is the first in full swing; 0 and 1 of others */
    rb_sim_result sim;    /* sim.step: seconds of a step (in full swing) */
    int extra;            /* forwards in flight beyond what the schedule needs */
    int *slots;           /* (segments) microbatches alive in each */
    int *stash;           /* (segments) older versions of its weights kept */
    bool over_memory;     /* nothing fits limits: predicted with the least in flight */
    double wire[2]; /* bytes of one message on the wire, with the framing of rb_shape: forward, backward */
} rb_prediction;

/* Free out in any case. */
resbm_status rb_predict(const rb_prediction_input *in, rb_prediction *out, rb_err *err);
void rb_prediction_free(rb_prediction *p);

/* The lists of the configured schedule for so many microbatches, by name or from its file, with sends and receives. Lists by
 * name are not validated here: a stage does that before it runs them. */
resbm_status rb_predict_schedule(const rb_config *cfg, int microbatches, rb_schedule *out, rb_err *err);

#endif
