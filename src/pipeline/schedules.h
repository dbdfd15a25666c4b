/* Schedules: generators of action lists. Each kind is one file and one line of the registry.
 *
 * A generator is a pure function of rb_schedule_args. It lays down computation only; one pass
 * (rb_schedule_communicate) puts sends and receives in, and the validator proves the result. Nothing outside
 * a generator's file knows what distinguishes its schedule. */
#ifndef RB_PIPELINE_SCHEDULES_H
#define RB_PIPELINE_SCHEDULES_H

#include "pipeline/action.h"

/* Who runs receivers' trunks: the forward and backward of their segments; actions of their own; or the latter behind the
 * backward alone, where the forward cannot come first because token ids come with the message. */
typedef enum rb_trunks { RB_TRUNKS_INSIDE, RB_TRUNKS_APART, RB_TRUNKS_BEHIND } rb_trunks;

typedef struct rb_schedule_args {
    int stages, segments, microbatches;
    int extra; /* microbatches in flight on the first stage beyond what the schedule needs without latency */
    const int *stage_of; /* (segments) stage of each; NULL: where the kind places them. A kind with a place of
                            its own takes no other; others take any that ascends without gaps */
    int steps;           /* kinds that flow: steps on end, each of `microbatches`; 0: 1 */
    rb_trunks trunks;
    bool vertical; /* kinds that flow: a microbatch sees on every stage the version it saw on the first */
} rb_schedule_args;

typedef struct rb_schedule_kind {
    const char *name, *summary;
    bool forward_only; /* evaluation: no backward, nothing is kept after a forward */
    bool takes_extra;  /* args.extra changes the list */
    bool extra_ages;   /* and with it the result: weights are older. Nothing measured may choose it */
    bool flows;        /* updates inside the list; the list of a step goes on into that of the next */
    bool anywhere;     /* takes segments wherever args.stage_of puts them */
    /* Stage of a segment; NULL: contiguous runs, spread evenly, earlier stages get the remainder. */
    int (*place)(int stages, int segments, int segment);
    /* RESBM_E_CONFIG names the rule that these arguments break and the remedy; NULL: there is none. */
    resbm_status (*check)(const rb_schedule_args *a, rb_err *err);
    /* Lists of computation into out, whose stages, segments, stage_of are set and lists empty. */
    resbm_status (*generate)(const rb_schedule_args *a, rb_schedule *out, rb_err *err);
    /* Promise: microbatches alive at once in the nth segment (from 0) of the stage. */
    int (*in_flight)(const rb_schedule_args *a, int stage, int nth);
    /* Promise: updates by which the weights of a segment of the stage are older than its newest at most, when
     * something uses them; NULL: 0. */
    int (*stash)(const rb_schedule_args *a, int stage);
    /* What it needs: messages sent and not yet received that a (sender, receiver) channel must be able to
     * hold, in the sender's queue and the receiver's inbox together, so that it cannot deadlock. */
    int (*queue_bound)(const rb_schedule_args *a);
} rb_schedule_kind;

extern const rb_schedule_kind *const rb_schedules[];        /* NULL-terminated */
const rb_schedule_kind *rb_schedule_find(const char *name); /* NULL when there is none */
extern const rb_schedule_kind rb_schedule_gpipe, rb_schedule_1f1b, rb_schedule_interleaved, rb_schedule_zb_h1,
    rb_schedule_zbv, rb_schedule_pipedream, rb_schedule_2bw, rb_schedule_forward;
/* The stage a kind gives a segment when arguments name none. */
int rb_schedule_place(const rb_schedule_kind *kind, int stages, int segments, int segment);

/* The whole way: checks the arguments, generates, inserts communication, validates. in_flight (segments),
 * when not NULL, gets the activation slots each segment needs. RESBM_E_CONFIG: impossible arguments, with the
 * remedy. The caller frees out with rb_schedule_free (also safe after a failure). */
