/* A stage: one process of the pipeline. It hosts segments, speaks with the coordinator over the control
 * channel and with its neighbours over shaped links, and does what it is told: a step, an evaluation, a snapshot.
 *
 *   stage_open.c    from the configuration to memory, ports, schedules, data
 *   stage_hooks.c   what each action of a schedule does here
 *   stage_guard.c   what others send, and what goes to them, looked at
 *   stage_ahead.c   messages of a device that is not waited for
 *   stage_step.c    a training step (compute, report, commit), an evaluation
 *   stage_flow.c    updates inside the list: versions, steps that flow into one another
 *   stage_wait.c    waits for other stages, of which the coordinator hears
 *   stage_sum.c     replicas: a vector added up between them
 *   stage_reduce.c  replicas: the sum of their gradients
 *   stage_cover.c   replicas: what a lost one had to do, done by those that are left
 *   stage_outer.c   replicas: local steps, and the outer update of their weights
 *   stage_save.c    writing and reading this stage's part of a checkpoint
 *   stage_offload.c what of it lives on disk
 *   stage_apart.c   snapshots and token ids over the control channel
 *   stage_decode.c  generation, token by token
 *   stage_main.c    joining the run and the loop over the coordinator's messages
 */
#ifndef RB_RUN_STAGE_H
#define RB_RUN_STAGE_H

#include <jansson.h>
#include "checkpoint/manifest.h"
#include "data/sampler.h"
#include "link/link.h"
#include "link/mpi.h"
#include "optim/optim.h"
#include "pipeline/executor.h"
#include "pipeline/schedules.h"
#include "run/config.h"
#include "run/port.h"
#include "run/seat.h"
#include "run/summary.h"
#include "run/workers.h"

enum { RB_STAGE_PATH = 4096 };
enum { RB_STAGE_CHANNEL = 0 }; /* of MPI streams between stages; those before a run have others */
enum { RB_TRACE_STEPS = 3 /* the first and the last so many steps are kept */ };

/* One interval of this stage's time, for trace.json. */
typedef struct rb_stage_span {
    int64_t begin_ns, end_ns, queued_ns;
    uint64_t step, bytes;
    int kind; /* rb_action_kind, or one of the below */
    int segment, microbatch;
} rb_stage_span;
enum { RB_SPAN_OPTIMIZER = 100, RB_SPAN_EVAL, RB_SPAN_SAVE, RB_SPAN_LINK_FORWARD, RB_SPAN_LINK_BACKWARD };

/* What the replicas of a stage add up: tells vectors of one step apart. */
typedef enum rb_stage_sum_of {
    RB_SUM_GRADIENTS,
    RB_SUM_COUNTS,
    RB_SUM_CHANGES, /* of weights, by local steps */
    RB_SUM_STEPS,   /* of codecs */
    RB_SUM_KINDS
} rb_stage_sum_of;

