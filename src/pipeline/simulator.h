/* Plays a schedule's lists against costs and links, event by event: what a step takes before anything runs.
 *
 * Model. A stage does its list in order; computation takes its segment's cost, a send costs the stage nothing
 * (links have their own thread) unless the channel's queue is full, a receive waits until the message is all
 * there. Messages leave a stage through its one uplink in the order of their sends, travel for `latency`, and
 * enter the receiver through its one downlink in the order of arrival; bytes flow on while they come in. Time
 * is in seconds, or in whatever unit the costs are. */
#ifndef RB_PIPELINE_SIMULATOR_H
#define RB_PIPELINE_SIMULATOR_H

#include "pipeline/action.h"

typedef struct rb_segment_cost {
    double forward, backward, input, weight; /* backward whole; its input and weight halves */
} rb_segment_cost;

typedef struct rb_sim_port {
    double up, down; /* bytes per second of a stage's link; 0 = unlimited */
} rb_sim_port;

typedef struct rb_sim_options {
    const rb_segment_cost *cost;          /* (segments); NULL: forward 1, backward 2, halves 1 each */
    const rb_sim_port *port;              /* (stages); NULL: unlimited */
    bool half_duplex;                     /* up and down of a stage share one medium */
    double latency;                       /* one way */
    double bytes_forward, bytes_backward; /* of one message */
    int queue_bound; /* messages sent and not yet received that a channel holds; 0 = no bound */
} rb_sim_options;

typedef struct rb_sim_stage {
    double busy;      /* computing */
    double wait_recv; /* in receives, before the message was there */
    double wait_send; /* in sends, before the queue had room */
    double end;       /* when its list was done */
} rb_sim_stage;

typedef struct rb_sim_span {
    double begin, end; /* of one action, its waiting included */
} rb_sim_span;

typedef struct rb_sim_result {
    double step; /* until the last stage is done */
    double idle; /* share of all stages' time in which they do not compute */
    int stages;
    rb_sim_stage *stage;          /* (stages) */
    rb_sim_span **span;           /* (stages)(actions of the stage) */
    int stuck_stage, stuck_index; /* after a deadlock: one of the actions that wait for ever; else -1 */
} rb_sim_result;

/* RESBM_E_STATE: deadlock; the text says which action of each of the first few stuck stages waits. Free out
 * in either case. */
resbm_status rb_simulate(const rb_schedule *s, const rb_sim_options *o, rb_sim_result *out, rb_err *err);
void rb_sim_free(rb_sim_result *r);

#endif