resbm_status rb_schedule_build(const rb_schedule_kind *kind, const rb_schedule_args *a, rb_schedule *out,
                               int *in_flight, rb_err *err);
/* The same, and stash (segments): older versions of its weights that each segment must keep. */
resbm_status rb_schedule_build_stash(const rb_schedule_kind *kind, const rb_schedule_args *a,
                                     rb_schedule *out, int *in_flight, int *stash, rb_err *err);
/* The first half of it: checks and generates, without communication. */
resbm_status rb_schedule_generate(const rb_schedule_kind *kind, const rb_schedule_args *a, rb_schedule *out,
                                  rb_err *err);
/* Puts a receive right before each computation whose input comes from another stage and a send right after
 * each whose output goes to one. A hand-over inside a stage needs neither. */
resbm_status rb_schedule_communicate(rb_schedule *s, rb_err *err);

/* Gives trunks actions of their own where there is something to wait for: TF before the receive, and TB behind the send of the
 * gradient that the stage before waits for. Weight halves do the backward themselves. Lists that have such actions stay. */
resbm_status rb_schedule_trunks(rb_schedule *s, rb_trunks how, rb_err *err);

/* Schedules as text: a line per stage, its actions apart by blanks; "." and what follows "#" mean nothing, empty
 * lines neither. With sends and receives or without. Where a segment's actions stand is where it is hosted.
 *
 * RESBM_E_FORMAT: "name:line:column: why"; name is for messages. Everything in the text is checked before memory
 * is taken for it; whether the lists work is the validator's question. */
resbm_status rb_schedule_parse(const char *text, size_t len, const char *name, rb_schedule *out, rb_err *err);
/* The text of it, which parses to the same lists. */
void rb_schedule_print(const rb_schedule *s, rb_buf *out);
/* rb_schedule_build of a text: it must be for as many stages, segments and microbatches as a says
 * (RESBM_E_CONFIG). */
resbm_status rb_schedule_build_text(const char *text, size_t len, const char *name, const rb_schedule_args *a,
                                    rb_schedule *out, int *in_flight, int *stash, rb_err *err);

/* --- lists that flow ---
 *
 * A stage's part of step n (microbatches n M .. n M + M - 1, M of a step) ends with its last update by them; what
 * it began of later microbatches stays in flight. From some step on all parts are the same but for M. */
typedef struct rb_flow {
    rb_schedule list;     /* steady + 1 steps, and then as many as it takes to end them all */
    int per_step, steady; /* M; the first step that stands for all later ones */
} rb_flow;
/* Builds as many steps as that takes, validated. The caller frees flow->list, also after a failure. */
resbm_status rb_flow_build(const rb_schedule_kind *kind, const rb_schedule_args *a, rb_flow *out,
                           int *in_flight, int *stash, rb_err *err);
/* Steps ahead that a microbatch begun in step n can belong to. */
int rb_flow_overlap(const rb_flow *f);
/* Actions [*from, *to) of stage in f->list are its part of step n >= 0, *shift to be added to microbatches. */
void rb_flow_part(const rb_flow *f, int stage, int n, int *from, int *to, int *shift);
/* Receives (their microbatches counted like rb_flow_part's with its shift) of messages that have been sent when all
 * stages have ended their part of step n, and that this stage has not yet received; in the order it would. */
resbm_status rb_flow_undelivered(const rb_flow *f, int stage, int n, rb_action_list *out, int *shift,
                                 rb_err *err);

/* For generators: one microbatch through all segments of a stage, ascending when it goes forward, else
 * descending. */
/* Are there updates in it? */
bool rb_schedule_updates(const rb_schedule *s);
resbm_status rb_push_all(rb_schedule *s, int stage, rb_action_kind kind, int microbatch, rb_err *err);
/* 1F1B's depth, which others build on: microbatches in flight on a stage; deep: however few there are. */
int rb_1f1b_in_flight(const rb_schedule_args *a, int stage);
int rb_1f1b_deep(const rb_schedule_args *a, int stage);

#endif
