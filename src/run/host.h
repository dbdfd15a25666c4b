/* A run across machines. `resbm host` is three processes:
 *
 *     keeper (host_keep.c)        starts the other two, and again when they end or are stopped
 *       nats-server               relays streams, keeps the store
 *       coordinator (host.c)      enrols participants, gives stages, trains; all it has to know lies in the store
 *
 * Participants (join.h) say once in a while that they are there, and are answered with what they are to do (the beat). A lease is
 * as long as the beats of a participant let expect, measured on the coordinator's monotonic clock alone.
 *
 * The store's keys: coordinator (who it is; compare-and-set), epoch, member.NAME, commit.STEP (loss and fingerprint), snapshot
 * (newest manifest), packed.HASH.N (its files in packed pieces, checkpoint/delta.h; file.HASH.N in a store from before:
 * as they are).
 */
#ifndef RB_RUN_HOST_H
#define RB_RUN_HOST_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include "run/access.h"
#include "run/config.h"
#include "run/crew.h"
#include "run/lease.h"
#include "run/server.h"
#include "pipeline/simulator.h"
#include "run/train.h"

enum {
    RB_MOST_MEMBERS = 1000,
    RB_MOST_UNUSED = 200 /* of them under whose names nobody has come yet */
};

/* A participant as the coordinator knows it. Guarded by the host's lock. */
typedef struct rb_member {
    char name[RB_CARRIER_NAME], public_key[RB_NKEY_TEXT], label[64];
    char build[48];       /* of resbm that it runs, as it says */
    char revoked[200];    /* why; empty: it is welcome */
    bool came, came_kept; /* it has asked something with its key; the store knows that */
    int64_t enrolled_ns;  /* or read from the store */
    bool seen, lapsed, paused, left;
    int64_t heard_ns;
    int64_t came_ns; /* or came back */
    rb_lease lease;
    int64_t aside_ns; /* until when others are preferred, because it failed */
    int faults;
    int malformed; /* messages of it that were not well-formed, since this coordinator began */
    int64_t answered_minute,
        answered; /* of the clock; bytes that it was given in it to measure its line by, and of lists */
    double share; /* of what it measured, that it turned out to give; 0: nothing is known against it */
    double gflops, memory, up_bits, down_bits, latency_s;
    uint64_t sent, received; /* bytes of packets of the beats, as it says */
    /* Of its stages, over the whole run; kept in the store. */
    int64_t moved[2], steps; /* bytes of packets out and in; steps it took part in, */
    double busy_s;           /* and what these took to compute */
    /* What it is to do, and what it says it does. */
    uint32_t epoch;
    int stage;       /* number of its process (a worker); -1: nothing */
    bool taken;      /* it has said that it does */
    char ended[120]; /* how its stage of this epoch ended; empty: it did not */
} rb_member;

/* The run's server (server.json). */
typedef struct rb_host_server {
    char host[256]; /* it listens there; empty where it is somebody else's */
    int port;
    bool foreign;
    char load[1024]; /* rb_server_config.load */
} rb_host_server;

/* How much others have had the host write into its log in this minute (host_note.c). */
typedef struct rb_host_asked {
    pthread_mutex_t lock;
    int64_t minute;
    int said, unsaid;
} rb_host_asked;