typedef struct rb_stage {
    rb_config cfg;
    int self, workers;  /* number of this process, and how many there are (run/workers.h) */
    int stage, replica; /* what it is: the stage's first replica is 0 */
    rb_place *places;   /* (workers) */
    int segments;       /* of the model */
    int accused;        /* a stage whose message was not what may come, + 1; 0: none */
    int *host, hosted;  /* (hosted) the segments hosted here, ascending */
    uint32_t epoch;
    const struct rb_stage_way *way;
    bool training;
    double gflops
        [RB_MAX_STAGES]; /* (workers) of products, measured by each stage at the start where inflight: auto asks for it */
    bool measuring;   /* opened for run/measure.h: weights stay bare, */
    bool accelerator; /* and this in the place of a device with memory of its own */
    bool *
        trunk_apart; /* (hosted) the list has the trunk's backward before that segment as an action of its own */
    bool halves;     /* the schedule calls the backward pass in halves */
    bool apart;      /* shares no folder with the coordinator (stage_apart.c) */
    struct rb_sending *sending; /* a snapshot on its way to the coordinator; NULL: none */
    double uplink_bits;         /* that join measured; 0: unknown */
    double up_bits;             /* that this machine's owner lets its stage send per second; 0: no limit */
    rb_manifest snapshot;       /* apart: what it was started from, its own files */
    rb_carrier *carrier;        /* NULL: peers are reached by sockets */
    rb_link *control, *link;
    rb_tensor_table table;
    rb_device *dev;
    rb_queue *q;
    size_t room; /* bytes the device had free before anything was taken; 0: not known */
    bool ahead;  /* actions are queued without waiting for the device (stage_ahead.c) */
    struct {
        rb_message *message; /* NULL: none. Packed bytes on their way from the device, */
        int to;
        rb_event there; /* which are there behind this point */
    } leaving;
    struct {
        rb_message *message; /* NULL: none. Its bytes are on their way to the device */
        rb_event there;
    } arriving;
    rb_stage_model *model;
    rb_optim *optim;
    char scratch[RB_STAGE_PATH]; /* where offloaded states go unless optim.offload_dir says */
    rb_spill *spill;             /* NULL: nothing is offloaded */
    rb_optim_need need;          /* what the optimizer took */
    int *
        grads_left; /* (hosted) actions of the list under way, up to the next update, that still add to the segment's
                       gradients; 0: nobody asks */
    rb_kv_cache *cache;   /* generation */
    int *rows, row_count; /* hosted rows of the table */
    rb_schedule train, eval;
    int *flight, *eval_flight; /* (segments of the model) microbatches alive in training, in an evaluation */
    int *older;                /* (segments of the model) versions of weights before the newest that are used */
    const rb_schedule *list; /* the one at work: its deal says who a message goes to */
    int extra;  /* microbatches in flight beyond the schedule's own, as pipeline.inflight came to */
    int *share; /* (workers) microbatches of each in `train`; NULL: no replicas */
    rb_guard sum_guard[RB_SUM_KINDS]; /* of what other replicas give to a sum */
    float *sync_lost;       /* (gradients) what pipeline.replica_codec has not sent yet; NULL: nothing */
    struct rb_cover *cover; /* NULL: a replica that is lost ends the epoch (stage_cover.c) */
    bool half_forward;      /* a trunk has begun a forward that is to come next */
    bool recounts;          /* what is packed and unpacked now was counted before */
    float *anchor, *outer_momentum; /* (trained weights) with optim.local_steps, host */
    struct {
        float *sum; /* (trained weights, then codecs' steps) over `replicas`, host; NULL: none is under way */
        float *unsent; /* what sync_lost was before it */
        int replicas;
    } meeting; /* of local steps (stage_outer.c) */
    /* Schedules with updates in the list (stage_flow.c). flow.list is `train` itself. */
    bool updates, flows;
    rb_flow flow;
    int64_t flow_step; /* steps since the flow began */
    uint16_t
        attempt; /* how often flows, or this evaluation, have begun: addresses of messages sent once more differ by it */
    int *stash;           /* (hosted) older versions kept */
    int64_t *version;     /* (hosted) updates since the flow (or the step, where lists do not flow) began */
    int64_t *updated;     /* (hosted) updates of the whole run: AdamW's t */
    int64_t per_update;   /* microbatches whose gradients are in one */
    double *update_sums;  /* (rows) of the newest update's gradient */
    double stale;         /* sum of ages of the weights in this step's gradients, */
    int64_t graded;       /* and how many gradients */
    rb_buf schedule_text; /* pipeline.schedule: file:PATH */
    rb_seat *seat;        /* (hosted) */
    rb_port *out_port, *in_port;           /* (hosted) forward: behind segment host[i], before it */
    rb_port *grad_out_port, *grad_in_port; /* (hosted) backward: before segment host[i], behind it */
    int64_t B, T, M;                       /* of a microbatch; microbatches of a step */
    bool wire_tokens;                      /* ids travel with the activations */
    int id_bytes;
    rb_shards *shards, *val_shards;
    rb_sampler sampler, val_sampler;
    int32_t *ids;            /* (ring,B,T+1), host */
    int32_t *host_tokens;    /* (2,ring,B,T): inputs and targets as they are uploaded */
    rb_view tokens, targets; /* (ring,B*T) i32, device */
    rb_view losses;          /* (M) f64, device */
    double *host_losses;     /* (M) */
    double *host_aux;        /* (hosted,M) auxiliary losses behind each segment */
    rb_view sums;            /* (rows) f64 */
    /* the step under way */
    uint64_t step, sequence;           /* sequence: number of its first one */
    uint64_t base_step, base_sequence; /* of microbatch 0 of the list (of the flow) */
    int ring; /* microbatches whose ids and losses are kept: microbatch m has place m % ring */
    bool evaluating;
    float grad_scale, aux_scale;
    rb_action_trace *trace;
    rb_stage_span *span; /* ring of kept intervals */
    int spans, span_capacity;
    int64_t wait_ns; /* in receives, of the step under way */
    int64_t late_ns; /* when that is to be over, as the coordinator has learned; 0: nobody knows */
    /* Bytes of frames handed to the link. A step ends only when its last message has been received, so at a commit
     * these are the bytes that have left, while the link's own count of a stage that is done early may lag. */
    uint64_t handed[RB_TRAFFIC_COUNT];
} rb_stage;

