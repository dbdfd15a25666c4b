/* Plays a schedule's lists against costs and links, event by event: what a step takes before anything runs.
 *
 * Model. A stage does its list in order; computation takes its segment's cost (longer while more stages
 * compute than there are cores to share, or share more than cores, if that is asked for), a send costs the stage what packing takes and
 * the wait until the channel's queue has room (links have a thread of their own), a receive waits until the
 * message is all there and then unpacks it. The links are src/link/shape's: messages leave a stage through its
 * one uplink in the order of their sends, travel for the latency, and enter the receiver through its one
 * downlink, which what comes from several stages shares; bytes flow on while they come in. To that end a
 * message travels in pieces. At half duplex a stage's uplink and downlink are one lane that takes turns. With a relay
 * between them, pieces go from a sender's uplink through the relay's downlink, its thread and its uplink, in the order in
 * which they come in, and then to the receiver. Time is in seconds, or in whatever unit the costs are. Near linear in the
 * number of actions. */
#ifndef RB_PIPELINE_SIMULATOR_H
#define RB_PIPELINE_SIMULATOR_H

#include "pipeline/action.h"

typedef struct rb_segment_cost {
    double forward, backward, input, weight; /* backward whole; its input and weight halves */
} rb_segment_cost;

typedef struct rb_trunk_cost {
    double forward,
        backward; /* part of the segment's forward and backward, where the list has no actions for them */
} rb_trunk_cost;

typedef struct rb_sim_port {
    double up, down; /* bytes per second of a stage's link; 0 = unlimited */
} rb_sim_port;

/* A server that every message passes: its one line, and the one thread that moves messages on. */
typedef struct rb_sim_relay {
    double down, up;      /* bytes per second that come in and go out, shared by all; 0 = unlimited */
    double message, byte; /* seconds of the thread for a message, and for each of its bytes */
    double latency;       /* from it on to any receiver; what a sender is away is latency's */
} rb_sim_relay;

enum { RB_SIM_PIECES = 8 };

typedef struct rb_sim_options {
    const rb_segment_cost *cost;          /* (segments); NULL: forward 1, backward 2, halves 1 each */
    const rb_trunk_cost *trunk;           /* (segments) of the boundary before each; NULL: none */
    const rb_sim_port *port;              /* (stages); NULL: unlimited */
    const double *update;                 /* (segments) of one update, in lists that have them; NULL: 0 */
    const double *pace;                   /* (stages) factor on what computing costs there; NULL: 1 */
    const double *start;                  /* (stages) when each stage begins its list; NULL: 0 */
    const double *extra_latency;          /* (stages) of what each sends, beyond latency; NULL: 0 */
    const rb_sim_relay *relay;            /* NULL: stages send to each other */
    double pack, unpack;                  /* what a send and a receive cost the stage */
    bool half_duplex;                     /* up and down of a stage share one medium (its `up`) */
    double latency;                       /* one way */
    bool latency_occupies;                /* the uplink is busy for the latency too: nothing pipelines */
    double bytes_forward, bytes_backward; /* of one message on the wire, framing included */
    double grain;    /* seconds of the sender's rate that reach the receiver in one go, */
    double segment;  /* and the least bytes that do: what it cannot pass on before */
    int pieces;      /* of a message, 1..RB_SIM_PIECES; 0 = as many as there is time for */
    int queue_bound; /* messages sent and not yet received that a channel holds; 0 = no bound */
    double cores;    /* how many stages compute at once on cores of their own; 0 = all */
    double
        crowd; /* where cores > 0: how many times as long computing takes while `at_once` stages do, who share caches
                        and memory; in proportion with fewer and more, up to cores; 0 = 1 */
    int at_once;
    double background; /* how many of the cores other threads keep busy meanwhile */
    bool no_spans;     /* result.span stays NULL */
} rb_sim_options;

typedef struct rb_sim_stage {
    double busy;           /* computing */
    double moving;         /* packing and unpacking */
    double wait_recv;      /* in receives, before the message was there: the sum of the next three */
    double wait_peer;      /* before it was handed over */
    double wait_bandwidth; /* while it stood in a queue or passed through a lane */
    double wait_latency;   /* while its last byte was under way */
    double wait_send;      /* in sends, before the queue had room */
    double end;            /* when its list was done */
    int64_t sent[2];       /* messages it handed over: forward, backward */
} rb_sim_stage;

typedef struct rb_sim_span {
    double begin, end; /* of one action, its waiting included */
} rb_sim_span;

typedef struct rb_sim_result {
    double step;                               /* until the last stage is done */
    double idle;                               /* share of all stages' time in which they do not compute */
    double relay_down, relay_thread, relay_up; /* how long each part of the relay was busy */
    int stages;
    rb_sim_stage *stage;          /* (stages) */
    rb_sim_span **span;           /* (stages)(actions of the stage) */
    int stuck_stage, stuck_index; /* after a deadlock: one of the actions that wait for ever; else -1 */
} rb_sim_result;

/* RESBM_E_STATE: deadlock; the text says which action of each of the first few stuck stages waits. Free out
 * in either case. */
resbm_status rb_simulate(const rb_schedule *s, const rb_sim_options *o, rb_sim_result *out, rb_err *err);
void rb_sim_free(rb_sim_result *r);

/* How many times as long computing takes while so many stages compute at the same time. */
double rb_sim_crowding(const rb_sim_options *o, int computing);

#endif