typedef struct rb_host {
    rb_access access;
    rb_carrier *carrier;
    rb_config *cfg;
    char dir[4096], server_dir[4096];
    rb_host_server at;
    char id[40], before[40]; /* of this coordinator's claim; of one that is known to have ended, or empty */
    const char *program, *build;
    FILE *out;
    pthread_mutex_t lock;
    pthread_mutex_t changing; /* who takes part: held while the store is told, taken before lock */
    pthread_mutex_t telling;  /* held while the server is told, taken behind `changing` and before lock */
    pthread_t clerk;          /* host_roll.c */
    atomic_bool clerking, changed;    /* the clerk runs; the server does not know yet who takes part */
    char trouble[600];                /* why it could not be told the last time; empty: it could */
    rb_host_asked notes, enrol_notes; /* about participants' questions, and those of whoever is invited */
    rb_server_user fixed[2];          /* coordinator and invitation */
    rb_server_config server;
    resbm_status (*probe)(const rb_access *a, rb_err *err); /* connects, for tests; NULL: as one does */
    rb_member *member;                                      /* (RB_MOST_MEMBERS) */
    int members;
    int workers;             /* processes of the run: stages and their replicas (run/workers.h) */
    rb_place *place;         /* (workers) */
    int seat[RB_MAX_STAGES]; /* (workers) member of each; -1 */
    /* Of each stage (host_places.c): bytes of memory; FLOP, bytes out and in of a microbatch; bytes of a step's sum of replicas. */
    double planned[RB_MAX_STAGES]; /* of need, what rb_fit_stage counts */
    double need[RB_MAX_STAGES], work[RB_MAX_STAGES], traffic[RB_MAX_STAGES][2], sum[RB_MAX_STAGES];
    rb_segment_cost flop[RB_MAX_SEGMENTS]; /* of a microbatch in each segment */
    double speed[RB_MAX_STAGES];           /* (workers) microbatches a second in this epoch; 0: unknown */
    int64_t packets[RB_MAX_STAGES][2];     /* (workers) rb_step_record, of the last step */
    double computes[RB_MAX_STAGES];        /* (workers) share of a step */
    double step_s;                         /* of that step */
    uint64_t loading[RB_MAX_STAGES][2];    /* (workers) bytes of weights that each has, of those it lacked */
    int64_t loading_told_ns;
    int held_up; /* epochs since the last snapshot that ended because one held up the others */
    int timed;   /* steps of this epoch with speeds */
    int slow;    /* member that a spare one would be much faster than; -1 */
    int swap_worker, swap_member; /* who is to have which place then; -1: nobody */
    bool regroup;                 /* this epoch ends behind a snapshot, for other places */
    int depth_told;               /* microbatches more in flight that the log speaks of */
    uint32_t epoch;
    char control[160];
    uint64_t token;
    bool running, finished, connected;
    int64_t looked_ns;                 /* at the leases */
    int snapshots;                     /* kept by this process */
    _Atomic int64_t step, steps_again; /* committed; done once more and found the same */
    char doing[200];
    char vain[200];          /* why the next try waits, */
    int64_t next_try_ns;     /* until when; 0: it does not */
    atomic_int stop;         /* for rb_train */
    const atomic_int *asked; /* by the user */
    atomic_bool lost_claim;
    uint64_t claim_revision;
    pthread_t claimer;
    atomic_bool claiming;
} rb_host;

typedef struct rb_coordinate_options {
    const char *dir, *program;
    const char *build;  /* which one of resbm this is; NULL or "": that is not known */
    const char *id;     /* by which it claims the run; NULL: it draws one */
    const char *before; /* of a coordinator that has ended for sure: its claim holds no longer; NULL: none */
    const atomic_int *asked;
    FILE *out;
} rb_coordinate_options;

/* Becomes the coordinator of the run in `dir` (made by rb_host_prepare) and trains until it is done. *again: it may be started
 * again after this fault. */
resbm_status rb_host_coordinate(const rb_coordinate_options *o, bool *again, rb_err *err);

/* host_keep.c */
typedef struct rb_host_options {
    const rb_config *cfg;
    const char *dir, *program;
    const char *listen;   /* HOST[:PORT]; NULL: 0.0.0.0:4222, or as the run was begun */
    const char *announce; /* HOST[:PORT] that participants dial; NULL: listen's, or as the run was begun */
    const char *server;   /* tls://HOST:PORT of a server that is there; NULL: one is started */
    const char *authority,
        *load; /* of that: file of the certificate it is checked by; rb_server_config.load */
    const atomic_int *asked;
    FILE *out;
} rb_host_options;
resbm_status rb_host_keep(const rb_host_options *o, rb_err *err);