/* Everything below works on an opened stage; faults are the caller's to report. */
resbm_status rb_stage_open(rb_stage *s, rb_err *err); /* cfg, self, epoch, training, link, gflops are set */
/* Does pipeline.inflight: auto have something to decide here, with speeds measured? Alike on all stages. For those of a hosted run
 * its host decides (host_depth.c). */
bool rb_stage_plans_in_flight(const rb_stage *s);
/* Opens the stage's device (cfg, self and places are set) and measures plain products on it, GF/s: some 100 ms. */
resbm_status rb_stage_speed(rb_stage *s, double *gflops, rb_err *err);
/* The parts of it that memory follows from; they need neither device nor links. The lists, with cfg and training set.
 * Then what process `self` hosts, keeps older versions of, and the slots (hosted) of each: again for another self. */
resbm_status rb_stage_open_lists(rb_stage *s, rb_err *err);
resbm_status rb_stage_take_place(rb_stage *s, int *slots, rb_err *err);
/* The part of it that takes memory: model, ports, seats, buffers. cfg, host, hosted, training, halves are set; slots
 * (hosted): microbatches alive in each segment. */
resbm_status rb_stage_open_memory(rb_stage *s, const int *slots, rb_err *err);
void rb_stage_close(rb_stage *s);

/* Bytes this stage plans for: of the model, and of the optimizer's states, windows and scratch. */
rb_memory_bytes rb_stage_memory_of(const rb_stage *s);
/* Opens what optim.offload asks for, if anything, and tells the model to come where its gradients go. */
/* *masters: a list that model points to, to be freed once it is open. */
resbm_status rb_stage_open_spill(rb_stage *s, rb_stage_options *model, bool **masters, rb_err *err);
/* The optimizer over the hosted tensors, its states where optim.offload says. */
resbm_status rb_stage_open_optim(rb_stage *s, rb_err *err);

/* What this stage, opened, plans to take of its device's memory (run/planned.h); NULL: nothing is planned. */
json_t *rb_stage_planned(const rb_stage *s);
/* After a fault: where memory ran out, err gets what this stage takes and which settings would fit. */
void rb_stage_advise(const rb_stage *s, rb_err *err);

rb_executor_hooks rb_stage_hooks(rb_stage *s);
static inline int rb_stage_local(const rb_stage *s, int segment) {
    for (int i = 0; i < s->hosted; i++)
        if (s->host[i] == segment) return i;
    return -1;
}
/* Does the i-th hosted segment hand over to the next one inside this stage? */
static inline bool rb_stage_hands_on(const rb_stage *s, int i) {
    return i + 1 < s->hosted && s->host[i + 1] == s->host[i] + 1;
}
/* Is the model's last segment, which makes the loss, hosted here? */
static inline bool rb_stage_has_loss(const rb_stage *s) {
    return s->host[s->hosted - 1] == s->segments - 1;
}

/* Answers to the coordinator's messages; each returns the reply. */
resbm_status rb_stage_step(rb_stage *s, const json_t *in, json_t **reply, rb_err *err);
/* After the list of a step: gradients and counts of this replica become those of all (stage_reduce.c). */
resbm_status rb_stage_reduce(rb_stage *s, rb_err *err);

