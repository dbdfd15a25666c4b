/* A run in training, as its coordinator holds it: what train.c and its parts share. */
#ifndef RB_RUN_TRAINING_H
#define RB_RUN_TRAINING_H

#include "core/clock.h"
#include "data/sampler.h"
#include "run/crew.h"
#include "run/engine_nats.h"
#include "run/train.h"

typedef struct rb_snapshot rb_snapshot;

typedef struct training {
    const rb_train_options *o;
    const rb_config *cfg;
    rb_train_summary *out;
    rb_crew *crew;
    rb_shards *shards, *val_shards; /* of stages apart */
    rb_sampler data, val;
    rb_engine_nats *nats; /* NULL: another engine */
    rb_tensor_table table;
    json_t *reply[RB_MAX_STAGES];
    int64_t step, epoch, saved; /* steps done; run epoch; newest snapshot, -1 none */
    uint64_t sequence, evals;
    int64_t called_ns, begin_ns;
    double before_s; /* training time of earlier parts of this run */
    int pipelines;   /* that update by themselves: replicas with optim.local_steps, else 1 */
    double *sumsq;   /* (pipelines, tensors) */
    double *segment_norm, *scale, *step_s, *aux; /* scale (pipelines, segments) */
    int64_t timed;
    int64_t sent[RB_MAX_STAGES][RB_TRAFFIC_COUNT]; /* at the last look */
    int64_t fwd, bwd, ids, bytes_tokens;           /* over training steps */
    double busy, spent;
    int64_t met;     /* step of the last outer update (optim.local_steps) */
    int64_t told;    /* steps the stages have been told to do: with lists that flow, ahead of those done */
    bool flowing;    /* stages have microbatches in flight, begun by the next step */
    int64_t updates; /* of the optimizer, over the whole run */
    int64_t optimizer_from; /* of these, how many lie behind its present states, which began as zeros then */
    double worked[RB_MAX_STAGES],
        worked_s[RB_MAX_STAGES]; /* (workers) microbatches of the last twenty steps or so, and their time */
    double pace[RB_MAX_STAGES];  /* (workers) one over the other */
    double speed[RB_MAX_STAGES]; /* (workers) microbatches a second of computation, as measured; 0: not yet */
    int share[RB_MAX_STAGES];    /* (workers) of this step's microbatches */
    int64_t packets[RB_MAX_STAGES][2];
    double busy_s[RB_MAX_STAGES]; /* rb_step_record */
    int64_t saved_before;         /* newest snapshot as the epoch began */
    rb_usual steps;               /* how long they took in this epoch */
    int shared_by;                /* how many workers that deal was made for; 0: none yet */
    int *dealt;            /* (stages, microbatches) which worker has each; NULL: no loss can be covered */
    bool dealt_again;      /* in this step, because a replica was lost */
    uint64_t deals;        /* hash of all deals since the last snapshot */
    rb_snapshot *snapshot; /* on its way from the stages; NULL: none */
    bool computing;        /* stages are at work on a step */
    int64_t evaluating;    /* sequences of the evaluation the first replicas are at work on; 0: none */
    int eval_attempt;      /* how often it was begun anew */
    json_t *saving;        /* the question for files of a snapshot that is under way; NULL: none */
    bool meeting;          /* replicas add up what local steps have moved */
    int losses;            /* since the step's begin: what stages count as attempts */
    bool save_again;       /* a snapshot was not completed */
    double staleness[RB_MAX_STAGES], stale_sum[RB_MAX_STAGES];
} training;

/* Seconds of training since the run began, resumed parts included. */
static inline double rb_training_elapsed(const training *t) {
    return t->before_s + (double)(rb_now_ns() - t->begin_ns) * 1e-9;
}

/* Until when the stages may take to answer, ns. */
static inline int64_t rb_training_deadline(const training *t) {
    return rb_now_ns() + 2 * t->cfg->pipeline.deadline_ns;
}

/* train_deal.c: how many of this step's microbatches each replica gets, by the speeds measured so far; those as they
 * go into the step's message (owned by the caller); and what the answers of a step say about speed. */
void rb_training_deal(training *t);
json_t *rb_training_deal_json(const training *t);
void rb_training_measure(training *t);

/* train_pace.c: how long the next step may take, as far as is known, into t->crew->held; and how long it took. */
void rb_training_set_pace(training *t);
void rb_training_note_pace(training *t, int64_t took_ns);

/* train_answers.c, of t->reply: the step's loss per token; auxiliary losses into t->aux; squares of every tensor's gradient into
 * t->sumsq. What no honest worker sends names its sender. Then: is all of it finite, and the same on all replicas? */
resbm_status rb_training_read_loss(training *t, double *loss, rb_err *err);
resbm_status rb_training_read_aux(training *t, rb_err *err);
resbm_status rb_training_read_norms(training *t, rb_err *err);
resbm_status rb_training_check_finite(const training *t, double loss, rb_err *err);
resbm_status rb_training_check_replicas(const training *t, rb_err *err);
int rb_training_loss_stage(const training *t); /* the stage of the model's last segment */

/* train.c: has the first replicas that are left begin the evaluation, or begin it anew. */
resbm_status rb_training_ask_eval(training *t, rb_err *err);

/* train_lose.c: which worker has which microbatch by `share`; rb_crew_options.lose; the hash of the deals so far, this
 * step's included: equal ones give equal bits. */
void rb_training_spread(training *t);
resbm_status rb_training_lose(void *ctx, int worker, const char *how, rb_err *err);
uint64_t rb_training_deals(training *t);

/* train_save.c: one snapshot of the present step, all stages' files and the manifest, whole or not at all. The pipeline must
 * be at rest. Blocks until every stage has written its files or the deadline; and, apart, sent them, when it is the last one or
 * link.snapshot_share is 1: else that goes on beside the next steps, and is seen to by await (wait: until it is over), which
 * the next save does first, or ended by abandon. */
resbm_status rb_training_save(training *t, bool last, rb_err *err);
resbm_status rb_training_await_snapshot(training *t, bool wait, rb_err *err);
void rb_training_abandon_snapshot(training *t);
void rb_training_snapshot_loses(training *t, int worker); /* nothing more will come from it */

#endif