/* host_note.c: lines of the log. The second: of what others ask, so many of them a minute, then it counts what it leaves out. */
void rb_host_note(rb_host *h, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void rb_host_note_asked(rb_host *h, rb_host_asked *notes, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* host_roll.c: who is enrolled */
/* Reads the store, tells the server, and starts a thread that tells it of changes. */
resbm_status rb_host_roll_open(rb_host *h, rb_err *err);
void rb_host_roll_close(rb_host *h); /* before the carrier; of one that was never opened too */
/* RESBM_OK: the name is its own; the server knows its key within seconds. *later: there is no room now, and it may ask again. */
resbm_status rb_host_enrol(rb_host *h, const char *key, const char *label, char name[RB_CARRIER_NAME],
                           bool *later, rb_err *err);
rb_member *rb_host_find(rb_host *h, const char *name);                         /* with the lock; NULL: none */
resbm_status rb_host_keep_member(rb_host *h, const rb_member *m, rb_err *err); /* with `changing` */
resbm_status rb_host_keep_members(rb_host *h, rb_err *err); /* all, once more into the store */
void rb_host_expire(rb_host *h, int64_t now_ns);            /* names under which nobody has come in an hour */

/* host_server.c: at once. Returns when the server is known to have its new configuration; RESBM_E_TIMEOUT: it has not. */
resbm_status rb_host_tell_server(rb_host *h, rb_err *err);

/* host_members.c */
resbm_status
rb_host_members_open(rb_host *h,
                     rb_err *err);     /* the roll, and serves enrol, beat, measure, status, leave, revoke */
void rb_host_check_leases(rb_host *h); /* and cuts off who sends what is not well-formed again and again */
void rb_host_malformed(void *host, const char *from);
bool rb_host_lost(void *host, int stage, char *text, size_t size);
resbm_status rb_host_revoke(rb_host *h, const char *name, const char *why, rb_err *err);

/* host_depth.c. Microbatches in flight beyond the schedule's own, once all places are taken: pipeline.inflight, or with auto the
 * fewest that cover the links of those who have the places, within their memory. */
resbm_status rb_host_plan_depth(rb_host *h, int *extra, rb_err *err);

/* host_places.c */
resbm_status rb_host_measure_stages(rb_host *h, rb_err *err); /* h->cfg, workers and place are set */
/* Gives every place a member: who has it keeps it, the heaviest goes to the fastest that fits. False when there are too few, and
 * text says what is missing. */
bool rb_host_assign(rb_host *h, char *text, size_t size);
/* With the lock: */
bool rb_member_ready(const rb_member *m);           /* could be given a stage now */
int rb_host_best_for(const rb_host *h, int worker); /* the fastest member that is free and fits; -1: none */
bool rb_host_fits(const rb_host *h, const rb_member *m, int stage);
double rb_host_least_need(const rb_host *h); /* bytes of memory of the stage that takes least */
/* Seconds that a step would take the member in that place, at the least; what its link alone takes. */
double rb_host_step_s(const rb_host *h, const rb_member *m, int worker);
/* How long a wait may take, ns: pipeline.deadline, or more where a step of those who have the places is long; that so many times,
 * up to eight, for those before were too short. With the lock. */
int64_t rb_host_wait_ns(const rb_host *h, int times);
double rb_host_link_s(const rb_host *h, const rb_member *m, int worker);
double rb_member_flops(const rb_member *m); /* a second, of a training step; 0: it has not measured */
double rb_member_share(const rb_member *m); /* what it is known to give of what it measured */
void rb_member_set_aside(
    rb_member *m,
    bool at_once); /* it failed: from the second time on, or at once, others are preferred for a while */

/* host_vain.c: epochs without a step, one after the other */
typedef struct rb_host_vain {
    int epochs, numeric; /* of them, those that ended with numbers that are none, too large or made up */
    int member, worker, stage;   /* who was named by the last of these, and what it held; -1: nobody */
    bool others;                 /* another one was named for the same stage before */
    bool disk;                   /* the last one ended because this machine's disk or store failed; see why */
    int stepless;                /* epochs in a row without any step, not even one that was done before; */
    char why[100];               /* how the last of them ended */
    bool tried[RB_MOST_MEMBERS]; /* who had a place in one of those */
} rb_host_vain;
void rb_host_note_try(const rb_host *h, rb_host_vain *v); /* places are taken, an epoch begins */
/* It has ended. worker: named for numbers; -1: none is. disk: this machine's own failed. */
void rb_host_note_vain(rb_host *h, rb_host_vain *v, bool moved, int worker, bool disk, const char *why);
int64_t rb_host_pause_ns(const rb_host_vain *v);
bool rb_host_is_hopeless(const rb_host *h, const rb_host_vain *v);
/* Waits before the next epoch, longer each time where several came to no step, half a minute where the disk failed, or until a
 * participant comes. Where one is named again and again, another one gets its stage. */
void rb_host_back_off(rb_host *h, const rb_host_vain *v);

bool rb_host_spare(void *host, int worker); /* one could have the place now that nothing is known against */

/* host_regroup.c */
void rb_host_note_speeds(rb_host *h, const rb_step_record *r); /* of a committed step */
void rb_host_regroup(rb_host *h); /* behind a snapshot: gives stages to others where that is better */
void rb_host_swap(rb_host *h);    /* between that epoch and the next */
void rb_host_dropped(void *host, int worker, const char *how, bool held_up);

/* host_store.c */
resbm_status rb_host_claim(rb_host *h,
                           rb_err *err); /* waits until this process is the coordinator, and stays it */
void rb_host_unclaim(rb_host *h);
resbm_status rb_host_next_epoch(rb_host *h, rb_err *err);
resbm_status rb_host_record_commit(rb_host *h, int64_t step, double loss, const char *fingerprint,
                                   rb_err *err);
resbm_status rb_host_keep_snapshot(rb_host *h, int64_t step, const char *folder, rb_err *err);
resbm_status rb_host_restore_snapshot(rb_host *h,
                                      rb_err *err); /* into the run's folder, where the store's is newer */

/* Reads and writes small files of the run, mode 0600. */
resbm_status rb_host_read_server(const char *server_dir, rb_host_server *out, rb_err *err);
resbm_status rb_host_write(const char *dir, const char *name, const char *text, rb_err *err);
resbm_status rb_host_read_access(const char *dir, const char *name, rb_access *out, rb_err *err);

#endif