/* A vector that the replicas of a stage add up, piece by piece (stage_sum.c). */
typedef struct rb_stage_vector {
    rb_stage_sum_of number;
    int64_t length;
    float *lost; /* (length) pipeline.replica_codec int8: what it has not sent yet; NULL: f32 */
    void *ctx;
    resbm_status (*load)(void *ctx, float *out, int64_t from, int64_t n, rb_err *err);
    resbm_status (*store)(void *ctx, float *sum, int64_t from, int64_t n, rb_err *err); /* may change sum */
} rb_stage_vector;
/* Blocks until all replicas have given their parts; with one replica the sum is its own. */
resbm_status rb_stage_sum(rb_stage *s, const rb_stage_vector *v, rb_err *err);
resbm_status rb_stage_sum_numbers(rb_stage *s, rb_stage_sum_of number, int64_t *mine, int64_t n, rb_err *err);
/* The vector that the views of the hosted rows make, in the order of the table (absent ones left out): its length; values
 * [from, from + n) of it to or from host memory. */
typedef rb_view (*rb_stage_view_of)(const rb_stage *s, int row);
int64_t rb_stage_vector_length(const rb_stage *s, rb_stage_view_of view_of);
resbm_status rb_stage_copy_vector(rb_stage *s, rb_stage_view_of view_of, float *host, int64_t from, int64_t n,
                                  bool out, rb_err *err);
resbm_status rb_stage_open_lost(rb_stage *s, int64_t length, rb_err *err);

/* optim.local_steps (stage_outer.c); do nothing without. A round begins with the weights as they are. At its end the replicas
 * meet: they add up what they moved by, and answer; once all have, the outer update is made, and the next round begins. meet
 * is made once more where a replica is lost in between. */
resbm_status rb_stage_begin_round(rb_stage *s, rb_err *err);
resbm_status rb_stage_meet(rb_stage *s, json_t **reply, rb_err *err);
resbm_status rb_stage_end_round(rb_stage *s, rb_err *err);
float *rb_stage_outer_momentum(const rb_stage *s, int row);

/* A replica lost within a step (stage_cover.c). All do nothing in particular where a loss ends the epoch. */
resbm_status rb_cover_open(rb_stage *s, rb_err *err);
void rb_cover_close(rb_stage *s);
void rb_cover_begin_step(rb_stage *s); /* forgets what was kept for the step before */
bool rb_cover_is_lost(const rb_stage *s, int worker);
bool rb_cover_lost_any(const rb_stage *s);
int rb_stage_replicas_left(const rb_stage *s);   /* of this stage, this one included */
int rb_cover_attempt(const rb_stage *s);         /* of this step's sum */
int rb_stage_lead(const rb_stage *s, int stage); /* the first replica of a stage that is there */
/* Takes m; keeps a copy until the step is committed. */
resbm_status rb_cover_send(rb_stage *s, int to, rb_message *m, rb_err *err);
/* The message `want` of the process that has `segment`'s work on the microbatch, whoever that turns out to be. */
resbm_status rb_cover_recv(rb_stage *s, int segment, int microbatch, const rb_frame_header *want,
                           rb_message **out, rb_err *err);
/* The message `want` of that very process, in the sum of replicas or an evaluation. RESBM_E_CANCELLED: a replica is lost, so that
 * the sum begins anew, or the evaluation is in vain. */
resbm_status rb_cover_recv_from(rb_stage *s, int worker, const rb_frame_header *want, rb_message **out,
                                rb_err *err);
/* An evaluation needs the first replicas that are left: where one of them is lost it is in vain, which a wait returns as
 * RESBM_E_CANCELLED, and the coordinator asks for it anew. */
void rb_cover_begin_eval(rb_stage *s);
bool rb_cover_in_vain(const rb_stage *s);
resbm_status rb_cover_do_tasks(rb_stage *s, bool *moved, rb_err *err);
resbm_status rb_cover_reduce(rb_stage *s, rb_err *err); /* tasks that are left, then rb_stage_reduce */
resbm_status rb_cover_redeal(rb_stage *s, const json_t *in, bool *anew, rb_err *err);
/* Gradients, counts and what is unsent of them as they are, to be put back; the arrays are allocated where they are NULL. */
resbm_status rb_stage_keep_gradients(rb_stage *s, float **own, int64_t **counts, float **unsent, rb_err *err);
resbm_status rb_stage_put_back_gradients(rb_stage *s, const float *own, const int64_t *counts,
                                         const float *unsent, rb_err *err);
/* One microbatch through the hosted segments at places first .. last (stage_hooks.c): forward from the message that came
 * (NULL at the model's begin), whose result is sent unless it was before (again); then maybe backward, at once. Without it
 * no slot is kept. Messages stay the caller's. */
