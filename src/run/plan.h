/* resbm plan: what a run would take under each schedule and boundary, before anything runs. Costs are counted or
 * measured by the model's own code (measure.h), time is the simulator's over the run's own list of actions, memory
 * is what the stage process would take. */
#ifndef RB_RUN_PLAN_H
#define RB_RUN_PLAN_H

#include "core/buf.h"
#include "run/machines.h"
#include "run/measure.h"
#include "run/predict.h"
#include "run/trace.h"

enum { RB_PLAN_NAME = 48 };

typedef struct
    rb_plan_events { /* a predicted step: times from when its list begins (its update lies before) */
    rb_trace_event *event;
    size_t count;
} rb_plan_events;

/* Measuring a large model takes minutes: after 3 s of it `say` gets one line, what is done and how to plan without; by a thread of its
 * own. */
typedef struct rb_plan_notice {
    void (*say)(void *ctx, const char *line);
    void *ctx;
    int64_t begin_ns; /* when measuring began; 0: not yet */
    bool said;
} rb_plan_notice;

typedef struct rb_plan_options {
    const rb_config *cfg;          /* validated */
    const rb_machine *machine;     /* (stages); NULL: every stage on this machine, sharing its processors */
    const rb_relay *relay;         /* that all messages pass; NULL: none */
    const char *const *boundaries; /* names (rb_plan_boundary); count 0: the run's own and the usual others */
    const char *const *schedules;  /* registry names; count 0: all that train */
    int boundary_count, schedule_count;
    bool latency_occupies;
    rb_plan_events *events; /* gets the prediction of the run's own boundary and schedule; NULL: not asked */
    rb_plan_notice *notice; /* NULL: nothing is said */
    bool keep_cut;          /* recommend nothing about segments */
    double seconds;         /* how long a segment is measured, where stages have no FLOP/s */
} rb_plan_options;

typedef struct rb_plan_stage {
    int stage, replica;
    double sync;         /* bytes to the stage's other replicas, a step */
    int first, segments; /* first hosted segment, how many */
    int64_t layers;
    int slots; /* microbatches alive at once, in the segment with most */
    rb_stage_need need;
    size_t activations, stashes, total; /* of all microbatches alive; older versions of weights; everything */
    int64_t room;                       /* bytes it may take; 0 = not stated */
    double busy, wait_peer, wait_bandwidth, wait_latency; /* seconds of a step */
    double sent[2];                                       /* bytes of a step, forward and backward */
} rb_plan_stage;

typedef struct rb_plan_relay {       /* what a step takes of the relay; all 0 without one */
    double down, thread, up, memory; /* shares of the step; of its memory; 0 where it has no limit stated */
    double bytes;                    /* that come in, and go out, a step */
} rb_plan_relay;

typedef struct rb_plan_row {
    char boundary[RB_PLAN_NAME], schedule[32];
    char refused[400]; /* why it cannot be; everything below is empty then */
    bool own, fits;
    bool asynchronous; /* another result than the others: recommended only where the run's own schedule is */
    double step_s, tokens_per_s, idle;
    double bytes[2]; /* what the busiest stage sends in a step, framing included: forward, backward */
    double ratio, wire_ratio;                       /* d/k; bytes of a bf16 activation over those sent */
    double wait_peer, wait_bandwidth, wait_latency; /* seconds of a step, mean over stages */
    double snapshot_s;                              /* the slowest stage's; 0 = no disk stated */
    uint64_t snapshot_bytes;                        /* of all stages */
    uint64_t snapshot_most;  /* of the stage whose snapshot takes its uplink longest, */
    double snapshot_up_s;    /* which is so long at link.snapshot_share; 0 = no uplink stated */
    double snapshot_uplink;  /* share of that uplink, over the time between snapshots */
    double snapshot_every_s; /* which is this; 0: one at the end */
    int extra, fullest;      /* forwards in flight beyond the least; the stage with the least room left */
    rb_plan_relay relay;
    int stages;
    rb_plan_stage *stage; /* (stages) */
} rb_plan_row;

typedef struct rb_plan_cut {                   /* the model cut into other segments */
    int64_t segments, layers[RB_MAX_SEGMENTS]; /* 0: none is worth it */
    char schedule[32];
    double step_s;
    int extra;
} rb_plan_cut;

typedef struct rb_run_plan {
    int count;
    rb_plan_row *row;
    double tokens; /* of a step */
    int64_t params;
    bool measured; /* costs are seconds of this machine, */
    double crowd;  /* so many times as long while at_once stages compute; 0: nobody beside, or not measured */
    int at_once;
    double
        moving; /* seconds of processor time that a message takes of its links' threads, where they share the cores */
    int best;    /* the recommended row; -1: nothing fits */
    int fastest; /* of those that fit; -1 */
    bool recut_tried;
    rb_plan_cut recut; /* under the recommended boundary, faster than the recommended row by more than 2% */
} rb_run_plan;

/* Free out in any case. A combination that cannot be is a row that says why. */
resbm_status rb_plan_make(const rb_plan_options *o, rb_run_plan *out, rb_err *err);
void rb_plan_free(rb_run_plan *p);
/* Its two parts: the rows and which is recommended; other ways to cut the model (a segment per stage, alike or by speed and
 * memory, or two), each planned with the recommended boundary. */
resbm_status rb_plan_rows(const rb_plan_options *o, rb_run_plan *out, rb_err *err);
resbm_status rb_plan_recut(const rb_plan_options *o, rb_run_plan *p, rb_err *err);

/* Gives c another boundary: none, linear, residual, ..., then optionally -RATIO (an integer; where it does not divide d
 * the nearest latent width counts) and -CODEC (of both directions): "none-int8", "residual-100-int4". "own" changes
 * nothing. Validates c. */
resbm_status rb_plan_boundary(rb_config *c, const char *name, rb_err *err);

/* c: o->cfg with one segment per stage, its blocks shared out so that the slowest stage is as fast as it can be and none is
 * over its memory, embedding and head counted (model.segments as a list). For a model that is still to be made: the cut is
 * part of it. RESBM_E_CONFIG where nothing fits: by how many bytes and where. */
resbm_status rb_plan_balance(const rb_plan_options *o, rb_config *c, rb_err *err);

/* Are operations timed here? Not where the stages' FLOP/s are stated: then they are counted. */
bool rb_plan_measures(const rb_plan_options *o);
/* RESBM_E_CONFIG: stages whose speed is neither stated nor can be measured. */
resbm_status rb_plan_check(const rb_plan_options *o, rb_err *err);
/* rb_measure_segment for o->seconds, of c, which has the boundary of that name; where it takes long, with the notice. */
resbm_status rb_plan_measure(const rb_plan_options *o, const rb_config *c, const char *boundary,
                             const char *device, int segment, int beside, rb_segment_measure *out,
                             rb_err *err);

/* out: of M microbatches a step, predicted with spans. The caller frees out->event. */
resbm_status rb_plan_keep_events(const rb_prediction *p, int M, rb_plan_events *out, rb_err *err);
/* Puts a predicted step beside each that trace.json at `path` has measured (in the place of those predicted before); without
 * that file, alone. */
resbm_status rb_plan_write_trace(const char *path, const rb_plan_events *p, rb_err *err);

/* For people; stages: also a table of the recommended (or first) row's stages. */
void rb_plan_print(const rb_plan_options *o, const rb_run_plan *p, bool stages, rb_buf *out);
resbm_status rb_plan_json(const rb_plan_options *o, const rb_run_plan *p, rb_buf *out, rb_err *err);

#endif
