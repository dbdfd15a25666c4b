/* The crew: the stage processes of a run as their coordinator sees them. Starts them, speaks to all, gathers their
 * answers, and when something goes wrong finds out whose fault came first. */
#ifndef RB_RUN_CREW_H
#define RB_RUN_CREW_H

#include <jansson.h>
#include <stdatomic.h>
#include "run/blame.h"
#include "run/config.h"
#include "run/held.h"
#include "run/planned.h"
#include "run/sign.h"
#include "run/spawn.h"
#include "run/workers.h"

/* Stages that reach the coordinator over a carrier: who they are, and who starts them. */
typedef struct rb_crew_outside {
    void *ctx;
    rb_carrier *carrier;
    const char *self;                         /* the coordinator's name on it */
    const char *(*who)(void *ctx, int stage); /* name of the participant that is to be this stage */
    /* Has it start a stage; *out.pid stays 0 where that is on another machine. */
    resbm_status (*start)(void *ctx, int stage, const char *control, uint64_t token, rb_child *out,
                          rb_err *err);
    /* Is a stage lost? Then text gets how: "has given no sign of life for 5.1 s". NULL: only rb_child tells. */
    bool (*lost)(void *ctx, int stage, char *text, size_t size);
    /* A stage is left out from now on; whatever of it is still there is to end. how NULL: it did nothing wrong; held_up: it held up the others. NULL: nothing is
     * left to do. */
    void (*dropped)(void *ctx, int stage, const char *how, bool held_up);
    /* Could another participant have the place of this one now? NULL: no. */
    bool (*spare)(void *ctx, int stage);
    /* A stage has so many of the bytes of weights that it lacks; or NULL. */
    void (*loading)(void *ctx, int stage, uint64_t have, uint64_t of);
    /* Somebody was refused; NULL: nobody wants to know. */
    void (*note)(void *ctx, const char *text);
    bool apart; /* they share no folder with the coordinator (run/apart.h) */
} rb_crew_outside;

typedef struct rb_crew_options {
    const rb_config *cfg; /* validated; borrowed until close */
    const char *program;  /* the resbm program, to start stages from */
    const char *load;     /* checkpoint folder (DIR/step-N) or NULL */
    uint32_t epoch;
    bool training;
    int announce; /* stages are started by another: "ADDRESS TOKEN" is written to this descriptor for them; 0: by us */
    bool everywhere;                /* and not all on this machine */
    const char *scratch;            /* folder for what stages keep on disk while they train, or NULL */
    const rb_crew_outside *outside; /* NULL: processes of this machine, by sockets */
    /* A worker whose stage has others is lost (`how` says how; it counts as gone already). RESBM_OK: the run goes on without
     * it, and what it had to do has been given to others: answers may have been dropped from the replies that are being
     * gathered. NULL: any loss is a fault. */
    resbm_status (*lose)(void *ctx, int worker, const char *how, rb_err *err);
    void *ctx;
    rb_blame *blame; /* whom the fault concerns that a call of the crew has ended with; NULL: nobody asks */
    const atomic_int *
        stop; /* how often the user asked to stop: 1 ends the start, 2 every wait (RESBM_E_CANCELLED); or NULL */
} rb_crew_options;

typedef struct rb_crew {
    rb_crew_options o;
    int stages;       /* processes: with replicas more than there are stages (run/workers.h) */
    rb_place *places; /* (stages) */
    rb_link *control;
    rb_child *child;  /* (stages) */
    char folder[128]; /* of Unix sockets, while stages join; empty with TCP and afterwards */
    rb_buf manifest;  /* of the snapshot, for stages apart; else empty */
    bool started;
    rb_blame *blame, unasked; /* rb_crew_options.blame, or nobody's */
    char doing[128];          /* for messages: "in step 17" */
    rb_sign *sign;            /* (stages) of life */
    char (*about)[96];        /* (stages) "process 4711 on node3", of stages another has started */
    bool *spoke;              /* (stages) has reported a fault */
    rb_planned *planned;      /* (stages) as they were ready; of training */
    bool *gone;               /* (stages) lost, and the run went on without it */
    int redeals
        [RB_MAX_STAGES]; /* an answer whose "redeals" are fewer was given before something was lost, and is
                                   dropped; 0 for what has none */
    rb_held held;        /* who holds up the others */
    int silent;          /* the last one found without a sign of life; -1 */
    struct rb_downloads *downloads; /* while stages start (run/downloads.h); else NULL */
    bool ahead; /* stages have been told more than one step, and may answer the next before others this one */
    json_t *early[RB_MAX_STAGES]; /* arrays of answers that came before their time; NULL: none yet */
} rb_crew;

/* Starts every stage and returns when all are ready for work: within pipeline.startup_deadline, which begins again with every
 * piece of weights that a stage apart has downloaded. */
resbm_status rb_crew_open(const rb_crew_options *o, rb_crew **out, rb_err *err);
/* Ends what still runs (after a finish: waits; else SIGTERM, SIGKILL), removes sockets. NULL is fine. */
void rb_crew_close(rb_crew *c);

/* This one is gone from now on, and ended if it is not; how NULL: because another one is. */
void rb_crew_leave_out(rb_crew *c, int worker, const char *how);
/* The first replica of a stage that is there. */
int rb_crew_lead(const rb_crew *c, int stage);
int rb_crew_present(const rb_crew *c); /* how many are */
/* Says the same to every stage; drops the caller's reference. */
resbm_status rb_crew_tell(rb_crew *c, json_t *message, rb_err *err);
/* A fault that the caller has found with what a worker sent; broke_rules: it is not what may come. Returns st. */
resbm_status rb_crew_accuse(rb_crew *c, int worker, bool broke_rules, resbm_status st);
/* One answer of type `type` from each stage (or only from stage `only` >= 0) into replies (stages), which the caller
 * drops (rb_crew_drop). A stage that dies, reports a fault, gives no sign of life for pipeline.deadline, or is
 * silent past the deadline: the first fault, with its stage. */
resbm_status rb_crew_gather(rb_crew *c, const char *type, int only, int64_t deadline_ns, json_t **replies,
                            rb_err *err);
void rb_crew_drop(rb_crew *c, json_t **replies);
bool rb_crew_has_twin(const rb_crew *c, int worker); /* another one of its stage is there */

/* crew_address.c */
/* Where stages reach the coordinator: beside them, or with a launcher by a named address (the first stage's host knows the way by
 * pipeline.addresses; without one, this machine). */
resbm_status rb_crew_listen(rb_crew *c, rb_listener **out, rb_err *err);
void rb_crew_remove_sockets(rb_crew *c);
void rb_crew_stage_address(const rb_crew *c, int stage, char *out, size_t size); /* where it is to listen */
/* It says that it listens there. */
resbm_status rb_crew_check_address(rb_crew *c, int stage, const json_t *told, rb_err *err);

/* crew_held.c. Every stage that owes an answer (replies NULL: any) is to give signs of life meanwhile. */
resbm_status rb_crew_all_alive(rb_crew *c, int only, json_t **replies, rb_err *err);
/* RESBM_E_TIMEOUT names the stage that holds up the others, where the step's deadline (c->held) has passed and somebody can do its
 * part; it is c->silent then. */
resbm_status rb_crew_held_up(rb_crew *c, json_t **replies, rb_err *err);
/* Behind a fault of stage `from`, which has waited too long: whom it waited for in the end, into c->blame and the sentence. */
void rb_crew_name_holder(rb_crew *c, int from, rb_err *err);

/* While nothing is asked: is everybody there, and is the run to go on? */
resbm_status rb_crew_look(rb_crew *c, rb_err *err);

#endif