resbm_status rb_stage_redo_forward(rb_stage *s, int first, int last, int microbatch, const rb_message *in,
                                   bool again, rb_err *err);
resbm_status rb_stage_redo_backward(rb_stage *s, int first, int last, int microbatch, const rb_message *grad,
                                    rb_err *err);
void rb_stage_redo_leave(rb_stage *s, int first, int last, int microbatch);
rb_frame_header rb_stage_address(const rb_stage *s, const rb_port *p, int microbatch);
/* Makes `train` anew for another deal; count (workers). */
resbm_status rb_stage_deal(rb_stage *s, const int *count, rb_err *err);
/* "redeal": a replica is lost. A reply, like that of the step, where this stage has to add up anew; else NULL. */
resbm_status rb_stage_redeal(rb_stage *s, const json_t *in, json_t **reply, rb_err *err);
resbm_status rb_stage_commit(rb_stage *s, const json_t *in, rb_err *err);
resbm_status rb_stage_eval(rb_stage *s, const json_t *in, json_t **reply, rb_err *err);
resbm_status rb_stage_save(rb_stage *s, const json_t *in, json_t **reply, rb_err *err);
/* Writes this stage's files into dir, or only those of the optimizer's states; files gets an entry [name, bytes, hash] for
 * each. */
resbm_status rb_stage_write_parts(rb_stage *s, const char *dir, bool states, json_t *files, rb_err *err);
resbm_status rb_stage_load(rb_stage *s, const char *checkpoint, rb_err *err);
resbm_status rb_stage_decode(rb_stage *s, const json_t *in, json_t **reply, rb_err *err);
resbm_status rb_stage_stats(rb_stage *s, json_t **reply, rb_err *err);

/* stage_apart.c. begin: which files of the snapshot (manifest; NULL: there is none) have to be sent here, a list of names.
 * load: takes them in, and loads. save: writes this stage's part and sends it, with its own answer before. ids: the next
 * step's, from the coordinator. */
resbm_status rb_stage_apart_begin(rb_stage *s, const char *manifest, json_t **need, rb_err *err);
resbm_status rb_stage_apart_load(rb_stage *s, rb_err *err);
resbm_status rb_stage_apart_save(rb_stage *s, const json_t *in, rb_err *err);
/* With spread the files are sent beside the steps, at link.snapshot_share of the uplink; the next save waits for the end of
 * it (sent). stop: ends it, whatever is left. */
resbm_status rb_stage_apart_sent(rb_stage *s, rb_err *err);
void rb_stage_apart_stop(rb_stage *s);
resbm_status rb_stage_apart_ids(rb_stage *s, int place, rb_err *err);

/* With boundary.anneal_from: from now on the latents of this step cross, in the evaluations behind it too. */
resbm_status rb_stage_narrow(rb_stage *s, int64_t step, rb_err *err);
/* Inputs and targets of a microbatch from its place in s->ids to the device. */
resbm_status rb_stage_upload_ids(rb_stage *s, int place, rb_err *err);
static inline int rb_stage_place(const rb_stage *s, int microbatch) {
    return microbatch % s->ring;
}
/* M*B sequences from number `from` of training (eval_of 0) or of an evaluation over eval_of sequences, to the places
 * from `place` on. Does nothing where ids come over the wire. */
resbm_status rb_stage_load_ids(rb_stage *s, int64_t from, int64_t eval_of, int place, rb_err *err);
/* After a list: keeps its trace; nanoseconds spent computing. */
int64_t rb_stage_record(rb_stage *s, int actions);
/* Sums of squares of the gradients of the hosted rows [first, first + count), all that a segment has here (-1: all there are). */
resbm_status rb_stage_gather_sums(rb_stage *s, int segment, int first, int count, double *host, rb_err *err);
json_t *rb_stage_traffic(const rb_stage *s);
json_t *rb_stage_losses(const rb_stage *s, int64_t first); /* of microbatches first .. first + M - 1 */
json_t *rb_stage_aux_losses(const rb_stage *s, int64_t first);
int64_t rb_stage_peak_rss(void);

/* stage_wait.c: the message `want` of that very process, within pipeline.deadline; that it is waited for is told, once that
 * takes long. From when on a wait that began then is long; what is told. */
resbm_status rb_stage_recv(rb_stage *s, int from, const rb_frame_header *want, rb_message **out, rb_err *err);
int64_t rb_stage_tell_ns(const rb_stage *s, int64_t begin_ns);
void rb_stage_tell_waits(rb_stage *s, int on, const rb_frame_header *what);
void rb_stage_tell_goes_on(rb_stage *s);

/* stage_ahead.c: on a device of its own (a GPU) the host queues action after action. A message's bytes leave the device
 * behind the packing, and the message is sent while the next action computes; what came is given back once the device has
 * it. Elsewhere these wait for the queue and send at once. */
resbm_status rb_stage_send(rb_stage *s, rb_message *m, int to,
                           rb_err *err); /* takes m; its bytes are queued to arrive */
resbm_status rb_stage_took(rb_stage *s, rb_message *m,
                           rb_err *err); /* takes m; its bytes are queued to leave */
resbm_status rb_stage_let_go(rb_stage *s,
                             rb_err *err); /* sends what waits; before blocking, and behind queued work */
resbm_status rb_stage_computed(rb_stage *s, rb_err *err); /* the end of a computing action */
resbm_status rb_stage_settle(rb_stage *s, rb_err *err);   /* everything queued is done, nothing waits */
void rb_stage_forget(rb_stage *s);                        /* when closing, after a fault */

/* stage_guard.c; of stages apart. in: RESBM_E_FORMAT names who sent what is not finite, or too large. out: RESBM_E_NUMERIC
 * names what first held it here. */
resbm_status rb_stage_guard_in(rb_stage *s, rb_port *p, const rb_message *m, rb_err *err);
resbm_status rb_stage_guard_out(rb_stage *s, const rb_message *m, rb_err *err);
/* RESBM_E_NUMERIC with the first tensor that is not finite, or `what` where none is found. */
resbm_status rb_stage_fail_numeric(rb_stage *s, const char *what, rb_err *err);

/* stage_flow.c */
resbm_status rb_stage_open_flow(rb_stage *s, rb_err *err); /* after schedules, model and optimizer */
void rb_stage_close_flow(rb_stage *s);
void rb_stage_begin_versions(rb_stage *s); /* nothing is in flight: the weights are the only version */
/* Before a forward, and before a backward half: puts the version in use that the microbatch sees. */
resbm_status rb_stage_see_newest(rb_stage *s, int i, rb_berth *b, int behind, rb_err *err);
resbm_status rb_stage_see_again(rb_stage *s, int i, const rb_berth *b, rb_err *err);
resbm_status rb_stage_see_version(rb_stage *s, int i, const rb_berth *b,
                                  rb_err *err);                    /* the same, not counted */
resbm_status rb_stage_unsee(rb_stage *s, int i, rb_err *err);      /* back to the newest */
resbm_status rb_stage_update(void *ctx, rb_action a, rb_err *err); /* the action */
resbm_status rb_stage_flow_step(rb_stage *s, const json_t *in, json_t **reply, rb_err *err);
/* "drop": what is in flight is forgotten, to be begun again by the next step; messages under way are taken in. */
resbm_status rb_stage_drop(rb_stage *s, json_t **reply, rb_err *err);
/* Takes in a message without unpacking it (stage_hooks.c). */
resbm_status rb_stage_discard(rb_stage *s, rb_action a, rb_err *err);
void rb_stage_add_span(rb_stage *s, rb_stage_span span);

/* How a stage process comes to its run. */
typedef struct rb_stage_way {
    const char *control; /* address of the coordinator */
    int self, stages;    /* number of this process, and how many there are */
    uint64_t token;      /* the run's secret */
    const char *access; /* how to reach the server of a control address "nats:…" (run/access.h); NULL: none */
    void (*note)(void *ctx,
                 const char *text); /* what happens to the connection to a server, for people; or NULL */
    rb_mpi *mpi; /* stages meet over its streams (stage n is rank n); NULL: they dial each other */
    int threads; /* compute threads where the coordinator leaves it to the stage */
} rb_stage_way;

/* The stage process: joins the coordinator, works until it is told to finish or a fault. *told: the coordinator was
 * reached, and reports faults; otherwise this process is the only one that can. */
resbm_status rb_stage_main(const rb_stage_way *way, bool *told, rb_err *err);

#endif
